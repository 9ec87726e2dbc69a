"""Chart of the tokens that fine-tuning moved most."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from lcutils.analysis import Missing
from lcutils.analysis.fine_tuned import OFTEN
from lcutils.charts import theme
from lcutils.charts.theme import Figure
from lcutils.charts.tokens import SHOWN, VISIBLE, visible_limit
from lcutils.text import one_line

SIGNS = "Blue: nearer to collapse than in the base, beyond what moves all tokens alike; orange: farther. ␣ is a space."
MOST_PAIRS = 6  # of base and fine-tuned model whose tokens are drawn


def moved_tokens(moved: pd.DataFrame | Missing) -> Figure:
    """Return what `analysis.moved_tokens` gives as bars: by which factor the CDNV of each token changed."""
    name, title = "moved_tokens", "Tokens that fine-tuning moved most"
    if isinstance(moved, Missing):
        return Figure(name, title, missing=moved.reason)
    pairs = list(moved.groupby(["model", "checkpoint", "base"], sort=False))
    reach = float(np.exp(np.abs(np.log(moved["factor"])).max())) * 1.05
    charts = []
    for (model, checkpoint, base), rows in pairs[:MOST_PAIRS]:
        # The same text may stand for several ids: each line is a token of its own.
        rows = rows.assign(place=range(len(rows)), falls=rows["factor"] < 1)
        data = theme.slim(rows, ["place", "text", "token_id", "count", "factor", "base_cdnv", "cdnv", "falls"])
        tips: list[Any] = [
            SHOWN,
            "token_id:Q",
            *(alt.Tooltip(f"{c}:Q", format=".4~g") for c in ("count", "base_cdnv", "cdnv")),
        ]
        lines = (
            alt.Chart(data)
            .transform_calculate(visible=VISIBLE, one="1")
            .encode(
                y=alt.Y("place:O", axis=None),
                tooltip=[*tips, alt.Tooltip("factor:Q", format=".4~g")],
            )
        )
        x = alt.X(
            "factor:Q",
            title=[
                "CDNV over the base's, divided by the median over tokens",
                "(log scale; below 1: nearer to collapse)",
            ],
            scale=alt.Scale(type="log", domain=[1 / reach, reach], nice=False),
            axis=alt.Axis(labelOverlap="greedy", tickCount=6, format="~r"),
        )
        fall = alt.Color(
            "falls:N",
            legend=None,
            scale=alt.Scale(domain=[True, False], range=[theme.OKABE_ITO[0], theme.OKABE_ITO[5]]),
        )
        bars = lines.mark_bar(height=11).encode(x=x, x2=alt.X2Datum(1), color=fall)
        words = lines.mark_text(align="right", fontSize=11, color=theme.INK, limit=visible_limit(150)).encode(
            x=alt.value(-8), text="visible:N"
        )
        heading = theme.panel_title(f"{one_line(model, 60)}@{checkpoint} beside {one_line(base, 60)}", 48)
        charts.append(alt.layer(bars, words).properties(width=300, height=alt.Step(16), title=heading))
    rest = f"Drawn: the first {MOST_PAIRS} of {len(pairs)} pairs." if len(pairs) > MOST_PAIRS else ""
    caption = theme.sentence(
        "CDNV of each token, averaged over the other classes: the fine-tuned model's over its base's, divided by the "
        "median of that ratio over all tokens, which takes out what moves all tokens alike (such as features that "
        "grow). Of the tokens with "
        f"{OFTEN} samples or more in both, those whose factor is farthest from 1.",
        rest,
    )
    return Figure(name, title, caption, theme.together(charts, 2, spacing=190), signs=SIGNS)
