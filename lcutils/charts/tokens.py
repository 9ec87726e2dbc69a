"""Charts of the tokens of one model: how often each kind occurs, and the explorer of their geometry."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from lcutils import analysis
from lcutils.analysis import TOKEN_KINDS, Missing
from lcutils.charts.scatter import shown
from lcutils.charts.theme import (
    INK,
    OKABE_ITO,
    OUTLINE,
    ROWS,
    Figure,
    padded,
    sample_rows,
    sentence,
    slim,
    together,
    value_axis,
)

KIND_SCALE = alt.Scale(domain=list(TOKEN_KINDS), range=list(OKABE_ITO[: len(TOKEN_KINDS)]))
# What the explorer can put on its axes: column -> title, log axis.
TOKEN_COLUMNS = {
    "count": ("occurrences in the training text", True),
    "variance": ("within-class variance (squared feature units)", True),
    "norm": ("distance of the class mean to the global mean (feature units)", False),
    "cdnv": ("CDNV, averaged over the other classes", True),
    "interference": ("cosine with the other centred class means, averaged", False),
    "head_cosine": ("cosine of classifier row and centred class mean", False),
    "agreement": ("share of validation features where head and nearest mean agree", False),
}


def token_kinds(tokens: pd.DataFrame | None) -> Figure:
    """Return the frequency of every token by id, in four kinds, and each kind's shares of these tokens and the data."""
    name, title = "token_kinds", "Token frequencies by kind of token"
    if tokens is None or not {"token_id", "text", "count"} <= set(tokens.columns):
        return Figure(name, title, missing="No token table was given: the measure stage writes one a checkpoint.")
    shares = analysis.kind_shares(tokens)
    if isinstance(shares, Missing):
        return Figure(name, title, missing=shares.reason)
    kinds = analysis.with_kinds(tokens[tokens["count"] > 0])
    drawn, notice = sample_rows(kinds)
    picked = alt.selection_point(name="kind", fields=["kind"], bind="legend")
    dots = (
        alt.Chart(ROWS)
        .mark_circle(size=14)
        .encode(
            x=alt.X("token_id:Q", title="token id", scale=alt.Scale(nice=False)),
            y=alt.Y("count:Q", **value_axis(TOKEN_COLUMNS["count"][0], padded(drawn["count"], True), True)),
            color=alt.Color(
                "kind:N", title="kind (click to pick)", scale=KIND_SCALE, legend=alt.Legend(orient="bottom")
            ),
            opacity=alt.when(picked).then(alt.value(0.75)).otherwise(alt.value(0.05)),
            tooltip=["text:N", "token_id:Q", alt.Tooltip("count:Q", format=","), "kind:N"],
        )
        .add_params(picked)
        .properties(width=480, height=300, title="each token")
    )
    long = shares.melt(id_vars="kind", value_vars=["token_share", "data_share"], var_name="of", value_name="share")
    long["of"] = long["of"].map({"token_share": "tokens", "data_share": "data"})
    bars = alt.Chart(slim(long, ["kind", "of", "share"])).encode(
        x=alt.X("share:Q", title="share", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])),
        y=alt.Y("kind:N", title=None, sort=list(TOKEN_KINDS)),
        yOffset=alt.YOffset("of:N", sort=["tokens", "data"]),
        tooltip=["kind:N", "of:N", alt.Tooltip("share:Q", format=".2%")],
    )
    bar = bars.mark_bar().encode(
        color=alt.Color("kind:N", scale=KIND_SCALE),
        fillOpacity=alt.FillOpacity(
            "of:O", scale=alt.Scale(domain=["tokens", "data"], range=[0.45, 1]), title="share of"
        ),
    )
    words = (
        bars.transform_calculate(words="datum.of + ' ' + format(datum.share, '.1%')")
        .mark_text(align="left", dx=3, fontSize=10, color=INK)
        .encode(text="words:N")
    )
    right = alt.layer(bar, words).properties(width=230, height=300, title="shares of these tokens and of the data")
    caption = sentence(
        "Kinds: lowercase words; starts of words and proper nouns; punctuation; special (all others), after decoding "
        "and stripping. Shares are of the tokens that occur in the training text and were measured, not of the whole "
        "vocabulary.",
        notice,
    )
    data = slim(drawn, ["token_id", "text", "count", "kind"])
    return Figure(name, title, caption, alt.hconcat(dots, right, spacing=30), rows=data)


