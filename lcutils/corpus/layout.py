"""How tokens become blocks: stories end to end in a stream, or documents, one story a row.

S = block_size (tokens per block), V = vocabulary size. What a tokenizer puts in front of a text when it is called,
such as a beginning-of-text token, may stand in front of every block or row. It is never a label.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np


@dataclass
class SplitFigures:
    """What a split consists of, counted while it is written.

    Attributes:
        counts: (V,) how often each token is a label.
        cut: stories longer than a row, which were cut.
    """

    counts: np.ndarray
    stories: int = 0
    characters: int = 0
    tokens: int = 0
    blocks: int = 0
    predictions: int = 0
    written: int = 0
    cut: int = 0
    lengths: list[np.ndarray] = field(default_factory=list)  # of the rows of documents

    def summary(self) -> dict[str, int]:
        """As `corpus.json` has it; tokens are those of the text, and what was added around it."""
        names = ("stories", "characters", "tokens", "blocks", "predictions")
        return {name: getattr(self, name) for name in names} | {"dropped_tokens": self.tokens - self.written}


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a split go.

    Attributes:
        block_size: S, what stands in front included.
        beginning: ids in front of every block or row.
        packing: "paper" or "lossless"; None for documents, one story a row.
        max_tokens: of the text; what follows is left out.
    """

    block_size: int
    beginning: tuple[int, ...] = ()
    packing: str | None = "paper"
    max_tokens: int | None = None

    def write(self, batches: Iterable[list[np.ndarray]], path: Path, dtype: np.dtype, figures: SplitFigures) -> None:
        """Write the tokens of stories, a batch at a time, as blocks into `path`; of documents, lengths beside it."""
        with path.open("wb") as file:
            if self.packing is None:
                self._write_rows(batches, file, dtype, figures)
                lengths = np.concatenate(figures.lengths) if figures.lengths else np.empty(0, dtype=np.int32)
                np.save(path.with_suffix(".lengths.npy"), lengths)
            else:
                self._write_blocks(batches, file, dtype, figures, self.packing)

    def _write_blocks(
        self, batches: Iterable[list[np.ndarray]], file: BinaryIO, dtype: np.dtype, figures: SplitFigures, packing: str
    ) -> None:
        arrays = (np.concatenate(batch) if batch else np.empty(0, dtype=np.uint32) for batch in batches)
        front = np.array(self.beginning, dtype=np.uint32)  # (p,)
        size = self.block_size - len(front)
        most = None if self.max_tokens is None else max(1, self.max_tokens // size)
        for blocks, n in pack(arrays, size, packing):
            blocks = blocks[: None if most is None else most - figures.blocks]
            whole = np.hstack((np.broadcast_to(front, (len(blocks), len(front))), blocks)) if len(front) else blocks
            whole.astype(dtype).tofile(file)
            labels = whole[:, max(len(front), 1) :]
            figures.counts += np.bincount(labels.ravel(), minlength=len(figures.counts))
            figures.tokens += n
            figures.blocks += len(blocks)
            figures.written += blocks.size
            figures.predictions += labels.size
            if figures.blocks == most:
                break

    def _write_rows(
        self, batches: Iterable[list[np.ndarray]], file: BinaryIO, dtype: np.dtype, figures: SplitFigures
    ) -> None:
        front = np.array(self.beginning, dtype=np.uint32)
        size, skipped = self.block_size - len(front), max(len(front), 1)
        for batch in batches:
            if self.max_tokens is not None:
                before = figures.tokens + np.cumsum([0, *map(len, batch)])[:-1]  # (stories,)
                batch = batch[: int((before < self.max_tokens).sum())]
            rows = [np.concatenate((front, part)) for story in batch for part in _parts(story, size)]
            rows = [row for row in rows if len(row) > skipped]  # a single token predicts nothing
            if rows:
                np.concatenate(rows).astype(dtype).tofile(file)
                labels = np.concatenate([row[skipped:] for row in rows])
                figures.counts += np.bincount(labels, minlength=len(figures.counts))
                figures.predictions += len(labels)
            figures.tokens += sum(map(len, batch))
            figures.cut += sum(len(story) > size for story in batch)
            figures.blocks += len(rows)
            figures.written += sum(len(row) - len(front) for row in rows)
            figures.lengths.append(np.array([len(row) for row in rows], dtype=np.int32))
            if self.max_tokens is not None and figures.tokens >= self.max_tokens:
                break


def _parts(story: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """A story's tokens, `size` at a time."""
    for start in range(0, len(story), size):
        yield story[start : start + size]


def pack(arrays: Iterator[np.ndarray], block_size: int, packing: str) -> Iterator[tuple[np.ndarray, int]]:
    """Cut token arrays into blocks.

    "paper" drops the tokens that are left at the end of each array; "lossless" carries them into the next array, so
    that only the last, partial block is dropped.

    Yields:
        For each array: blocks (n, block_size), and the number of tokens in the array (not in the blocks).
    """
    rest = np.empty(0, dtype=np.uint32)
    for array in arrays:
        tokens = np.concatenate((rest, array)) if packing == "lossless" else array
        n = len(tokens) // block_size
        rest = tokens[n * block_size :]
        yield tokens[: n * block_size].reshape(n, block_size), len(array)
