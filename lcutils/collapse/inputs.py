"""What the functions of the catalogue are given: all that follows from class statistics and a head."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from lcutils.collapse.classes import KeptClasses, gram, keep_classes, kept_head
from lcutils.collapse.pairs import PairSums, PairSweep
from lcutils.features.statistics import ClassStatistics


@dataclass
class MeasurementInputs:
    """Everything is in float64 on the statistics' device, except the head, which keeps its type."""

    classes: KeptClasses
    head: Tensor  # (K, D) rows w_c of the kept classes
    covariance: Tensor | None  # (D, D) S_W, pooled over all samples, where the statistics keep it
    total_within: Tensor  # () tr S_W
    between: Tensor  # (D, D) K S_B = sum over c of (mu_c - mu_bar)(mu_c - mu_bar)ᵀ
    riesz_s: float  # exponent of the Riesz kernel
    sweep: PairSweep | None  # None where no pair is asked for
    stats: ClassStatistics  # of all classes, kept or not
    tile: int | None  # rows of means multiplied at a time, if somebody has chosen

    @classmethod
    def of(
        cls,
        stats: ClassStatistics,
        classifier: Tensor,
        min_count: int,
        riesz_s: float,
        tile: int | None,
        among: Tensor | None = None,
        pairs: bool = True,
    ) -> MeasurementInputs:
        """Choose the classes and start the sweep over their pairs, if any are wanted; as of `measure_collapse`."""
        classes = keep_classes(stats, min_count, among)
        head = kept_head(classifier, stats, classes)
        counts, covariance = stats.counts, stats.covariance
        total_within = (stats.variances * counts).sum() / counts.sum()
        # Reading `stats` waits for the GPU, so it comes first: the rest is handed over while the sweep runs.
        sweep = PairSweep(classes, riesz_s, tile) if pairs else None
        return cls(classes, head, covariance, total_within, gram(classes.centred), riesz_s, sweep, stats, tile)

    @cached_property
    def pairs(self) -> PairSums:
        """Sums over pairs of classes; whoever reads them first waits for the sweep."""
        if self.sweep is None:
            raise ValueError("pairs: this function is one of those that read classes alone; let its entry read pairs")
        return self.sweep.finish()
