"""The picture of a lesson: a synthetic case as points in a plane, and a measurement along one of its numbers."""

from __future__ import annotations

import math
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from lcutils.analysis import MEASUREMENTS, limits_at
from lcutils.charts.axes import arrow
from lcutils.charts.encodings import MODEL_COLOURS
from lcutils.charts.theme import INK, OKABE_ITO, OUTLINE, Figure, padded, sentence, slim, value_axis

LIMITS = {"collapse": [2, 2], "uniform sphere": [6, 3]}  # dashes of each
LIMIT_COLOUR = "#D55E00"
SIDE = 185  # pixels, of either picture: a lesson takes half a screen


def lesson_picture(
    key: str, points: pd.DataFrame, classes: pd.DataFrame, curve: pd.DataFrame, varied: str, now: float, riesz_s: float
) -> Figure:
    """Return the picture of one measurement of a synthetic case.

    Args:
        key: the measurement.
        points: features of the case: columns `x, y` and `class`.
        classes: its classes: `class`, means `x, y`, and the ends `head_x, head_y` of the head's rows drawn from the
            common centre `from_x, from_y`.
        curve: the measurement along the number that is varied: columns named by `varied` and `key`.
        varied: the number's name; `now` its value in the case.
        riesz_s: exponent of the Riesz kernel.
    """
    value = float(curve.loc[curve[varied] == now, key].iloc[0])
    name, title = f"lesson_{key}", f"{key} = {value:.3g} at {varied} = {now:g}".replace("= -", "= −")
    left = _plane(points, classes)
    known = curve[[math.isfinite(value) for value in curve[key]]]
    if known.empty:
        return Figure(name, title, missing=f"{key} is not defined for such classes.")
    right, limits = _along(key, known, varied, now, len(classes), riesz_s)
    caption = sentence(
        "Left: features (points), class means (crosses) and rows of the head (lines from the centre). Right: the "
        f"measurement as {varied} varies, a ring at the case on the left.",
        f"Orange dashes: {' and '.join(limits)}." if limits else "",
    )
    return Figure(name, title, caption, alt.hconcat(left, right, spacing=40))


def _plane(points: pd.DataFrame, classes: pd.DataFrame) -> Any:
    parts = (points[["x", "y"]], classes[["head_x", "head_y"]])
    reach = 1.08 * max(float(np.abs(part.to_numpy()).max()) for part in parts)
    kinds = classes["class"].tolist()
    colours = [MODEL_COLOURS[i % len(MODEL_COLOURS)] for i in range(len(kinds))]
    colour = alt.Color("class:N", legend=None, scale=alt.Scale(domain=kinds, range=colours))
    axes = {
        channel: kind(f"{channel}:Q", title=None, axis=alt.Axis(tickCount=5, labelOverlap="greedy", labelSeparation=4),
                      scale=alt.Scale(domain=[-reach, reach], nice=False))
        for channel, kind in (("x", alt.X), ("y", alt.Y))
    }  # fmt: skip
    dots = alt.Chart(slim(points, ["x", "y", "class"], 4)).mark_circle(size=12, opacity=0.45)
    base = alt.Chart(slim(classes, [*classes.columns], 4))
    rows = base.mark_rule(strokeWidth=1.6, opacity=0.8)
    rows = rows.encode(x="from_x:Q", y="from_y:Q", x2="head_x:Q", y2="head_y:Q", color=colour)
    crosses = base.mark_point(shape="cross", size=110, filled=True, opacity=1, stroke=INK, strokeWidth=0.7)
    layers = [dots.encode(color=colour, **axes), rows, crosses.encode(color=colour, tooltip=["class:N"], **axes)]
    return alt.layer(*layers).properties(width=SIDE, height=SIDE)


def _along(
    key: str, curve: pd.DataFrame, varied: str, now: float, classes: int, riesz_s: float
) -> tuple[Any, list[str]]:
    """Return the panel of the measurement along the varied number, and the names of the limits that it shows."""
    log = MEASUREMENTS[key].log and bool((curve[key] > 0).all())
    limits = limits_at(2, classes, riesz_s=riesz_s).query("measurement == @key")
    limits = limits[np.isfinite(limits["value"]) & ((limits["value"] > 0) | (not log))]
    domain = padded(curve[key], log, limits["value"].tolist())
    limits = limits[limits["value"].between(*domain)]
    y = alt.Y(f"{key}:Q", **value_axis(key, domain, log, arrow=arrow(key, curve[key])))
    x = alt.X(f"{varied}:Q", title=varied, scale=alt.Scale(nice=False, padding=6), axis=alt.Axis(tickCount=5))
    base = alt.Chart(slim(curve, [varied, key], 5))
    line = base.mark_line(strokeWidth=2, color=OKABE_ITO[0], clip=True).encode(x=x, y=y)
    tips = [alt.Tooltip(f"{column}:Q", format=".4g") for column in (varied, key)]
    dots = base.mark_circle(size=22, color=OKABE_ITO[0]).encode(x=x, y=y, tooltip=tips)
    layers = [line, dots]
    here = curve[curve[varied] == now]
    ring = alt.Chart(slim(here, [varied, key], 5)).mark_point(size=170, color=INK, strokeWidth=1.6)
    layers.append(ring.encode(x=x, y=y))
    for limit, value in limits[["limit", "value"]].itertuples(index=False):
        rule = alt.Chart(pd.DataFrame({key: [value]})).mark_rule(color=LIMIT_COLOUR, strokeDash=LIMITS[limit])
        layers.append(rule.encode(y=y))
    zero = alt.Chart(pd.DataFrame({key: [0.0]})).mark_rule(color=OUTLINE, strokeWidth=0.6)
    if not log and domain[0] < 0 < domain[1]:
        layers.insert(0, zero.encode(y=y))
    names = [f"{limit} at {value:.3g}".replace("-", "−") for limit, value in limits[["limit", "value"]].to_numpy()]
    return alt.layer(*layers).properties(width=SIDE, height=SIDE), names
