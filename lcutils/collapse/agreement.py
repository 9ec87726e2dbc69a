"""NC4: how often the head and the nearest class mean choose the same class, each choice as float64 would make it.

Both decisions are argmax_c of scores ±a_c·x + b_c over the kept classes, with x = h - g for one fixed vector g near the
mean of the means: argmin ||h - mu||² has a = mu - g, b = -||mu - g||² / 2; a head without bias has a = w, b = w·g.
`lcutils.collapse.scores` finds the highest of them.

Memory: the means in float64, 8 K D bytes, and the head as the model has it. Beside them are held what `scores` rounds
(twice 128 MiB in float16, twice 256 in float32, or less) and a batch's products (1 GiB in float32 on a GPU, or less).
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import Tensor

from lcutils.collapse.classes import check_finite
from lcutils.collapse.scores import Features, Rows, Scores, decide
from lcutils.errors import NotFiniteError
from lcutils.features.statistics import check_ids, check_tensors
from lcutils.tensors import pieces

LOW_PRECISION = {"cuda": torch.float16}  # type of the product; float32 elsewhere; kernels multiply float16
CPU_SCORES = 1 << 22  # scores held at a time: features x classes
CUDA_SCORES = 1 << 28
CUDA_ROWS = 1 << 17  # features at a time for the float16 kernels, which hold no scores
HALF_NUMBERS = 1 << 27  # and the numbers in them
FLOAT16_FROM = 5e13  # samples x K x D: float32's products of fewer are over sooner than the kernels are compiled


class AgreementCounter:
    """Counts, class by class, where the head's decision is the class with the nearest mean, over the kept classes only.

    The head decides argmax_c s (<w_c, h> + b_c), as the model's own scores do.

    Args:
        classifier: (C, D) rows w_c of the head, on any device; not copied there.
        means: class means, (C, D) with a mask, (K, D) with ids.
        keep: classes that may be decided for and whose samples are counted: a mask (C,) bool, or (K,) ascending ids.
        device: where the work is done (default: where the means are).
        samples: about how many features there will be. On a GPU many are decided by float16 kernels, few by float32
            products, to the same decisions.
        bias: (C,) b of the head; None for none.
        scale: s of the head. Only its sign decides.
        decisions: count too how often each side decides for each class, for `lcutils.collapse.chance`.

    Attributes:
        hits, totals: (C,) int64 so far.
        decisions: (C,) int64 counts of decisions over the counted features, by side: "head" and "nearest", and
            "weights" where they are apart from the head; empty unless asked for.
        hits_weights: (C,) int64, hits of argmax_c <w_c, h> alone; the same tensor without a bias and with s > 0.

    Raises:
        ValueError: shapes that do not fit, no kept class, a scale that is 0 or not finite, or a kept row of the head or
            number of its bias that is not finite.
    """

    def __init__(
        self,
        classifier: Tensor,
        means: Tensor,
        keep: Tensor,
        device: str | torch.device | None = None,
        samples: float = math.inf,
        bias: Tensor | None = None,
        scale: float = 1.0,
        decisions: bool = False,
    ) -> None:
        check_tensors(classifier=classifier, means=means, keep=keep, **({} if bias is None else {"bias": bias}))
        masked, number = keep.dtype == torch.bool, len(classifier)
        fits = classifier.ndim == means.ndim == 2 and means.shape == (len(keep), classifier.shape[1])
        if not fits or keep.ndim != 1 or (masked and len(keep) != number):
            raise ValueError(
                "classifier and means must be (C, D) and keep (C,), or means (K, D) and keep (K,) ids, not "
                f"{tuple(classifier.shape)}, {tuple(means.shape)} and {tuple(keep.shape)}"
            )
        if bias is not None and bias.shape != (number,):
            raise ValueError(f"bias must be (C,), one number per row of the classifier, not {tuple(bias.shape)}")
        if not math.isfinite(scale) or scale == 0:
            raise ValueError(f"scale must be a number other than 0, not {scale}: scores without order decide nothing")
        if not masked:
            check_ids(keep, number)
        self.device = torch.device(device) if device is not None else means.device
        ids = (keep.nonzero()[:, 0] if masked else keep).to(self.device, torch.int64)  # (K,)
        if len(ids) == 0:
            raise ValueError("no class is kept: there is nothing to decide for")
        means = means.detach().to(self.device)
        means = (means[ids] if masked else means).double()  # (K, D)
        classifier = classifier.detach()
        self.ids = ids
        self.keep = torch.zeros(number, dtype=torch.bool, device=self.device).index_fill_(0, ids, True)
        self.dim = means.shape[1]
        self.hits, self.totals = torch.zeros(2, number, dtype=torch.int64, device=self.device)
        self.largest_label = torch.zeros_like(self.hits[0])
        self.not_finite = torch.zeros_like(self.hits[0])  # counted features that are not finite
        self.origin = means.mean(0).float()  # (D,) g
        origin = self.origin.double()
        many = samples * means.numel() >= FLOAT16_FROM
        self.fast = LOW_PRECISION.get(self.device.type, torch.float32) if many else torch.float32

        def head_rows(classes: Tensor | slice) -> Tensor:
            return classifier.index_select(0, ids[classes].to(classifier.device)).to(self.device).double()

        K, D = means.shape
        head = Rows(head_rows, K, D, self.fast, self.device)
        nearest = Rows(lambda classes: means[classes] - origin, K, D, self.fast, self.device)
        known = (("the classifier's rows", head, head_rows), ("the class means", nearest, means.__getitem__))
        for what, rows, read in known:
            if not math.isfinite(rows.largest):
                check_finite(what, torch.cat([read(piece).isfinite().all(1) for piece in pieces(K, D)]), ids)
        head_bias = torch.cat([head_rows(piece) @ origin for piece in pieces(K, D)])  # (K,) w·g
        half_squares = torch.cat([(means[piece] - origin).square_().sum(1) for piece in pieces(K, D)]) / 2
        self.linear = self.weights = Scores(head, head_bias)
        if bias is not None or scale < 0:
            added = torch.zeros_like(head_bias) if bias is None else bias.detach().to(self.device)[ids].double()
            check_finite("the head's biases", added.isfinite(), ids)
            sign = math.copysign(1.0, scale)
            self.linear = Scores(head, sign * (head_bias + added), sign)
        self.hits_weights = self.hits if self.linear is self.weights else torch.zeros_like(self.hits)
        self.nearest = Scores(nearest, -half_squares)
        sides = ("head", "nearest", *(("weights",) if self.weights is not self.linear else ()))
        self.decisions = {side: torch.zeros_like(self.hits) for side in sides} if decisions else {}

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
        rows = self._features_at_a_time()
        for some, y in zip(features.split(rows), labels.split(rows), strict=True):
            inside = (y >= 0) & (y < len(self.keep))
            y = y.clamp(0, len(self.keep) - 1)
            counted = inside & self.keep[y]
            x = Features.of(some.detach().to(self.device), self.origin, self.fast)
            with torch.cuda.device(self.device) if x.fast.is_cuda else nullcontext():  # for Triton's launches
                nearest, linear = decide(x, self.nearest), decide(x, self.linear)
                self.hits.index_add_(0, y, ((linear == nearest) & counted).long())
                decided = {"head": linear, "nearest": nearest}
                if self.weights is not self.linear:
                    decided["weights"] = decide(x, self.weights)
                    self.hits_weights.index_add_(0, y, ((decided["weights"] == nearest) & counted).long())
            for side, counts in self.decisions.items():
                counts.index_add_(0, self.ids[decided[side]], counted.long())
            self.totals.index_add_(0, y, counted.long())
            self.not_finite += (counted & ~x.features.isfinite().all(1)).sum()

    def _features_at_a_time(self) -> int:
        if self.fast == torch.float16:
            return max(min(CUDA_ROWS, HALF_NUMBERS // self.dim), 1)
        scores, rows = CUDA_SCORES if self.device.type == "cuda" else CPU_SCORES, self.nearest.rows
        return max(scores // min(rows.number, rows.chunk), 1)

    def result(self) -> tuple[Tensor, Tensor]:
        """Hits and totals: (C,) int64 each."""
        if int(self.largest_label) >= len(self.keep):
            raise ValueError(f"label {int(self.largest_label)} is out of range: there are {len(self.keep)} classes")
        if self.not_finite:
            raise NotFiniteError(f"{int(self.not_finite)} of {int(self.totals.sum())} features are not finite")
        return self.hits, self.totals


def classifier_agreement(
    features: Tensor,
    labels: Tensor,
    classifier: Tensor,
    means: Tensor,
    keep: Tensor,
    bias: Tensor | None = None,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Per-class hits and totals of argmax_c s (<w_c, h> + b_c) = argmin_c ||h - mu_c||: (C,) int64 each.

    `nc4_agreement` is ``hits.sum() / totals.sum()`` with the model's own bias and scale (a soft cap after them changes
    no decision), `nc4_agreement_weights` without. Both decisions are over the kept classes only; samples of other
    classes, and negative labels, are in neither count. Each decision is the one that float64 makes. With a bias the
    agreement is not scale-free: features twice as large make the bias half as important.

    Args:
        features: (N, D), any float type.
        labels: (N,) integers.
        classifier: (C, D) rows w_c of the head.
        means: (C, D) class means.
        keep: (C,) bool.
        bias: (C,) b of the head; None for none.
        scale: s of the head, of either sign.

    Raises:
        ValueError: shapes that do not fit, no kept class, a label >= C, a scale that is 0 or not finite, a head that is
            not finite, or (`NotFiniteError`) a feature that is not.

    Example:
        >>> head = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> features = torch.tensor([[2.0, 0.5], [0.1, 3.0], [1.0, 0.9]])
        >>> keep = torch.tensor([True, True])
        >>> hits, totals = classifier_agreement(features, torch.tensor([0, 1, 1]), head, means=head * 2, keep=keep)
        >>> hits.tolist(), totals.tolist()
        ([1, 2], [1, 2])
    """
    counter = AgreementCounter(classifier, means, keep, bias=bias, scale=scale)
    counter.update(features, labels)
    return counter.result()
