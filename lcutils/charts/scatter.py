"""Panels of one measurement against the loss: R² of the scale that is drawn, recomputed for what the filters leave.

All panels of a figure share one selection (click a model to see it everywhere) and one set of filters.
"""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from lcutils.analysis import MEASUREMENTS, limits_of_theory
from lcutils.analysis.inference import FEWEST_ROWS
from lcutils.analysis.rows import OUTCOMES
from lcutils.charts.theme import INK, OUTLINE, PANEL, ROWS, VIRIDIS, padded, panel_title, slim, value_axis

IDENTITY = ["model", "checkpoint", "depth", "width", "epochs", "weight_decay", "seed", "n_params", "steps"]
FILTERS = {"depth": "depth", "width": "width", "epochs": "epochs", "weight_decay": "decay"}
LOSS = "validation loss (nats per token)"
SELECTED = alt.selection_point(name="picked", fields=["model"], clear="dblclick")
FAINT_UNLESS_PICKED = alt.OpacityValue(**alt.when(SELECTED).then(alt.value(0.9)).otherwise(alt.value(0.12)))


def heading(key: str) -> str:
    """Return what stands over the panel of `key`: a measurement's property and label, or the name of an outcome."""
    known = MEASUREMENTS.get(key)
    return f"{known.property}: {known.label}" if known else OUTCOMES[key]


def filters(rows: pd.DataFrame) -> tuple[list[Any], str]:
    """Return the filter controls for `rows` and the Vega expression that is true for a row that they let through.

    There is a control for each of depth, width, epochs and decay that has more than one value, and a text field that
    finds models by a part of their name.
    """
    controls: list[Any] = []
    tests: list[str] = []
    for column, word in FILTERS.items():
        if column not in rows.columns:
            continue
        values = sorted(rows[column].dropna().unique().tolist())
        if len(values) < 2:
            continue
        box = alt.binding_select(options=["all", *values], name=f"{word} ")
        controls.append(alt.param(name=f"{column}_is", value="all", bind=box))
        tests.append(f"({column}_is == 'all' || datum.{column} == {column}_is)")
    if "model" in rows.columns:
        find = alt.binding(input="text", name="model ", placeholder="part of a name")
        controls.append(alt.param(name="model_like", value="", bind=find))
        tests.append("indexof(datum.model, model_like) >= 0")
    return controls, " && ".join(tests) or "true"


def size_scale(rows: pd.DataFrame) -> alt.Scale:
    """Return the colour scale of the parameters. It spans all rows, so that filtering changes no colour."""
    sizes = rows["n_params"].dropna()
    return alt.Scale(type="log", scheme=VIRIDIS, domain=[float(sizes.min()), float(sizes.max())])


def size_colour(rows: pd.DataFrame) -> Any:
    """Return the colour channel: parameters on a log viridis scale; one plain colour where all rows have one size."""
    if "n_params" not in rows.columns or rows["n_params"].dropna().nunique() < 2:
        return alt.value("#21918c")
    legend = alt.Legend(title="parameters", format=".2~s", type="gradient", gradientLength=PANEL - 40)
    return alt.Color("n_params:Q", scale=size_scale(rows), legend=legend)


def tooltip(rows: pd.DataFrame, *values: str) -> list[alt.Tooltip]:
    """Return what hovering shows: the model and its place in the grid, then `values`."""
    grouped = {"n_params": ",", "steps": ","}
    place = [
        alt.Tooltip(
            f"{c}:N" if c in ("model", "seed") else f"{c}:Q", title=c.replace("_", " "), format=grouped.get(c, "")
        )
        for c in IDENTITY
        if c in rows.columns
    ]
    return place + [alt.Tooltip(f"{v}:Q", title=v, format=".5g") for v in values]


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


def usable(rows: pd.DataFrame, *columns: str, positive: bool = False) -> pd.DataFrame:
    """Return the rows where each of `columns` is finite (the first above 0 if `positive`); none if one is missing."""
    if not set(columns) <= set(rows.columns):
        return rows.iloc[:0]
    values = rows[list(columns)].apply(pd.to_numeric, errors="coerce").astype(float)
    kept = np.isfinite(values).all(axis=1) & ((values[columns[0]] > 0) | (not positive))
    return rows.loc[kept]


def framed(chart: Any, key: str) -> Any:
    """Return a chart as the square panel of `key`, its heading above it."""
    chart.width, chart.height, chart.title = PANEL, PANEL, panel_title(heading(key))  # `properties` would copy it
    return chart


def can_be_shown(column: str, log: bool) -> str:
    """Return the Vega expression that is true for a row whose `column` an axis can show."""
    return f"isValid(datum.{column})" + (f" && datum.{column} > 0" if log else "")


