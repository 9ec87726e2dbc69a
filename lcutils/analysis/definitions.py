"""Which measurements a table holds, what theory says of them, and the catalogue's words as a table and as lessons.

`lcutils.collapse.catalogue` says what each measurement is.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import exp, log, sqrt

import numpy as np
import pandas as pd
from scipy.special import gammaln, polygamma, psi

from lcutils.collapse.catalogue import MEASUREMENTS


@dataclass(frozen=True)
class Missing:
    """Stands where a table would be: one plain sentence that says what cannot be computed, and why."""

    reason: str

    def __str__(self) -> str:
        return self.reason


def measurements_in(results: pd.DataFrame) -> list[str]:
    """Keys of the measurements for which `results` has at least one number, in display order."""
    return [key for key in MEASUREMENTS if key in results and results[key].notna().any()]


def known_to(results: pd.DataFrame) -> list[str]:
    """Keys that concern a reader of `results`: the paper's measurements, and the extras that it has."""
    return [key for key, known in MEASUREMENTS.items() if known.group == "paper" or key in results]


def in_display_order(table: pd.DataFrame) -> pd.DataFrame:
    """`table` with its column `measurement` in the order of `MEASUREMENTS`, else in the order it had."""
    order = {key: number for number, key in enumerate(MEASUREMENTS)}
    return table.sort_values("measurement", key=lambda keys: keys.map(order), kind="stable", ignore_index=True)


def towards_words(key: str) -> str:
    """Which way collapse lies, in words: "down", "up", "towards 0, from either side", or "not known"."""
    return {"zero": "towards 0, from either side", "none": "not known"}.get(way := MEASUREMENTS[key].direction, way)


def scale_words(key: str) -> str:
    """What features that are twice as large do to a measurement, in a sentence."""
    entry = MEASUREMENTS[key]
    if entry.scale == "free":
        return "Free of scale: features twice as large give the same value."
    size = 2.0 ** abs(entry.power) if entry.scale == "power" else abs(entry.power) * log(2)
    changed = {
        "power": f"make it {size:g} times {'smaller' if entry.power < 0 else 'larger'}, without any collapse",
        "shift": f"{'lower' if entry.power < 0 else 'raise'} it by {size:.3g}, without any collapse",
        "unit": "have another value, without any collapse",
    }
    return f"Depends on scale: features twice as large {changed[entry.scale]}."


def definitions_table(keys: Collection[str] = tuple(MEASUREMENTS)) -> pd.DataFrame:
    """The catalogue as a table, one row per measurement.

    Args:
        keys: of the measurements; all by default.

    Returns:
        Columns `measurement` (key), `property, label, definition, limit`, `towards` (which way collapse lies), `scale`
        (what larger features do), `formula` (LaTeX), `meaning, null, hides, source`.
    """
    words = ["property", "label", "definition", "limit", "formula", "meaning", "null", "hides", "source"]
    rows = [{"measurement": key} | {word: getattr(MEASUREMENTS[key], word) for word in words} for key in keys]
    table = pd.DataFrame(rows)
    table.insert(5, "towards", [towards_words(key) for key in keys])
    table.insert(6, "scale", [scale_words(key) for key in keys])
    return table


def describe(key: str) -> str:
    """Everything that the catalogue says of a measurement, as Markdown with its formula in LaTeX.

    Raises:
        KeyError: the catalogue has no such measurement.
    """
    entry = MEASUREMENTS[key]
    scale, _, larger = scale_words(key).partition(": ")
    lines = {
        "Collapse lies": towards_words(key) + (f" ({entry.limit})" if entry.limit else ""),
        "Without structure": entry.null,
        scale: larger,
        "What it hides": entry.hides,
        "Source": entry.source,
    }
    told = "\n".join(f"- **{name}**: {words}" for name, words in lines.items() if words)
    formula = f"$$ {entry.formula} $$\n\n" if entry.formula else ""
    return f"### `{key}` ({entry.property}: {entry.label})\n\n{formula}{entry.meaning or entry.definition}\n\n{told}"


def simplex_cosine(classes: int) -> float:
    """Cosine between any two vertices of a simplex of K classes: -1 / (K - 1).

    >>> simplex_cosine(3)
    -0.5
    """
    return -1.0 / (classes - 1)


