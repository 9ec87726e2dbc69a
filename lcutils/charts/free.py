"""The free scatter: any column of results.csv on either axis, as colour and as size, chosen in the page or notebook."""

from __future__ import annotations

import difflib
import json
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from lcutils.analysis import MEASUREMENTS
from lcutils.analysis.few import given, with_families
from lcutils.charts import axes, encodings, theme
from lcutils.charts.grid import schedules
from lcutils.charts.theme import Figure
from lcutils.errors import UserError
from lcutils.text import one_line

NONE = "none"
WORDS = ("family", "schedule")  # columns of words that may give the colour
WIDE, HIGH = 560, 380
LOG_SPAN = 30  # from the smallest to the largest value: more gets a log axis at first
FIRST_X = ("nc1_cdnv", "width")
READ_AS_POWER = "pow(10, datum.value)"
POWER_WORDS = f"format({READ_AS_POWER}, {READ_AS_POWER} < 10000 ? '.2~r' : '.2~s')"
SHORT_WORDS = "abs(datum.value) < 1e5 ? datum.label : format(datum.value, '.3~s')"


def free_scatter(
    results: pd.DataFrame,
    x: str | None = None,
    y: str | None = None,
    colour: str | None = None,
    size: str | None = None,
) -> Figure:
    """Return a scatter whose axes, colour and size are columns of `results`; boxes under it choose others.

    Args:
        results: one row per measured point, columns of results.csv.
        x: the column on the axis across; NC1 if the table has it.
        y: the column on the upright axis; the validation loss if the table has it.
        colour: a column, "family" or "schedule" among them, or "none"; the number of parameters if the table has it.
        size: a column, or "none", which is the default.

    Raises:
        UserError: a name that is no column with numbers.
    """
    name, title = "free_scatter", "Any column against any other"
    rows = with_families(results)
    if {"epochs", "checkpoint"} & {*rows.columns}:
        rows = schedules(rows)
    numeric = [column for column in results.columns if _drawable(results[column])]
    words = [c for c in WORDS if c in rows and given(rows, c).any()]
    up = _chosen("y", y, numeric, ("val_loss",))
    beside = [c for c in (*FIRST_X, *numeric) if c != up and len(axes.usable(rows, c, up, positive=_log(rows, c)))]
    first = {
        "x": _chosen("x", x, numeric, (*beside,)),
        "y": up,
        "colour": _chosen("colour", colour, [NONE, *words, *numeric], ("n_params",)),
        "size": _chosen("size", size, [NONE, *numeric], ()),
    }
    if len(numeric) < 2:
        return Figure(name, title, missing="The table has fewer than two columns with numbers.")
    if len(rows) < 2:
        return Figure(name, title, missing="One point alone is in the table of rows.")
    if axes.usable(rows, first["x"], up).empty:
        return Figure(name, title, missing=f"No row has both {first['x']} and {up}.")
    logs = [column for column in numeric if _log(rows, column)]
    titles = {column: _words_for(column) for column in (NONE, *words, *numeric)}
    controls = [
        *(_box(channel, first[channel], numeric, titles) for channel in ("x", "y")),
        *(_check(f"log_{channel}", first[channel] in logs) for channel in ("x", "y")),
        _box("colour", first["colour"], [NONE, *words, *numeric], titles),
        _box("size", first["size"], [NONE, *numeric], titles),
    ]
    filters, test = encodings.filters(rows)
    chart = _scatter(rows, test, words, logs, titles).add_params(*controls, *filters)
    caption = (
        "Choose the column on each axis, for colour and for size; colour is on a log scale where a column spans "
        "decades. A log axis shows values above 0 alone. n counts the points that have all that is chosen. Click a "
        "point to see its model everywhere, hover for its values."
    )
    data = theme.slim(rows, [*encodings.identity(rows), *words, *numeric])
    return Figure(name, title, caption, chart, rows=data)


