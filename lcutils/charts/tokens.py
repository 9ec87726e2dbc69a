"""Charts of the tokens of one model: how often each kind occurs, and the explorer of their geometry."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from lcutils import analysis
from lcutils.analysis import TOKEN_KINDS, Missing
from lcutils.charts import theme
from lcutils.charts.theme import Figure
from lcutils.text import one_line

KIND_SCALE = alt.Scale(domain=list(TOKEN_KINDS), range=list(theme.OKABE_ITO[: len(TOKEN_KINDS)]))
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
NO_TOKENS = "No token table was given: the measure stage writes one per checkpoint."
WIDE = 720  # pixels, of the explorer
LISTED = 20  # tokens that the explorer lists of those found
NAMED = 400  # pixels that the name of the chosen token may take
# Vega cuts a text that is too wide, and may cut an emoji (two units of JavaScript's text) in half, of which vl-convert
# dies. Texts with such characters are cut in `VISIBLE`, by whole characters, and have no limit in pixels.
PAIRS = r"test(/[\ud800-\udfff]/, datum.{})"


def _visible() -> str:
    """Return the Vega expression of a token's text as it is drawn."""
    text = "'' + datum.text"
    # A space is invisible at the start of a token, and a token of blanks alone would be invisible.
    for space, sign in ((" ", "␣"), (r"\n", "⏎"), (r"\r", "␍"), (r"\t", "⇥")):
        text = f"replace({text}, /{space}/g, '{sign}')"
    text = f"""datum.text == '' ? '""' : {text}"""
    # Accents: without a letter they get a circle to stand on, and a tower of them would cover the lines above.
    text = rf"replace(replace({text}, /^\p{{M}}/u, '◌$&'), /(\p{{M}}{{4}})\p{{M}}+/gu, '$1…')"
    return rf"replace({text}, {PAIRS.format('text')} ? /^(.{{6}}).+/u : /^(.{{200}}).+/u, '$1…')"


VISIBLE = _visible()
SHOWN = alt.Tooltip("visible:N", title="token")  # of a chart that calculates `visible`: " Tim" is not "Tim"


def token_kinds(tokens: pd.DataFrame | None, text: str = "training text") -> Figure:
    """Return the frequency of every token by id, in four kinds, and each kind's shares of these tokens and the data.

    `text` is what the text of the counts is called: pretrained models were not trained on it.
    """
    name, title = "token_kinds", "Token frequencies by kind of token"
    if tokens is None or not {"token_id", "text", "count"} <= set(tokens.columns):
        return Figure(name, title, missing=NO_TOKENS)
    shares = analysis.kind_shares(tokens)
    if isinstance(shares, Missing):
        return Figure(name, title, missing=shares.reason)
    kinds = analysis.with_kinds(tokens[tokens["count"] > 0])
    drawn, notice = theme.sample_rows(kinds)
    picked = alt.selection_point(name="kind", fields=["kind"], bind="legend")
    dots = (
        alt.Chart(theme.ROWS)
        .transform_calculate(visible=VISIBLE)
        .mark_circle(size=14)
        .encode(
            x=alt.X("token_id:Q", title="token id", scale=alt.Scale(nice=False)),
            y=alt.Y(
                "count:Q", **theme.value_axis(f"occurrences in the {text}", theme.padded(drawn["count"], True), True)
            ),
            color=alt.Color(
                "kind:N", title="kind (click to pick)", scale=KIND_SCALE, legend=alt.Legend(orient="bottom")
            ),
            opacity=alt.when(picked).then(alt.value(0.75)).otherwise(alt.value(0.05)),
            tooltip=[SHOWN, "token_id:Q", alt.Tooltip("count:Q", format=","), "kind:N"],
        )
        .add_params(picked)
        .properties(width=356, height=300, title="each token")
    )
    long = shares.melt(id_vars="kind", value_vars=["token_share", "data_share"], var_name="of", value_name="share")
    long["of"] = long["of"].map({"token_share": "tokens", "data_share": "data"})
    bars = alt.Chart(theme.slim(long, ["kind", "of", "share"])).encode(
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
        .mark_text(align="left", dx=3, fontSize=10, color=theme.INK)
        .encode(text="words:N")
    )
    right = alt.layer(bar, words).properties(width=160, height=300, title="shares of these tokens and of the data")
    caption = theme.sentence(
        "Kinds: lowercase words; starts of words and proper nouns; punctuation; special (all others), after decoding "
        f"and stripping. Shares are of the tokens that occur in the {text} and were measured, not of the whole "
        "vocabulary. Hover for a token: ␣ is a space.",
        notice,
    )
    data = theme.slim(drawn, ["token_id", "text", "count", "kind"])
    return Figure(name, title, caption, alt.hconcat(dots, right, spacing=30), rows=data)


