"""Classes in a plane that a reader can shape, and all measurements of them: what the lessons of notebook 00 draw."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import get_args

import torch
from torch import Tensor

from lcutils.collapse.agreement import classifier_agreement
from lcutils.collapse.duality import ood_deviation
from lcutils.collapse.entries import Extra
from lcutils.collapse.measure import measure_collapse
from lcutils.features.statistics import ClassStatistics


@dataclass(frozen=True)
class Case:
    """Classes in the plane, their samples and a head, by a few numbers; the default is collapsed but for `spread`.

    Attributes:
        classes: K >= 2. At most 3 can form a simplex in the plane.
        samples: of each class, 2 or more.
        centred: samples are moved so that class means are where the numbers put them; False leaves chance in the means.
        spread: standard deviation of samples around their mean in each direction; class means are at distance 1.
        uneven: class means are at distances from 1 - `uneven` to 1 + `uneven`, 0 <= uneven < 1.
        flat: 0 spreads directions of class means evenly over the circle, towards 1 they bunch around a line.
        shift: what all features share: they are moved by so much.
        turn: degrees between each row of the head and its class mean.
        twist: degrees that the rows turn more from class to class, up to `twist` for the last.
        bias: of the first class, in the head.
        tilt: degrees between the plane and the mean feature of foreign text.
        scale: all features are multiplied by it.
        seed: of the samples.
    """

    classes: int = 5
    samples: int = 40
    centred: bool = True
    spread: float = 0.2
    uneven: float = 0.0
    flat: float = 0.0
    shift: float = 0.0
    turn: float = 0.0
    twist: float = 0.0
    bias: float = 0.0
    tilt: float = 90.0
    scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that make no case, with a ValueError that names the first of them."""
        whole = {"classes": 2, "samples": 2}
        for name, value in vars(self).items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, not {value}")
        for name, least in whole.items():
            if getattr(self, name) < least or getattr(self, name) % 1:
                raise ValueError(f"{name} must be a whole number of {least} or more, not {getattr(self, name)}")
        for name in ("uneven", "flat"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be 0 or more and below 1, not {getattr(self, name)}")
        if self.spread < 0:
            raise ValueError(f"spread must be 0 or more, not {self.spread}")
        if self.scale <= 0:
            raise ValueError(f"scale must be above 0, not {self.scale}")

    @cached_property
    def centres(self) -> Tensor:
        """Class means, (K, 2) float64."""
        place = torch.arange(self.classes, dtype=torch.float64)  # (K,)
        angle = 2 * math.pi * place / self.classes
        angle = torch.atan2((1 - self.flat) * angle.sin(), angle.cos())
        radius = 1 + self.uneven * torch.linspace(-1, 1, self.classes, dtype=torch.float64)
        means = radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
        return self.scale * (means + torch.tensor([self.shift, 0.0], dtype=torch.float64))

    @cached_property
    def head(self) -> Tensor:
        """Rows of the head, (K, 2) float64: the centred class means at scale 1, turned."""
        centred = (self.centres - self.centres.mean(0)) / self.scale
        angle = torch.deg2rad(self.turn + torch.linspace(0, 1, self.classes, dtype=torch.float64) * self.twist)
        x, y = centred.unbind(1)
        return torch.stack([x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], dim=1)

    def draw(self, seed: int | None = None) -> tuple[Tensor, Tensor]:
        """Features (K * samples, 2) float64 and their labels (K * samples,); never centred with another `seed`."""
        random = torch.Generator().manual_seed(self.seed if seed is None else seed)
        noise = torch.randn(self.classes, self.samples, 2, generator=random, dtype=torch.float64)
        if seed is None and self.centred:
            noise -= noise.mean(1, keepdim=True)
        features = self.centres[:, None] + self.scale * self.spread * noise  # (K, samples, 2)
        return features.flatten(0, 1), torch.arange(self.classes).repeat_interleave(self.samples)


@lru_cache(maxsize=2_000)
def measure_case(case: Case, riesz_s: float = 1.0) -> dict[str, float]:
    """Every measurement of a case by key; a value that is not defined is nan.

    NC4 is over new samples of the same classes. NC5's foreign text has a mean feature at `tilt` to the plane, above the
    first class mean.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # to wake others for a few numbers takes ten times as long as to compute them
    try:
        return _measure(case, riesz_s)
    finally:
        torch.set_num_threads(threads)


def _measure(case: Case, riesz_s: float) -> dict[str, float]:
    stats = ClassStatistics(case.classes, 2)
    stats.update(*case.draw())
    with warnings.catch_warnings(action="ignore"):  # few classes: some values are not defined
        measured = measure_collapse(stats, case.head, riesz_s=riesz_s, extras=get_args(Extra))
    keep = torch.ones(case.classes, dtype=torch.bool)
    bias = torch.zeros(case.classes, dtype=torch.float64)
    bias[0] = case.bias
    new = case.draw(case.seed + 1)
    for key, added in (("nc4_agreement", bias), ("nc4_agreement_weights", None)):
        hits, totals = classifier_agreement(*new, case.head, stats.means, keep, bias=added)
        measured[key] = float(hits.sum() / totals.sum())
    lifted = torch.cat([stats.means, torch.zeros(case.classes, 1, dtype=torch.float64)], dim=1)  # (K, 3)
    tilt = math.radians(case.tilt)
    foreign = torch.cat([math.cos(tilt) * stats.means[0], math.sin(tilt) * stats.means[0].norm().reshape(1)])
    measured["nc5_ood_deviation"] = ood_deviation(lifted, keep, foreign)
    return measured