def _drawable(values: pd.Series) -> bool:
    if pd.api.types.is_bool_dtype(values) or not pd.api.types.is_numeric_dtype(values):
        return False
    return bool(np.isfinite(values.dropna().astype(float)).any())


def _chosen(channel: str, name: str | None, known: list[str], firsts: tuple[str, ...]) -> str:
    """Return the column of a channel: `name`, checked, else the first of `firsts` or of all that the table has."""
    if name is None:
        return next((first for first in firsts if first in known), next(iter(known), NONE))
    if name in known:
        return name
    near = difflib.get_close_matches(name[:100], known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the columns are {', '.join(known)}"
    raise UserError(f"{channel}={one_line(name)}: the results have no such column to draw; {hint}")


def _log(rows: pd.DataFrame, column: str) -> bool:
    """Return whether the axis of a column is a log axis at first."""
    if column in MEASUREMENTS or column not in rows:
        return column in MEASUREMENTS and MEASUREMENTS[column].log
    found = rows[column].dropna().astype(float)
    return bool(found.min() > 0 and found.max() > LOG_SPAN * found.min())


def _words_for(column: str) -> str:
    known = MEASUREMENTS.get(column)
    if known:
        return f"{known.property}: {known.label} ({column})"
    return axes.LOSSES.get(column, column.replace("_", " "))


def _box(channel: str, first: str, columns: list[str], titles: dict[str, str]) -> Any:
    labels = [titles[column] for column in columns]
    return alt.param(
        name=channel, value=first, bind=alt.binding_select(options=columns, labels=labels, name=f"{channel} ")
    )


def _check(name: str, first: bool) -> Any:
    return alt.param(name=name, value=first, bind=alt.binding_checkbox(name=f"{name.replace('_', ' ')} "))


def _scatter(rows: pd.DataFrame, test: str, words: list[str], logs: list[str], titles: dict[str, str]) -> Any:
    """Return the points, one layer of those coloured by a number and one by words, and what is chosen in words."""
    # The scale of an axis cannot change its type, so that values of log axes are drawn as powers of ten.
    power = "({0} > 0 ? log({0}) / LN10 : null)"
    x, y, shade = (f"toNumber(datum[{channel}])" for channel in ("x", "y", "colour"))
    by_words, log_shade = f"indexof({json.dumps(words)}, colour) >= 0", f"indexof({json.dumps(logs)}, colour) >= 0"
    plain, same_size = f"colour == '{NONE}'", f"size == '{NONE}'"
    whole = (
        alt.Chart(theme.ROWS)
        .transform_calculate(
            across=f"log_x ? {power.format(x)} : {x}",
            up=f"log_y ? {power.format(y)} : {y}",
            shade=f"{by_words} || {plain} ? 0 : {log_shade} ? {power.format(shade)} : {shade}",
            word=f"{by_words} ? datum[colour] : ''",
            weight=f"{same_size} ? 1 : toNumber(datum[size])",
        )
        .transform_filter("isValid(datum.across) && isValid(datum.up) && isValid(datum.shade) && isValid(datum.weight)")
    )
    base = whole.transform_filter(test)

    def axis(channel: str) -> dict[str, Any]:
        label = f"log_{channel} ? {POWER_WORDS} : {SHORT_WORDS}"
        whole = alt.expr(f"log_{channel} && span(domain('{channel}')) >= 2 ? 1 : 0")  # else half decades: 0.0032
        ticks = alt.Axis(tickCount=6, tickMinStep=whole, labelExpr=label, labelOverlap="greedy", labelSeparation=4)
        return {"title": None, "axis": ticks, "scale": alt.Scale(zero=False, nice=False, padding=14)}

    def seen(expression: str, kind: str) -> alt.Legend:
        # A legend of what is not chosen stays, invisible.
        shown: dict[str, Any] = {f"{part}Opacity": alt.expr(f"{expression} ? 1 : 0") for part in ("label", kind)}
        if kind == "gradient":
            shown["labelExpr"] = f"{log_shade} ? {POWER_WORDS} : {SHORT_WORDS}"
        return alt.Legend(title=None, **shown)

    sizes = alt.Size("weight:Q", scale=alt.Scale(range=[25, 260], zero=False), legend=seen(f"!({same_size})", "symbol"))
    tips: list[Any] = encodings.tooltip(rows) + [
        alt.Tooltip(f"{channel}_value:Q", title=channel, format=".5g") for channel in ("x", "y")
    ]
    valued = base.transform_calculate(x_value=x, y_value=y)
    points = valued.mark_circle(opacity=0.9, **encodings.EDGE).encode(
        x=alt.X("across:Q", **axis("x")),
        y=alt.Y("up:Q", **axis("y")),
        size=alt.when(same_size).then(alt.value(70)).otherwise(sizes),
        opacity=encodings.FAINT_UNLESS_PICKED,
        tooltip=tips,
    )
    gradient = seen(f"!({by_words} || {plain})", "gradient")
    gradient.type, gradient.gradientLength = "gradient", 160
    shaded = points.transform_filter(f"!({by_words})").encode(
        color=alt.when(plain)
        .then(alt.value(theme.OKABE_ITO[0]))
        .otherwise(alt.Color("shade:Q", scale=alt.Scale(scheme=theme.VIRIDIS, zero=False), legend=gradient))
    )
    # Points that nobody sees, of all rows: without them, filters that match nothing leave a legend without a range.
    unseen = whole.mark_circle(opacity=0, aria=False, tooltip=None).encode(
        x=alt.value(0), y=alt.value(0), size=shaded.encoding.size, color=shaded.encoding.color
    )
    layers = [unseen, shaded.add_params(encodings.SELECTED)]
    if words:
        ordered = rows.sort_values("schedule_order", kind="stable") if "schedule" in words else rows
        domain = list(dict.fromkeys(str(word) for column in words for word in ordered[column].dropna()))
        colours = [encodings.MODEL_COLOURS[i % len(encodings.MODEL_COLOURS)] for i in range(len(domain))]
        fill = alt.Fill("word:N", scale=alt.Scale(domain=domain, range=colours), legend=seen(by_words, "symbol"))
        layers.append(points.transform_filter(by_words).encode(fill=fill))
    if "model" in rows and len(rows) <= encodings.NAMED_POINTS:
        right = f"scale('x', datum.across) > {WIDE / 2}"  # where a name would run over the legends
        named = base.mark_text(
            align=alt.expr(f"{right} ? 'right' : 'left'"),
            dx=alt.expr(f"{right} ? -8 : 8"),
            fontSize=10,
            color=theme.INK,
            limit=150,
        )
        layers.append(named.encode(x="across:Q", y="up:Q", text="model:N", opacity=encodings.FAINT_UNLESS_PICKED))
    return alt.layer(*layers, *_said(base, titles)).properties(width=WIDE, height=HIGH)


def _said(base: Any, titles: dict[str, str]) -> list[Any]:
    """Return the layers of text that name what is on the axes, in colour and in size, and count the points."""
    named = json.dumps(titles)
    counted = base.transform_aggregate(n="count()").transform_calculate(
        across=f"{named}[x] + (log_x ? ', log scale' : '')",
        up=f"'↑ ' + {named}[y] + (log_y ? ', log scale' : '')",
        look=f"'colour: ' + {named}[colour] + '; size: ' + {named}[size]",
        count="'n = ' + datum.n",
    )
    places = (("across", "center", WIDE / 2, HIGH + 32), ("up", "left", 0, -24), ("look", "left", 0, -9),
              ("count", "right", WIDE, -24))  # fmt: skip
    return [
        counted.mark_text(align=align, fontSize=11, color=theme.INK).encode(
            text=f"{words}:N", x=alt.value(across), y=alt.value(down)
        )
        for words, align, across, down in places
    ]
