"""How a model at a checkpoint is shown in every figure: colour, shape, name, what hovering says, what a reader picks.

All panels of a figure share one selection (click a model to see it everywhere) and one set of filters.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import altair as alt
import pandas as pd

from lcutils.analysis import comparable_loss, few_models
from lcutils.analysis.few import point_names, short_names
from lcutils.charts.theme import INK, OKABE_ITO, OUTLINE, PANEL, ROWS, VIRIDIS, log_ticks

IDENTITY = ["model", "checkpoint", "depth", "width", "epochs", "weight_decay", "seed", "n_params", "steps"]
OF_PRETRAINED = ["family", "revision", "tokens_seen"]  # more of a point's identity, where a table has families
FILTERS = {"family": "family", "depth": "depth", "width": "width", "epochs": "epochs", "weight_decay": "decay"}
NAMED_POINTS = 12  # the most that bear their names
NAME_LIMIT = 20  # characters of a name beside a point: half a panel
LEGEND_LIMIT = 330  # pixels of a name in a legend
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
MODEL_COLOURS = (*OKABE_ITO[:6], OKABE_ITO[7])  # without the yellow, which is lost on white
EDGE: dict[str, Any] = {"stroke": OUTLINE, "strokeWidth": 0.6}  # of a point
SELECTED = alt.selection_point(name="picked", fields=["model"], clear="dblclick")
FAINT_UNLESS_PICKED = alt.OpacityValue(**alt.when(SELECTED).then(alt.value(0.9)).otherwise(alt.value(0.12)))


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
