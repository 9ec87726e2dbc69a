"""The highest of many scores, chosen as float64 would choose it, from products in low precision.

A classifier has scores s a_c·x + b_c, with s = 1 or -1 and x = h - g for one fixed vector g. Their product runs in low
precision (float16 on a GPU's tensor cores, float32 on a CPU). By Cauchy and Schwarz no score is off by more than

    ||x - x~|| max ||a|| + ||x~|| max ||a - a~|| + accumulation,      ~: rounded

so a class further than twice that below the best cannot win. Features with several classes left are decided by the
exact float64 scores of just those.

Rounded rows are made once where there are few numbers of them. Else they are made again for each batch, a chunk of
classes at a time, so that memory holds the rows in float64 only, or as the model has them.

Shapes: n features in a batch, D dimensions, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lcutils.collapse.classes import CLASS_BLOCK
from lcutils.devices import tf32
from lcutils.tensors import pieces

FAST_NUMBERS = 1 << 26  # in the rounded rows that are held at a time: 128 MiB in float16
GATHERED_NUMBERS = 1 << 22  # numbers gathered at a time for exact scores: pairs x D
MANY_CANDIDATES = 32  # per row on average: from there on, one full float64 product is faster


@dataclass
class Features:
    """Features x = h - g of a batch, rounded for the fast product; h and g are kept to settle near ties exactly."""

    features: Tensor  # (n, D) h
    origin: Tensor  # (D,) g, float32
    fast: Tensor  # (n, D) x~
    length: Tensor  # (n,) ||x||
    lost: Tensor  # (n,) at least ||x - x~||

    @classmethod
    def of(cls, features: Tensor, origin: Tensor, fast: torch.dtype) -> Features:
        """Shift by g, round, and measure what the rounding lost (inf where float16 overflows: all is flagged)."""
        narrow = fast == torch.float16 and features.dtype != torch.float64
        x = features.to(torch.float32 if narrow else torch.float64) - origin
        rounded = x.to(fast)
        length = torch.linalg.vector_norm(x, dim=1)
        lost = torch.linalg.vector_norm(x.sub_(rounded), dim=1)
        if narrow:  # h - g was itself rounded, by at most 2^-24 of each of its numbers
            lost += 2.0**-23 * length
        return cls(features, origin, rounded, length, lost)

    def exact(self, rows: Tensor) -> Tensor:
        """Chosen rows of x, exact up to float64 rounding: (m,) positions -> (m, D) float64."""
        return self.features[rows].double() - self.origin.double()


class Rows:
    """The rows a_c of a classifier, exact and rounded.

    Args:
        exact: gives the rows of chosen classes, (m,) positions or a slice -> (m, D) float64, each time a new tensor.
        number, dim: K and D.
        fast: type of the product, float16 or float32.
        device: of the rows.

    Attributes:
        largest: the largest number in them, nan or inf where one is not finite.
    """

    def __init__(
        self,
        exact: Callable[[Tensor | slice], Tensor],
        number: int,
        dim: int,
        fast: torch.dtype,
        device: torch.device,
    ) -> None:
        self.exact, self.number, self.dim, self.fast, self.device = exact, number, dim, fast, device
        self.norm = self.residual = 0.0  # max ||a||, max ||a - a~||
        self.largest = float(torch.stack([exact(piece).abs_().max() for piece in pieces(number, dim)]).max())
        # A power of two that brings the rows into float16's range.
        narrow = fast == torch.float16 and 0 < self.largest < math.inf
        self.scale = 2.0 ** math.floor(math.log2(16 / self.largest)) if narrow else 1.0
        self.chunk = max(FAST_NUMBERS // self.dim // CLASS_BLOCK, 1) * CLASS_BLOCK  # classes rounded at a time
        for piece in pieces(number, dim):
            rows = exact(piece)  # (p, D)
            self.norm = max(self.norm, float(torch.linalg.vector_norm(rows, dim=1).max()))
            rows *= self.scale
            rows -= rows.to(fast)
            self.residual = max(self.residual, float(torch.linalg.vector_norm(rows, dim=1).max()) / self.scale)
        self._kept = self._round(0, self.number) if self.number <= self.chunk else None

    def _round(self, start: int, stop: int) -> Tensor:
        """a~ times `scale` of the classes start … stop, and rows of zeros up to a whole number of kernels' blocks."""
        number, block = stop - start, CLASS_BLOCK if self.fast == torch.float16 else 1
        rounded = torch.zeros(-(-number // block) * block, self.dim, dtype=self.fast, device=self.device)
        for piece in pieces(number, self.dim):
            rounded[piece] = self.exact(slice(start + piece.start, start + piece.stop)).mul_(self.scale)
        return rounded

    def chunks(self) -> Iterator[tuple[int, Tensor]]:
        """(first class, rounded rows (k, D)), all classes in order."""
        for start in range(0, self.number, self.chunk):
            stop = min(start + self.chunk, self.number)
            yield start, self._round(start, stop) if self._kept is None else self._kept


class Scores:
    """One classifier, score_c(x) = s a_c·x + b_c.

    Args:
        rows: a.
        bias: (K,) b, float64.
        sign: s, 1 or -1.
    """

    def __init__(self, rows: Rows, bias: Tensor, sign: float = 1.0) -> None:
        self.rows, self.bias, self.sign = rows, bias, sign
        self.bias_size = float(bias.abs().max())
        self._fast_bias = torch.full((-(-len(bias) // CLASS_BLOCK) * CLASS_BLOCK,), -torch.inf, device=bias.device)
        self._fast_bias[: len(bias)] = bias

    def chunks(self) -> Iterator[tuple[int, Tensor, Tensor, float]]:
        """(first class, rounded rows (k, D), float32 bias (k,), -inf where rows are padding, factor of the product)."""
        for start, rows in self.rows.chunks():
            yield start, rows, self._fast_bias[start : start + len(rows)], self.sign / self.rows.scale

    def exact(self, x: Tensor, classes: Tensor) -> Tensor:
        """Scores of pairs of features (m, D) float64 and classes (m,): (m,) float64."""
        return self.sign * torch.linalg.vecdot(x, self.rows.exact(classes)) + self.bias[classes]


def decide(x: Features, scores: Scores) -> Tensor:
    """Positions (among the K classes) of the highest exact score; of equal ones the first: (n,)."""
    rows = scores.rows
    adding = (x.fast.shape[1] + 8) * 2.0**-23  # float32 accumulation of D products, rounding of the bias and of the sum
    bound = (x.lost + adding * x.length) * rows.norm + (x.length + x.lost) * rows.residual
    bound = (2.001 * (bound + 2.0**-22 * scores.bias_size)).float()  # (n,) that two scores may be wrong by together
    if x.fast.dtype != torch.float16:
        everything = torch.arange(len(x.fast), device=x.fast.device)
        listed = _list_products(x, scores, bound)
        return _decide_fully(x, everything, scores) if listed is None else _decide_among(x, everything, scores, *listed)
    best, decision, second = _best_two(x, scores)
    flagged = (~(best - second > bound)).nonzero()[:, 0]  # nan is flagged too
    if len(flagged):
        listed = _list_candidates(x, scores, flagged, (best - bound)[flagged].nan_to_num(nan=-torch.inf))
        decision[flagged] = (
            _decide_fully(x, flagged, scores) if listed is None else _decide_among(x, flagged, scores, *listed)
        )
    return decision


def _list_products(x: Features, scores: Scores, bound: Tensor) -> tuple[Tensor, Tensor] | None:
    """Every (feature, class) that may be the best, by float32 products; None if there are too many."""
    best = torch.full_like(bound, -torch.inf)
    found, number = [], 0
    for start, rows, bias, factor in scores.chunks():
        with tf32(False):
            values = x.fast @ rows.T  # (n, k)
        values = values.neg_().add_(bias) if factor < 0 else values.add_(bias)
        best = torch.maximum(best, values.amax(1))  # nan stays
        row, candidate = (~(values < (best - bound)[:, None])).nonzero(as_tuple=True)
        if rows.shape[0] == scores.rows.number:
            return row, candidate
        found.append((row, candidate + start, values[row, candidate]))
        number += len(row)
        if number > MANY_CANDIDATES * len(bound):
            return None
    row, candidate, value = (torch.cat(parts) for parts in zip(*found, strict=True))
    near = ~(value < (best - bound)[row])
    return row[near], candidate[near]


def _best_two(x: Features, scores: Scores) -> tuple[Tensor, Tensor, Tensor]:
    """Best score, its class and the second best score, by the float16 kernels: (n,) each."""
    from lcutils.collapse.kernels import best_two

    best, second = torch.full((2, len(x.fast)), -torch.inf, device=x.fast.device)
    decision = torch.zeros(len(x.fast), dtype=torch.int64, device=x.fast.device)
    for start, rows, bias, factor in scores.chunks():
        highest, which, next_highest = best_two(x.fast, rows, bias, factor)
        second = torch.maximum(torch.maximum(second, next_highest), torch.minimum(best, highest))
        decision = torch.where(highest > best, which + start, decision)
        best = torch.maximum(best, highest)
    return best, decision, second


def _list_candidates(x: Features, scores: Scores, flagged: Tensor, cut: Tensor) -> tuple[Tensor, Tensor] | None:
    """Every (row of `flagged`, class) whose float16 score is not below the row's cut; None if there are too many."""
    from lcutils.collapse.kernels import LIST, list_candidates

    chosen, found, number = x.fast[flagged], [], 0
    for start, rows, bias, factor in scores.chunks():
        listed = list_candidates(chosen, rows, bias, factor, cut, min(scores.rows.number - start, len(rows)))
        number += len(listed[0]) if listed else LIST + 1
        if listed is None or number > LIST:
            return None
        found.append((listed[0], listed[1] + start))
    row, candidate = (torch.cat(parts) for parts in zip(*found, strict=True))
    return row, candidate


def _decide_fully(x: Features, chosen: Tensor, scores: Scores) -> Tensor:
    """Decide the chosen features (m,) from all float64 scores: (m,) positions of classes."""
    best = torch.full((len(chosen),), -torch.inf, dtype=torch.float64, device=chosen.device)
    decision = torch.zeros_like(chosen)
    for piece in pieces(scores.rows.number, scores.rows.dim):
        rows = scores.rows.exact(piece)  # (p, D)
        step = max(GATHERED_NUMBERS // len(rows), 1)
        for some in (slice(start, start + step) for start in range(0, len(chosen), step)):
            values = scores.sign * (x.exact(chosen[some]) @ rows.T) + scores.bias[piece]
            first = values.argmax(1)
            value = values.gather(1, first[:, None])[:, 0]
            decision[some] = torch.where(value > best[some], first + piece.start, decision[some])
            best[some] = torch.maximum(best[some], value)
    return decision


def _decide_among(x: Features, chosen: Tensor, scores: Scores, row: Tensor, candidate: Tensor) -> Tensor:
    """Decide the chosen features (m,) among their candidates (row of `chosen`, class), in any order: (m,) positions."""
    number = len(chosen)
    undecided = torch.bincount(row, minlength=number) > 1  # (m,)
    decision = torch.empty(number, dtype=torch.int64, device=chosen.device)
    sure = ~undecided[row]
    decision[row[sure]] = candidate[sure]
    row, candidate = row[~sure], candidate[~sure]
    if len(row) > MANY_CANDIDATES * int(undecided.sum()):
        decision[undecided] = _decide_fully(x, chosen[undecided], scores)
        return decision
    if len(row) == 0:
        return decision
    step = max(GATHERED_NUMBERS // x.fast.shape[1], 1)
    values = torch.cat(
        [scores.exact(x.exact(chosen[r]), c) for r, c in zip(row.split(step), candidate.split(step), strict=True)]
    )
    best = torch.full((number,), -torch.inf, dtype=torch.float64, device=row.device)
    best.scatter_reduce_(0, row, values, "amax")
    winning = values == best[row]
    first = torch.full((number,), len(scores.bias), device=row.device)
    first.scatter_reduce_(0, row[winning], candidate[winning], "amin")
    return torch.where(undecided, first, decision)
