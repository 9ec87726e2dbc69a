"""The drawn null: what measurements are where labels say nothing of features, from the same counts and covariance.

In plain words: keep the features and the number of samples of each class, but deal the labels out at random. Class
means then differ by chance alone, frequent classes' little and rare classes' much, and what is measured of them is no
collapse.

Labels permuted at random among N features with mean m and covariance S_T (divisor N - 1) give class means with

    E mu_c = m,    Cov(mu_c, mu_c') = S_T (1/n_c [c = c'] - 1/N),    E sigma_c² = tr S_T (1 - 1/n_c),

and a pooled within-class covariance of S_T (N - R) / N on average, R classes. The draw has just these: mu_c from
N(m, S_T / n_c), all then moved so that their mean weighted by counts is m; sigma_c² from the gamma distribution with
the mean above and the variance that Gaussian features give it, 2 (n_c - 1) tr S_T² / n_c² (Satterthwaite 1946);
the covariance at its average. So a draw costs no pass over the text.

What a permutation does otherwise: the mean of few features is distributed as features are, not as a Gaussian. Features
that left a LayerNorm have almost equal lengths, so that the norms of singletons' means spread less than Gaussian ones
(`nc2_norm_cov`, `nc2_log_norm_*`, a little of what weights near pairs, such as `nc1_cdnv`). From ten or so samples per
class on (`min_count`) the two agree; the tests hold both.

Shapes: C classes, R of them with rows in the statistics, D dimensions. All is float64, on the statistics' device.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lcutils import paper
from lcutils.collapse.catalogue import MEASUREMENTS
from lcutils.collapse.classes import weighted_between
from lcutils.collapse.measure import measure_by_count
from lcutils.features.statistics import ClassStatistics
from lcutils.tensors import pieces


@dataclass(frozen=True)
class TotalSpread:
    """How all features spread about their mean, whatever their class.

    Attributes:
        mean: (D,) m, of all features.
        covariance: (D, D) S_T, divisor N - 1: within classes plus between them, weighted by counts.
        isotropic: True if the statistics keep no covariance: S_T is then tr S_T / D in every direction.
    """

    mean: Tensor
    covariance: Tensor
    isotropic: bool

    @classmethod
    def of(cls, stats: ClassStatistics) -> TotalSpread:
        """From class statistics: S_T = (N S_W + sum over c of n_c (mu_c - m)(mu_c - m)ᵀ) / (N - 1).

        Raises:
            ValueError: fewer than two samples.
        """
        number, within = int(stats.counts.sum()), stats.covariance
        if number < 2:
            raise ValueError(f"{number} sample(s) have no covariance; two are needed")
        mean, between = weighted_between(stats)
        unbiased = number / (number - 1)
        if within is not None:
            return cls(mean, (within + between) * unbiased, False)
        trace = ((stats.variances * stats.counts).sum() / number + between.trace()) * unbiased
        return cls(mean, torch.eye(stats.dim, dtype=torch.float64, device=stats.device) * trace / stats.dim, True)

    def root(self) -> Tensor:
        """(D, D) R with R Rᵀ = S_T."""
        eigenvalues, vectors = torch.linalg.eigh(self.covariance)
        return vectors * eigenvalues.clamp(min=0).sqrt()


@dataclass(frozen=True)
class Null:
    """A measurement's value without structure: mean and standard deviation (n - 1) over draws."""

    mean: float
    sd: float


class NullDraws:
    """Class statistics as labels without meaning would give them, one after the other.

    The same seed gives the same draws again on one type of device, and the first of many draws are those of few.

    Args:
        stats: statistics to take counts and total covariance of.
        seed: of the draws.
    """

    def __init__(self, stats: ClassStatistics, seed: int = paper.SEED) -> None:
        self.stats, self.spread = stats, TotalSpread.of(stats)
        self.counts = stats.counts[stats.classes]  # (R,)
        self._root = self.spread.root()
        self._normal = torch.Generator(stats.device).manual_seed(seed)
        self._gamma = np.random.default_rng(seed)

    def draw(self) -> ClassStatistics:
        """One draw; it keeps a covariance if the statistics do."""
        stats, counts = self.stats, self.counts.double()
        number, seen = counts.sum(), counts.clamp(min=1)
        means = torch.empty(len(counts), stats.dim, dtype=torch.float64, device=stats.device)  # (R, D)
        for piece in pieces(*means.shape):
            normal = torch.randn(means[piece].shape, generator=self._normal, dtype=means.dtype, device=means.device)
            means[piece] = normal @ self._root.T / seen[piece, None].sqrt()
        means += self.spread.mean - counts @ means / number
        kept = None
        if not self.spread.isotropic:
            kept = self.spread.covariance * ((number - (counts > 0).sum()) / number)
        return ClassStatistics.from_moments(
            stats.num_classes, stats.classes, self.counts, means, self._draw_variances(), kept
        )

    def _draw_variances(self) -> Tensor:
        """sigma_c²: (R,), 0 for a single sample."""
        trace, squares = self.spread.covariance.trace(), self.spread.covariance.square().sum()
        freedom = (self.counts.clamp(min=1) - 1).double()
        shape = (freedom * trace.square() / squares / 2).nan_to_num(nan=0.0).cpu().numpy()
        drawn = torch.from_numpy(self._gamma.standard_gamma(shape)).to(self.stats.device)
        mean = trace * freedom / (freedom + 1)
        return (mean * drawn / torch.from_numpy(shape).to(drawn.device)).nan_to_num(nan=0.0)  # 0 / 0 of a singleton


def drawn_nulls(
    stats: ClassStatistics,
    classifier: Tensor,
    draws: int,
    *,
    min_count: int = 1,
    riesz_s: float = 1.0,
    ood_mean: np.ndarray | None = None,
    seed: int = paper.SEED,
) -> dict[str, Null]:
    """Mean and standard deviation of every measurement that needs no validation text, over draws without structure.

    The head is the model's own: of NC3 the null is what cosines its rows have with means that know nothing of classes.
    A value that is not defined in some draw is nan.

    Args:
        stats, classifier, min_count, riesz_s: as of `measure_collapse`.
        draws: how many.
        ood_mean: (D,) mean feature of out-of-distribution text; with it `nc5_ood_deviation` has a null too.
        seed: of the draws.

    Raises:
        ValueError: fewer than two draws, or what `measure_collapse` raises.
    """
    if draws < 2:
        raise ValueError(f"draws must be two or more, not {draws}: one has no standard deviation")
    source, values = NullDraws(stats, seed), dict[str, list[float]]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # what is nan in a draw is nan in the result
        for _ in range(draws):
            drawn = source.draw()
            measured = measure_by_count(drawn, classifier, min_counts=[min_count], riesz_s=riesz_s, ood_mean=ood_mean)
            for key, value in measured[min_count].items():
                values.setdefault(key, []).append(value)
    found = {key: values[key] for key in MEASUREMENTS if key in values}  # no counts, in the catalogue's order
    return {key: Null(float(np.mean(x)), float(np.std(x, ddof=1))) for key, x in found.items()}