def token_explorer(tokens: pd.DataFrame | None, model: str = "", text: str = "training text") -> Figure:
    """Return the tokens of one model as points and as lists: search for one, choose the axes, go to its nearest means.

    All of it is one Vega-Lite specification, so that a notebook and the report show the same. Its parameters are
    `across` and `up` (columns on the axes), `token` (the text to search for) and `chosen` (the token clicked).

    Args:
        tokens: per-token table of the measure stage; None gives a figure that says so.
        model: what the title names.
        text: what the text of the counts is called, as in `token_kinds`.
    """
    name, title = "token_explorer", "Token explorer" + (f", {one_line(model, 120)}" if model else "")
    if tokens is None or tokens.empty:
        return Figure(name, title, missing=NO_TOKENS)
    axes = [c for c in TOKEN_COLUMNS if c in tokens.columns and _drawable(tokens, c).any()]
    if not {"token_id", "text", "count"} <= set(tokens.columns) or len(axes) < 2:
        return Figure(
            name, title, missing=f"The token table lacks the columns that are drawn ({', '.join(TOKEN_COLUMNS)})."
        )
    drawn, notice = theme.sample_rows(tokens)
    ids = tokens["nearest_ids"] if "nearest_ids" in tokens.columns else [()] * len(tokens)
    rows = tokens.assign(
        drawn=tokens["token_id"].isin(drawn["token_id"]).astype(int),
        nearest=[" ".join(map(str, nearest)) for nearest in ids],
    )
    listed = [c for c in ("token_id", *axes, "total") if c in tokens.columns]
    data = theme.slim(rows, ["token_id", "text", "drawn", *listed, "nearest"], digits=5)
    caption = theme.sentence(
        "Each point is a token. Type a part of one to find it; click a point or a line of the lists to choose its "
        "token, double-click to let go. Without a choice the first token found is shown. In the lists "
        "␣ is a space, and total counts the validation features with this label.",
        notice,
    )
    return Figure(name, title, caption, _explorer(tuple(axes), tuple(listed), text), rows=data)


@cache
def _explorer(axes: tuple[str, ...], listed: tuple[str, ...], text: str) -> Any:
    """Return the explorer over `ROWS`, whatever the rows: a report has one for each of many models."""
    words = [_axis_words(column, text) for column in axes]
    up = "cdnv" if "cdnv" in axes else axes[-1]
    controls = [
        alt.param(name=param, value=first, bind=alt.binding_select(options=[*axes], labels=words, name=f"{param} "))
        for param, first in (("across", axes[0]), ("up", up))
    ]
    box = alt.binding(input="text", name="token ", placeholder="such as Tim", debounce=100)
    search = alt.param(name="token", value="", bind=box)
    # Typing lets go of the token that was clicked, so that the first one found is chosen instead.
    typed = "window:input[event.target.type == 'text' || event.target.type == 'search']"
    clicked = alt.selection_point(name="chosen", fields=["token_id"], toggle=False, clear=f"dblclick, {typed}")

    ranked = _ranked()
    chosen = ranked.transform_filter(
        "length(data('chosen_store')) ? datum.token_id == data('chosen_store')[0].values[0]"
        " : datum.match < 3 && datum.place == 1"
    )
    around = (
        chosen.transform_calculate(token_id="split(datum.token_id + ' ' + datum.nearest, ' ')")
        .transform_flatten(["token_id"])
        .transform_filter("datum.token_id != ''")
        .transform_window(place="row_number()")
        .transform_lookup("token_id", alt.LookupData(theme.ROWS, "token_id", ["text", *listed[1:]]))
        .transform_calculate(visible=f"isValid(datum.text) ? {VISIBLE} : 'id ' + datum.token_id")
    )
    found = ranked.transform_filter(f"datum.match < 3 && datum.place <= {LISTED}")
    panels = [
        _cloud(ranked, chosen, [*listed], clicked, {column: _axis_words(column, text) for column in TOKEN_COLUMNS}),
        _token_list(around, [*listed], clicked, "The chosen token (first) and its nearest class means"),
        _token_list(
            found,
            [*listed],
            clicked,
            f"The first {LISTED} tokens found: the same text, then what starts with it, then the rest",
        ),
    ]
    return theme.together(panels, 1, [search, *controls], spacing=24)


def _drawable(tokens: pd.DataFrame, column: str) -> pd.Series:
    values = pd.to_numeric(tokens[column], errors="coerce")
    return np.isfinite(values) & ((values > 0) | (not TOKEN_COLUMNS[column][1]))


def _axis_words(column: str, text: str) -> str:
    words, log = TOKEN_COLUMNS[column]
    return words.replace("training text", text) + (", log scale" if log else "")


def _is_log(param: str) -> str:
    """Return the Vega expression that is true if the column that `param` names is drawn on a log axis."""
    return f"indexof({json.dumps([column for column, (_, log) in TOKEN_COLUMNS.items() if log])}, {param}) >= 0"


