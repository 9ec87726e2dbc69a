"""Values without structure beside the measured ones: the table of a point's nulls, and what is read from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lcutils.analysis.definitions import Missing, in_display_order, limits_of_theory
from lcutils.collapse.catalogue import MEASUREMENTS

DRAWN, CLOSED, UNTRAINED = "drawn", "closed form", "random network"
COLUMNS = ["model", "checkpoint", "measurement", "value", "kind", "basis", "mean", "sd", "draws", "distance"]


@dataclass(frozen=True)
class NullValue:
    """A measurement's value without structure.

    Attributes:
        key: of the measurement.
        kind: DRAWN, CLOSED or UNTRAINED.
        basis: what is supposed, in a few words.
        mean, sd: of the value; no sd where it is not known.
        draws: that they are of; 0 for a closed form.
    """

    key: str
    kind: str
    basis: str
    mean: float
    sd: float = math.nan
    draws: int = 0


def null_table(row: Mapping[str, Any], nulls: Iterable[NullValue], dim: int, riesz_s: float) -> pd.DataFrame:
    """The nulls of one point, one row per measurement and kind, in the catalogue's order.

    Measurements without another closed form get that of directions spread evenly over a sphere in `dim` dimensions.

    Args:
        row: the point's row of `results.csv`. Nulls of what it does not hold are left out.
        nulls: values without structure.
        dim: D.
        riesz_s: exponent of the Riesz kernel.

    Returns:
        Columns `model, checkpoint, measurement, value` (the measured one), `kind, basis, mean, sd, draws` and
        `distance`, (value - mean) / sd.
    """
    nulls = list(nulls)
    closed = {null.key for null in nulls if null.kind == CLOSED}
    sphere = limits_of_theory(dim, 2, riesz_s=riesz_s).query("limit == 'uniform sphere'") if dim >= 2 else None
    if sphere is not None:
        pairs = zip(sphere["measurement"], sphere["value"], strict=True)
        nulls += [NullValue(key, CLOSED, "directions even over a sphere", value) for key, value in pairs
                  if key not in closed]  # fmt: skip
    place = {"model": row["model"], "checkpoint": row["checkpoint"]}
    rows = [
        place
        | {"measurement": null.key, "value": row[null.key], "kind": null.kind, "basis": null.basis}
        | {"mean": null.mean, "sd": null.sd, "draws": null.draws}
        for null in nulls
        if null.key in MEASUREMENTS and null.key in row and math.isfinite(null.mean)
    ]
    table = pd.DataFrame(rows, columns=COLUMNS[:-1])
    sd = table["sd"].where(table["sd"] > 0)
    return in_display_order(table.assign(distance=(table["value"] - table["mean"]) / sd))


def main_nulls(nulls: pd.DataFrame) -> pd.DataFrame:
    """The rows that a value is judged by, which have an sd: drawn ones, and of NC4 that of decisions at random."""
    return nulls[(nulls["kind"] != UNTRAINED) & nulls["sd"].notna()].reset_index(drop=True)


def null_bands(nulls: pd.DataFrame) -> pd.DataFrame:
    """What charts draw of nulls: columns `model, checkpoint, measurement, value, low, high` (two sd to each side).

    A CoV whose mean crosses 0 in the draws has no null worth drawing: those that vary by more than a quarter of
    themselves are left out.
    """
    main = main_nulls(nulls)
    crossing = main["measurement"].str.endswith("_cov") & (main["sd"] > main["mean"].abs() / 4)
    main = main[~crossing]
    bands = main[["model", "checkpoint", "measurement"]].assign(value=main["mean"])
    return bands.assign(low=main["mean"] - 2 * main["sd"], high=main["mean"] + 2 * main["sd"])


def null_columns(nulls: pd.DataFrame) -> dict[str, float]:
    """`<key>_null` and `<key>_null_sd` of one point's table, for its row of `results.csv`."""
    found: dict[str, float] = {}
    for key, mean, sd in main_nulls(nulls)[["measurement", "mean", "sd"]].itertuples(index=False):
        found |= {f"{key}_null": mean, f"{key}_null_sd": sd}
    return found


def null_distances(nulls: pd.DataFrame) -> pd.DataFrame | Missing:
    """How far measurements lie from their nulls, one row per measurement over all points.

    Returns:
        Columns `property, label, measurement, n` (points), `value, null, null_sd, distance` (medians over points),
        `nearest` (the smallest |distance|), `beyond_3` (share of points with |distance| above 3), `random_network`
        (the median value of untrained networks, where there are some).
    """
    main = main_nulls(nulls)
    if main.empty:
        return Missing("No measurement has a null with a standard deviation.")
    rows = []
    untrained = nulls[nulls["kind"] == UNTRAINED].groupby("measurement")["mean"].median()
    for key, part in main.groupby("measurement", sort=False):
        size = part["distance"].abs()
        known = MEASUREMENTS[str(key)]
        rows.append({
            "property": known.property, "label": known.label, "measurement": key, "n": len(part),
            "value": part["value"].median(), "null": part["mean"].median(), "null_sd": part["sd"].median(),
            "distance": part["distance"].median(), "nearest": size.min(),
            "beyond_3": float((size > 3).mean()) if size.notna().any() else np.nan,
            "random_network": untrained.get(key, np.nan),
        })  # fmt: skip
    return in_display_order(pd.DataFrame(rows))
