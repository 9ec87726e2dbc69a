"""Charts of notebooks 01 to 04: the text, one run's training, one checkpoint's statistics and measurements."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from lcutils.charts.theme import OKABE_ITO, Figure, padded, sample_rows, sentence, slim, value_axis
from lcutils.charts.tokens import SHOWN, VISIBLE
from lcutils.text import drawable

POINTS = 400  # of a curve that has one value per class
WIDE, TALL = 460, 260  # pixels


def token_frequencies(counts: np.ndarray) -> Figure:
    """How often each class occurs, by rank: the class imbalance of next-token prediction.

    `counts` (2, V) are the label counts of train and validation.
    """
    parts, splits = [], ["train", "validation"]
    for split, row in zip(splits, counts, strict=True):
        sizes = np.sort(row[row > 0])[::-1]  # (K,)
        ranks = np.unique(np.geomspace(1, len(sizes), POINTS).astype(int))
        parts.append(pd.DataFrame({"split": split, "rank": ranks, "count": sizes[ranks - 1]}))
    table = pd.concat(parts)
    chart = (
        alt.Chart(table)
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("rank:Q", **value_axis("rank of the token", padded(table["rank"], True), True)),
            y=alt.Y("count:Q", **value_axis("times it is the next token", padded(table["count"], True), True)),
            color=alt.Color("split:N", title=None, scale=alt.Scale(domain=splits, range=list(OKABE_ITO[:2]))),
            strokeDash=alt.StrokeDash("split:N", legend=None),
            tooltip=["split:N", alt.Tooltip("rank:Q", format=","), alt.Tooltip("count:Q", format=",")],
        )
        .properties(width=WIDE, height=TALL)
    )
    return Figure("token_frequencies", "Class sizes follow Zipf's law", "", chart)


def classes_by_count(counts: np.ndarray, min_count: int) -> Figure:
    """How many classes have at least n training samples; `min_count` marks those that a study keeps.

    `counts` (V,) are the label counts of train.
    """
    least = np.unique(np.geomspace(1, max(counts.max(), 2), 80).astype(int))
    table = pd.DataFrame({"n": least, "classes": [(counts >= n).sum() for n in least]})
    line = (
        alt.Chart(table)
        .mark_line(strokeWidth=2, color=OKABE_ITO[0])
        .encode(
            x=alt.X("n:Q", **value_axis("training samples n", padded(table["n"], True), True)),
            y=alt.Y("classes:Q", title="classes with at least n samples", axis=alt.Axis(format=",")),
            tooltip=[alt.Tooltip("n:Q", format=","), alt.Tooltip("classes:Q", format=",")],
        )
    )
    rule = alt.Chart(pd.DataFrame({"n": [min_count]})).mark_rule(strokeDash=[4, 3], color=OKABE_ITO[1]).encode(x="n:Q")
    chart = alt.layer(line, rule).properties(width=WIDE, height=TALL)
    signs = f"Dashed: min_count = {min_count}."
    return Figure("classes_by_count", "How many classes a minimum count keeps", signs, chart, signs=signs)


def training_curve(log: pd.DataFrame, checkpoints: list[dict[str, Any]], entropy: float) -> Figure:
    """Training loss by tokens seen, validation loss at the kept checkpoints, and the entropy to beat.

    Args:
        log: the training log with columns `step` and `loss`.
        checkpoints: records with `steps`, `val_loss` and `checkpoint`.
        entropy: unigram entropy of the validation text, in nats.
    """
    drawn, _ = sample_rows(log)
    x = alt.X("step:Q", title="optimizer steps", axis=alt.Axis(format="~s"))
    y = alt.Y("loss:Q", title="loss (nats per token)", scale=alt.Scale(zero=False))
    names = ["training batches", "validation, kept checkpoints", "unigram entropy"]
    colour = alt.Color("what:N", title=None, scale=alt.Scale(domain=names, range=list(OKABE_ITO[:3])))
    curve = alt.Chart(slim(drawn, ["step", "loss"]).assign(what=names[0])).mark_line(strokeWidth=1.2)
    points = pd.DataFrame(checkpoints).rename(columns={"steps": "step", "val_loss": "loss"}).assign(what=names[1])
    dots = alt.Chart(slim(points, ["step", "loss", "checkpoint", "what"])).mark_point(size=90, filled=True)
    rule = alt.Chart(pd.DataFrame({"loss": [entropy], "what": [names[2]]})).mark_rule(strokeDash=[5, 4])
    chart = alt.layer(
        curve.encode(x=x, y=y, color=colour),
        dots.encode(x=x, y=y, color=colour, tooltip=["checkpoint:N", alt.Tooltip("loss:Q", format=".4f")]),
        rule.encode(y=y, color=colour),
    ).properties(width=WIDE, height=TALL)
    caption = "A model that knew only word frequencies would reach the dashed line."
    return Figure("training_curve", "Loss while training", caption, chart)


def spread_by_count(counts: np.ndarray, variances: np.ndarray, texts: list[str]) -> Figure:
    """Within-class variance against class size: rare classes look collapsed because they have few samples.

    Args:
        counts: (K,) samples of each class.
        variances: (K,) mean squared distance to the class mean.
        texts: K token texts.
    """
    table = pd.DataFrame({"count": counts, "variance": variances, "text": [drawable(text) for text in texts]})
    name, title = "spread_by_count", "Within-class variance by class size"
    drawn, notice = sample_rows(table[table["count"] > 1])
    if drawn.empty:
        return Figure(name, title, missing="Every class has one sample, and so no variance.")
    chart = (
        alt.Chart(slim(drawn, ["count", "variance", "text"]))
        .transform_calculate(visible=VISIBLE)
        .mark_circle(size=16, opacity=0.5, color=OKABE_ITO[0])
        .encode(
            x=alt.X("count:Q", **value_axis("training samples of the class", padded(drawn["count"], True), True)),
            y=alt.Y("variance:Q", title="within-class variance (squared feature units)"),
            tooltip=[SHOWN, alt.Tooltip("count:Q", format=","), alt.Tooltip("variance:Q", format=".4g")],
        )
        .properties(width=WIDE, height=TALL)
    )
    caption = sentence("Classes with one sample have variance 0 and are not drawn.", notice)
    return Figure(name, title, caption, chart)


def agreement_by_count(counts: np.ndarray, hits: np.ndarray, totals: np.ndarray) -> Figure:
    """NC4 by class size: share of validation tokens where head and nearest class mean agree, in steps of ten.

    Args:
        counts: (K,) training samples of each class.
        hits: (K,) validation tokens of the class on which both agree.
        totals: (K,) validation tokens of the class that were counted.
    """
    table = pd.DataFrame({"power": np.floor(np.log10(np.maximum(counts, 1))), "hits": hits, "totals": totals})
    steps = table.groupby("power", as_index=False).sum()
    steps = steps[steps["totals"] > 0]
    steps["agreement"] = steps["hits"] / steps["totals"]
    steps["samples"] = [f"≥ {10 ** int(p):,}" for p in steps["power"]]
    chart = (
        alt.Chart(steps)
        .mark_bar(color=OKABE_ITO[2])
        .encode(
            x=alt.X(
                "samples:N",
                title="training samples of the class, in steps of ten",
                sort=None,
                axis=alt.Axis(labelAngle=0),
            ),
            y=alt.Y("agreement:Q", title="share of validation tokens", axis=alt.Axis(format="%")),
            tooltip=[
                "samples:N",
                alt.Tooltip("agreement:Q", format=".1%"),
                alt.Tooltip("totals:Q", format=",", title="tokens"),
            ],
        )
        .properties(width=WIDE, height=TALL)
    )
    return Figure("agreement_by_count", "Head and nearest class mean agree (NC4), by class size", "", chart)
