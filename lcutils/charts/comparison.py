"""Ours beside the published tables, and the table of correlations as a chart."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import altair as alt
import pandas as pd

from lcutils import analysis
from lcutils.analysis import MEASUREMENTS, Missing, few_models
from lcutils.analysis.directions import POLE_WORDS, near_pole
from lcutils.analysis.few import with_families
from lcutils.charts import axes, encodings, theme
from lcutils.charts.names import name_layers
from lcutils.charts.paper import FIGURE_1, FIGURE_3
from lcutils.charts.theme import Figure

PROPERTY_SCALE = alt.Scale(
    domain=["NC1", "NC2", "GNC2", "NC3", "UNC3", "NC4", "NC5", "Spectrum"],
    range=[*theme.OKABE_ITO[:6], theme.OKABE_ITO[7], "#8f6fd1"],
)
SIGNS = (
    "Dot: R², filled where p is below 0.05 after Holm's correction; bar: its 95 % interval; tilted square: R² of the "
    "logarithm. Numbers: r, with collapse or against it."
)
ALONE, GIVEN = 90, 44  # pixels, of the wide column and of those beside it
OURS, PUBLISHED = "this study", "published"
NO_PUBLISHED = "No published table was given to set beside ours."
SOURCES = alt.Scale(domain=[OURS, PUBLISHED], range=[theme.OKABE_ITO[5], theme.OKABE_ITO[0]])
LOG = {"perplexity", *(key for key, entry in MEASUREMENTS.items() if entry.log)}  # what spans decades
SHAPES = alt.Scale(domain=[OURS, PUBLISHED], range=["circle", "cross"])


def overlaid(results: pd.DataFrame, published: pd.DataFrame | None) -> Figure:
    """Return ours and the published points in the same axes, for each measurement of Figures 1 and 3."""
    name, title = "overlaid", "Ours and the published models in one picture"
    if published is None or published.empty:
        return Figure(name, title, missing=NO_PUBLISHED)
    few = encodings.Few.of(results.reset_index(drop=True))  # the rows of `both` begin with ours
    both = pd.concat([results.assign(source=OURS), published.assign(source=PUBLISHED)], ignore_index=True)
    both = with_families(both)
    controls, test = encodings.filters(both, bool(few and few.names))
    data = theme.slim(both, [*encodings.identity(both), "source", "val_loss", *FIGURE_1, *FIGURE_3])
    charts = []
    for key in dict.fromkeys(FIGURE_1 + FIGURE_3):
        rows = axes.usable(both, key, "val_loss", positive=MEASUREMENTS[key].log)
        # A panel with one of the two sources compares nothing.
        if rows["source"].nunique() == 2:
            charts.append(_overlay(rows, key, test, few.names if few else {}))
    if not charts:
        return Figure(name, title, missing="No measurement of Figures 1 and 3 is in both tables.")
    charts[0] = encodings.say_hidden(charts[0], test)
    caption = (
        "Published models are blue crosses, this study's are orange circles. Other corpora, tokenizers or budgets "
        "move the loss: compare the trend first, and the position where the setting is the paper's."
    )
    if any(near_pole(key, both[key]) for key in {*FIGURE_1, *FIGURE_3} & {*both.columns}):
        caption += f" {POLE_WORDS}"
    return Figure(name, title, caption, theme.together(charts, controls=controls), rows=data)


def _overlay(rows: pd.DataFrame, key: str, test: str, names: Mapping[Hashable, str]) -> Any:
    """Return one panel of `rows`, `key` against the loss; `names` stand beside the points of their rows."""
    axis, log = MEASUREMENTS[key].axis, MEASUREMENTS[key].log
    domains = theme.padded(rows[key], log), theme.padded(rows["val_loss"], False)
    legend: Any = alt.Legend(orient="bottom") if names else alt.Undefined
    chart = (
        axes.shown_rows(test, key, log)
        .mark_point(size=44, filled=True, strokeWidth=0.5, stroke=theme.OUTLINE)
        .encode(
            x=alt.X(f"{key}:Q", **theme.value_axis(axis, domains[0], log, arrow=axes.arrow(key, rows[key]))),
            y=alt.Y("val_loss:Q", **theme.value_axis(axes.LOSS, domains[1], False)),
            color=alt.Color("source:N", title="source", scale=SOURCES, legend=legend),
            shape=alt.Shape("source:N", title="source", scale=SHAPES, legend=legend),
            opacity=encodings.FAINT_UNLESS_PICKED,
            tooltip=["source:N", *encodings.tooltip(rows, "val_loss", key)],
        )
    )
    layers = [chart.add_params(encodings.SELECTED)]
    ours = rows[rows.index.isin(names)]
    if len(ours):
        called = ours[["model", key, "val_loss"]].assign(name=[names[index] for index in ours.index])
        layers += name_layers(called, (key, "val_loss"), domains, log, encodings.FAINT_UNLESS_PICKED)
    return axes.framed(alt.layer(*layers), key, rows[key])


def beside_published(results: pd.DataFrame, published: pd.DataFrame | None) -> Figure:
    """Return ours against the published value, one panel per measurement, for models of the same name."""
    name, title = "beside_published", "Models of the same name: ours against published"
    if published is None or published.empty:
        return Figure(name, title, missing=NO_PUBLISHED)
    table = analysis.beside_published(results, published)
    if isinstance(table, Missing):
        return Figure(name, title, missing=table.reason)
    table = table[table["ours"].notna() & table["published"].notna()]
    if table.empty:
        return Figure(name, title, missing="No model of ours has the name and checkpoint of a published one.")
    data = theme.slim(table, ["measurement", "model", "checkpoint", "ours", "published", "difference", "relative"])
    charts = []
    for key, rows in table.groupby("measurement", sort=False):
        if few_models(results) and len(rows) < 2:
            continue
        both = pd.concat([rows["ours"], rows["published"]])
        log = bool((both > 0).all()) and key in LOG
        ends = theme.padded(both, log)
        x = alt.X("published:Q", **theme.value_axis("published", ends, log))
        y = alt.Y("ours:Q", **theme.value_axis("ours", ends, log))
        diagonal = alt.Chart(pd.DataFrame({"published": ends, "ours": ends})).mark_line(
            color=theme.OUTLINE, strokeDash=[4, 3]
        )
        diagonal = diagonal.encode(x=x, y=y)
        points = (
            alt.Chart(theme.ROWS)
            .transform_filter(alt.datum.measurement == key)
            .mark_circle(size=60, color=theme.OKABE_ITO[5], stroke=theme.OUTLINE, strokeWidth=0.6)
            .encode(
                x=x,
                y=y,
                opacity=encodings.FAINT_UNLESS_PICKED,
                tooltip=[
                    "model:N",
                    "checkpoint:Q",
                    *(alt.Tooltip(f"{c}:Q", format=".5g") for c in ("ours", "published", "difference", "relative")),
                ],
            )
            .add_params(encodings.SELECTED)
        )
        title_ = theme.panel_title(axes.heading(str(key)), 28)
        charts.append(alt.layer(diagonal, points).properties(width=170, height=170, title=title_))
    if not charts:
        return Figure(name, title, missing="One point is no figure: the table sets it beside the published one.")
    caption = "A point on the dashed diagonal is reproduced exactly. Click a model to see it in every panel."
    signs = "Dashed: ours is what was published."
    return Figure(name, title, caption, theme.together(charts, 3, spacing=26), rows=data, signs=signs)


def correlations_chart(
    correlations: pd.DataFrame | Missing,
    partial: pd.DataFrame | Missing,
    within: pd.DataFrame | Missing,
) -> Figure:
    """Return R² of every measurement with the loss: alone, given size and recipe, and within fixed architectures.

    Takes what `analysis.correlations`, `partial_correlations` and `within_architecture` return.
    """
    name, title = "correlations", "How much of the loss each measurement explains"
    if isinstance(correlations, Missing):
        return Figure(name, title, missing=correlations.reason)
    alone = correlations[correlations["r2"].notna()].copy()
    if alone.empty:
        return Figure(name, title, missing="No measurement has enough rows for an R².")
    alone["name"] = alone["property"] + " " + alone["label"]
    order = alone["name"].tolist()
    charts = [_intervals(alone, order)]
    notes = []
    if isinstance(partial, Missing):
        notes.append(f"Partial correlations: {partial.reason}")
    else:
        rows = partial[(partial["given"] == "all") & partial["partial_r2"].notna()]
        charts += _dots(rows, "partial_r", "R² given size and recipe", order)
    if isinstance(within, Missing):
        notes.append(f"Within architectures: {within.reason}")
    else:
        rows = within[(within["architecture"] == "pooled") & within["r2"].notna()]
        charts += _dots(rows, "r", "R² within architectures", order)
    caption = theme.sentence(
        "Left, over all rows: dots are R² with validation loss and bars their 95 % bootstrap intervals (none of too "
        "few points); filled dots stay below 0.05 after Holm's correction; tilted squares are R² of the "
        "measurement's logarithm. At the right of each column stands r, and whether better models are more collapsed "
        "(with), less so (against), or whether that is unclear (t test, p of 0.05 or more).",
        "The other columns hold the size constant: the partial correlation, which holds the recipe constant too (given "
        "log parameters, depth, width, epochs, decay and steps), and the correlation after centring each architecture."
        if len(charts) > 1
        else "",
        *notes,
    )
    return Figure(name, title, caption, alt.hconcat(*charts, spacing=8), signs=SIGNS)


def _by_measurement(table: pd.DataFrame, numbers: list[str], order: list[str], labels: bool) -> Any:
    """Return the chart that both kinds of column begin with: one row per measurement, coloured by its property."""
    known = [c for c in numbers if c in table.columns]
    axis = alt.Axis(labelLimit=340, labels=labels, ticks=labels, grid=True)
    return alt.Chart(theme.slim(table, ["name", "property", "n", *known])).encode(
        y=alt.Y("name:N", title=None, sort=order, scale=alt.Scale(domain=order), axis=axis),
        color=alt.Color("property:N", scale=PROPERTY_SCALE, title="property", legend=None),
        tooltip=["name:N", "n:Q", *(alt.Tooltip(f"{c}:Q", format=".4g") for c in known)],
    )


def _intervals(alone: pd.DataFrame, order: list[str]) -> Any:
    base = _by_measurement(alone, ["r", "r2", "r2_low", "r2_high", "r2_log", "p", "p_holm"], order, True)
    shared: dict[str, Any] = {
        "title": "R² with validation loss",
        "scale": alt.Scale(domain=[0, 1]),
        "axis": alt.Axis(tickCount=3),
    }
    bars = base.mark_rule(strokeWidth=2, opacity=0.6).encode(x=alt.X("r2_low:Q", **shared), x2="r2_high:Q")
    dots = base.mark_point(size=64, filled=True, strokeWidth=1.6, opacity=1).encode(
        x=alt.X("r2:Q", **shared),
        fillOpacity=alt.when("datum.p_holm < 0.05").then(alt.value(1)).otherwise(alt.value(0)),
        stroke=alt.Stroke("property:N", scale=PROPERTY_SCALE, legend=None),
    )
    logs = (
        base.transform_filter("isValid(datum.r2_log)")
        .mark_point(shape="diamond", size=46, strokeWidth=1.3, filled=False)
        .encode(x=alt.X("r2_log:Q", **shared))
    )
    layers = [bars, dots, logs, _signs(alone, "r", order, ALONE)]
    return alt.layer(*layers).properties(width=ALONE, height=alt.Step(19), title="alone")


def _signs(rows: pd.DataFrame, r: str, order: list[str], width: int) -> Any:
    """Return the words at the right of a column: r with its sign, and whether it goes with collapse or against it."""
    said = [f"{value:+.2f} {words}".strip() for value, words in zip(rows[r], rows["collapse"], strict=True)]
    said = [words.replace("-", "−") for words in said]
    chart = alt.Chart(theme.slim(rows.assign(said=said), ["name", "said"]))
    words = chart.mark_text(align="left", fontSize=10, color=theme.INK)
    return words.encode(y=alt.Y("name:N", sort=order), x=alt.value(width + 6), text="said:N")


def _dots(rows: pd.DataFrame, r: str, words: str, order: list[str]) -> list[Any]:
    value = f"{r}2"
    rows = rows.assign(name=rows["property"] + " " + rows["label"])
    rows = rows[rows["name"].isin(order)]
    if rows.empty:
        return []
    x = alt.X(f"{value}:Q", title=words, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=3))
    dots = _by_measurement(rows, [r, value, "p", "p_holm"], order, False).mark_circle(size=64, opacity=1).encode(x=x)
    chart = alt.layer(dots, _signs(rows, r, order, GIVEN))
    return [chart.properties(width=GIVEN, height=alt.Step(19), title=words.removeprefix("R² "))]
