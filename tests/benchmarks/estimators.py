"""Plain and corrected estimators against the truth: Gaussian classes of unequal spread, with few samples each.

    python tests/benchmarks/estimators.py [--draws 10000] [--workers 1] [--out estimators.jsonl]

Prints one JSON line per world and value: the truth; mean, bias, its standard error and mean squared error of the plain
and of the corrected estimator over all draws; and whether the aim is met, where there is one. A plain value's truth is
of all classes, a corrected one's of those with two samples or more.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import pdist

from lcutils.collapse.corrected import RepeatedClasses, corrected_classes, corrected_pairs, within_trace
from lcutils.collapse.inputs import MeasurementInputs
from lcutils.collapse.pairs import squared_distances
from lcutils.features.statistics import ClassStatistics

CLASSES = 40
UNBIASED = ("squared_distance", "nearest_squared_distance", "variance", "trace_within", "trace_between")
RATIOS = ("nc1_quotient", "nc1_cdnv_galanti", "nc1_cdnv", "nc2_norm_cov", "nc3_cosine_mean")


@dataclass(frozen=True)
class World:
    """Known classes, and how many samples of each are drawn."""

    name: str
    counts: np.ndarray  # (K,)
    means: np.ndarray  # (K, D) m_c
    spreads: np.ndarray  # (K,) tau_c: variance over all directions, the same in each
    head: np.ndarray  # (K, D)
    nearest: float  # least ||m_c - m_c'||² / ((tau_c + tau_c')/2) over pairs

    @classmethod
    def of(cls, name: str, counts: np.ndarray, nearest: float, dim: int, alike: bool = False) -> World:
        """Gaussian means, scaled so that the nearest pair is as near as asked; log-normal spreads.

        If all are `alike`, they have one spread, and all pairs the distance that is asked for.
        """
        random = np.random.default_rng(0)
        number = len(counts)
        means, spreads = random.normal(size=(number, dim)), np.exp(0.5 * random.normal(size=number))
        if alike:
            means, spreads = np.eye(number, dim), np.ones(number)
        i, j = np.triu_indices(number, 1)
        shares = ((means[i] - means[j]) ** 2).sum(1) / ((spreads[i] + spreads[j]) / 2)
        means *= math.sqrt(nearest / shares.min())
        head = means - means.mean(0) + means.std() * random.normal(size=means.shape)
        return cls(name, counts, means, spreads, head, nearest)

    def values(self, means: np.ndarray, variances: np.ndarray, chosen: np.ndarray) -> dict[str, float]:
        """Every value of the chosen classes (K,) bool: the truth, or the plain estimate."""
        means, variances, head, counts = (x[chosen] for x in (means, variances, self.head, self.counts))
        if len(means) < 2:
            return {}
        centred = means - means.mean(0)
        norms = np.linalg.norm(centred, axis=1)
        i, j = np.triu_indices(len(means), 1)
        d2 = (norms[:, None] ** 2 + norms**2 - 2 * centred @ centred.T)[i, j]
        halves = (variances[i] + variances[j]) / 2
        within, between = (counts * variances).sum() / counts.sum(), (norms**2).mean()
        return {
            "squared_distance": d2.mean(),
            "nearest_squared_distance": d2[self.nearest_pair(chosen)],
            "variance": variances.mean(),
            "trace_within": within,
            "trace_between": between,
            "nc1_quotient": within / between,
            "nc1_cdnv_galanti": (halves / d2).mean(),
            "nc1_cdnv": (halves / d2**2).mean(),
            "nc2_norm_cov": norms.std(ddof=1) / norms.mean(),
            "nc3_cosine_mean": ((head * centred).sum(1) / np.linalg.norm(head, axis=1) / norms).mean(),
        }

    def nearest_pair(self, chosen: np.ndarray) -> int:
        """Which of the chosen classes' pairs is nearest in truth."""
        return int(pdist(self.means[chosen]).argmin())

    def draw(self, random: np.random.Generator) -> ClassStatistics:
        """Statistics of new samples."""
        labels = np.repeat(np.arange(len(self.counts)), self.counts)
        dim = self.means.shape[1]
        noise = random.normal(size=(len(labels), dim)) * np.sqrt(self.spreads[labels, None] / dim)
        stats = ClassStatistics(len(self.counts), dim, covariance=False)
        stats.update(torch.from_numpy(self.means[labels] + noise), torch.from_numpy(labels))
        return stats


