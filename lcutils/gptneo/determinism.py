"""PyTorch's deterministic mode: on a GPU, the same bits every time.

Without it sums of gradients are added in the order in which they arrive, and a training that is repeated, or killed and
continued, differs by rounding. On the CPU the order is always the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Run PyTorch in its deterministic mode for a while, if `wanted`; otherwise leave the mode as it is."""
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # PyTorch refuses products on CUDA without it
    before = torch.are_deterministic_algorithms_enabled()
    memory: Any = torch.utils.deterministic
    filling = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # it costs time, and nothing here reads such memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        memory.fill_uninitialized_memory = filling


def add_rows(out: Tensor, index: Tensor, rows: Tensor) -> None:
    """out[index[n]] += rows[n], for (N,) indices of which many may be equal; (P, D) and (N, D) fp32.

    In deterministic mode CUDA's `index_add_` adds the rows of a frequent token one after another; the gradient of an
    embedding sums the same rows in parts, side by side.
    """
    if torch.are_deterministic_algorithms_enabled():
        out += torch.ops.aten.embedding_dense_backward(rows, index, len(out), -1, False)
    else:
        out.index_add_(0, index, rows)
