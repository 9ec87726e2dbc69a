"""What every measurement starts from: the kept classes' means, centred, with their norms.

Shapes: C classes of the head, K kept ones, D dimensions. Everything here is float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lcutils.statistics import SPLIT, ClassStatistics

# Two means nearer to each other than this multiple of their own rounding are the same mean.
ROUNDING = 16 * torch.finfo(torch.float64).eps


@dataclass
class KeptClasses:
    """Means of the classes with at least `min_count` samples, and what follows from them at once."""

    ids: Tensor  # (K,) class ids, ascending
    counts: Tensor  # (K,) samples
    variances: Tensor  # (K,) sigma_c²
    means: Tensor  # (K, D) mu_c
    centred: Tensor  # (K, D) mu_c - mu_bar
    norms: Tensor  # (K,) n_c = ||mu_c - mu_bar||
    raw_norms: Tensor  # (K,) ||mu_c||
    norm_offsets: Tensor  # (K,) ||mu_c|| - ||mu_bar||, to full precision where both are large
    central: Tensor  # (K,) bool: mu_c equals mu_bar, so that its direction means nothing

    @property
    def number(self) -> int:
        """K."""
        return len(self.ids)


def keep_classes(stats: ClassStatistics, min_count: int = 1) -> KeptClasses:
    """Choose the classes with at least `min_count` samples and centre their means.

    mu_bar is the unweighted mean of the kept means. The centring goes through the first mean, so that a large
    common offset costs no digits: differences of near numbers are exact.

    Raises:
        ValueError: min_count < 1, fewer than two kept classes, or means that are not finite.
    """
    if min_count < 1:
        raise ValueError(f"min_count must be at least 1, not {min_count}: a class without samples has no mean")
    counts = stats.counts
    ids = (counts >= min_count).nonzero()[:, 0]
    if len(ids) < 2:
        raise ValueError(
            f"{len(ids)} class(es) have at least {min_count} sample(s): neural collapse compares two or more classes"
        )
    means = stats.means_of(ids)
    variances = stats.variances[ids]
    if not bool(torch.isfinite(means.sum()) & torch.isfinite(variances.sum())):
        broken = ~(means.isfinite().all(1) & variances.isfinite())
        if bool(broken.any()):
            first = int(ids[broken][0])
            raise ValueError(f"the features of {int(broken.sum())} classes are not finite, class {first} first")
    centred = means - means[0]
    shift = centred.mean(0)
    centred -= shift
    centre = means[0] + shift  # (D,) mu_bar
    raw_norms = torch.linalg.vector_norm(means, dim=1)
    norms = torch.linalg.vector_norm(centred, dim=1)
    # ||mu_c||² - ||mu_bar||² = ||c||² + 2 c·mu_bar, divided by ||mu_c|| + ||mu_bar||
    centre_norm = torch.linalg.vector_norm(centre)
    norm_offsets = (norms.square() + 2 * (centred @ centre)) / (raw_norms + centre_norm)
    return KeptClasses(
        ids=ids,
        counts=counts[ids],
        variances=variances,
        means=means,
        centred=centred,
        norms=norms,
        raw_norms=raw_norms,
        norm_offsets=torch.where(raw_norms + centre_norm > 0, norm_offsets, 0.0),
        central=norms <= ROUNDING * raw_norms.max(),
    )


def kept_head(classifier: Tensor, stats: ClassStatistics, classes: KeptClasses) -> Tensor:
    """Rows w_c of the kept classes: (C, D) -> (K, D), on the statistics' device, in the head's own type.

    Raises:
        ValueError: the head's shape is not (C, D).
    """
    expected = (stats.num_classes, stats.dim)
    if tuple(classifier.shape) != expected:
        raise ValueError(f"the classifier must be {expected}, one row a class, not {tuple(classifier.shape)}")
    return classifier.detach().to(stats.device).index_select(0, classes.ids)


def gram(left: Tensor, right: Tensor | None = None) -> Tensor:
    """Leftᵀ right in float64, (K, D) and (K, E) -> (D, E), without a float64 copy of the whole."""
    right = left if right is None else right
    total = torch.zeros(left.shape[1], right.shape[1], dtype=torch.float64, device=left.device)
    for a, b in zip(left.split(SPLIT), right.split(SPLIT), strict=True):
        total.addmm_(a.double().T, b.double())
    return total


@dataclass(frozen=True)
class Moments:
    """Mean, standard deviation with the n - 1 divisor, and CoV = std / mean; nan where there are too few values."""

    mean: float
    std: float
    cov: float

    @classmethod
    def of(cls, values: Tensor) -> Moments:
        """Of one value a class: (K,)."""
        if len(values) == 0:
            return cls(math.nan, math.nan, math.nan)
        mean = values.mean()
        return cls.from_sums(len(values), float(mean), float((values - mean).square().sum()))

    @classmethod
    def from_sums(cls, number: float, mean: float, squares: float) -> Moments:
        """Of `number` values with this mean and this sum of squared deviations from it."""
        std = math.sqrt(max(squares, 0.0) / (number - 1)) if number > 1 else math.nan
        return cls(mean if number > 0 else math.nan, std, ratio(std, mean))


def ratio(numerator: float, denominator: float) -> float:
    """Numerator / denominator, nan where the denominator is zero: `measure_collapse` warns of every nan by its key."""
    return numerator / denominator if denominator != 0 else math.nan
