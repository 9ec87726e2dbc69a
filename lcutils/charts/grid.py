"""Measurements over the grid of models: against width by depth, along checkpoints, against the minimum class count."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import altair as alt
import pandas as pd

from lcutils import analysis
from lcutils.analysis import MEASUREMENTS, Missing
from lcutils.charts import scatter, theme
from lcutils.charts.theme import Figure

# SI prefixes say G where people say billion.
COUNT_WORDS = "replace(format(datum.value, '~s'), 'G', 'B')"
NO_SENSITIVITY = "No sensitivity table was given: the measure stage writes one per checkpoint (sensitivity.csv)."
TRAJECTORY_KEYS = [
    "val_loss",
    "nc1_cdnv",
    "gnc2_log_uncentred_cov",
    "gnc2_log_cov",
    "nc3_cosine_mean",
    "unc3_cosine_cov",
    "nc4_agreement",
]


def _axis_of(key: str) -> tuple[str, bool]:
    """Return the axis title of a measurement or of val_loss, and whether a log axis suits it."""
    return (MEASUREMENTS[key].axis, MEASUREMENTS[key].log) if key in MEASUREMENTS else (scatter.LOSS, False)


def _schedules(rows: pd.DataFrame) -> pd.DataFrame:
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
    return rows.assign(schedule=schedule, schedule_order=order, decay=words)


def by_width(results: pd.DataFrame, key: str, riesz_s: float | None = None) -> Figure:
    """Return `key` (a measurement, or val_loss) against width: one line per depth; columns are schedules, rows decays.

    `riesz_s` is the exponent that the Riesz kernel was measured with; its limits of theory follow from it.
    """
    axis, log = _axis_of(key)
    label = MEASUREMENTS[key].label if key in MEASUREMENTS else axis
    name, title = f"by_width_{key}", f"{label[:1].upper()}{label[1:]} against width"
    if key not in results.columns or "width" not in results.columns:
        return Figure(name, title, missing=f"The table has no column {key if key not in results.columns else 'width'}.")
    rows = scatter.usable(results, key, "width", positive=log)
    if rows.empty:
        return Figure(name, title, missing=f"No row has a number for {label} that this axis can show.")
    rows = _schedules(rows if "depth" in rows.columns else rows.assign(depth=0))
    limits = scatter.theory_lines(rows, key, riesz_s)
    kinds = []
    for limit, values in limits.groupby("limit", sort=False):
        kinds.append(f"limit_{str(limit).split()[-1]}")
        rows[kinds[-1]] = rows["width"].map(values.groupby("width")["value"].mean())
    data = theme.slim(rows, [*scatter.IDENTITY, "schedule", "schedule_order", "decay", "val_loss", key, *kinds])
    domain = theme.padded(rows[key], log, limits["value"].tolist())
    x = alt.X(
        "width:Q",
        title="width D (log scale)",
        scale=alt.Scale(type="log", base=2, nice=False, padding=12),
        axis=alt.Axis(
            values=sorted(rows["width"].unique().tolist()), format="d", labelAngle=-45, labelOverlap=False, grid=False
        ),
    )
    y = theme.value_axis(axis, domain, log, letters=26)
    depths = sorted(data["depth"].unique().tolist())
    colour = alt.Color("depth:O", title="depth L", scale=alt.Scale(domain=depths, scheme=theme.VIRIDIS))
    base = alt.Chart()
    layers = [
        base.mark_line(strokeWidth=1.5).encode(x=x, y=alt.Y(f"mean({key}):Q", **y), color=colour),
        base.mark_circle(size=40, stroke=theme.OUTLINE, strokeWidth=0.6)
        .encode(
            x=x,
            y=alt.Y(f"{key}:Q", **y),
            color=colour,
            opacity=scatter.FAINT_UNLESS_PICKED,
            tooltip=scatter.tooltip(data, *dict.fromkeys(c for c in ("val_loss", key) if c in data.columns)),
        )
        .add_params(scatter.SELECTED),
    ]
    near = [kind for kind in kinds if rows[kind].between(domain[0], domain[1]).any()]
    for kind, dash in zip(near, ([2, 2], [6, 3]), strict=False):
        layers.append(base.mark_line(color="#D55E00", strokeDash=dash, clip=True).encode(x=x, y=f"mean({kind}):Q"))
    # Facets are ordered by a number and named by an expression: sorting them by a list of names misplaces cells
    # where the grid of schedules and decays has holes.
    words = dict(zip(data["schedule_order"].astype(int), data["schedule"], strict=True))
    header = alt.Header(labelExpr=f"{json.dumps(words)}[datum.value]")
    chart = (
        alt.layer(*layers, data=data)
        .properties(width=180, height=150)
        .facet(column=alt.Column("schedule_order:O", title=None, header=header), row=alt.Row("decay:N", title=None))
    )
    theory = f"Orange dashes: limit of theory ({', '.join(kind.split('_')[1] for kind in near)})." if near else ""
    definition = MEASUREMENTS[key].definition if key in MEASUREMENTS else ""
    caption = theme.sentence(
        definition,
        "Lines join the means over seeds, one line per depth; columns are schedules, rows weight decays.",
        theory,
    )
    return Figure(name, title, caption, chart)


def losses(results: pd.DataFrame) -> Figure:
    """Return the validation loss against width, by depth."""
    return replace(by_width(results, "val_loss"), name="losses", title="Validation loss by depth and width")


def trajectories(results: pd.DataFrame) -> Figure:
    """Return loss and measurements along the checkpoints of each model that has two or more."""
    name, title = "trajectories", "Along the checkpoints"
    rows = analysis.trajectories(results)
    if isinstance(rows, Missing):
        return Figure(name, title, missing=rows.reason)
    along = "tokens_seen" if rows["tokens_seen"].notna().any() else "checkpoint"
    wide = results[results["model"].isin(rows["model"].unique())].copy()
    wide = wide[wide[along].notna()]
    controls, test = scatter.filters(wide)
    charts = [
        _along(wide, key, along, test)
        for key in TRAJECTORY_KEYS
        if len(scatter.usable(wide, key, along, positive=_axis_of(key)[1]))
    ]
    if not charts:
        return Figure(name, title, missing="No model with two checkpoints has a measurement at them.")
    caption = (
        f"{wide['model'].nunique()} models with two or more kept checkpoints, one line per model and one point per "
        "checkpoint. Click a model to see it in every panel."
    )
    return Figure(
        name,
        title,
        caption,
        theme.together(charts, 3, controls),
        rows=theme.slim(wide, [*scatter.IDENTITY, "tokens_seen", *TRAJECTORY_KEYS]),
    )


def _along(rows: pd.DataFrame, key: str, along: str, test: str) -> Any:
    axis, log = _axis_of(key)
    drawn = scatter.usable(rows, key, along, positive=log)
    counts = along == "tokens_seen"
    x = alt.X(
        f"{along}:Q",
        title="tokens seen (log scale)" if counts else "checkpoint (0 is the end of epoch 1)",
        scale=alt.Scale(type="log" if counts else "linear", nice=False, padding=12),
        axis=alt.Axis(tickCount=4, labelExpr=COUNT_WORDS if counts else "format(datum.value, 'd')"),
    )
    y = alt.Y(f"{key}:Q", **theme.value_axis(axis, theme.padded(drawn[key], log), log))
    base = (
        alt.Chart(theme.ROWS)
        .transform_filter(f"{test} && {scatter.can_be_shown(key, log)}")
        .encode(x=x, y=y, opacity=scatter.FAINT_UNLESS_PICKED)
    )
    # Lines take their colour from the stroke channel, without a legend: one for lines would list sizes, not shade them.
    colour = scatter.size_colour(rows)
    stroke = colour
    if isinstance(colour, alt.Color):
        stroke = alt.Stroke("n_params:Q", scale=scatter.size_scale(rows), legend=None)
    lines = base.mark_line(strokeWidth=1.3).encode(stroke=stroke, detail="model:N", order=f"{along}:Q")
    points = (
        base.mark_circle(size=45, stroke=theme.OUTLINE, strokeWidth=0.6)
        .encode(color=colour, tooltip=scatter.tooltip(rows, key))
        .add_params(scatter.SELECTED)
    )
    return scatter.framed(alt.layer(lines, points), key)


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
    charts = []
    if len(middle):
        charts.append(_heat(middle, "median", "median change", list(labels.values()), diverging=True))
    related = analysis.sensitivity_correlations(table, results)
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
    caption = theme.sentence(
        "Left: median over models of each measurement's change against its value at the smallest minimum count. "
        "Right: its R² with validation loss at each minimum count."
        if len(charts) > 1
        else "Each measurement's change against its value at the smallest minimum count (median over models).",
        note,
    )
    return Figure(name, title, caption, alt.hconcat(*charts, spacing=30).resolve_scale(color="independent"))


def _heat(table: pd.DataFrame, value: str, words: str, order: list[str], diverging: bool, labels: bool = True) -> Any:
    if diverging:
        reach = float(min(1.0, max(table[value].abs().max(), 1e-3)))
        # The change may be a thousandfold: colours end at ± reach, the number in the cell does not.
        scale = alt.Scale(domain=[-reach, reach], scheme="blueorange", clamp=True)
        format_, dark = "+.1%", f"abs(datum.{value}) > {0.6 * reach}"
    else:
        scale = alt.Scale(domain=[0, 1], scheme=theme.VIRIDIS)
        format_, dark = ".3f", f"datum.{value} < 0.55"
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
        color=alt.Color(
            f"{value}:Q", title=words, scale=scale, legend=alt.Legend(format=format_ if diverging else ".1f")
        ),
        tooltip=["label:N", "min_count:O", alt.Tooltip(f"{value}:Q", title=words, format=format_)],
    )
    text = base.mark_text(fontSize=10).encode(
        text=alt.Text(f"{value}:Q", format=format_),
        color=alt.when(dark).then(alt.value("#ffffff")).otherwise(alt.value("#111111")),
    )
    return alt.layer(cells, text).properties(width=alt.Step(58), height=alt.Step(19), title=words)
