"""A measurement on an axis: its title, the way to collapse, the rows that it can show, the panel around it."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from lcutils.analysis import MEASUREMENTS
from lcutils.analysis.directions import near_pole, towards
from lcutils.analysis.few import PER_CHARACTER
from lcutils.analysis.rows import OUTCOMES
from lcutils.charts.theme import PANEL, ROWS, panel_title

LOSS = "validation loss (nats per token)"
OF_CHARACTERS = {PER_CHARACTER: "validation loss per character"}
LOSSES = {"val_loss": LOSS, PER_CHARACTER: "validation loss (nats per character)"}


def heading(key: str) -> str:
    """Return what stands over the panel of `key`: a measurement's property and label, or the name of an outcome."""
    known = MEASUREMENTS.get(key)
    return f"{known.property}: {known.label}" if known else (OUTCOMES | OF_CHARACTERS)[key]


def axis_of(key: str) -> tuple[str, bool]:
    """Return the axis title of a measurement or of a loss, and whether a log axis suits it."""
    return (MEASUREMENTS[key].axis, MEASUREMENTS[key].log) if key in MEASUREMENTS else (LOSSES[key], False)


def arrow(key: str, values: pd.Series) -> str:
    """Return the words of an axis of `key` that say which way collapse lies; "" for a loss, or where it is not known.

    The title of an upright axis is turned: its arrow to the left points down. A measurement that nears 0 from either
    side has no arrow where `values` have both signs.
    """
    if key not in MEASUREMENTS or not len(values):
        return ""
    way = towards(key, values)
    if way == "none":
        return "towards collapse: 0" if MEASUREMENTS[key].direction == "zero" else ""
    return "← towards collapse" if way == "down" else "towards collapse →"


def usable(rows: pd.DataFrame, *columns: str, positive: bool = False) -> pd.DataFrame:
    """Return the rows where each of `columns` is finite (the first above 0 if `positive`); none if one is missing."""
    if not set(columns) <= set(rows.columns):
        return rows.iloc[:0]
    values = rows[list(columns)].apply(pd.to_numeric, errors="coerce").astype(float)
    kept = np.isfinite(values).all(axis=1) & ((values[columns[0]] > 0) | (not positive))
    return rows.loc[kept]


def can_be_shown(column: str, log: bool) -> str:
    """Return the Vega expression that is true for a row whose `column` an axis can show.

    A missing number is an empty text in `ROWS`, which Vega takes for valid, and a regression for 0.
    """
    return f"isValid(datum.{column}) && datum.{column} !== ''" + (f" && datum.{column} > 0" if log else "")


def shown_rows(test: str, key: str, log: bool, target: str = "val_loss") -> Any:
    """Return a chart of the rows that the filters leave (`test`) and that have both `key` and a validation loss."""
    return alt.Chart(ROWS).transform_filter(f"{test} && {can_be_shown(key, log)} && {can_be_shown(target, False)}")


def framed(chart: Any, key: str, values: pd.Series) -> Any:
    """Return a chart as the square panel of `key`; its heading says so where `values` are near a pole."""
    title = panel_title(heading(key))
    if key in MEASUREMENTS and (pole := near_pole(key, values)):
        title.subtitle = pole
    chart.width, chart.height, chart.title = PANEL, PANEL, title  # `properties` would copy it
    return chart
