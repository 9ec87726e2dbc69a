"""Batches of token blocks on the device, and their labels: training, evaluation and extraction all get theirs here."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn


def blocks_on_device(blocks: np.ndarray, device: torch.device) -> Tensor:
    """(n, S) token blocks as a tensor on the device, two or four bytes per token.

    On the CPU the tensor shares the array's memory, so that a memory map stays one.
    """
    signed = blocks.view(np.int16 if blocks.dtype.itemsize == 2 else np.int32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the array is read-only; nothing here writes to it
        return torch.from_numpy(signed).to(device)


def as_int32(tokens: Tensor) -> Tensor:
    """Tokens of `blocks_on_device` as int32; while they are int16, ids from 32,768 on are negative."""
    return tokens.int() & 0xFFFF if tokens.dtype == torch.int16 else tokens


def next_tokens(tokens: Tensor) -> Tensor:
    """(B, S) -> (B, S): the label of each position, the token after it; -1 at the last."""
    labels = torch.full_like(tokens, -1)
    labels[:, :-1] = tokens[:, 1:]
    return labels


def batches(
    blocks: np.ndarray, batch_size: int, device: torch.device, start: int = 0
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield (number of blocks, tokens (B, S) int32, labels (B S,) int32); a label of -1 has no next token.

    On a GPU the last batch is filled up with blocks without labels: another shape would compile the model anew.
    """
    for begin in range(start, len(blocks), batch_size):
        tokens = torch.from_numpy(blocks[begin : begin + batch_size].astype(np.int32))
        if device.type == "cuda":  # pinned, so that the host does not wait for the copy
            tokens = tokens.pin_memory().to(device, non_blocking=True)
        labels, number = next_tokens(tokens), len(tokens)
        if device.type == "cuda" and number < batch_size < len(blocks):
            tokens = nn.functional.pad(tokens, (0, 0, 0, batch_size - number))
            labels = nn.functional.pad(labels, (0, 0, 0, batch_size - number), value=-1)
        yield number, tokens, labels.flatten()
