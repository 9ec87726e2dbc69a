"""Strips: each measurement on its own scale, with a line for each model and the limits of theory on it."""

from __future__ import annotations

import math
import textwrap
from typing import Any

import altair as alt
import pandas as pd

from lcutils.analysis import MEASUREMENTS, comparable_loss, limits_at, measurements_in
from lcutils.analysis.directions import POLE_WORDS, near_pole
from lcutils.analysis.few import last_checkpoints, short_names
from lcutils.charts import axes, encodings, theme
from lcutils.charts.theme import Figure

WIDE, NARROW = 225, 150  # pixels, of an axis where names are short, and where they are long
ABREAST = 400  # pixels, of a strip with its names and numbers: two fit into a cell of JupyterLab
LINE = 19  # pixels, of a model
NAME_LIMIT = 26  # characters of a name at the left of its line
THEORY = "#D55E00"
# A triangle that stands on the line below a point, and a stroke across it, as paths of a square of 2 x 2.
LIMIT_PATHS = {"collapse": "M0,0.1L0.75,1.3L-0.75,1.3Z", "uniform sphere": "M-0.12,-1L0.12,-1L0.12,1L-0.12,1Z"}


def strips(
    results: pd.DataFrame,
    published: pd.DataFrame | None = None,
    nulls: pd.DataFrame | None = None,
    riesz_s: float | None = None,
) -> Figure:
    """Return a strip for the loss and for each measurement of `results`, few models.

    A model's last checkpoint is a filled point with its number at the right, earlier ones are rings.

    Args:
        results: one row per measured point.
        published: points of published models, drawn as ticks on a line of their own.
        nulls: what each measurement would be without structure: columns model, checkpoint, measurement, value, and
            low and high where a band is known.
        riesz_s: the exponent of the Riesz kernel, as measured; its limits follow from it.
    """
    name, title = "strips", "Each measurement on its own scale"
    keys = measurements_in(results)
    if "model" not in results or not keys:
        return Figure(name, title, missing="The table has no measurement of a named model.")
    labels = short_names(list(dict.fromkeys(results["model"].astype(str))), NAME_LIMIT)
    loss = comparable_loss(results)
    guessed, given_nulls = _loss_nulls(results, loss), _has_rows(nulls)
    nulls = pd.concat([table for table in (guessed, nulls) if table is not None])
    colour = encodings.model_colour(results)
    charts = []
    names = 7 * max(map(len, labels.values()))  # pixels, and 60 of a number
    wide = min(max(ABREAST - names - 60, NARROW), WIDE)
    for key in [loss, *keys] if loss in results else keys:
        chart = _strip(results, key, labels, colour, published, nulls, riesz_s, wide)
        charts += [] if chart is None else [chart]
    if not charts:
        return Figure(name, title, missing="No model has a measurement that can be drawn.")
    several = results["model"].duplicated().any()
    caption = theme.sentence(
        "One line per model, and its number at the right"
        + (" (of its last checkpoint; rings are earlier ones)." if several else "."),
        "Orange marks the limits of theory for the model's width and number of classes: a triangle where full collapse "
        "lies, a stroke where directions spread evenly over a sphere would. Limits that an axis cannot show are named "
        "above it.",
        POLE_WORDS if any(near_pole(key, results[key]) for key in keys) else "",
        "A grey diamond on the loss is that of knowing only how often each token occurs." if len(guessed) else "",
        "Grey diamonds on a measurement are its values without structure, and bars two standard deviations of these "
        "to both sides: what chance alone gives."
        if given_nulls
        else "",
        "Grey strokes are published models." if _has_rows(published) else "",
        "The loss is per character of text, because these models do not share a tokenizer."
        if loss != "val_loss"
        else "",
    )
    signs = theme.sentence(
        "Ring: an earlier checkpoint." if several else "",
        "Triangle: where full collapse lies. Stroke: an even sphere.",
        "Grey diamond: what chance alone gives." if len(guessed) or given_nulls else "",
    )
    return Figure(name, title, caption, theme.together(charts, 2, spacing=26), signs=signs)


