"""NC4: how often the head and the nearest class mean decide alike, every decision as float64 would make it.

Both decisions are argmax_c a_c·x + b_c over the kept classes, with x = h - g for one fixed vector g near the mean of
the means: the head has a = w, b = w·g; argmin ||h - mu||² has a = mu - g, b = -||mu - g||² / 2. The product runs
in low precision (float16 on a GPU's tensor cores, float32 on a CPU). By Cauchy and Schwarz no score is off by more than

    ||x - x~|| max ||a|| + ||x~|| max ||a - a~|| + accumulation,      ~: rounded

so a class further than twice that below the best cannot win. Rows with several classes left are decided by the
exact float64 scores of just those.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lcutils.collapse.classes import SPLIT

SCORES = {"cpu": 1 << 22, "cuda": 1 << 29}  # scores held at a time: rows x K
FLAGGED_SCORES = 1 << 27
GATHERED = 1 << 22  # numbers gathered at a time for exact scores: pairs x D
CROWD = 32  # candidates a row on average from which one full float64 product is the shorter way


@dataclass
class _Scores:
    """One classifier, score_c(x) = a_c·x + b_c, exactly and rounded."""

    rows: Tensor  # (K, D) a, in its own type
    offset: Tensor | None  # (D,) subtracted from `rows` in float64 (the means are held un-centred)
    bias: Tensor  # (K,) b, float64
    fast_rows: Tensor  # (K, D) float16 or float32, times `scale`
    fast_bias: Tensor  # (K,) float32
    scale: float  # a power of two that brings the rows into float16's range
    norm: float  # max ||a||
    residual: float  # max ||a - a~||
    bias_size: float  # max |b|

    @classmethod
    def of(cls, rows: Tensor, offset: Tensor | None, bias: Tensor, fast: torch.dtype) -> _Scores:
        largest = max(float(part.abs().max()) for part in rows.split(SPLIT))
        if offset is not None:
            largest += float(offset.abs().max())
        scale = power_of_two_below(16.0, largest) if fast == torch.float16 else 1.0
        fast_rows = torch.empty(rows.shape, dtype=fast, device=rows.device)
        norm = residual = 0.0
        for part, target in zip(rows.split(SPLIT), fast_rows.split(SPLIT), strict=True):
            exact = part.double() if offset is None else part.double() - offset
            target.copy_(exact * scale)
            norm = max(norm, float(torch.linalg.vector_norm(exact, dim=1).max()))
            residual = max(residual, float(torch.linalg.vector_norm(exact - target.double() / scale, dim=1).max()))
        size = float(bias.abs().max())
        return cls(rows, offset, bias, fast_rows, bias.float(), scale, norm, residual, size)

    def exact_rows(self, classes: Tensor) -> Tensor:
        """Rows a of the chosen classes: (n,) -> (n, D) float64."""
        rows = self.rows[classes].double()
        return rows if self.offset is None else rows - self.offset


def power_of_two_below(target: float, size: float) -> float:
    """The power of two that brings `size` to at most `target`, 1 where `size` is 0."""
    if size == 0:
        return 1.0
    return 2.0 ** int(torch.floor(torch.log2(torch.tensor(target / size, dtype=torch.float64))))


class AgreementCounter:
    """Counts, class by class, where argmax_c <w_c, h> = argmin_c ||h - mu_c|| over the kept classes only.

    Args:
        classifier: (C, D) rows of the head.
        means: (C, D) class means.
        keep: (C,) bool, the classes that may be decided for and whose samples are counted.
        device: where the work is done (default: where the means are).

    Raises:
        ValueError: shapes that do not fit, or no kept class.
    """

    def __init__(
        self, classifier: Tensor, means: Tensor, keep: Tensor, device: str | torch.device | None = None
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
        self.largest = torch.zeros_like(self.hits[0])
        centres = means.detach().to(self.device)[ids].double()  # (K, D)
        rows = classifier.detach().to(self.device)[ids]  # (K, D)
        self.origin = centres.mean(0).float()  # (D,) g
        wide = self.origin.double()
        fast = torch.float16 if self.device.type == "cuda" else torch.float32
        lifts = torch.cat([part.double() @ wide for part in rows.split(SPLIT)])
        halves = torch.cat([(part - wide).square().sum(1) for part in centres.split(SPLIT)]) / 2
        self.linear = _Scores.of(rows, None, lifts, fast)
        self.nearest = _Scores.of(centres, wide, -halves, fast)

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Count a batch: (N, D) features and (N,) labels; negative labels and classes not kept are left out.

        Raises:
            ValueError: shapes that do not fit; at `result`, a label >= C.
        """
        if features.ndim != 2 or features.shape[1] != self.dim or labels.shape != features.shape[:1]:
            raise ValueError(
                f"features must be (N, {self.dim}) and labels (N,), "
                f"not {tuple(features.shape)} and {tuple(labels.shape)}"
            )
        if len(labels) == 0:
            return
        labels = labels.to(self.device, torch.int64)
        torch.maximum(self.largest, labels.max(), out=self.largest)
        rows = max(SCORES[self.device.type] // self.number, 1)
        for x, y in zip(features.split(rows), labels.split(rows), strict=True):
            x = x.detach().to(self.device)
            inside = (y >= 0) & (y < len(self.keep))
            y = y.clamp(0, len(self.keep) - 1)
            counted = inside & self.keep[y]
            alike = self.decide(x, self.linear) == self.decide(x, self.nearest)
            self.hits.index_add_(0, y, (alike & counted).long())
            self.totals.index_add_(0, y, counted.long())

    def result(self) -> tuple[Tensor, Tensor]:
        """Hits and totals: (C,) int64 each."""
        if int(self.largest) >= len(self.keep):
            raise ValueError(f"label {int(self.largest)} is out of range: there are {len(self.keep)} classes")
        return self.hits, self.totals

    def decide(self, features: Tensor, scores: _Scores) -> Tensor:
        """Positions (among the kept classes) of the highest exact score; of equal ones the first: (n, D) -> (n,)."""
        shifted = features.double() - self.origin  # (n, D) x
        fast = scores.fast_rows.dtype
        scale = power_of_two_below(16.0, float(shifted.abs().max())) if fast == torch.float16 else 1.0
        rounded = (shifted * scale).to(fast)  # (n, D) x~, times scale
        length = torch.linalg.vector_norm(shifted, dim=1)  # (n,)
        lost = torch.linalg.vector_norm(shifted - rounded.double() / scale, dim=1)
        adding = (self.dim + 8) * 2.0**-23  # float32 accumulation of D products, rounding of the bias and of the sum
        bound = (lost + adding * length) * scores.norm + (length + lost) * scores.residual
        bound = 2 * (bound + 2.0**-22 * scores.bias_size).float()
        values = (rounded @ scores.fast_rows.T).float()  # (n, K)
        values.mul_(1 / (scale * scores.scale)).add_(scores.fast_bias)
        cut = values.amax(1) - bound  # (n,)
        row, candidate = (values >= cut[:, None]).nonzero(as_tuple=True)
        return _settle(shifted, scores, row, candidate)


def _settle(shifted: Tensor, scores: _Scores, row: Tensor, candidate: Tensor) -> Tensor:
    """Decide among the candidates (row, class), sorted by row: (n, D) features -> (n,) positions."""
    number = len(shifted)
    each = torch.bincount(row, minlength=number)  # (n,)
    decision = torch.empty(number, dtype=torch.int64, device=shifted.device)
    open_rows = each > 1
    sure = ~open_rows[row]
    decision[row[sure]] = candidate[sure]
    row, candidate = row[~sure], candidate[~sure]
    if len(row) == 0:
        return decision
    if len(row) > CROWD * int(open_rows.sum()):
        which = open_rows.nonzero()[:, 0]
        everything = torch.arange(len(scores.bias), device=row.device)
        for some in which.split(max(GATHERED // len(everything), 1)):
            decision[some] = (shifted[some] @ scores.exact_rows(everything).T + scores.bias).argmax(1)
        return decision
    step = max(GATHERED // shifted.shape[1], 1)
    exact = torch.cat(
        [
            torch.linalg.vecdot(shifted[r], scores.exact_rows(c)) + scores.bias[c]
            for r, c in zip(row.split(step), candidate.split(step), strict=True)
        ]
    )
    best = torch.full((number,), -torch.inf, dtype=torch.float64, device=row.device)
    best.scatter_reduce_(0, row, exact, "amax")
    winning = exact == best[row]
    first = torch.full((number,), len(scores.bias), device=row.device)
    first.scatter_reduce_(0, row[winning], candidate[winning], "amin")
    return torch.where(open_rows, first, decision)


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
        ValueError: shapes that do not fit, no kept class, or a label >= C.

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