def token_explorer(tokens: pd.DataFrame | None, model: str = "") -> Figure:
    """Return the tokens of one model as points, frequency against geometry, with a search field and linked panels."""
    name, title = "token_explorer", "Token explorer" + (f", {model}" if model else "")
    if tokens is None or tokens.empty:
        return Figure(name, title, missing="No token table was given: the measure stage writes one a checkpoint.")
    pairs = [("count", "variance"), ("count", "cdnv"), ("interference", "cdnv"), ("count", "agreement")]
    pairs = [pair for pair in pairs if all(c in tokens.columns and _drawable(tokens, c).any() for c in pair)]
    if not pairs:
        return Figure(
            name,
            title,
            missing="The token table lacks the columns that are drawn (count, variance, cdnv, interference, "
            "agreement).",
        )
    if "nearest_ids" in tokens.columns:
        tokens = tokens.assign(nearest=analysis.nearest_texts(tokens))
    drawn, notice = sample_rows(tokens)
    # The search is for the text, blanks aside, and ignores case: " Tim" is found by "tim".
    drawn = drawn.assign(find=drawn["text"].str.strip().str.lower())
    search = alt.param(name="token", value="", bind=alt.binding(input="text", name="token ", placeholder="such as Tim"))
    picked = alt.selection_point(name="chosen", fields=["token_id"], clear="dblclick")
    found = "(token != '' && datum.find == lower(token))"
    data = slim(drawn, ["token_id", "text", "find", *TOKEN_COLUMNS, "nearest"])
    panels = [_tokens_panel(drawn, x, y, picked, found) for x, y in pairs]
    caption = sentence(
        "Each point is a token. Type one to mark it in every panel, or click a point; double-click to let go; hover "
        "for its measurements and nearest class means.",
        notice,
    )
    return Figure(name, title, caption, together(panels, 2, [search], spacing=30), rows=data)


def _drawable(tokens: pd.DataFrame, column: str) -> pd.Series:
    values = pd.to_numeric(tokens[column], errors="coerce")
    return np.isfinite(values) & ((values > 0) | (not TOKEN_COLUMNS[column][1]))


def _tokens_panel(tokens: pd.DataFrame, x: str, y: str, picked: Any, found: str) -> Any:
    kept = tokens[_drawable(tokens, x) & _drawable(tokens, y)]
    across, up = (
        value_axis(words, padded(kept[column], log), log, letters=52)
        for column in (x, y)
        for words, log in [TOKEN_COLUMNS[column]]
    )
    tips: list[Any] = ["text:N", *(alt.Tooltip(f"{c}:Q", format=".4g") for c in TOKEN_COLUMNS if c in kept.columns)]
    tips += ["nearest:N"] if "nearest" in kept.columns else []
    able = " && ".join(shown(column, TOKEN_COLUMNS[column][1]) for column in (x, y))
    base = (
        alt.Chart(ROWS)
        .transform_filter(able)
        .encode(x=alt.X(f"{x}:Q", **across), y=alt.Y(f"{y}:Q", **up), tooltip=tips)
    )
    cloud = (
        base.mark_circle(size=16, color=OKABE_ITO[0])
        .encode(opacity=alt.when(picked).then(alt.value(0.5)).otherwise(alt.value(0.08)))
        .add_params(picked)
    )
    marked = base.transform_filter(found).mark_circle(size=110, color=OKABE_ITO[5], stroke=OUTLINE, opacity=1)
    words = base.transform_filter(found).mark_text(dx=9, align="left", fontSize=12, color=INK).encode(text="text:N")
    return alt.layer(cloud, marked, words).properties(width=340, height=240)
