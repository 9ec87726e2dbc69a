"""Processes that torchrun started, which share the work of one training or extraction."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lcutils import devices


def is_first() -> bool:
    """True in the process that writes files: the first that torchrun started, or the only one."""
    return rank() == 0


@contextmanager
def reserved_device(name: str, jobs_per_gpu: int = 1) -> Iterator[torch.device]:
    """As `lcutils.devices.reserved_device`; processes of torchrun, which assigns each its GPU, reserve none."""
    if "LOCAL_RANK" in os.environ:
        yield devices.choose_device(name)
    else:
        with devices.reserved_device(name, jobs_per_gpu) as device:
            yield device


def rank() -> int:
    """This process's rank among torchrun's, or 0."""
    return int(os.environ.get("RANK", "0"))


def number() -> int:
    """Number of ranks: of torchrun's processes, or 1."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def process_group(device: torch.device) -> Iterator[tuple[int, int, torch.device]]:
    """(rank, number of ranks, this rank's device): those of torchrun, or of a single process."""
    if number() == 1:
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
    """Replace a tensor, on every rank, by its sum over all ranks; a single process keeps it."""
    if dist.is_initialized():
        dist.all_reduce(tensor)


def from_first(*tensors: Tensor, device: torch.device) -> list[Tensor]:
    """The first rank's tensors, on every rank.

    Args:
        tensors: of the first rank; the others give none.
        device: where all of them lie, and shall lie.
    """
    if not dist.is_initialized():
        return list(tensors)
    kinds: list[Any] = [[(tuple(tensor.shape), tensor.dtype) for tensor in tensors]]
    dist.broadcast_object_list(kinds, 0)
    sent = list(tensors) or [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in kinds[0]]
    for tensor in sent:
        dist.broadcast(tensor, 0)
    return sent
