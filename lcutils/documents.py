"""Rows of tokens of different length, such as one text each, beside the equal blocks of a stream."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

WIDTHS = 64


@dataclass(frozen=True)
class Documents:
    """Rows of tokens, the shortest first: those of similar length are together, and little is padded.

    With sections, all rows of one stand in front of the next one's, and no batch holds rows of two.

    Where a function takes blocks, (n, S) tokens, it takes this too. Rows are filled up with -1 behind their last
    token, so that what follows that token is no label.

    Attributes:
        tokens: (N,) ids of all rows, one after the other.
        lengths: (n,) tokens of each row.
        beginning: how many tokens in front of each row are not of the text, and never a label.
        longest: tokens that a row may have, S.
        sections: rows, in the order of the text, where each section but the first begins.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    beginning: int
    longest: int
    sections: tuple[int, ...] = ()

    @cached_property
    def _order(self) -> np.ndarray:
        """(n,) rows from the shortest to the longest, those of one length in the text's order; section by section."""
        section = np.searchsorted(np.array(self.sections), np.arange(len(self.lengths)), side="right")  # (n,)
        return np.lexsort((self.lengths, section))

    @cached_property
    def _starts(self) -> np.ndarray:
        """(n,) where each row begins in `tokens`."""
        return np.cumsum(self.lengths) - self.lengths

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and tokens that a row may have: (n, S)."""
        return len(self), self.longest

    @property
    def size(self) -> int:
        """Tokens of all rows, N."""
        return len(self.tokens)

    def max(self) -> int:
        """The largest token id."""
        return int(self.tokens.max())

    def __getitem__(self, rows: slice) -> np.ndarray:
        """The chosen rows, as wide as the longest of them: (m, width) int32, -1 behind the end of a row.

        Widths are multiples of WIDTHS: kernels are chosen, or compiled, by shape.
        """
        chosen = self._order[rows]
        lengths = self.lengths[chosen]  # (m,)
        padded = np.full((len(chosen), int(self._widths(lengths).max(initial=0))), -1, dtype=np.int32)
        for row, start, length in zip(padded, self._starts[chosen], lengths, strict=True):
            row[:length] = self.tokens[start : start + length]
        return padded

    def lengths_in(self, start: int, end: int) -> np.ndarray:
        """Tokens of each row from `start` to `end`: (end - start,)."""
        return self.lengths[self._order[start:end]]

    def tokens_in(self, start: int, end: int) -> int:
        """Tokens of the rows from `start` to `end`, all together."""
        return int(self.lengths_in(start, end).sum())

    def _widths(self, lengths: np.ndarray) -> np.ndarray:
        return np.minimum(-(-lengths // WIDTHS) * WIDTHS, self.longest)

    def batch_ends(self, start: int, tokens: int) -> list[int]:
        """Where batches from row `start` on end, each of at most `tokens` tokens, padding included, or one row.

        From a row at which a batch ends, the same batches follow.
        """
        widths, ends = self._widths(self.lengths[self._order]), list[int]()
        while start < len(self):
            border = next((row for row in self.sections if row > start), len(self))
            most = start + max(1, tokens // int(widths[start]))
            wide = widths[start : min(most, border)]  # a batch is as wide as its last row
            fits = np.arange(1, len(wide) + 1) * wide <= tokens
            start += max(1, int(fits.sum()))  # the products rise, so those that fit come first
            ends.append(start)
        return ends


Blocks = np.ndarray | Documents  # (n, S) tokens


def share(blocks: Blocks, rank: int, world: int) -> tuple[int, int]:
    """Where a rank's blocks begin and end. The ranks' in order are all blocks, and have about as many tokens each."""
    if isinstance(blocks, Documents):
        before = np.cumsum(blocks.lengths_in(0, len(blocks)))  # (n,) tokens up to each row's end
        edges = [int(np.searchsorted(before, blocks.size * part / world, side="left")) for part in (rank, rank + 1)]
        return 0 if rank == 0 else edges[0], len(blocks) if rank + 1 == world else edges[1]
    return len(blocks) * rank // world, len(blocks) * (rank + 1) // world
