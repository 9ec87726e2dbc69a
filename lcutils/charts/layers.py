"""Measurements through the layers of each model, and the law of next-token prediction along them."""

from __future__ import annotations

import json
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from lcutils.analysis import MEASUREMENTS, Missing, few_models
from lcutils.analysis.few import given, training_axis
from lcutils.analysis.layers import FINAL, RESIDUALS, law_of_prediction
from lcutils.charts import axes, encodings, theme
from lcutils.charts.grid import schedules
from lcutils.charts.theme import Figure

BY_LAYER = "by_layer_"  # how the names of the figures of one measurement through the layers begin
MOST_COLUMNS = 6  # of trainings side by side
LAYER_COLUMNS = ["layer", "place"]
INNER = f"datum.layer != '{FINAL}'"
FINAL_PLACE = 1.15  # on the axis of relative depth, of what the head multiplies
COLUMN = "schedule_order"
DIAMONDS = "Diamond: what the head multiplies."


def by_layer(layers: pd.DataFrame, results: pd.DataFrame, key: str) -> Figure:
    """Return `key` over relative depth: one line per model, one column per training.

    Args:
        layers: rows of every `layers.parquet`.
        results: the table of all points; says what each model is.
        key: a measurement or a prediction residual.
    """
    entry = (MEASUREMENTS | RESIDUALS)[key]
    name, title = f"{BY_LAYER}{key}", f"{entry.label[:1].upper()}{entry.label[1:]} through the layers"
    rows, notice = _placed(layers, results)
    rows = axes.usable(rows, key, positive=entry.log)
    if rows.empty:
        return Figure(name, title, missing=f"No layer has a number for {entry.label} that this axis can show.")
    of_head = entry.property in ("NC3", "UNC3", "NC4")
    data = theme.slim(rows, [*encodings.identity(rows), *LAYER_COLUMNS, COLUMN, "schedule", "point", key])
    few = few_models(results)
    domain, arrow = theme.padded(rows[key], entry.log), axes.arrow(key, rows[key])
    y = alt.Y(f"{key}:Q", **theme.value_axis(entry.axis, domain, entry.log, letters=32, arrow=arrow))
    chart = _columns([_lines(rows, y, few), *_marks(rows, y, few, key)], data)
    caption = theme.sentence(
        entry.definition,
        "Relative depth 0 is the embeddings, 1 the output of the last block; diamonds are what the head multiplies.",
        "Of inner layers by the logit lens: each layer's features go through the model's final norm, and the head is "
        "put behind that."
        if of_head
        else "",
        notice,
    )
    return Figure(name, title, caption, chart, rows=data, signs=DIAMONDS)


def law(layers: pd.DataFrame, results: pd.DataFrame) -> Figure:
    """Return the prediction residual by layer on a log scale, and the line fitted through the blocks of each model."""
    name, title, key = "law", "The law of next-token prediction", "prediction_residual"
    fits = law_of_prediction(layers)
    if isinstance(fits, Missing):
        return Figure(name, title, missing=fits.reason)
    fits = fits[fits["measurement"] == key]
    rows, notice = _placed(layers, results)
    rows = axes.usable(rows, key, positive=True)
    blocks = pd.to_numeric(rows["layer"], errors="coerce")  # nan for what the head multiplies
    fitted = rows[["model", "checkpoint"]].merge(fits, on=["model", "checkpoint"], how="left")
    line = 10 ** (fitted["intercept"] + fitted["slope"] * blocks.to_numpy()).to_numpy()
    of_fit = {column: fitted[column].to_numpy() for column in ("r2", "factor")}
    rows = rows.assign(line=np.where(blocks > 0, line, np.nan), **of_fit)
    shown = [*encodings.identity(rows), *LAYER_COLUMNS, COLUMN, "schedule", "point", key, "line", *of_fit]
    few, data = few_models(results), theme.slim(rows, shown)
    domain = theme.padded(pd.concat([rows[key], rows["line"]]), True)
    axis = theme.value_axis(RESIDUALS[key].axis, domain, True, letters=32)
    lines = _lines(rows, alt.Y("line:Q", **axis), few).transform_filter("isValid(datum.line)")
    chart = _columns([lines, *_marks(rows, alt.Y(f"{key}:Q", **axis), few, key, *of_fit)], data)
    r2 = fits["r2"]
    spread = f"R² {r2.median():.3f}"
    if len(r2) > 1:
        spread = f"R² {r2.min():.3f} to {r2.max():.3f} (median {r2.median():.3f}) over {len(r2)} points"
    caption = theme.sentence(
        RESIDUALS[key].definition,
        "He and Su (2024) find that each block multiplies it by the same factor: the lines are least squares of its "
        f"logarithm over the blocks' numbers, without the embeddings (relative depth 0); {spread}.",
        notice,
    )
    return Figure(name, title, caption, chart, rows=data, signs=f"Lines: least squares through the blocks. {DIAMONDS}")


