"""What every measurement starts from: the means of the kept classes, centred, with their norms.

Shapes: C classes of the head, K kept ones, D dimensions. Everything here is float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lcutils.features.statistics import ClassStatistics, check_tensors
from lcutils.tensors import SPLIT, pieces

PADDING = 64
CLASS_BLOCK = 256  # classes that the scoring kernels take at a time
# Two means nearer to each other than this multiple of their own rounding are the same mean.
ROUNDING = 16 * torch.finfo(torch.float64).eps


@dataclass
class KeptClasses:
    """Means of the classes with at least `min_count` samples, and what follows from them directly."""

    ids: Tensor  # (K,) class ids, ascending
    counts: Tensor  # (K,) samples
    variances: Tensor  # (K,) sigma_c²
    means: Tensor  # (K, D) mu_c
    padded: Tensor  # (K', D) mu_c - mu_bar, rows of zeros up to the next multiple of 64: libraries multiply that faster
    norms: Tensor  # (K,) n_c = ||mu_c - mu_bar||
    raw_norms: Tensor  # (K,) ||mu_c||
    norm_offsets: Tensor  # (K,) ||mu_c|| - ||mu_bar||, to full precision where both are large
    central: Tensor  # (K,) bool: mu_c equals mu_bar, so that its direction means nothing

    @property
    def number(self) -> int:
        """K."""
        return len(self.ids)

    @property
    def centred(self) -> Tensor:
        """mu_c - mu_bar: (K, D)."""
        return self.padded[: self.number]

    def units(self) -> Tensor:
        """Directions u_c of mu_c - mu_bar: (K, D), zero where mu_c equals mu_bar."""
        return self.centred / torch.where(self.central, torch.inf, self.norms)[:, None]


@dataclass
class PairInputs:
    """What the sweep over pairs reads: one number per class; reciprocals are 0 where a direction means nothing."""

    padded: Tensor  # (K', D) centred means and rows of zeros
    squares: Tensor  # (K,) n², n = ||mu - mu_bar||
    norms: Tensor  # (K,) n
    offsets: Tensor  # (K,) ||mu|| - ||mu_bar||
    inverse: Tensor  # (K,) 1 / (n sqrt 2)
    raw_inverse: Tensor  # (K,) 1 / (||mu|| sqrt 2), of the mean that is not centred
    half_variances: Tensor  # (K,) sigma² / 2

    @classmethod
    def of(cls, classes: KeptClasses) -> PairInputs:
        """From the kept classes."""
        root = 2**-0.5
        return cls(
            padded=classes.padded,
            squares=classes.norms.square(),
            norms=classes.norms,
            offsets=classes.norm_offsets,
            inverse=torch.where(classes.central, 0.0, root / classes.norms),
            raw_inverse=torch.where(classes.raw_norms > 0, root / classes.raw_norms, 0.0),
            half_variances=classes.variances / 2,
        )


def kept_ids(stats: ClassStatistics, min_count: int, among: Tensor | None = None) -> Tensor:
    """Ids of the classes with at least `min_count` samples, of `among` (C,) bool if given: (K,) ascending."""
    keep = stats.counts >= min_count
    return (keep if among is None else keep & among.to(keep.device)).nonzero()[:, 0]


def keep_classes(stats: ClassStatistics, min_count: int = 1, among: Tensor | None = None) -> KeptClasses:
    """Choose the classes with at least `min_count` samples, of `among` (C,) bool if given, and centre their means.

    mu_bar is the unweighted mean of the kept means. The centring goes through the first mean, so that a large
    common offset costs no digits: differences of near numbers are exact.

    Raises:
        ValueError: min_count < 1, fewer than two kept classes, or features that were not finite.
    """
    if min_count < 1:
        raise ValueError(f"min_count must be at least 1, not {min_count}: a class without samples has no mean")
    counts, ids = stats.counts, kept_ids(stats, min_count, among)
    if len(ids) < 2:
        raise ValueError(
            f"{len(ids)} class(es) have at least {min_count} sample(s): neural collapse compares two or more classes"
        )
    means = stats.means_of(ids)
    variances = stats.variances[ids]
    classes = centre_classes(ids, counts[ids], variances, means)
    if not math.isfinite(classes.norms.sum() + variances.sum()):
        check_finite("the features", means.isfinite().all(1) & variances.isfinite(), ids)
    return classes


def centre_classes(ids: Tensor, counts: Tensor, variances: Tensor, means: Tensor) -> KeptClasses:
    """Centre the means of K classes at their unweighted mean: (K,), (K,), (K,), (K, D)."""
    padded = means.new_zeros(-(-len(ids) // PADDING) * PADDING, means.shape[1])
    centred = torch.sub(means, means[0], out=padded[: len(ids)])
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
        counts=counts,
        variances=variances,
        means=means,
        padded=padded,
        norms=norms,
        raw_norms=raw_norms,
        norm_offsets=torch.where(raw_norms + centre_norm > 0, norm_offsets, 0.0),
        central=norms <= ROUNDING * raw_norms.max(),
    )


def check_finite(what: str, finite: Tensor, ids: Tensor) -> None:
    """Raise ValueError if not all are `finite`; a sum of large finite numbers, which led here, may also overflow."""
    if len(broken := ids[~finite]):
        raise ValueError(f"{what} of {len(broken)} classes are not finite, class {int(broken[0])} first")


def kept_head(classifier: Tensor, stats: ClassStatistics, classes: KeptClasses) -> Tensor:
    """Rows w_c of the kept classes: (C, D) or (R, D) -> (K, D), on the statistics' device, in the head's own type.

    Raises:
        ValueError: the head is not a tensor, its shape is neither (C, D) nor that of one row per class of
            `stats.classes`, or a kept row is not finite.
    """
    check_tensors(classifier=classifier)
    every, some = (stats.num_classes, stats.dim), (len(stats.classes), stats.dim)
    if tuple(classifier.shape) not in (every, some):
        other = f", or {some}, one per class that may occur" if some != every else ""
        raise ValueError(f"the classifier must be {every}, one row per class{other}, not {tuple(classifier.shape)}")
    rows = classes.ids if len(classifier) == stats.num_classes else torch.searchsorted(stats.classes, classes.ids)
    # Chosen where the head lies: a model's head is not copied to another device for its rows.
    head = classifier.detach().index_select(0, rows.to(classifier.device)).to(stats.device)
    if not math.isfinite(head.sum(dtype=torch.float64)):
        check_finite("the classifier's rows", head.isfinite().all(1), classes.ids)
    return head


def gram(rows: Tensor) -> Tensor:
    """Xᵀ X in float64, (K, D) -> (D, D), without a float64 copy of the whole X."""
    total = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
    for part in rows.split(SPLIT):
        total.addmm_(part.double().T, part.double())
    return total


@dataclass(frozen=True)
class Moments:
    """Mean, standard deviation with the n - 1 divisor, and CoV = std / mean; nan where there are too few values.

    Scalars of any kind: tensors, so that a GPU is not waited for, until everything is read at once.
    """

    mean: Tensor
    std: Tensor
    cov: Tensor

    @classmethod
    def of(cls, values: Tensor, chosen: Tensor) -> Moments:
        """Of one value per class, over the chosen classes: (K,) and (K,) bool."""
        number = chosen.sum()
        mean = torch.where(chosen, values, 0.0).sum() / number
        return cls.from_sums(number, mean, torch.where(chosen, values - mean, 0.0).square().sum())

    @classmethod
    def from_sums(cls, number: Tensor, mean: Tensor, squares: Tensor) -> Moments:
        """Of `number` values with this mean and this sum of squared deviations from it."""
        variance = torch.where(number > 1, squares.clamp(min=0) / (number - 1), torch.nan)
        std = variance.sqrt()
        return cls(mean, std, ratio(std, mean))


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Numerator / denominator, nan where the denominator is 0: `measure_collapse` warns of every nan by its key."""
    return torch.where(denominator != 0, numerator / denominator, torch.nan)


def weighted_between(stats: ClassStatistics) -> tuple[Tensor, Tensor]:
    """Mean mu of all N features, (D,), and sum_c n_c (mu_c - mu)(mu_c - mu)ᵀ / N over all classes seen, (D, D).

    With the pooled within-class covariance the second gives that of all features, S_T = S_W + this.
    """
    counts = stats.counts
    ids = counts.nonzero()[:, 0]  # (K,)
    shares = counts[ids].double() / counts.sum()
    origin = stats.means_of(ids[:1])  # (1, D): differences from it lose no digits to a common offset
    shift = torch.zeros_like(origin)
    total = torch.zeros(stats.dim, stats.dim, dtype=torch.float64, device=stats.device)
    for piece in pieces(len(ids), stats.dim):
        shift += shares[piece] @ (stats.means_of(ids[piece]) - origin)
    for piece in pieces(len(ids), stats.dim):
        centred = stats.means_of(ids[piece]) - origin - shift  # (p, D)
        total.addmm_((centred * shares[piece, None]).T, centred)
    return (origin + shift)[0], total
