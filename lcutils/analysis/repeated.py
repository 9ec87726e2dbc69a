"""Points that were made again beside those that were kept: how far apart they are, measured by what seeds change.

The same point made twice differs by rounding and by the device's order of summing. How large such a difference is, the
spread over seeds says: models that differ in the order of their data alone, of which a study may have several.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lcutils.analysis.definitions import MEASUREMENTS, Missing
from lcutils.analysis.questions import LOSS
from lcutils.analysis.relations import TABLE_1, seed_groups, seed_rows

MAIN = (LOSS, *TABLE_1.values())  # what is compared: the loss and the paper's measurements


@dataclass(frozen=True)
class Spread:
    """Standard deviations over the seeds of one model.

    Attributes:
        of: which model, as "02x0768_01d@0".
        seeds: how many.
        std: by measurement; of the log of one that is drawn on a log scale.
    """

    of: str
    seeds: int
    std: Mapping[str, float]

    @property
    def words(self) -> str:
        """Whose seeds they are, for a sentence."""
        return f"{self.seeds} seeds of {self.of}"

    def around(self, key: str, value: float) -> float | None:
        """The standard deviation beside a value of a measurement: on a log scale, the same share of it."""
        std = self.std.get(key)
        return std * value if std is not None and _is_log(key) else std


def seed_spread(results: pd.DataFrame) -> Spread | Missing:
    """The spread over seeds in a results table, of the model that it has most seeds of (three at least)."""
    groups, rows = seed_groups(results), seed_rows(results)
    if isinstance(groups, Missing):
        return groups
    if isinstance(rows, Missing):
        return rows
    group = groups.iloc[0]
    std = {}
    for key in (key for key in MAIN if key in rows):
        values = pd.to_numeric(rows[key], errors="coerce").astype(float)
        std[key] = float((np.log(values.where(values > 0)) if _is_log(key) else values).std())
    return Spread(f"{group['model']}@{group['checkpoint']}", len(rows), std)


def _is_log(key: str) -> bool:
    return key in MEASUREMENTS and MEASUREMENTS[key].log


def differences(
    kept: Mapping[str, Mapping[str, Any]], again: Mapping[str, Mapping[str, Any]], spread: Spread | Missing
) -> pd.DataFrame:
    """Compare rows of the same points.

    Args:
        kept: the kept rows by point.
        again: the rows of those that were made again.
        spread: of the kept rows.

    Returns:
        One row per point that was made again and main measurement that both rows have: `model` ("…@checkpoint"),
        `measurement, kept, again, difference` (again - kept), `seeds_std` (`Spread.around` the kept value), `in_stds`
        (the difference's size in these; nan without seeds), `seeds_of`.
    """
    rows = []
    for point, values in again.items():
        for key in MAIN:
            then, now = kept[point].get(key), values.get(key)
            if then is not None and now is not None:
                row = {"model": point, "measurement": key, "kept": then, "again": now, "difference": now - then}
                rows.append(row | {"seeds_std": None if isinstance(spread, Missing) else spread.around(key, then)})
    table = pd.DataFrame(rows, columns=["model", "measurement", "kept", "again", "difference", "seeds_std"])
    table["seeds_std"] = table["seeds_std"].astype(float)
    table["in_stds"] = (table["difference"].abs() / table["seeds_std"]).where(table["seeds_std"] > 0)
    return table.assign(seeds_of=None if isinstance(spread, Missing) else spread.words)


def verdict(table: pd.DataFrame, spread: Spread | Missing) -> str:
    """What a table of `differences` says, in a sentence: whether losses are within the seeds' spread, or how far off.

    Within the spread is what differs by one standard deviation over seeds at most.
    """
    rows, points = table.to_dict("records"), list(table["model"].unique())
    who, have = (f"all {len(points)} points", "have") if len(points) > 1 else (str(points[0]), "has")
    losses = [row for row in rows if row["measurement"] == LOSS]
    if not losses:
        return f"Made again, {who} {have} no validation loss to compare."
    if not any(row["difference"] for row in rows):
        return f"Made again, {who} came out exactly as kept: no difference in the loss or the measurements."
    worst = max(losses, key=lambda row: abs(row["difference"]))
    off = f"{worst['difference']:+.2g} nats"
    if len(points) > 1:
        off = f"at most {off} ({worst['model']})"
    if isinstance(spread, Missing):
        return f"Made again, {who} {have} another validation loss: {off}. How much that is cannot be said: {spread}"
    if not spread.std.get(LOSS, 0) > 0:
        return f"Made again, {who} {have} another validation loss: {off}; in the {spread.words} it does not vary."
    off += f" or {worst['in_stds']:.2g} standard deviations over the {spread.words}"
    if {_architecture(point) for point in points} != {_architecture(spread.of)}:
        off += ", another architecture" if len(points) == 1 else ", whose architecture is not that of all"
    others = [row for row in rows if row["measurement"] != LOSS and row["in_stds"] >= 0]  # nan is not
    beyond = [row for row in others if row["in_stds"] > 1]
    rest = f"so are {len(others) - len(beyond)} of {len(others)} measurements"
    outside = [row for row in losses if row["in_stds"] > 1]
    if outside:
        if len(points) > 1:
            who, have = f"{len(outside)} of {len(points)} points", "has" if len(outside) == 1 else "have"
        rest = f"{len(others) - len(beyond)} of {len(others)} measurements are within it"
    if beyond:
        most = max(beyond, key=lambda row: row["in_stds"])
        rest += f", furthest off is {most['measurement']} with {most['in_stds']:.2g}"
    place = "outside" if outside else "within"
    return f"Made again, {who} {have} a validation loss {place} the seeds' spread ({off}); {rest}."


def _architecture(point: str) -> str:
    return point.partition("_")[0]
