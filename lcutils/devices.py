"""Choice of a device, GPUs that several jobs share by file locks, and TF32."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from lcutils.errors import UserError, first_line

_home: int | None = None  # the GPU that this process worked on last


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is cuda if available, otherwise cpu.

    Raises:
        UserError: this machine has no such device, or it lacks fp64, which the class statistics need.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type != "cuda":
            torch.zeros(1, dtype=torch.float64, device=device)
        elif (device.index or 0) >= torch.cuda.device_count():  # asked without occupying memory of the GPU
            raise RuntimeError(f"{torch.cuda.device_count()} GPUs are found")
    except TypeError:  # what torch raises for fp64 on Apple's mps
        raise UserError(f"device: {name} has no fp64, which the class statistics need; use cuda or cpu") from None
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device: {name} cannot be used here ({first_line(error)}); use auto, cuda or cpu") from None
    return device


@contextmanager
def reserved_device(name: str, jobs_per_gpu: int = 1) -> Iterator[torch.device]:
    """Yield a device; if it is a GPU, one with a free slot, which a file lock reserves until the job ends.

    A plain "cuda" waits until one of the visible GPUs has fewer than `jobs_per_gpu` jobs. The CPU and a GPU with a
    number ("cuda:1") are used without a lock. A process that had a GPU before tries that one first: what it has
    compiled and allocated is there.
    """
    global _home
    device = choose_device(name)
    if device.type != "cuda" or device.index is not None:
        yield device
        return
    while True:
        for slot in range(jobs_per_gpu):
            for index in sorted(range(torch.cuda.device_count()), key=lambda index: index != _home):
                # The UUID names the same chip whatever number CUDA_VISIBLE_DEVICES gives it.
                uuid = torch.cuda.get_device_properties(index).uuid
                path = Path(tempfile.gettempdir()) / f"lcutils-gpu-{uuid}-{slot}.lock"
                lock = FileLock(path, mode=0o666)  # for all users of the machine
                try:
                    lock.acquire(blocking=False)
                except Timeout:
                    continue
                except OSError as error:
                    raise UserError(
                        f"{path}: cannot be locked ({error.strerror}); ask its owner to delete it, or name a GPU "
                        "(device: cuda:0), which takes no lock"
                    ) from error
                try:
                    _home = index
                    torch.cuda.set_device(index)
                    yield torch.device("cuda", index)
                finally:
                    lock.release()
                return
        time.sleep(1.0)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow, or forbid, TF32 in CUDA's fp32 matrix products for a while."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
