"""Panels of one measurement against the loss: points, the line through them and the limits of theory."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from lcutils.analysis import FEW, MEASUREMENTS
from lcutils.analysis.directions import sign_with_collapse
from lcutils.analysis.inference import FEWEST_ROWS
from lcutils.charts.axes import LOSSES, arrow, framed, shown_rows, usable
from lcutils.charts.encodings import (
    EDGE,
    FAINT_UNLESS_PICKED,
    SELECTED,
    Few,
    families_shape,
    names_beside,
    size_colour,
    tooltip,
)
from lcutils.charts.fit import RING, RINGED, fit_line, fit_words
from lcutils.charts.names import name_layers
from lcutils.charts.theme import padded, value_axis
from lcutils.charts.theory import LIMIT, LIMITS, limit_rules, theory_lines


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
        layers.insert(0, fit_line(base, key, target, log, x, y))
    if not few or len(drawn) >= fewest:
        sign = sign_with_collapse(key, drawn[key], target)
        ring = RING.format(key) if RING.format(key) in rows else ""
        layers += fit_words(base, key, target, log, fewest, sign, ring)
        if ring:
            rings = base.transform_filter(f"datum.{ring} == 1").mark_point(**RINGED)
            layers.append(rings.encode(x=x, y=y, opacity=FAINT_UNLESS_PICKED))
    layers += limit_rules(limits, domains[0])
    if names := few.names if few else names_beside(rows):
        called = drawn[["model", key, target]].assign(name=[names[index] for index in drawn.index])
        layers += name_layers(called, (key, target), domains, log, FAINT_UNLESS_PICKED)
    return framed(alt.layer(*layers), key, drawn[key])


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
