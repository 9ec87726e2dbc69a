"""NC4: how often the head and the nearest class mean choose the same class, each choice as float64 would make it.

Both decisions are argmax_c a_c·x + b_c over the kept classes, with x = h - g for one fixed vector g near the mean of
the means: the head has a = w, b = w·g; argmin ||h - mu||² has a = mu - g, b = -||mu - g||² / 2. The product runs
in low precision (float16 on a GPU's tensor cores, float32 on a CPU). By Cauchy and Schwarz no score is off by more than

    ||x - x~|| max ||a|| + ||x~|| max ||a - a~|| + accumulation,      ~: rounded

so a class further than twice that below the best cannot win. Rows with several classes left are decided by the
exact float64 scores of just those.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from lcutils.collapse.classes import SPLIT
from lcutils.devices import tf32
from lcutils.errors import NotFiniteError

LOW_PRECISION = {"cuda": torch.float16}  # type of the product; float32 elsewhere; kernels multiply float16
CPU_SCORES = 1 << 22  # scores held at a time: rows x K
CUDA_SCORES = 1 << 28
CUDA_ROWS = 1 << 17  # for the float16 kernels, which hold no scores
FLOAT16_FROM = 5e13  # samples x K x D: float32's products of fewer are over sooner than the kernels are compiled
GATHERED_NUMBERS = 1 << 22  # numbers gathered at a time for exact scores: pairs x D
MANY_CANDIDATES = 32  # per row on average: from there on, one full float64 product is faster


@dataclass
class _Scores:
    """One classifier, score_c(x) = a_c·x + b_c, exact and rounded."""

    rows: Tensor  # (K, D) a, in its own type
    offset: Tensor | None  # (D,) subtracted from `rows` in float64 (the means are stored un-centred)
    bias: Tensor  # (K,) b, float64
    fast_rows: Tensor  # (K', D) float16 or float32 of `rows` times `scale`, padded with zeros
    fast_bias: Tensor  # (K',) float32, padded with -inf
    scale: float  # a power of two that brings the rows into float16's range
    norm: float  # max ||a||
    residual: float  # max ||a - a~||
    bias_size: float  # max |b|

    @classmethod
    def of(cls, rows: Tensor, offset: Tensor | None, bias: Tensor, fast: torch.dtype) -> _Scores:
        largest = max(float(part.abs().max()) for part in rows.split(SPLIT))
        if offset is not None:
            largest += float(offset.abs().max())
        scale = 2.0 ** math.floor(math.log2(16 / largest)) if fast == torch.float16 and largest > 0 else 1.0
        padded = len(rows)
        if fast == torch.float16:
            from lcutils.collapse.kernels import CLASS_BLOCK

            padded = -(-padded // CLASS_BLOCK) * CLASS_BLOCK
        fast_rows = torch.zeros(padded, rows.shape[1], dtype=fast, device=rows.device)
        fast_bias = torch.full((padded,), -torch.inf, device=rows.device)
        fast_bias[: len(rows)] = bias
        norm = residual = 0.0
        for part, target in zip(rows.split(SPLIT), fast_rows[: len(rows)].split(SPLIT), strict=True):
            exact = part.double() if offset is None else part.double() - offset
            target.copy_(exact * scale)
            norm = max(norm, float(torch.linalg.vector_norm(exact, dim=1).max()))
            residual = max(residual, float(torch.linalg.vector_norm(exact - target.double() / scale, dim=1).max()))
        size = float(bias.abs().max())
        return cls(rows, offset, bias, fast_rows, fast_bias, scale, norm, residual, size)

    def exact_rows(self, classes: Tensor) -> Tensor:
        """Rows a of the chosen classes: (n,) -> (n, D) float64."""
        rows = self.rows[classes].double()
        return rows if self.offset is None else rows - self.offset


class AgreementCounter:
    """Counts, class by class, where argmax_c <w_c, h> = argmin_c ||h - mu_c|| over the kept classes only.

    Args:
        classifier: (C, D) rows of the head.
        means: (C, D) class means.
        keep: (C,) bool, the classes that may be decided for and whose samples are counted.
        device: where the work is done (default: where the means are).
        samples: about how many features there will be. On a GPU many are decided by float16 kernels, few by float32
            products, to the same decisions.

    Raises:
        ValueError: shapes that do not fit, or no kept class.
    """

    def __init__(
        self,
        classifier: Tensor,
        means: Tensor,
        keep: Tensor,
        device: str | torch.device | None = None,
        samples: float = math.inf,
    ) -> None:
        if classifier.shape != means.shape or means.ndim != 2 or keep.shape != means.shape[:1]:
            raise ValueError(
                "classifier and means must be (C, D) and keep (C,), not "
                f"{tuple(classifier.shape)}, {tuple(means.shape)} and {tuple(keep.shape)}"
            )
        self.device = torch.device(device) if device is not None else means.device
        self.keep = keep.to(self.device, torch.bool)
        ids = self.keep.nonzero()[:, 0]
        if len(ids) == 0:
            raise ValueError("no class is kept: there is nothing to decide for")
        self.number, self.dim = len(ids), means.shape[1]
        self.hits = torch.zeros(len(keep), dtype=torch.int64, device=self.device)
        self.totals = torch.zeros_like(self.hits)
        self.largest_label = torch.zeros_like(self.hits[0])
        self.not_finite = torch.zeros_like(self.hits[0])  # counted features that are not finite
        kept_means = means.detach().to(self.device)[ids].double()  # (K, D)
        rows = classifier.detach().to(self.device)[ids]  # (K, D)
        self.origin = kept_means.mean(0).float()  # (D,) g
        origin = self.origin.double()
        many = samples * self.number * self.dim >= FLOAT16_FROM
        fast = LOW_PRECISION.get(self.device.type, torch.float32) if many else torch.float32
        head_bias = torch.cat([part.double() @ origin for part in rows.split(SPLIT)])
        half_squares = torch.cat([(part - origin).square().sum(1) for part in kept_means.split(SPLIT)]) / 2
        self.linear = _Scores.of(rows, None, head_bias, fast)
        self.nearest = _Scores.of(kept_means, origin, -half_squares, fast)

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Count a batch: (N, D) features and (N,) labels; negative labels and classes not kept are left out.

        Raises:
            ValueError: shapes that do not fit; at `result`, a label >= C or (`NotFiniteError`) a counted feature that
                is not finite.
        """
        if features.ndim != 2 or features.shape[1] != self.dim or labels.shape != features.shape[:1]:
            raise ValueError(
                f"features must be (N, {self.dim}) and labels (N,), "
                f"not {tuple(features.shape)} and {tuple(labels.shape)}"
            )
        if len(labels) == 0:
            return
        labels = labels.to(self.device, torch.int64)
        torch.maximum(self.largest_label, labels.max(), out=self.largest_label)
        scores = CUDA_SCORES if self.device.type == "cuda" else CPU_SCORES
        rows = CUDA_ROWS if self.linear.fast_rows.dtype == torch.float16 else max(scores // self.number, 1)
        for some, y in zip(features.split(rows), labels.split(rows), strict=True):
            inside = (y >= 0) & (y < len(self.keep))
            y = y.clamp(0, len(self.keep) - 1)
            counted = inside & self.keep[y]
            x = _RoundedFeatures.of(some.detach().to(self.device), self.origin, self.linear.fast_rows.dtype)
            with torch.cuda.device(self.device) if x.fast.is_cuda else nullcontext():  # for Triton's launches
                agree = decide(x, self.linear) == decide(x, self.nearest)
            self.hits.index_add_(0, y, (agree & counted).long())
            self.totals.index_add_(0, y, counted.long())
            self.not_finite += (counted & ~x.features.isfinite().all(1)).sum()

    def result(self) -> tuple[Tensor, Tensor]:
        """Hits and totals: (C,) int64 each."""
        if int(self.largest_label) >= len(self.keep):
            raise ValueError(f"label {int(self.largest_label)} is out of range: there are {len(self.keep)} classes")
        if self.not_finite:
            raise NotFiniteError(f"{int(self.not_finite)} of {int(self.totals.sum())} features are not finite")
        return self.hits, self.totals


@dataclass
class _RoundedFeatures:
    """Features x = h - g of a batch, rounded for the fast product; h and g are kept to settle near ties exactly."""

    features: Tensor  # (n, D) h
    origin: Tensor  # (D,) g, float32
    fast: Tensor  # (n, D) x~
    length: Tensor  # (n,) ||x||
    lost: Tensor  # (n,) at least ||x - x~||

    @classmethod
    def of(cls, features: Tensor, origin: Tensor, fast: torch.dtype) -> _RoundedFeatures:
        """Shift by g, round, and measure what the rounding lost (inf where float16 overflows: all is flagged)."""
        narrow = fast == torch.float16 and features.dtype != torch.float64
        x = features.to(torch.float32 if narrow else torch.float64) - origin
        rounded = x.to(fast)
        length = torch.linalg.vector_norm(x, dim=1)
        lost = torch.linalg.vector_norm(x - rounded, dim=1)
        if narrow:  # h - g was itself rounded, by at most 2^-24 of each of its numbers
            lost += 2.0**-23 * length
        return cls(features, origin, rounded, length, lost)

    def exact(self, rows: Tensor) -> Tensor:
        """Chosen rows of x, exact up to float64 rounding: (m,) positions -> (m, D) float64."""
        return self.features[rows].double() - self.origin.double()


def decide(x: _RoundedFeatures, scores: _Scores) -> Tensor:
    """Positions (among the kept classes) of the highest exact score; of equal ones the first: (n,)."""
    adding = (x.fast.shape[1] + 8) * 2.0**-23  # float32 accumulation of D products, rounding of the bias and of the sum
    bound = (x.lost + adding * x.length) * scores.norm + (x.length + x.lost) * scores.residual
    bound = (2.001 * (bound + 2.0**-22 * scores.bias_size)).float()  # (n,) that two scores may be wrong by together
    number = len(scores.bias)
    if x.fast.dtype != torch.float16:
        with tf32(False):
            values = x.fast @ scores.fast_rows.T  # (n, K)
        values += scores.fast_bias
        cut = values.amax(1) - bound
        everything = torch.arange(len(x.fast), device=x.fast.device)
        return _decide_among(x, everything, scores, *(~(values < cut[:, None])).nonzero(as_tuple=True))
    from lcutils.collapse.kernels import best_two, list_candidates

    fast = scores.fast_rows, scores.fast_bias, 1 / scores.scale
    best, which, second = best_two(x.fast, *fast)
    decision = which.long()
    flagged = (~(best - second > bound)).nonzero()[:, 0]  # nan is flagged too
    if len(flagged):
        cut = (best - bound)[flagged].nan_to_num(nan=-torch.inf)
        listed = list_candidates(x.fast[flagged], *fast, cut, number)
        decision[flagged] = _decide_among(x, flagged, scores, *listed) if listed else _decide_fully(x, flagged, scores)
    return decision


def _decide_fully(x: _RoundedFeatures, chosen: Tensor, scores: _Scores) -> Tensor:
    """Decide the chosen features (m,) from all float64 scores: (m,) positions of classes."""
    number = len(scores.bias)
    rows = scores.exact_rows(torch.arange(number, device=chosen.device))
    parts = chosen.split(max(GATHERED_NUMBERS // number, 1))
    return torch.cat([(x.exact(part) @ rows.T + scores.bias).argmax(1) for part in parts])


def _decide_among(x: _RoundedFeatures, chosen: Tensor, scores: _Scores, row: Tensor, candidate: Tensor) -> Tensor:
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
        [
            torch.linalg.vecdot(x.exact(chosen[r]), scores.exact_rows(c)) + scores.bias[c]
            for r, c in zip(row.split(step), candidate.split(step), strict=True)
        ]
    )
    best = torch.full((number,), -torch.inf, dtype=torch.float64, device=row.device)
    best.scatter_reduce_(0, row, values, "amax")
    winning = values == best[row]
    first = torch.full((number,), len(scores.bias), device=row.device)
    first.scatter_reduce_(0, row[winning], candidate[winning], "amin")
    return torch.where(undecided, first, decision)


def classifier_agreement(
    features: Tensor, labels: Tensor, classifier: Tensor, means: Tensor, keep: Tensor
) -> tuple[Tensor, Tensor]:
    """Per-class hits and totals of argmax_c <w_c, h> = argmin_c ||h - mu_c||: (C,) int64 each.

    `nc4_agreement` is ``hits.sum() / totals.sum()``. Both decisions are over the kept classes only; samples of
    other classes, and negative labels, are in neither count. Each decision is the one that float64 makes.

    Args:
        features: (N, D), any float type.
        labels: (N,) integers.
        classifier: (C, D) rows of the head.
        means: (C, D) class means.
        keep: (C,) bool.

    Raises:
        ValueError: shapes that do not fit, no kept class, a label >= C, or (`NotFiniteError`) a feature that is not
            finite.

    Example:
        >>> head = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> features = torch.tensor([[2.0, 0.5], [0.1, 3.0], [1.0, 0.9]])
        >>> keep = torch.tensor([True, True])
        >>> hits, totals = classifier_agreement(features, torch.tensor([0, 1, 1]), head, means=head * 2, keep=keep)
        >>> hits.tolist(), totals.tolist()
        ([1, 2], [1, 2])
    """
    counter = AgreementCounter(classifier, means, keep)
    counter.update(features, labels)
    return counter.result()
