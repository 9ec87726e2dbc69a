"""How often value ± t se of the eight parts covers the mean over repeated samples of the same size.

    python tests/benchmarks/jackknife_coverage.py [REPEATS]

Each sample is a text of its own: labels drawn by Zipf's law, Gaussian features of classes with unequal spread, cut into
eight contiguous parts. At a nominal 95 %, 90 to 98 % are wanted.
"""

from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np
import torch
from scipy.stats import t as student

from lcutils.analysis.errors import jackknife_error
from lcutils.collapse import measure_collapse
from lcutils.collapse.replicates import MeasuredSections
from lcutils.features.statistics import ClassStatistics

PARTS = 8


def sample(random: np.random.Generator, means: np.ndarray, spreads: np.ndarray, number: int) -> list[ClassStatistics]:
    """Statistics of the nine sections of one text: `number` labels by Zipf's law, features around `means` (C, D)."""
    classes, dim = means.shape
    share = 1 / np.arange(1, classes + 1)
    labels = random.choice(classes, number, p=share / share.sum())
    features = means[labels] + spreads[labels, None] * random.normal(size=(number, dim))
    sections = []
    edges = [number * sixteenth // 16 for sixteenth in (0, 1, *range(2, 17, 2))]
    for begin, end in pairwise(edges):
        sections.append(ClassStatistics(classes, dim))
        sections[-1].update(torch.from_numpy(features[begin:end]), torch.from_numpy(labels[begin:end]))
    return sections


def study(
    repeats: int, classes: int = 40, dim: int = 8, number: int = 6_000, seed: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Values and standard errors of every measurement, by key: (repeats,) each."""
    random = np.random.default_rng(seed)
    means = 3 * random.normal(size=(classes, dim))
    spreads = random.uniform(0.5, 1.5, classes)
    head = torch.from_numpy(means + random.normal(size=means.shape))
    values: dict[str, list[float]] = {}
    errors: dict[str, list[float]] = {}
    for _ in range(repeats):
        sections = sample(random, means, spreads, number)
        whole = sections[0].empty()
        for part in sections:
            whole.merge(part)
        again = MeasuredSections(whole, head, [lambda part=part: part for part in sections]).without_each()  # type: ignore[misc]
        for key, value in measure_collapse(whole, head).items():
            values.setdefault(key, []).append(value)
            errors.setdefault(key, []).append(jackknife_error(np.array([one[key] for one in again])))
    return tuple({key: np.array(list_) for key, list_ in some.items()} for some in (values, errors))  # type: ignore[return-value]


def coverage(values: np.ndarray, errors: np.ndarray) -> float:
    """Share of value ± t se, with 7 degrees of freedom, that hold the mean of the values."""
    return float((np.abs(values - values.mean()) <= student.ppf(0.975, PARTS - 1) * errors).mean())


if __name__ == "__main__":
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    for number in (6_000, 600):
        values, errors = study(repeats, number=number)
        print(f"{number} samples of 40 classes, {repeats} repeats (± {1.96 * (0.05 * 0.95 / repeats) ** 0.5:.3f})")
        for key in values:
            spread = values[key].std(ddof=1)
            if spread > 0:
                rms = np.sqrt(np.square(errors[key]).mean())
                covered = coverage(values[key], errors[key])
                print(f"  {key:28} coverage {covered:.3f}   rms se / true sd {rms / spread:.3f}")
