"""Panels of one measurement against the loss: R² of the scale that is drawn, recomputed for what the filters leave.

All panels of a figure share one selection (click a model to see it everywhere) and one set of filters.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import altair as alt
import numpy as np
import pandas as pd

from lcutils.analysis import FEW, MEASUREMENTS, comparable_loss, few_models, limits_of_theory
from lcutils.analysis.directions import near_pole, sign_with_collapse, towards
from lcutils.analysis.few import PER_CHARACTER, point_names, short_names
from lcutils.analysis.inference import FEWEST_ROWS
from lcutils.analysis.marked import influential
from lcutils.analysis.rows import OUTCOMES
from lcutils.charts.names import name_layers
from lcutils.charts.theme import (
    INK,
    OKABE_ITO,
    OUTLINE,
    PANEL,
    ROWS,
    VIRIDIS,
    log_ticks,
    padded,
    panel_title,
    slim,
    value_axis,
)

IDENTITY = ["model", "checkpoint", "depth", "width", "epochs", "weight_decay", "seed", "n_params", "steps"]
OF_PRETRAINED = ["family", "revision", "tokens_seen"]  # more of a point's identity, where a table has families
FILTERS = {"family": "family", "depth": "depth", "width": "width", "epochs": "epochs", "weight_decay": "decay"}
LOSS = "validation loss (nats per token)"
OF_CHARACTERS = {PER_CHARACTER: "validation loss per character"}
LOSSES = {"val_loss": LOSS, PER_CHARACTER: "validation loss (nats per character)"}
NAMED_POINTS = 12  # the most that bear their names
NAME_LIMIT = 20  # characters of a name beside a point: half a panel
LEGEND_LIMIT = 330  # pixels of a name in a legend
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
MODEL_COLOURS = (*OKABE_ITO[:6], OKABE_ITO[7])  # without the yellow, which is lost on white
RING = "carries_{}"  # column of the rows that carry the fit of a measurement
RINGED: dict[str, Any] = {"size": 190, "filled": False, "color": INK, "strokeWidth": 1.2}
LIMITS = "Orange dashes: a limit of theory."
LIMIT = OKABE_ITO[5]  # colour of the limits of theory
EDGE: dict[str, Any] = {"stroke": OUTLINE, "strokeWidth": 0.6}  # of a point
SELECTED = alt.selection_point(name="picked", fields=["model"], clear="dblclick")
FAINT_UNLESS_PICKED = alt.OpacityValue(**alt.when(SELECTED).then(alt.value(0.9)).otherwise(alt.value(0.12)))


def heading(key: str) -> str:
    """Return what stands over the panel of `key`: a measurement's property and label, or the name of an outcome."""
    known = MEASUREMENTS.get(key)
    return f"{known.property}: {known.label}" if known else (OUTCOMES | OF_CHARACTERS)[key]


def axis_of(key: str) -> tuple[str, bool]:
    """Return the axis title of a measurement or of a loss, and whether a log axis suits it."""
    return (MEASUREMENTS[key].axis, MEASUREMENTS[key].log) if key in MEASUREMENTS else (LOSSES[key], False)


def arrow(key: str, values: pd.Series) -> str:
    """Return the words of an axis of `key` that say which way collapse lies; "" for a loss, or where it is not known.

    The title of an upright axis is turned: its arrow to the left points down. A measurement that nears 0 from either
    side has no arrow where `values` have both signs.
    """
    if key not in MEASUREMENTS or not len(values):
        return ""
    way = towards(key, values)
    if way == "none":
        return "towards collapse: 0" if MEASUREMENTS[key].direction == "zero" else ""
    return "← towards collapse" if way == "down" else "towards collapse →"


@dataclass(frozen=True)
class Few:
    """How a panel of few models differs from one of a grid.

    Attributes:
        target: the loss on its y axis, by which these models can be compared.
        names: what stands beside each point, by the row's index; none where there are too many points.
    """

    target: str
    names: Mapping[Hashable, str]

    @classmethod
    def of(cls, rows: pd.DataFrame) -> Self | None:
        """How panels of `rows` are to be drawn; None if they are not few models."""
        if not few_models(rows):
            return None
        return cls(comparable_loss(rows), names_beside(rows))


def names_beside(rows: pd.DataFrame) -> dict[Hashable, str]:
    """Return what stands beside each point, by the row's index: nothing where there are too many points."""
    if len(rows) > NAMED_POINTS:
        return {}
    names = point_names(rows)
    short = short_names(names.tolist(), NAME_LIMIT)
    return {index: short[name] for index, name in names.items()}