def worlds() -> Iterator[World]:
    """n = 1, 2, 5, 20 samples of each class, and counts by Zipf's law; far classes and near ones; D = 64 and 16."""
    zipf = np.maximum(np.round(CLASSES / np.arange(1, CLASSES + 1)), 1).astype(int)
    kinds = {f"n = {n}": np.full(CLASSES, n) for n in (1, 2, 5, 20)}
    kinds |= {"Zipf": zipf, "Zipf, n >= 2": np.maximum(zipf, 2), "Zipf, n >= 4": np.maximum(zipf, 4)}
    for dim, nearest, names in (
        (64, 5.0, list(kinds)),
        (64, 1.0, ["n = 2", "n = 5", "Zipf"]),
        (16, 5.0, ["Zipf, n >= 4"]),
    ):
        for name in names:
            yield World.of(f"{name}, D = {dim}, nearest d2 = {nearest:g} sigma2", kinds[name], nearest, dim)
    for dim, nearest, n in ((64, 5.0, 4), (16, 5.0, 4), (16, 1.0, 2)):  # the limit of what is asked for, and beyond it
        counts = np.full(min(CLASSES, dim), n)
        yield World.of(f"n = {n}, D = {dim}, every d2 = {nearest:g} sigma2", counts, nearest, dim, alike=True)


def estimates(world: World, stats: ClassStatistics) -> tuple[dict[str, float], dict[str, Any]]:
    """Every value, plain and corrected, of one draw."""
    plain = world.values(stats.means.numpy(), stats.variances.numpy(), world.counts > 0)
    inputs = MeasurementInputs.of(stats, torch.from_numpy(world.head), 1, 1.0, None)
    corrected = {
        k.removesuffix("_corrected"): v for k, v in (corrected_classes(inputs) | corrected_pairs(inputs)).items()
    }
    repeated = RepeatedClasses.of(inputs.classes)
    if repeated is not None:
        classes = repeated.classes
        d2 = squared_distances(classes, classes.norms.square(), slice(0, classes.number))
        d2 = (d2 - repeated.errors[:, None] - repeated.errors).numpy()[np.triu_indices(classes.number, 1)]
        corrected |= {"squared_distance": d2.mean()}
        corrected |= {"nearest_squared_distance": d2[world.nearest_pair(world.counts > 1)]}
        corrected |= {"variance": repeated.variances.mean(), "trace_within": within_trace(stats)}
        corrected |= {"trace_between": repeated.squares.mean()}
    return plain, corrected


def simulate(world: World, draws: int, seed: int = 1) -> list[dict[str, Any]]:
    """One record per value."""
    random = np.random.default_rng(seed)
    keys = (*UNBIASED, *RATIOS)
    found = np.full((2, draws, len(keys)), np.nan)
    negative = np.zeros(draws)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for draw in range(draws):
            both = estimates(world, world.draw(random))
            for side, values in enumerate(both):
                found[side, draw] = [float(values.get(key, math.nan)) for key in keys]
            negative[draw] = both[1]["negative_pairs"]
    truths = [world.values(world.means, world.spreads, world.counts >= least) for least in (1, 2)]
    records = []
    for place, key in enumerate(keys):
        record: dict[str, Any] = {"world": world.name, "value": key, "draws": draws}
        for name, truth, values in zip(("plain", "corrected"), truths, found[:, :, place], strict=True):
            errors = values - truth.get(key, math.nan)
            record |= {
                f"truth_{name}": truth.get(key, math.nan),
                f"mean_{name}": values.mean(),
                f"bias_{name}": errors.mean(),
            }
            record |= {f"se_{name}": errors.std(ddof=1) / math.sqrt(draws), f"mse_{name}": (errors**2).mean()}
        record["negative_pairs"] = negative.mean()
        records.append(record | {"met": aim_met(world, record)})
    return records


def aim_met(world: World, record: dict[str, Any]) -> bool | None:
    """Whether the corrected value is as good as it should be; None where nothing is asked of it.

    Squared distances, variances and traces: a bias within three of its standard errors, from n = 2. The quotient: at
    most a quarter of the plain bias; CDNV too, where every d² is 5 sigma² or more and n at least 4.
    """
    key, bias = record["value"], abs(record["bias_corrected"])
    if key in UNBIASED:
        return None if math.isnan(bias) else bool(bias <= 3 * record["se_corrected"])
    far = world.nearest >= 5 and world.counts.min() >= 4
    if (key == "nc1_quotient" and not math.isnan(bias)) or (key.startswith("nc1_cdnv") and far):
        return bool(bias <= abs(record["bias_plain"]) / 4)
    return None


def main() -> None:
    """Simulate all worlds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("estimators.jsonl"))
    options = parser.parse_args()
    lines = []
    with ProcessPoolExecutor(options.workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for records in pool.map(partial(simulate, draws=options.draws), worlds()):
            for record in records:
                rounded = {key: float(f"{v:.6g}") if isinstance(v, float) else v for key, v in record.items()}
                lines.append(json.dumps({key: None if v != v else v for key, v in rounded.items()}))
                print(lines[-1] + ("  <- aim missed" if record["met"] is False else ""), flush=True)
    options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
