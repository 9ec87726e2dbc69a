"""Measurements over the grid of models: against width by depth, and against the minimum class count."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import altair as alt
import pandas as pd

from lcutils import analysis
from lcutils.analysis import MEASUREMENTS, Missing
from lcutils.analysis.directions import POLE_WORDS, near_pole
from lcutils.analysis.few import GRID, family_column, few_models, last_checkpoints, with_families
from lcutils.charts import axes, encodings, theme
from lcutils.charts.theme import Figure
from lcutils.charts.theory import LIMITS, theory_lines

NO_SENSITIVITY = "No sensitivity table was given: the measure stage writes one per checkpoint (sensitivity.csv)."


def schedules(rows: pd.DataFrame) -> pd.DataFrame:
    """Add the words that head the columns (schedule) and rows (decay) of a grid, and the number that orders them."""
    epochs = rows["epochs"] if "epochs" in rows.columns else pd.Series(pd.NA, index=rows.index)
    after = rows["checkpoint"] + 1 if "checkpoint" in rows.columns else epochs
    decay = rows["weight_decay"] if "weight_decay" in rows.columns else pd.Series(pd.NA, index=rows.index)
    schedule = [
        "all schedules"
        if pd.isna(n)
        else f"{n:.0f} epoch{'s' if n != 1 else ''}"
        if pd.isna(k) or k == n
        else f"epoch {k:.0f} of {n:.0f}"
        for k, n in zip(after, epochs, strict=True)
    ]
    order = pd.to_numeric(epochs, errors="coerce").fillna(0) * 1000 + pd.to_numeric(after, errors="coerce").fillna(0)
    words = ["any weight decay" if pd.isna(value) else f"weight decay {value:g}" for value in decay]
    rows = rows.assign(schedule=schedule, schedule_order=order, decay=words)
    if "family" not in rows or not (others := rows["family"] != GRID).any():
        return rows
    # Nobody told the schedule of pretrained models: they stand in a column and a row of their own.
    return rows.assign(
        schedule=rows["schedule"].mask(others, "pretrained"),
        schedule_order=order.mask(others, order[~others].max() + 1 if (~others).any() else 0),
        decay=rows["decay"].mask(others, "pretrained"),
    )


def by_width(results: pd.DataFrame, key: str, riesz_s: float | None = None, beside: str | None = None) -> Figure:
    """Return `key` (a measurement, or val_loss) against width: one line per depth; columns are schedules, rows decays.

    Families have lines of their own, and of a pretrained model's checkpoints the last one counts. Few models are drawn
    where a line has two widths at least.

    `riesz_s` is the exponent that the Riesz kernel was measured with; its limits of theory follow from it. `beside` is
    another column on the same scale, such as the train loss: its means are dashed lines where it has numbers.
    """
    axis, log = axes.axis_of(key)
    label = MEASUREMENTS[key].label if key in MEASUREMENTS else axis
    name, title = f"by_width_{key}", f"{label[:1].upper()}{label[1:]} against width"
    if key not in results.columns or "width" not in results.columns:
        return Figure(name, title, missing=f"The table has no column {key if key not in results.columns else 'width'}.")
    rows = with_families(results)
    if "family" in rows:
        rows = rows[(rows["family"] == GRID) | rows.index.isin(last_checkpoints(rows).index)]
    rows = axes.usable(rows, key, "width", positive=log)
    if rows.empty:
        return Figure(name, title, missing=f"No row has a number for {label} that this axis can show.")
    rows = schedules(rows if "depth" in rows.columns else rows.assign(depth=0))
    line = [*family_column(rows), "depth", "schedule", "decay"]
    if few_models(results) and rows.groupby(line)["width"].nunique().max() < 2:
        return Figure(name, title, missing="No two models differ in their width alone.")
    limits = theory_lines(rows, key, riesz_s)
    kinds = []
    for limit, values in limits.groupby("limit", sort=False):
        kinds.append(f"limit_{str(limit).split()[-1]}")
        rows[kinds[-1]] = rows["width"].map(values.groupby("width")["value"].mean())
    second = [beside] if beside is not None and beside in rows.columns and rows[beside].notna().any() else []
    shown = [*encodings.identity(rows), "schedule", "schedule_order", "decay", "val_loss", key, *second, *kinds]
    data = theme.slim(rows, shown)
    domain = theme.padded(rows[key], log, [*limits["value"], *(v for c in second for v in rows[c].dropna())])
    x = alt.X(
        "width:Q",
        title="width D (log scale)",
        scale=alt.Scale(type="log", base=2, nice=False, padding=12),
        axis=alt.Axis(
            values=sorted(rows["width"].unique().tolist()),
            format="d",
            labelAngle=-90,
            labelFontSize=10,
            labelOverlap="greedy",
            grid=False,
        ),
    )
    y = theme.value_axis(axis, domain, log, letters=26, arrow=axes.arrow(key, rows[key]))
    depths = sorted(data["depth"].unique().tolist())
    colour = alt.Color(
        "depth:O", title="depth L", scale=alt.Scale(domain=depths, scheme=theme.ordinal_viridis(len(depths)))
    )
    base, shape = alt.Chart(), encodings.families_shape(rows)
    lines = base.mark_line(strokeWidth=1.5).encode(x=x, y=alt.Y(f"mean({key}):Q", **y), color=colour)
    marks = (
        base.mark_point(size=40, filled=True, **encodings.EDGE)
        if shape
        else base.mark_circle(size=40, **encodings.EDGE)
    )
    layers = [
        lines.encode(detail=alt.Detail("family:N")) if shape else lines,
        marks.encode(
            x=x,
            y=alt.Y(f"{key}:Q", **y),
            color=colour,
            opacity=encodings.FAINT_UNLESS_PICKED,
            tooltip=encodings.tooltip(data, *dict.fromkeys(c for c in ("val_loss", key, *second) if c in data.columns)),
            **shape,
        ).add_params(encodings.SELECTED),
    ]
    for column in second:
        dashed = lines.mark_line(strokeWidth=1.5, strokeDash=[4, 3]).encode(y=alt.Y(f"mean({column}):Q", **y))
        layers.insert(1, dashed.encode(detail="family:N") if shape else dashed)
    near = [kind for kind in kinds if rows[kind].between(domain[0], domain[1]).any()]
    for kind, dash in zip(near, ([2, 2], [6, 3]), strict=False):
        layers.append(
            base.mark_line(color="#D55E00", strokeDash=dash, clip=True).encode(x=x, y=alt.Y(f"mean({kind}):Q"))
        )
    # Facets are ordered by a number and named by an expression: sorting them by a list of names misplaces cells
    # where the grid of schedules and decays has holes.
    words = dict(zip(data["schedule_order"].astype(int), data["schedule"], strict=True))
    header = alt.Header(labelExpr=f"{json.dumps(words)}[datum.value]")
    chart = (
        alt.layer(*layers, data=data)
        .properties(width=140, height=140)
        .facet(column=alt.Column("schedule_order:O", title=None, header=header), row=alt.Row("decay:N", title=None))
    )
    cells = data[["schedule_order", "decay"]].drop_duplicates()
    theory = f"Orange dashes: limit of theory ({', '.join(kind.split('_')[1] for kind in near)})." if near else ""
    definition = MEASUREMENTS[key].definition if key in MEASUREMENTS else ""
    caption = theme.sentence(
        definition,
        POLE_WORDS if key in MEASUREMENTS and near_pole(key, rows[key]) else "",
        "Lines join the means over seeds, one line per depth; columns are schedules, rows weight decays.",
        "Each family has lines and a shape of its own." if shape else "",
        theory,
        "Empty panels: no such models."
        if len(cells) < cells["schedule_order"].nunique() * cells["decay"].nunique()
        else "",
    )
    signs = theme.sentence("Line: mean over seeds.", LIMITS if near else "")
    return Figure(name, title, caption, chart, signs=signs)


def losses(results: pd.DataFrame) -> Figure:
    """Return the validation loss against width, by depth; beside it the train loss, where it is known."""
    figure = by_width(results, "val_loss", beside="train_loss")
    figure = replace(figure, name="losses", title="Validation loss by depth and width")
    if figure.chart is None or "train_loss" not in results.columns or results["train_loss"].isna().all():
        return figure
    words = "Dashed: train loss, the mean over the epoch while the weights change."
    few = "" if results["train_loss"].notna().all() else "Not known of all models."
    return replace(
        figure,
        caption=theme.sentence(figure.caption, words, few),
        signs=theme.sentence(figure.signs, "Dashed: train loss."),
    )


def sensitivity(table: pd.DataFrame | None, results: pd.DataFrame) -> Figure:
    """Return how each measurement, and its R² with the loss, moves with the minimum class count."""
    name, title = "sensitivity", "Sensitivity to the minimum class count"
    if table is None or table.empty:
        return Figure(name, title, missing=NO_SENSITIVITY)
    moved = analysis.sensitivity(table)
    if isinstance(moved, Missing):
        return Figure(name, title, missing=moved.reason)
    known = [key for key in MEASUREMENTS if key in set(moved["measurement"])]
    labels = {key: f"{MEASUREMENTS[key].property} {MEASUREMENTS[key].label}" for key in known}
    moved = moved[moved["measurement"].isin(known)]
    middle = (
        moved.groupby(["measurement", "min_count"])["relative"].agg(["median", "min", "max", "count"]).reset_index()
    )
    middle = middle[middle["median"].notna()].assign(label=lambda t: t["measurement"].map(labels))
    few, charts = few_models(results), []
    one = few and len(middle) and middle["count"].max() == 1
    if len(middle):
        words = "change" if one else "median change"
        charts.append(_heat(middle, "median", words, list(labels.values()), diverging=True))
    related = Missing("") if few else analysis.sensitivity_correlations(table, results)
    note = related.reason if isinstance(related, Missing) else ""
    if not isinstance(related, Missing):
        related = related[related["measurement"].isin(known) & related["r2"].notna()]
        if len(related):
            related = related.assign(label=related["measurement"].map(labels))
            charts.append(
                _heat(
                    related, "r2", "R² with validation loss", list(labels.values()), diverging=False, labels=not charts
                )
            )
    if not charts:
        return Figure(name, title, missing=theme.sentence("The sensitivity table has no number to draw.", note))
    one_model = "" if one else " (median over models)"
    caption = theme.sentence(
        "Left: median over models of each measurement's change against its value at the smallest minimum count. "
        "Right: its R² with validation loss at each minimum count."
        if len(charts) > 1
        else f"Each measurement's change against its value at the smallest minimum count{one_model}.",
        note,
    )
    return Figure(name, title, caption, alt.hconcat(*charts, spacing=30).resolve_scale(color="independent"))


def _heat(table: pd.DataFrame, value: str, words: str, order: list[str], diverging: bool, labels: bool = True) -> Any:
    if diverging:
        reach = float(min(1.0, max(table[value].abs().max(), 1e-3)))
        # The change may be a thousandfold: colours end at ± reach, the number in the cell does not.
        scale = alt.Scale(domain=[-reach, reach], scheme="blueorange", clamp=True)
        format_, legend, dark = "+.1%", "+.0%" if reach > 0.1 else "+.1%", f"abs(datum.{value}) > {0.6 * reach}"
        # A cell has room for eight signs, and of a manyfold change nobody reads the tenths of a percent.
        of_cell = f"abs(datum.{value}) < 1 ? '+.1%' : '+,.0%'"
    else:
        scale = alt.Scale(domain=[0, 1], scheme=theme.VIRIDIS)
        format_, legend, dark = ".3f", ".1f", f"datum.{value} < 0.55"
        of_cell = "'.3f'"
    data = theme.slim(table, ["label", "min_count", value, "count", "n"])
    base = alt.Chart(data).encode(
        x=alt.X("min_count:O", title="minimum class count", axis=alt.Axis(labelAngle=0)),
        y=alt.Y(
            "label:N",
            title=None,
            sort=order,
            scale=alt.Scale(domain=order),
            axis=alt.Axis(labelLimit=340, labels=labels, ticks=labels),
        ),
    )
    cells = base.mark_rect(stroke=theme.OUTLINE, strokeWidth=0.3).encode(
        color=alt.Color(f"{value}:Q", scale=scale, legend=alt.Legend(title=None, format=legend, orient="bottom")),
        tooltip=["label:N", "min_count:O", alt.Tooltip(f"{value}:Q", title=words, format=format_)],
    )
    short = f"isValid(datum.{value}) ? format(datum.{value}, {of_cell}) : ''"
    text = (
        base.transform_calculate(short=short)
        .mark_text(fontSize=10)
        .encode(
            text="short:N",
            color=alt.when(dark).then(alt.value("#ffffff")).otherwise(alt.value("#111111")),
        )
    )
    return alt.layer(cells, text).properties(width=alt.Step(54), height=alt.Step(19), title=words)
