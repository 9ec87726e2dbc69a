"""Loss and measurements along training: the checkpoints of a run, or the revisions of a pretrained model."""

from __future__ import annotations

import math
from typing import Any

import altair as alt
import pandas as pd

from lcutils import analysis
from lcutils.analysis import Missing, comparable_loss, few_models
from lcutils.analysis.directions import POLE_WORDS, near_pole
from lcutils.analysis.few import training_axis, with_families
from lcutils.charts import axes, encodings, theme
from lcutils.charts.theme import Figure

TRAJECTORY_KEYS = [
    "val_loss",
    "nc1_cdnv",
    "gnc2_log_uncentred_cov",
    "gnc2_log_cov",
    "nc3_cosine_mean",
    "unc3_cosine_cov",
    "nc4_agreement",
]
TITLES = {
    "tokens_seen": "tokens seen",
    "steps": "training steps",
    "checkpoint": "checkpoint (0 is the end of epoch 1)",
}
LOG_SPAN = 30  # from the first to the last checkpoint: more needs a log axis
MOST_NAMED = 12  # models that a legend names


def trajectories(results: pd.DataFrame) -> Figure:
    """Return loss and measurements along the checkpoints of each model that has two or more."""
    name, title = "trajectories", "Along the checkpoints"
    rows = analysis.trajectories(results)
    if isinstance(rows, Missing):
        return Figure(name, title, missing=rows.reason)
    wide = with_families(results[results["model"].isin(rows["model"].unique())])
    along = training_axis(wide)
    few = few_models(results)
    keys = [comparable_loss(wide) if few else "val_loss", *TRAJECTORY_KEYS[1:]]
    controls, test = encodings.filters(wide, few and len(wide) <= encodings.NAMED_POINTS)
    charts = [_along(wide, key, along, test, few) for key in keys]
    charts = [chart for chart in charts if chart is not None]
    if not charts:
        return Figure(name, title, missing="No model with two checkpoints has a measurement at them.")
    charts[0] = encodings.say_hidden(charts[0], test)
    models = wide["model"].nunique()
    words = "One model" if models == 1 else f"{models} models"
    caption = (
        f"{words} with two or more kept checkpoints, one line per model and one point per "
        "checkpoint. Click a model to see it in every panel."
    )
    if any(near_pole(key, wide[key]) for key in TRAJECTORY_KEYS[1:] if key in wide):
        caption += f" {POLE_WORDS}"
    if few:
        caption += " Hover over a point for its revision."
    return Figure(
        name,
        title,
        caption,
        theme.together(charts, controls=controls),
        rows=theme.slim(wide, [*encodings.identity(wide), "tokens_seen", *keys]),
        signs="One line per model, one point per checkpoint.",
    )


def _along(rows: pd.DataFrame, key: str, along: str, test: str, few: bool) -> Any | None:
    """Return one panel, `key` against training; None where no row (of few models: no line of two points) has both."""
    axis, log = axes.axis_of(key)
    drawn = axes.usable(rows, key, along, positive=log)
    if drawn.empty or (few and drawn.groupby("model")[along].nunique().max() < 2):
        return None
    x = alt.X(f"{along}:Q", **_training_axis(rows, along))
    words = axes.arrow(key, drawn[key])
    y = alt.Y(f"{key}:Q", **theme.value_axis(axis, theme.padded(drawn[key], log), log, arrow=words))
    base = (
        alt.Chart(theme.ROWS)
        .transform_filter(f"{test} && {axes.can_be_shown(key, log)}")
        .transform_calculate(place=f"toNumber(datum.{along})")  # else "100" comes before "20"
        .encode(x=x, y=y, opacity=encodings.FAINT_UNLESS_PICKED)
    )
    colour = encodings.size_colour(rows, lines=True)
    if few and rows["model"].nunique() <= MOST_NAMED:
        legend = alt.Legend(orient="bottom", columns=2, labelLimit=encodings.LEGEND_LIMIT, symbolType="circle")
        colour = encodings.model_colour(rows, legend if rows["model"].nunique() > 1 else None)
    lines = base.mark_line(strokeWidth=1.3).encode(color=colour, detail="model:N", order="place:Q")
    points = (
        base.mark_circle(size=45, stroke=theme.OUTLINE, strokeWidth=0.6)
        .encode(color=colour, tooltip=encodings.tooltip(rows, key))
        .add_params(encodings.SELECTED)
    )
    return axes.framed(alt.layer(lines, points), key, drawn[key])


def _training_axis(rows: pd.DataFrame, along: str) -> dict[str, Any]:
    """Return title, scale and axis of the training: a log axis for tokens and steps, where they span enough.

    A grid's tokens always have one. The first revision of a model may be at step 0, which no log axis can show: there
    the axis is linear up to the next one (symlog).
    """
    title = TITLES[along]
    if along == "checkpoint":
        title = title if "family" not in rows else "checkpoint"
        axis = alt.Axis(tickCount=4, labelExpr="format(datum.value, 'd')")
        return {"title": title, "scale": alt.Scale(type="linear", nice=False, padding=12), "axis": axis}
    values = rows[along].astype(float)
    ticks: dict[str, Any] = {"tickCount": 4}
    scale: dict[str, Any] = {"type": "log"}
    if "family" in rows:
        ticks |= {"labelOverlap": "greedy"}
        least, most = values[values > 0].min(), values.max()
        if not most > LOG_SPAN * least:
            scale = {"type": "linear", "zero": False}
        else:
            powers = range(math.ceil(math.log10(least)), math.floor(math.log10(most)) + 1)
            ticks = {"values": [10**power for power in powers]}
            if (values <= 0).any():
                scale = {"type": "symlog", "constant": float(least)}
                ticks["values"].insert(0, 0)
    words = {"log": " (log scale)", "symlog": " (log scale from the second checkpoint on)"}.get(scale["type"], "")
    axis = alt.Axis(labelExpr=theme.COUNT_WORDS, **ticks)
    return {"title": title + words, "scale": alt.Scale(nice=False, padding=12, **scale), "axis": axis}
