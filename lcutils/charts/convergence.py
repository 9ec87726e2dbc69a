"""How measurements settle as the text grows: one panel per measurement, one line per model and checkpoint."""

from __future__ import annotations

import textwrap
from typing import Any

import altair as alt
import pandas as pd

from lcutils.analysis import Missing, settling
from lcutils.analysis.convergence import SETTLED
from lcutils.charts import axes, encodings, theme
from lcutils.charts.theme import Figure

MOST_NAMED = 8  # points that a legend names
PERCENT = "percent of its final size"
SIGNS = f"Dashed: ±{100 * SETTLED:.0f} % of what all of the text gives; between them the scale is linear."
TICKS = [-100, -10, -1, 0, 1, 10, 100]


def convergence(table: pd.DataFrame, results: pd.DataFrame) -> Figure:
    """Return each measurement at growing text, as difference in percent from what it is on all of it.

    Args:
        table: rows of every point's `convergence.csv`.
        results: columns of `results.csv`, for the models' sizes.
    """
    name, title = "convergence", "As the text grows"
    known = settling(table)
    if isinstance(known, Missing):
        return Figure(name, title, missing=known.reason)
    keys = known["measurement"].tolist()
    names = ["model", "checkpoint"]
    table = table.sort_values([*names, "share"]).reset_index(drop=True)
    final = table.groupby(names)[keys].transform("last")
    rows = table[[*names, "share", "samples"]].copy()
    rows[keys] = 100 * (table[keys] - final) / final.abs().where(final != 0)
    rows["point"] = rows["model"].astype(str) + "@" + rows["checkpoint"].astype(str)
    if "n_params" in results:
        rows = rows.merge(results[[*names, "n_params"]], on=names, how="left")
    charts = [_panel(rows, key) for key in keys if rows[key].notna().any()]
    caption = (
        f"Each measurement on the first 1/16, 1/8, 1/4, 1/2 and all of the text, less its value on all of it, in "
        f"{PERCENT}. The scale is linear between the dashed lines (±{100 * SETTLED:.0f} %) and logarithmic beyond "
        "them. A line that comes in along the middle has settled."
    )
    columns = [*names, "point", "share", "samples", "n_params", *keys]
    data = theme.slim(rows, columns)
    return Figure(name, title, caption, theme.together(charts), rows=data, signs=SIGNS)


def _panel(rows: pd.DataFrame, key: str) -> Any:
    """Return the panel of one measurement."""
    values = rows.loc[rows[key].notna(), key]
    most = float(max(2.0, values.abs().max()))
    ticks = [tick for tick in TICKS if abs(tick) <= most]
    y = alt.Y(
        f"{key}:Q",
        title=textwrap.wrap(f"difference, {PERCENT}", 42),
        scale=alt.Scale(type="symlog", constant=100 * SETTLED, domain=[-1.1 * most, 1.1 * most], nice=False),
        axis=alt.Axis(values=ticks),
    )
    x = alt.X(
        "samples:Q",
        title="labelled tokens (log scale)",
        scale=alt.Scale(type="log", nice=False, padding=12),
        axis=alt.Axis(tickCount=4, labelExpr=theme.COUNT_WORDS, labelOverlap="greedy"),
    )
    colour: Any = alt.value(theme.OKABE_ITO[0])
    if rows["point"].nunique() <= MOST_NAMED:
        colour = alt.Color(
            "point:N",
            title=None,
            scale=alt.Scale(domain=rows["point"].unique().tolist(), range=list(theme.OKABE_ITO)),
            legend=alt.Legend(orient="bottom", columns=2, labelLimit=encodings.LEGEND_LIMIT)
            if rows["point"].nunique() > 1
            else None,
        )
    elif "n_params" in rows and rows["n_params"].notna().any():
        colour = encodings.size_colour(rows, lines=True)
    tooltip = [
        alt.Tooltip("point:N", title="model"),
        alt.Tooltip("share:Q", title="share of the text"),
        alt.Tooltip("samples:Q", title="labelled tokens", format=","),
        alt.Tooltip(f"{key}:Q", title="difference, %", format=".3g"),
    ]
    base = alt.Chart(theme.ROWS).transform_filter(axes.can_be_shown(key, False)).encode(x=x, y=y)
    lines = base.mark_line(strokeWidth=1.3, opacity=0.8).encode(color=colour, detail="point:N", order="share:Q")
    points = base.mark_circle(size=30, **encodings.EDGE).encode(color=colour, tooltip=tooltip)
    bounds = (
        alt.Chart(alt.InlineData([{"y": 100 * SETTLED}, {"y": -100 * SETTLED}]))
        .mark_rule(strokeDash=[3, 3], color=theme.OUTLINE)
        .encode(y="y:Q")
    )
    return alt.layer(bounds, lines, points).properties(
        width=theme.PANEL, height=theme.PANEL * 0.7, title=theme.panel_title(axes.heading(key))
    )
