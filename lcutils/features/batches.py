"""Batches of token blocks on the device, and their labels: training, evaluation and extraction all get theirs here."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from lcutils.documents import Blocks, Documents


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


def tokens_in(blocks: Blocks, start: int, end: int) -> int:
    """Tokens of the blocks from `start` to `end`."""
    return blocks.tokens_in(start, end) if isinstance(blocks, Documents) else (end - start) * blocks.shape[1]


def batches(
    blocks: Blocks, batch_size: int, device: torch.device, start: int = 0, end: int | None = None
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield (number of blocks, tokens (B, S) int32, labels (B S,) int32) of the blocks from `start` to `end`.

    A label of -1 has no next token.

    On a GPU the last batch is filled up with blocks without labels: another shape would compile the model anew. Rows
    of documents come as many at a time as make up `batch_size` blocks, padded to a width that few batches differ in.
    """
    if isinstance(blocks, Documents):
        yield from _padded(blocks, batch_size, device, start, len(blocks) if end is None else end)
        return
    blocks = blocks[:end]
    for begin in range(start, len(blocks), batch_size):
        tokens = _on_device(torch.from_numpy(blocks[begin : begin + batch_size].astype(np.int32)), device)
        labels, number = next_tokens(tokens), len(tokens)
        if device.type == "cuda" and number < batch_size < len(blocks):
            tokens = nn.functional.pad(tokens, (0, 0, 0, batch_size - number))
            labels = nn.functional.pad(labels, (0, 0, 0, batch_size - number), value=-1)
        yield number, tokens, labels.flatten()


def _padded(
    documents: Documents, batch_size: int, device: torch.device, start: int, last: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Batches of documents. What stands behind a row's end is token 0, which no causal model lets the row see."""
    for whole in documents.batch_ends(start, batch_size * documents.longest):
        if start >= last:
            return
        end = min(whole, last)
        rows = _on_device(torch.from_numpy(documents[start:end]), device)  # (B, width)
        labels = next_tokens(rows)
        labels[:, : max(documents.beginning - 1, 0)] = -1
        yield end - start, rows.clamp(min=0), labels.flatten()
        start = end


def _on_device(tokens: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":  # pinned, so that the host does not wait for the copy
        return tokens.pin_memory().to(device, non_blocking=True)
    return tokens
