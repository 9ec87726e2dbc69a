"""Names beside the points of a panel, placed so that they cover neither one another nor leave the frame."""

from __future__ import annotations

import math
from typing import Any

import altair as alt
import pandas as pd

from lcutils.charts.theme import INK, OUTLINE, PANEL, slim

LETTER = 5.6  # pixels, of the average letter of a name
LINE = 12  # pixels from name to name
ASIDE = 7  # pixels from a point to its name
LOWEST = PANEL - LINE / 2  # pixels from the upper edge, of a name
NUDGED = 7  # pixels; a name moved farther than this has a line to its point


def placed_names(
    table: pd.DataFrame, columns: tuple[str, str], domains: tuple[list[float], list[float]], log: bool
) -> pd.DataFrame:
    """Return `table` (columns of x and y, and `name`) with the place of each name.

    Names stand right of their points, or left where they would leave the panel. They go down by the height of a line
    where they would cover one another, and up where they would leave it below.

    Args:
        table: one row per point.
        columns: of x and y.
        domains: of the axes; `log` says whether x is on a log scale.

    Returns:
        The table with `name_y` (in units of y) and `side` ("left" or "right", of the point), `moved` (whether the
        name is no longer beside its point).
    """
    (x, y), ((low, high), (bottom, top)) = columns, domains
    scale = math.log if log else float
    across = [(scale(v) - scale(low)) / (scale(high) - scale(low)) * PANEL for v in table[x].astype(float)]
    down = [(top - v) / (top - bottom) * PANEL for v in table[y].astype(float)]
    wide = [len(str(name)) * LETTER for name in table["name"]]
    sides = ["left" if a + ASIDE + w > PANEL and a > PANEL / 2 else "right" for a, w in zip(across, wide, strict=True)]
    spans = [(a + ASIDE, a + ASIDE + w) if side == "right" else (a - ASIDE - w, a - ASIDE)
             for a, w, side in zip(across, wide, sides, strict=True)]  # fmt: skip
    places = _apart(spans, down, LINE)
    if max(places, default=0.0) > LOWEST:  # back up from the lower edge
        places = _apart(spans, [min(place, LOWEST) for place in places], -LINE)
    return table.assign(
        name_y=[top - place / PANEL * (top - bottom) for place in places],
        side=sides,
        moved=[abs(place - at) > NUDGED for place, at in zip(places, down, strict=True)],
    )


def _apart(spans: list[tuple[float, float]], places: list[float], step: float) -> list[float]:
    """Return the heights of names which take the `spans` across, each moved by `step` from those that it would cover.

    Names that are moved down (a positive step) are taken from the top, those that are moved up from the bottom.
    """
    down, taken, moved = math.copysign(1.0, step), list[tuple[tuple[float, float], float]](), list(places)
    for i in sorted(range(len(places)), key=lambda i: down * places[i]):
        (left, right), place = spans[i], places[i]
        for (a, b), other in sorted(taken, key=lambda name: down * name[1]):
            if a < right and left < b and abs(other - place) < abs(step):
                place = other + step
        moved[i] = place
        taken.append((spans[i], place))
    return moved


def name_layers(
    table: pd.DataFrame, columns: tuple[str, str], domains: tuple[list[float], list[float]], log: bool, opacity: Any
) -> list[Any]:
    """Return the layers that write `name` beside each point, with a thin line to it where it had to move away.

    Channels are objects: for each that is a text, Altair would look through all its classes, a hundred times as long.
    """
    placed = placed_names(table, columns, domains, log)
    x, y = columns
    base = alt.Chart(slim(placed, [*placed.columns])).encode(x=alt.X(f"{x}:Q"), opacity=opacity)
    layers = []
    if placed["moved"].any():
        lines = base.transform_filter("datum.moved").mark_rule(color=OUTLINE, strokeWidth=0.7)
        layers.append(lines.encode(y=alt.Y(f"{y}:Q"), y2=alt.Y2("name_y:Q")))
    for side, aside in (("right", ASIDE), ("left", -ASIDE)):
        if (placed["side"] == side).any():
            words = base.transform_filter(alt.datum.side == side)
            style: dict[str, Any] = {"align": "left" if aside > 0 else "right", "dx": aside, "fontSize": 10}
            words = words.mark_text(color=INK, clip=False, **style)
            layers.append(words.encode(y=alt.Y("name_y:Q"), text=alt.Text("name:N")))
    return layers
