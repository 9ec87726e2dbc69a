"""The limits of theory of a measurement, as lines in its panel."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from lcutils.analysis import limits_of_theory
from lcutils.charts.theme import OKABE_ITO, slim

LIMITS = "Orange dashes: a limit of theory."
LIMIT = OKABE_ITO[5]  # colour of the limits of theory


def theory_lines(rows: pd.DataFrame, key: str, riesz_s: float | None) -> pd.DataFrame:
    """Return the limits of theory for `key` at every width (and number of classes) of `rows`: limit, width, value.

    There are none for the Riesz kernel if its exponent `riesz_s` is not known, and none that are infinite.
    """
    empty = pd.DataFrame({"limit": [], "width": [], "value": []})
    if not {"width", "n_classes"} <= set(rows.columns):
        return empty
    places = rows[["width", "n_classes"]].dropna().drop_duplicates()
    found = []
    for width, classes in places.itertuples(index=False):
        if width < 2 or classes < 2:
            continue
        table = limits_of_theory(int(width), int(classes), riesz_s=riesz_s)
        table = table[(table["measurement"] == key) & np.isfinite(table["value"])]
        found.append(table.assign(width=int(width))[["limit", "width", "value"]])
    found = [table for table in found if len(table)]
    return pd.concat(found, ignore_index=True).drop_duplicates() if found else empty


def limit_rules(limits: pd.DataFrame, domain: list[float]) -> list[Any]:
    """Return a layer of upright lines at the limits (`theory_lines`) within an axis; no layer if there are none."""
    inside = limits[limits["value"].between(domain[0], domain[1])]
    if inside.empty:
        return []
    inside = inside.assign(words=inside["limit"] + ", width " + inside["width"].astype(str))
    rules = alt.Chart(slim(inside, ["value", "words"])).mark_rule(color=LIMIT, strokeDash=[2, 2], opacity=0.8)
    return [
        rules.encode(
            x=alt.X("value:Q"), tooltip=[alt.Tooltip("words:N", title="limit"), alt.Tooltip("value:Q", format=".5g")]
        )
    ]
