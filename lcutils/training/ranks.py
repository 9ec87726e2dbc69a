"""Processes that torchrun started, which share each batch of one training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from lcutils import devices
from lcutils.errors import UserError


def is_first() -> bool:
    """True in the process that writes files: the first that torchrun started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def reserved_device(name: str, jobs_per_gpu: int = 1) -> Iterator[torch.device]:
    """As `lcutils.devices.reserved_device`; processes of torchrun, which assigns each its GPU, reserve none."""
    if "LOCAL_RANK" in os.environ:
        yield devices.choose_device(name)
    else:
        with devices.reserved_device(name, jobs_per_gpu) as device:
            yield device


@contextmanager
def process_group(batch_size: int, device: torch.device) -> Iterator[tuple[int, int, torch.device]]:
    """(rank, number of ranks, this rank's device): those of torchrun, or of a single process."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > batch_size:
        raise UserError(f"torchrun: {world} processes cannot share batches of {batch_size} sequences; start fewer")
    if world == 1:
        yield 0, 1, device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    started_here = not dist.is_initialized()
    if started_here:
        # A rank waits while the first one evaluates, which takes minutes for the largest models.
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=2))
    try:
        yield dist.get_rank(), dist.get_world_size(), device
    finally:
        if started_here:
            dist.destroy_process_group()


def barrier() -> None:
    """Wait until all ranks are here."""
    if dist.is_initialized():
        dist.barrier()


def sum_over_ranks(tensor: Tensor) -> None:
    """Replace a tensor, on every rank, by its sum over all ranks."""
    dist.all_reduce(tensor)
