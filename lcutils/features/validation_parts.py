"""NC4's counts and the summed loss over contiguous parts of the validation text, the class means fixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from lcutils.features.evaluation import loss_of
from lcutils.features.models import FeatureModel
from lcutils.features.sections import cut


class AgreementCounts(Protocol):
    """Counts NC4 batch by batch; `lcutils.collapse.AgreementCounter` is one."""

    hits: Tensor  # (C,) int64, like the next two
    totals: Tensor
    hits_weights: Tensor  # the same tensor as `hits` where the weights alone decide

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Count (N, D) features with (N,) labels."""


class ByPart:
    """Feeds a counter batch by batch and keeps what each part adds; the counter's result stays the same.

    Args:
        counter: of NC4, which decides each token for itself.
        model: whose loss is summed.
        edges: where parts begin and end, (P + 1,) blocks.

    Attributes:
        sums: (P,) by name: `hits`, `totals` and (where the counter has them) `hits_weights`, int64; `loss` in nats,
            `right` and `predictions`, float64.
    """

    def __init__(self, counter: AgreementCounts, model: FeatureModel, edges: Sequence[int]) -> None:
        self.counter, self.model, self.edges = counter, model, edges
        counted = {"hits": counter.hits, "totals": counter.totals}
        if counter.hits_weights is not counter.hits:
            counted["hits_weights"] = counter.hits_weights
        self._counted = counted
        number, device = len(edges) - 1, counter.hits.device
        self.sums = {name: torch.zeros(number, dtype=torch.int64, device=device) for name in counted}
        for name in ("loss", "right", "predictions"):
            self.sums[name] = torch.zeros(number, dtype=torch.float64, device=device)

    def update(self, features: Tensor, labels: Tensor, first: int, number: int, width: int) -> None:
        """Count (N, D) features with (N,) labels of `number` blocks of `width` tokens from block `first` on."""
        for part, chosen in cut(self.edges, first, number, width):
            some, y = features[chosen], labels[chosen]
            before = {name: count.sum() for name, count in self._counted.items()}
            self.counter.update(some, y)
            for name, count in self._counted.items():
                self.sums[name][part] += count.sum() - before[name]
            loss, right = loss_of(some, self.model, y)
            self.sums["loss"][part] += loss
            self.sums["right"][part] += right
            self.sums["predictions"][part] += (y >= 0).sum()