def identity(rows: pd.DataFrame) -> list[str]:
    """Return the columns that say what a point is: those of `rows` that hold something."""
    known = [c for c in (*IDENTITY, *(OF_PRETRAINED if "family" in rows else [])) if c in rows.columns]
    return [c for c in known if rows[c].notna().any()] if "family" in rows else known


def families_shape(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the channel that tells families apart, where `rows` hold several; {} where there is one."""
    if "family" not in rows or rows["family"].nunique() < 2:
        return {}
    domain = sorted(rows["family"].unique().tolist())
    scale = alt.Scale(domain=domain, range=[SHAPES[i % len(SHAPES)] for i in range(len(domain))])
    return {"shape": alt.Shape("family:N", title="family", scale=scale)}


def filters(rows: pd.DataFrame, named: bool = False) -> tuple[list[Any], str]:
    """Return the filter controls for `rows` and the Vega expression that is true for a row that they let through.

    There is a control for each of family, depth, width, epochs and decay that has more than one value, and a text
    field that finds models by a part of their name. Points that bear their names (`named`) need none.
    """
    if named:
        return [], "true"
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


def size_colour(rows: pd.DataFrame, few: Few | None = None, lines: bool = False) -> Any:
    """Return the colour channel: parameters on a log viridis scale; one plain colour where all rows have one size.

    Points of few models have the colour of their model, as in every figure of them. With `lines` among the marks the
    legend is a few dots, because Vega-Lite draws no gradient for a stroke and a fill together.
    """
    if few and few.names:
        return model_colour(rows)
    if "n_params" not in rows.columns or rows["n_params"].dropna().nunique() < 2:
        return alt.value("#21918c")
    scale = size_scale(rows)
    words: dict[str, Any] = {"title": "parameters", "format": ".2~s", "titlePadding": 8}
    if lines:
        legend = alt.Legend(values=log_ticks(*scale.domain), symbolOpacity=1, **words)
    else:
        legend = alt.Legend(type="gradient", gradientLength=PANEL - 40, **words)
    return alt.Color("n_params:Q", scale=scale, legend=legend)


def model_colour(rows: pd.DataFrame, legend: alt.Legend | None = None) -> alt.Color:
    """Return the colour channel of models: one colour for each, the same in every figure of a table."""
    return alt.Color("model:N", scale=model_scale(rows), title="model", legend=legend)


def model_scale(rows: pd.DataFrame) -> alt.Scale:
    """Return the scale that gives each model its colour, in the order of the table."""
    models = list(dict.fromkeys(rows["model"].tolist()))
    return alt.Scale(domain=models, range=[MODEL_COLOURS[i % len(MODEL_COLOURS)] for i in range(len(models))])


def tooltip(rows: pd.DataFrame, *values: str) -> list[alt.Tooltip]:
    """Return what hovering shows: the model and its place in the grid, then `values`."""
    grouped = {"n_params": ",", "steps": ",", "tokens_seen": ","}
    words = ("model", "seed", "family", "revision")
    place = [
        alt.Tooltip(f"{c}:N" if c in words else f"{c}:Q", title=c.replace("_", " "), format=grouped.get(c, ""))
        for c in identity(rows)
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


def framed(chart: Any, key: str, values: pd.Series) -> Any:
    """Return a chart as the square panel of `key`; its heading says so where `values` are near a pole."""
    title = panel_title(heading(key))
    if key in MEASUREMENTS and (pole := near_pole(key, values)):
        title.subtitle = pole
    chart.width, chart.height, chart.title = PANEL, PANEL, title  # `properties` would copy it
    return chart


def ring_columns(rows: pd.DataFrame, keys: list[str], target: str) -> pd.DataFrame:
    """Return for each of `keys` a column that is 1 where a row carries the fit of its panel (`influential`)."""
    rings = pd.DataFrame(index=rows.index)
    for key in keys:
        drawn = usable(rows, key, target, positive=MEASUREMENTS[key].log)
        if len(drawn) > FEWEST_ROWS:
            x, y = (drawn[column].to_numpy(dtype=np.float64) for column in (key, target))
            marked = influential(np.log(x) if MEASUREMENTS[key].log else x, y)
            if marked.any():
                rings[RING.format(key)] = rows.index.isin(drawn.index[marked]).astype(int)
    return rings


def signs_of(panels: list[Any], ringed: bool) -> str:
    """Return what the lines and rings of panels mean, of those that they have."""
    marks = [layer.mark for panel in panels for layer in panel.layer if isinstance(layer.mark, alt.MarkDef)]
    fits = any(mark.type == "line" for mark in marks)
    limits = any(mark.type == "rule" and mark.color == LIMIT for mark in marks)
    return " ".join(
        words
        for words, has in (
            ("Dashed grey line: least squares.", fits),
            ("Ring: a point that the line leans on.", ringed),
            (LIMITS, limits),
        )
        if has
    )


def say_hidden(panel: Any, test: str) -> Any:
    """Return `panel` with a line that says so where the filters (`test`) hide the model that is picked."""
    if test == "true":
        return panel
    hidden = (
        alt.Chart(ROWS)
        .transform_filter({"param": SELECTED.name, "empty": False})
        .transform_calculate(through=f"{test} ? 1 : 0")
        .transform_aggregate(through="sum(through)", groupby=["model"])
        .transform_filter("datum.through == 0")
        .transform_calculate(words=r"datum.model + '\nis picked; the filters hide it'")
        .mark_text(fontSize=11, fontWeight="bold", color=INK, limit=PANEL, lineBreak="\n")
        .encode(text=alt.Text("words:N"), x=alt.XValue(PANEL / 2), y=alt.YValue(PANEL / 2))
    )
    panel.layer = [*panel.layer, hidden]
    return panel


def can_be_shown(column: str, log: bool) -> str:
    """Return the Vega expression that is true for a row whose `column` an axis can show.

    A missing number is an empty text in `ROWS`, which Vega takes for valid, and a regression for 0.
    """
    return f"isValid(datum.{column}) && datum.{column} !== ''" + (f" && datum.{column} > 0" if log else "")


def shown_rows(test: str, key: str, log: bool, target: str = "val_loss") -> Any:
    """Return a chart of the rows that the filters leave (`test`) and that have both `key` and a validation loss."""
    return alt.Chart(ROWS).transform_filter(f"{test} && {can_be_shown(key, log)} && {can_be_shown(target, False)}")


def panel(rows: pd.DataFrame, key: str, test: str, riesz_s: float | None, few: Few | None = None) -> Any | None:
    """Return one panel over `ROWS`, `key` on x and validation loss on y, or None where no row has both.

    A panel of few models needs two points, names each, and gives r and R² only where there are eight.

    The line is least squares on the scale drawn; r and R² are of that scale, and r says whether better models are more
    collapsed. On a log axis the R² of the value itself stands at the right. A line between says what r is without the
    points that a ring marks (`ring_columns`, which `rows` hold).

    `test` is the Vega expression of `filters`; `riesz_s` the exponent of the rows' Riesz kernel, if it is known.
    """
    measurement = MEASUREMENTS[key]
    log, target, fewest = measurement.log, few.target if few else "val_loss", FEW if few else FEWEST_ROWS
    drawn = usable(rows, key, target, positive=log)
    if len(drawn) < (2 if few else 1):
        return None
    limits = theory_lines(drawn, key, riesz_s)
    domains = padded(drawn[key], log, limits["value"].tolist()), padded(drawn[target], False)
    x = alt.X(f"{key}:Q", **value_axis(measurement.axis, domains[0], log, arrow=arrow(key, drawn[key])))
    y = alt.Y(f"{target}:Q", **value_axis(LOSSES[target], domains[1], False))
    base = shown_rows(test, key, log, target)
    shape = families_shape(rows)
    marks = base.mark_point(size=58, filled=True, **EDGE) if shape else base.mark_circle(size=58, **EDGE)
    points = marks.encode(
        x=x,
        y=y,
        color=size_colour(rows, few),
        opacity=FAINT_UNLESS_PICKED,
        tooltip=tooltip(rows, target, key),
        **shape,
    ).add_params(SELECTED)
    layers = [points]
    if drawn[key].nunique() > 1 and len(drawn) >= fewest:
        layers.insert(0, _fit_line(base, key, target, log, x, y))
    if not few or len(drawn) >= fewest:
        sign = sign_with_collapse(key, drawn[key], target)
        ring = RING.format(key) if RING.format(key) in rows else ""
        layers += _fit_words(base, key, target, log, fewest, sign, ring)
        if ring:
            rings = base.transform_filter(f"datum.{ring} == 1").mark_point(**RINGED)
            layers.append(rings.encode(x=x, y=y, opacity=FAINT_UNLESS_PICKED))
    layers += _limit_rules(limits, domains[0])
    if names := few.names if few else names_beside(rows):
        called = drawn[["model", key, target]].assign(name=[names[index] for index in drawn.index])
        layers += name_layers(called, (key, target), domains, log, FAINT_UNLESS_PICKED)
    return framed(alt.layer(*layers), key, drawn[key])


def _scaled(base: Any, key: str, log: bool) -> Any:
    return base.transform_calculate(scaled=f"log(datum.{key})" if log else f"+datum.{key}")


def _fit_line(base: Any, key: str, target: str, log: bool, x: Any, y: Any) -> Any:
    line = _scaled(base, key, log).transform_regression("scaled", target)
    line = line.transform_calculate(as_=key, calculate="exp(datum.scaled)" if log else "datum.scaled")
    return line.mark_line(color=OUTLINE, strokeWidth=1, strokeDash=[4, 3], clip=True).encode(x=x, y=y)


def _critical_t(df: str) -> str:
    """Return the Vega expression of the t that 1 in 20 exceed by chance, two-sided, at `df` degrees of freedom.

    Fisher's expansion of t by the normal z = 1.96: within 2 % of the exact value from 3 degrees of freedom on.
    """
    return f"(1.96 + 2.3722 / {df} + 2.8225 / pow({df}, 2) + 2.5558 / pow({df}, 3))"


def _fit_words(base: Any, key: str, target: str, log: bool, fewest: int, sign: int = 0, ring: str = "") -> list[Any]:
    """Return the text layers above the frame, computed in the browser from the rows that the filters leave.

    `sign` is that of r where better models are more collapsed (0: nothing is said of that); `ring` names the column
    of the rows that carry the fit, "" if there are none.

    Vega's regression returns its coefficients and the values it grouped by (`keys`), nothing else. Grouping by n, which
    is the same for all rows, carries n through.
    """
    unknown = f"datum.keys[0] < {fewest} || isNaN(datum.rSquared)"
    few = (
        f"datum.keys[0] < {fewest} ? ('n = ' + datum.keys[0] + ': too few for R²') : "
        f"isNaN(datum.rSquared) ? 'R² undefined' : "
    )
    r2 = f"'R² = ' + format(datum.rSquared, '.3f') + '{' (log x)' if log else ''}, n = ' + datum.keys[0]"
    r = "((datum.coef[1] < 0 ? '−' : '') + format(sqrt(datum.rSquared), '.3f'))"
    t2 = "datum.rSquared * (datum.keys[0] - 2) / max(1 - datum.rSquared, 1e-12)"
    with_or_against = f"(datum.coef[1] * {sign} > 0 ? ', with collapse' : ', against collapse')"
    clear = f"({t2} > pow({_critical_t('(datum.keys[0] - 2)')}, 2) ? {with_or_against} : ', unclear')"
    lines = [  # filter, log scale, words, side, height
        ("true", log, f"{few}{r2}", "left", -4),
        ("true", log, f"{unknown} ? '' : 'r = ' + {r}" + (f" + {clear}" if sign else ""), "left", -28 if ring else -16),
    ]
    if log:
        lines.append(("true", False, f"{unknown} ? '' : format(datum.rSquared, '.3f') + ' (linear x)'", "right", -4))
    if ring:
        without = f"{unknown} ? '' : 'without rings r = ' + {r} + ', n = ' + datum.keys[0]"
        lines.append((f"datum.{ring} != 1", log, without, "left", -16))
    layers = []
    for test, scaled, words, align, height in lines:
        rows = base if test == "true" else base.transform_filter(test)
        fitted = _scaled(rows, key, scaled).transform_joinaggregate(n="count()")
        fitted = fitted.transform_regression("scaled", target, groupby=["n"], params=True)
        fitted = fitted.transform_calculate(words=words)
        text = fitted.mark_text(align=align, baseline="bottom", fontSize=10, color=INK, clip=False)
        layers.append(
            text.encode(text=alt.Text("words:N"), x=alt.XValue(PANEL * (align == "right")), y=alt.YValue(height))
        )
    return layers


def _limit_rules(limits: pd.DataFrame, domain: list[float]) -> list[Any]:
    inside = limits[limits["value"].between(domain[0], domain[1])]
    if inside.empty:
        return []
    inside = inside.assign(words=inside["limit"] + ", width " + inside["width"].astype(str))
    rules = alt.Chart(slim(inside, ["value", "words"])).mark_rule(color=LIMIT, strokeDash=[2, 2], opacity=0.8)
    return [
        rules.encode(
            x=alt.X("value:Q"),
            tooltip=[alt.Tooltip("words:N", title="limit"), alt.Tooltip("value:Q", format=".5g")],
        )
    ]