def _placed(layers: pd.DataFrame, results: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Rows of layers with what their models are and the column of their training; a sentence on what is left out."""
    known = [c for c in results.columns if c in {*encodings.IDENTITY, *encodings.OF_PRETRAINED}]
    rows = layers.merge(results[known], on=["model", "checkpoint"], how="left")
    rows = schedules(rows)
    if given(rows, "family").all() and rows.groupby("model")["checkpoint"].nunique().max() > 1:
        rows = _by_revision(rows)
    rows = rows.assign(
        point=rows["model"].astype(str) + "@" + rows["checkpoint"].astype(str),
        place=rows["relative_depth"].mask(rows["layer"] == FINAL, FINAL_PLACE),
    )
    notices = []
    columns = sorted(rows[COLUMN].unique())
    if len(columns) > MOST_COLUMNS:
        chosen = {columns[i] for i in np.linspace(0, len(columns) - 1, MOST_COLUMNS).round().astype(int)}
        rows = rows[rows[COLUMN].isin(chosen)]
        notices.append(f"Drawn: {len(chosen)} of {len(columns)} trainings.")
        columns = sorted(chosen)
    rows = rows.assign(**{COLUMN: rows[COLUMN].map({column: place for place, column in enumerate(columns)})})
    points = list(dict.fromkeys(rows["point"]))
    most = max(1, theme.ROW_LIMIT // int(rows["point"].value_counts().max()))
    if len(points) > most:
        rows = rows[rows["point"].isin(points[:most])]
        notices.append(f"Drawn: the first {most} of {len(points)} points.")
    return rows.reset_index(drop=True), " ".join(notices)


def _by_revision(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns of pretrained models by how far they are trained, in words that an axis of training has."""
    along = training_axis(rows)
    values = pd.to_numeric(rows[along])
    unit = {"tokens_seen": "tokens", "steps": "steps"}.get(along)
    words = [f"{value:,.0f} {unit}" if unit else f"checkpoint {value:.0f}" for value in values]
    places = {value: place for place, value in enumerate(sorted(values.unique()))}
    return rows.assign(schedule=words, **{COLUMN: values.map(places)})


def _lines(rows: pd.DataFrame, y: alt.Y, few: bool) -> Any:
    """Return the line of each point through its inner layers."""
    base = alt.Chart().transform_filter(INNER).mark_line(strokeWidth=1.3, clip=True)
    encoding = {"color": _colour(rows, few), "opacity": encodings.FAINT_UNLESS_PICKED}
    return base.encode(x=_depth_axis(), y=y, detail="point:N", **encoding)


def _marks(rows: pd.DataFrame, y: alt.Y, few: bool, *values: str) -> list[Any]:
    """Return the marks of the layers: circles, and diamonds for what the head multiplies."""
    encoding = {"x": _depth_axis(), "y": y, "color": _colour(rows, few), "opacity": encodings.FAINT_UNLESS_PICKED}
    encoding["tooltip"] = [alt.Tooltip("layer:N"), *encodings.tooltip(rows, *values)]
    circles = alt.Chart().transform_filter(INNER).mark_circle(size=34, **encodings.EDGE)
    diamonds = (
        alt.Chart().transform_filter(f"!({INNER})").mark_point(shape="diamond", filled=True, size=48, **encodings.EDGE)
    )
    return [circles.encode(**encoding).add_params(encodings.SELECTED), diamonds.encode(**encoding)]


def _colour(rows: pd.DataFrame, few: bool) -> Any:
    """Return the colour channel: that of its model for few of them, else their parameters."""
    if not few:
        return encodings.size_colour(rows, lines=True)
    legend = alt.Legend(orient="bottom", columns=2, labelLimit=encodings.LEGEND_LIMIT, symbolType="circle")
    return encodings.model_colour(rows, legend if rows["model"].nunique() > 1 else None)


def _depth_axis() -> alt.X:
    words = f"datum.value > 1 ? '{FINAL}' : format(datum.value, '.2~f')"
    axis = alt.Axis(values=[0, 0.25, 0.5, 0.75, 1, FINAL_PLACE], labelExpr=words, labelOverlap=False)
    scale = alt.Scale(domain=[0, FINAL_PLACE], nice=False, padding=10)
    return alt.X("place:Q", title="relative depth", axis=axis, scale=scale)


def _columns(marks: list[Any], data: pd.DataFrame) -> Any:
    """Return the marks in one panel per training, side by side; as in the figures against width."""
    words = dict(zip(data[COLUMN].astype(int), data["schedule"], strict=True))
    header = alt.Header(labelExpr=f"{json.dumps(words)}[datum.value]")
    panel = alt.layer(*marks, data=theme.ROWS, width=200, height=180)  # with the rows in it, each copy would take long
    return panel.facet(column=alt.Column(f"{COLUMN}:O", title=None, header=header))