def shown_rows(test: str, key: str, log: bool) -> Any:
    """Return a chart of the rows that the filters leave (`test`) and that have both `key` and a validation loss."""
    return alt.Chart(ROWS).transform_filter(f"{test} && {can_be_shown(key, log)} && {can_be_shown('val_loss', False)}")


def panel(rows: pd.DataFrame, key: str, test: str, riesz_s: float | None) -> Any | None:
    """Return one panel over `ROWS`, `key` on x and validation loss on y, or None where no row has both.

    The line is least squares on the scale drawn; R² is of that scale. On a log axis the R² of the value itself
    stands at the right.

    `test` is the Vega expression of `filters`; `riesz_s` the exponent of the rows' Riesz kernel, if it is known.
    """
    measurement = MEASUREMENTS[key]
    log = measurement.log
    drawn = usable(rows, key, "val_loss", positive=log)
    if drawn.empty:
        return None
    limits = theory_lines(drawn, key, riesz_s)
    domain = padded(drawn[key], log, limits["value"].tolist())
    x = alt.X(f"{key}:Q", **value_axis(measurement.axis, domain, log))
    y = alt.Y("val_loss:Q", **value_axis(LOSS, padded(drawn["val_loss"], False), False))
    base = shown_rows(test, key, log)
    points = (
        base.mark_circle(size=58, stroke=OUTLINE, strokeWidth=0.6)
        .encode(
            x=x,
            y=y,
            color=size_colour(rows),
            opacity=FAINT_UNLESS_PICKED,
            tooltip=tooltip(rows, "val_loss", key),
        )
        .add_params(SELECTED)
    )
    layers = [points]
    if drawn[key].nunique() > 1 and len(drawn) >= FEWEST_ROWS:
        layers.insert(0, _fit_line(base, key, log, x, y))
    layers += _fit_words(base, key, log)
    layers += _limit_rules(limits, domain)
    return framed(alt.layer(*layers), key)


def _scaled(base: Any, key: str, log: bool) -> Any:
    return base.transform_calculate(scaled=f"log(datum.{key})" if log else f"+datum.{key}")


def _fit_line(base: Any, key: str, log: bool, x: Any, y: Any) -> Any:
    line = _scaled(base, key, log).transform_regression("scaled", "val_loss")
    line = line.transform_calculate(as_=key, calculate="exp(datum.scaled)" if log else "datum.scaled")
    return line.mark_line(color=OUTLINE, strokeWidth=1, strokeDash=[4, 3], clip=True).encode(x=x, y=y)


def _fit_words(base: Any, key: str, log: bool) -> list[Any]:
    """Return the text layers above the frame, computed in the browser from the rows that the filters leave.

    Vega's regression returns its coefficients and the values it grouped by (`keys`), nothing else. Grouping by n, which
    is the same for all rows, carries n through.
    """
    number = "'R² = ' + format(datum.rSquared, '.3f')"
    lines = [(log, f"{number} + '{' (log x)' if log else ''}, n = ' + datum.keys[0]", "left", 0)]
    if log:
        unknown = f"datum.keys[0] < {FEWEST_ROWS} || isNaN(datum.rSquared)"
        linear = f"{unknown} ? '' : format(datum.rSquared, '.3f') + ' (linear x)'"
        lines.append((False, linear, "right", PANEL))
    layers = []
    for scaled, words, align, place in lines:
        few = (
            f"datum.keys[0] < {FEWEST_ROWS} ? ('n = ' + datum.keys[0] + ': too few for R²') : "
            f"isNaN(datum.rSquared) ? 'R² undefined' : "
        )
        fitted = _scaled(base, key, scaled).transform_joinaggregate(n="count()")
        fitted = fitted.transform_regression("scaled", "val_loss", groupby=["n"], params=True)
        fitted = fitted.transform_calculate(words=few + words if align == "left" else words)
        text = fitted.mark_text(align=align, baseline="bottom", fontSize=10, color=INK, clip=False)
        layers.append(text.encode(text="words:N", x=alt.XValue(place), y=alt.YValue(-4)))
    return layers


def _limit_rules(limits: pd.DataFrame, domain: list[float]) -> list[Any]:
    inside = limits[limits["value"].between(domain[0], domain[1])]
    if inside.empty:
        return []
    inside = inside.assign(words=inside["limit"] + ", width " + inside["width"].astype(str))
    rules = alt.Chart(slim(inside, ["value", "words"])).mark_rule(color="#D55E00", strokeDash=[2, 2], opacity=0.8)
    return [
        rules.encode(x="value:Q", tooltip=[alt.Tooltip("words:N", title="limit"), alt.Tooltip("value:Q", format=".5g")])
    ]