def _ranked() -> Any:
    """Return all tokens with their place on the axes and in the search: the same text first, then by frequency."""
    # The scale of an axis cannot change its type, so values of log axes are taken as powers of ten.
    place = "{log} ? (toNumber(datum[{param}]) > 0 ? log(datum[{param}]) / LN10 : null) : toNumber(datum[{param}])"
    x, y = (place.format(log=_is_log(param), param=param) for param in ("across", "up"))
    text, wanted = "lower(trim('' + datum.text))", "lower(trim(token))"
    at = f"indexof({text}, {wanted})"
    return (
        alt.Chart(theme.ROWS)
        .transform_calculate(x=x, y=y, visible=VISIBLE, often="toNumber(datum.count)")
        .transform_calculate(
            match=f"{wanted} == '' ? 2 : {text} == {wanted} ? 0 : {at} == 0 ? 1 : {at} > 0 ? 2 : 3",
            able="datum.drawn == 1 && isValid(datum.x) && isValid(datum.y) ? 1 : 0",
        )
        .transform_window(
            place="row_number()", sort=[alt.SortField("match"), alt.SortField("often", order="descending")]
        )
    )


def visible_limit(pixels: int) -> Any:
    """Return the width that a visible token may take; none where `VISIBLE` has cut it."""
    return alt.expr(f"{PAIRS.format('visible')} ? 0 : {pixels}")


def _cloud(ranked: Any, chosen: Any, columns: list[str], clicked: Any, titles: dict[str, str]) -> Any:
    """Return the tokens as points over the chosen axes (`titles` by column), the chosen one marked and named."""

    def axis(param: str) -> dict[str, Any]:
        power = "pow(10, datum.value)"
        label = f"{_is_log(param)} ? format({power}, {power} < 10000 ? '.2~r' : '.2~s') : datum.label"
        ticks = alt.Axis(tickCount=6, labelExpr=label, labelOverlap="greedy")
        return {"title": None, "axis": ticks, "scale": alt.Scale(zero=False, padding=8)}

    high = 300
    x, y = alt.X("x:Q", **axis("across")), alt.Y("y:Q", **axis("up"))
    tips: list[Any] = [SHOWN, *(alt.Tooltip(f"{column}:Q", format=".4~g") for column in columns)]
    dots = (
        ranked.transform_filter("datum.able == 1")
        .mark_circle(size=16, color=theme.OKABE_ITO[4], opacity=0.5)
        .encode(x=x, y=y, tooltip=tips)
        .add_params(clicked)
    )
    marked = chosen.transform_filter("isValid(datum.x) && isValid(datum.y)").encode(x=x, y=y)
    ring = marked.mark_circle(size=130, color=theme.OKABE_ITO[5], stroke=theme.OUTLINE, opacity=1).encode(tooltip=tips)
    name = marked.mark_text(dx=9, align="left", fontSize=13, color=theme.INK, limit=visible_limit(NAMED)).encode(
        text="visible:N"
    )
    counted = (
        ranked.transform_calculate(hit="datum.match < 3 ? 1 : 0")
        .transform_aggregate(drawn="sum(able)", hits="sum(hit)", all="count()")
        .transform_calculate(
            across=f"{json.dumps(titles)}[across]",
            up=f"'↑ ' + {json.dumps(titles)}[up]",
            counts="'of ' + format(datum.all, ',') + ' tokens, drawn: ' + format(datum.drawn, ',')"
            " + ', found: ' + format(datum.hits, ',')",
        )
    )
    said = [
        counted.mark_text(align=align, fontSize=11, color=theme.INK).encode(
            text=f"{words}:N", x=alt.value(across), y=alt.value(down)
        )
        for words, align, across, down in (
            ("across", "center", WIDE / 2, high + 30), ("up", "left", 0, -9), ("counts", "right", WIDE, -9),
        )
    ]  # fmt: skip
    return alt.layer(dots, ring, name, *said).properties(width=WIDE, height=high)


def _token_list(tokens: Any, columns: list[str], clicked: Any, title: str) -> Any:
    """Return tokens as the lines of a table, in the order of their `place`: a click on one chooses it."""
    y = alt.Y("place:O", axis=None)
    line = (
        tokens.mark_rect(color=theme.OKABE_ITO[1])
        .encode(
            y=y,
            x=alt.value(0),
            x2=alt.value(WIDE),
            opacity=alt.when(clicked, empty=False).then(alt.value(0.35)).otherwise(alt.value(0.07)),
        )
        .add_params(clicked)
    )
    text = tokens.mark_text(align="left", color=theme.INK, limit=visible_limit(95)).encode(
        y=y, x=alt.value(6), text="visible:N"
    )
    number = "toNumber(datum.number)"
    words = f"{number} == round({number}) ? format({number}, ',') : format({number}, '.4~g')"
    x = alt.X(
        "column:N",
        title=None,
        sort=columns,
        scale=alt.Scale(range=[100, WIDE]),
        axis=alt.Axis(
            orient="top", labelAngle=0, labelFontSize=10, labelExpr="replace(datum.label, '_', ' ')", ticks=False
        ),
    )
    numbers = (
        tokens.transform_fold(columns, ["column", "number"])
        .transform_calculate(words=f"isValid({number}) ? {words} : ''")
        .mark_text(color=theme.INK)
        .encode(y=y, x=x, text="words:N")
    )
    return alt.layer(line, text, numbers).properties(
        width=WIDE, height=alt.Step(17), title=theme.panel_title(title, 90)
    )