def _loss_nulls(results: pd.DataFrame, loss: str) -> pd.DataFrame:
    """Return the loss of each model's labels if nothing but their frequencies were known, as `nulls`."""
    empty = pd.DataFrame({"model": [], "measurement": [], "value": []})
    if not {"unigram_entropy", "val_loss"} <= set(results.columns):
        return empty
    rows = axes.usable(last_checkpoints(results), "unigram_entropy", loss, "val_loss")
    if rows.empty:
        return empty
    per_token = rows[loss] / rows["val_loss"]  # 1, or tokens per character
    return pd.DataFrame({"model": rows["model"], "measurement": loss, "value": rows["unigram_entropy"] * per_token})


def _has_rows(table: pd.DataFrame | None) -> bool:
    return table is not None and not table.empty


def _strip(
    results: pd.DataFrame,
    key: str,
    labels: dict[str, str],
    colour: alt.Color,
    published: pd.DataFrame | None,
    nulls: pd.DataFrame,
    riesz_s: float | None,
    wide: int,
) -> Any | None:
    """Return the strip of one measurement or loss; None where no model has a number for it."""
    axis, log = axes.axis_of(key)
    rows = axes.usable(results, key, positive=log)
    if rows.empty:
        return None
    last = last_checkpoints(rows).index
    points = rows.assign(
        line=rows["model"].astype(str).map(labels),
        last=rows.index.isin(last),
        words=[f"{value:.4g}".replace("-", "−") for value in rows[key]],
    )
    limits = _limits(rows.loc[last], key, labels, riesz_s) if key in MEASUREMENTS else pd.DataFrame()
    able = limits[[math.isfinite(v) and (v > 0 or not log) for v in limits["value"]]] if len(limits) else limits
    theirs = axes.usable(published, key, positive=log) if published is not None else pd.DataFrame()
    lines = [labels[model] for model in labels if labels[model] in set(points["line"])]
    others = ["published"] if len(theirs) else []
    without = axes.usable(nulls[nulls["measurement"] == key], "value", positive=log)
    if len(without):
        without = without.assign(line=without["model"].astype(str).map(labels))
        without = without[without["line"].isin(lines)].reindex(columns=["line", "value", "low", "high"])
        if log:  # its axis has no room for the rest of a bar
            without["low"] = without["low"].where(without["low"] > 0, without["value"])
    drawn = [part[column] for part, column in ((points, key), (theirs, key), (without, "value")) if len(part)]
    drawn += [without[end].dropna() for end in ("low", "high")] if len(without) else []
    values = pd.concat([part.astype(float) for part in drawn])
    ends = able["value"].astype(float) if len(able) else pd.Series(dtype=float)
    domain = _domain(pd.concat([values, ends]), log)
    x = {**theme.value_axis(axis, domain, log, letters=wide * 40 // WIDE, arrow=axes.arrow(key, values))}
    x["axis"].orient = "bottom"
    y = alt.Y(
        "line:N",
        title=None,
        sort=None,
        scale=alt.Scale(domain=[*lines, *others]),
        axis=alt.Axis(labelLimit=0, ticks=False, domain=False, grid=True),
    )
    layers = []
    if len(theirs):
        ticks = alt.Chart(theme.slim(theirs.assign(line="published"), ["model", "checkpoint", "line", key]))
        ticks = ticks.mark_tick(color=theme.OUTLINE, thickness=1, opacity=0.55, height=11)
        layers.append(ticks.encode(x=alt.X(f"{key}:Q", **x), y=y, tooltip=_tips("model:N", "checkpoint:Q", f"{key}:Q")))
    if len(able):
        marks = alt.Chart(theme.slim(able, ["line", "limit", "value"])).mark_point(
            color=THEORY, filled=True, opacity=1, strokeWidth=2, size=70
        )
        shapes = alt.Scale(domain=[*LIMIT_PATHS], range=[*LIMIT_PATHS.values()])
        shape = alt.Shape("limit:N", legend=None, scale=shapes)
        tip = [*_tips("line:N", "limit:N"), alt.Tooltip("value:Q", format=".5g")]
        layers.append(marks.encode(x=alt.X("value:Q", **x), y=y, shape=shape, tooltip=tip))
    if len(bands := without.dropna() if len(without) else without):
        bars = alt.Chart(theme.slim(bands, ["line", "low", "high"])).mark_rule(
            color=theme.OUTLINE, strokeWidth=7, opacity=0.4
        )
        layers.append(
            bars.encode(x=alt.X("low:Q", **x), x2=alt.X2("high:Q"), y=y, tooltip=_tips("line:N", "low:Q", "high:Q"))
        )
    if len(without):
        hollow = alt.Chart(theme.slim(without, ["line", "value"])).mark_point(
            shape="diamond", color=theme.OUTLINE, size=60, opacity=1
        )
        layers.append(hollow.encode(x=alt.X("value:Q", **x), y=y, tooltip=_tips("line:N", "value:Q")))
    data = theme.slim(points, [*encodings.identity(results), key, "line", "last", "words"])
    base = alt.Chart(data).encode(y=y)
    dots = base.encode(x=alt.X(f"{key}:Q", **x), color=colour, opacity=encodings.FAINT_UNLESS_PICKED)
    tooltip = encodings.tooltip(results, key)
    if not points["last"].all():
        rings = dots.transform_filter("!datum.last").mark_point(size=34, filled=False, strokeWidth=1.3)
        layers.append(rings.encode(tooltip=tooltip))
    full = dots.transform_filter("datum.last").mark_circle(size=80, **encodings.EDGE)
    layers.append(full.encode(tooltip=tooltip).add_params(encodings.SELECTED))
    words = base.transform_filter("datum.last").mark_text(align="left", fontSize=11, color=theme.INK)
    layers.append(words.encode(x=alt.XValue(wide + 8), text=alt.Text("words:N")))
    heading = theme.panel_title(axes.heading(key), wide * 40 // WIDE)
    pole = near_pole(key, values) if key in MEASUREMENTS else ""
    said = "; ".join(words for words in (pole, _said(limits, able)) if words)
    if said:
        heading.subtitle = textwrap.wrap(said, wide * 46 // WIDE)
    return alt.layer(*layers).properties(width=wide, height=LINE * len([*lines, *others]), title=heading)


def _tips(*columns: str) -> list[alt.Tooltip]:
    """Return tooltips of these columns as objects: Altair takes a hundred times as long for a text."""
    return [alt.Tooltip(column) for column in columns]


def _limits(rows: pd.DataFrame, key: str, labels: dict[str, str], riesz_s: float | None) -> pd.DataFrame:
    """Return the limits of theory of each model: `line, limit, value`."""
    parts = [pd.DataFrame({"line": [], "limit": [], "value": []})]
    if not {"width", "n_classes"} <= set(rows.columns):
        return parts[0]
    for model, width, classes in rows[["model", "width", "n_classes"]].dropna().itertuples(index=False):
        if width < 2 or classes < 2:
            continue
        table = limits_at(int(width), int(classes), riesz_s=riesz_s)
        table = table[table["measurement"] == key]
        parts.append(table.assign(line=labels[str(model)])[["line", "limit", "value"]])
    parts = [part for part in parts if len(part)] or parts
    return pd.concat(parts, ignore_index=True)


def _domain(values: pd.Series, log: bool) -> list[float]:
    """Return the ends of an axis that holds all values and limits: a decade long at least, or a quarter of its values.

    Otherwise the axis of a single value would be of no size, and that of values which hardly differ a magnifying glass.
    """
    numbers = values.map(math.log10) if log else values
    low, high = _ends(numbers)
    short = (1.0 if log else 0.25 * max(abs(low), abs(high)) or 1.0) - (high - low)
    if short > 0:
        low, high = low - short / 2, high + short / 2
    margin = 0.05 * (high - low)
    ends = [low - margin, high + margin]
    return [10**end for end in ends] if log else ends


def _said(limits: pd.DataFrame, able: pd.DataFrame) -> str:
    """Return the limits of a strip in words: "collapse at 0 (off this axis), uniform sphere at −0.345"."""
    parts = []
    for limit, rows in limits.groupby("limit", sort=False) if len(limits) else ():
        low, high = (f"{value:.3g}".replace("-inf", "−∞").replace("-", "−") for value in _ends(rows["value"]))
        off = " (off this axis)" if not len(able[able["limit"] == limit]) else ""
        parts.append(f"{limit} at {low}{'' if low == high else f' to {high}'}{off}")
    return ", ".join(parts)


def _ends(values: pd.Series) -> tuple[float, float]:
    return float(values.min()), float(values.max())