def uniform_sphere_log_kernel(dim: int) -> float:
    """Mean of log(1 / ||u - v||) for u, v uniform on the unit sphere in D dimensions.

    ||u - v||^2 = 4 B with B ~ Beta(a, a), a = (D - 1) / 2, hence -ln 2 - (psi(a) - psi(2 a)) / 2.

    >>> round(uniform_sphere_log_kernel(16), 4)
    -0.3294
    """
    a = (dim - 1) / 2
    return float(-log(2) - (psi(a) - psi(2 * a)) / 2)


def _uniform_sphere_riesz(dim: int, s: float) -> float:
    """Mean of ||u - v||^-s, from E[B^(-s/2)] of Beta(a, a); infinite for s >= D - 1."""
    a = (dim - 1) / 2
    if s >= 2 * a:
        return float("inf")
    return exp(-s * log(2) + gammaln(a - s / 2) + gammaln(2 * a) - gammaln(a) - gammaln(2 * a - s / 2))


def limits_of_theory(dim: int, classes: int, *, riesz_s: float | None = None) -> pd.DataFrame:
    """What theory says of points spread uniformly on a sphere, and of a simplex.

    Args:
        dim: width of the features, D >= 2.
        classes: number of classes, K >= 2. A simplex of K classes exists only for K <= D + 1: else it has no rows.
        riesz_s: exponent of the Riesz kernel, whose moments are infinite in few dimensions (s >= D - 1); its limits
            are left out where it is not known.

    Returns:
        Columns `limit` ("uniform sphere" or "simplex"), `measurement` (key), `value`.

    Raises:
        ValueError: `dim` or `classes` below 2.
    """
    if dim < 2 or classes < 2:
        raise ValueError(f"the limits need 2 dimensions and 2 classes at least, not {dim} and {classes}")
    a = (dim - 1) / 2
    log_mean = uniform_sphere_log_kernel(dim)
    log_std = sqrt(polygamma(1, a) - polygamma(1, 2 * a)) / 2
    sphere = {
        **{f"gnc2_log{tag}_mean": log_mean for tag in ("", "_uncentred")},
        **{f"gnc2_log{tag}_std": log_std for tag in ("", "_uncentred")},
        **{f"gnc2_log{tag}_cov": log_std / log_mean for tag in ("", "_uncentred")},
        "nc2_cosine_mean": 0.0,
        "nc2_cosine_std": 1 / sqrt(dim),
    }
    distance = sqrt(2 * classes / (classes - 1))
    simplex = {
        "nc2_norm_cov": 0.0,
        "nc2_log_norm_std": 0.0,
        "nc2_cosine_mean": simplex_cosine(classes),
        "nc2_cosine_std": 0.0,
        "nc2_coherence": 0.0,
        "nc2_etf_error": 0.0,
        "gnc2_log_mean": -log(distance),
        "gnc2_log_std": 0.0,
    }
    if riesz_s is not None:
        mean = _uniform_sphere_riesz(dim, riesz_s)
        std = sqrt(_uniform_sphere_riesz(dim, 2 * riesz_s) - mean**2)
        sphere |= {"gnc2_riesz_mean": mean, "gnc2_riesz_std": std, "gnc2_riesz_cov": std / mean}
        simplex |= {"gnc2_riesz_mean": distance**-riesz_s, "gnc2_riesz_std": 0.0}
    rows = [("uniform sphere", *pair) for pair in sphere.items()]
    if classes <= dim + 1:
        rows += [("simplex", *pair) for pair in simplex.items()]
    return pd.DataFrame(rows, columns=["limit", "measurement", "value"])


def limits_at(dim: int, classes: int, *, riesz_s: float | None = None) -> pd.DataFrame:
    """Every limit of theory for one model: its value at collapse, and that of directions spread evenly over a sphere.

    The value at collapse is the catalogue's, 0 or 1 for most. The mean cosine's is -1 / (K - 1): more classes than
    D + 1 cannot form a simplex, but no arrangement of their directions has a lower mean.

    Returns:
        Columns `measurement`, `limit` ("collapse" or "uniform sphere"), `value` (maybe minus infinity), in display
        order; measurements without a known limit have no row.
    """
    sphere = limits_of_theory(dim, classes, riesz_s=riesz_s)
    sphere = sphere[(sphere["limit"] == "uniform sphere") & np.isfinite(sphere["value"])]
    collapsed = {key: known.collapsed for key, known in MEASUREMENTS.items()}
    collapsed["nc2_cosine_mean"] = simplex_cosine(classes)
    rows = [(key, "collapse", value) for key, value in collapsed.items() if value is not None]
    table = pd.DataFrame(rows, columns=["measurement", "limit", "value"])
    return in_display_order(pd.concat([table, sphere[table.columns]], ignore_index=True))
