"""The paper's Figures 1, 2 and 3, each measurement against the loss, and the scatter of the seeds."""

from __future__ import annotations

import pandas as pd

from lcutils.analysis import FEW, MEASUREMENTS, Missing, few_models, measurements_in, seed_rows
from lcutils.analysis.directions import POLE_WORDS, near_pole
from lcutils.analysis.few import with_families
from lcutils.analysis.inference import FEWEST_ROWS
from lcutils.analysis.marked import INFLUENCE_WORDS
from lcutils.analysis.relations import TABLE_1
from lcutils.charts.axes import LOSS, usable
from lcutils.charts.encodings import Few, filters, identity, names_beside, say_hidden
from lcutils.charts.fit import ring_columns
from lcutils.charts.scatter import panel, signs_of
from lcutils.charts.theme import Figure, sentence, slim, together
from lcutils.charts.theory import LIMITS
from lcutils.text import one_line

# A scale-free NC1 beside the paper's, which falls when features merely grow; centred (October) beside un-centred (May)
# GNC2; CoV of norms beside CoV of log norms: they say different things.
FIGURE_1 = [
    "nc1_cdnv",
    "nc1_cdnv_galanti",
    "gnc2_log_uncentred_cov",
    "gnc2_log_cov",
    "unc3_cosine_cov",
    "nc4_agreement",
]
FIGURE_2 = [
    "nc2_norm_cov",
    "nc2_log_norm_cov",
    "nc2_cosine_cov",
    "nc2_cosine_std",
    "gnc2_log_uncentred_cov",
    "gnc2_log_cov",
]
FIGURE_3 = ["nc3_cosine_mean", "nc3_duality_error", "unc3_cosine_cov"]
POINTS = (
    "Each point is one model at one checkpoint; click one to see it in every panel, double-click to let go, hover for "
    "its name"
)
HOW_TO = (
    f"{POINTS}. The dashed line is least squares on the scale drawn. r with collapse means that better models are more "
    "collapsed, against that they are less so, unclear that chance alone gives such an r in 1 of 20 cases (t test)."
)
RINGS = f"A ring marks a point that the line leans on ({INFLUENCE_WORDS}): r without all of these is given too."
LINES = "A thin line leads from a name that had to make room to its point."
OTHER_TOKENS = "The loss is per character of text, because these models do not share a tokenizer."
THEORY = "Orange dashes mark limits of theory (hover for which) where they lie near the points."


def panels_figure(
    results: pd.DataFrame,
    keys: list[str],
    name: str,
    title: str,
    caption: str,
    riesz_s: float | None = None,
    few: Few | None = None,
) -> Figure:
    """Return a figure of panels, one for each of `keys` that `results` has, against the loss; linked and filtered.

    `few` says how panels of few models are drawn.
    """
    rows, numbered = with_families(results), ""
    if "model" not in results.columns:
        rows = results.assign(model=[f"row {i}" for i in range(len(results))])
        numbered = "The table names no models: rows are numbered."
    target = few.target if few else "val_loss"
    controls, test = filters(rows, bool(few.names if few else names_beside(rows)))
    rings = ring_columns(rows, [key for key in keys if key in rows], target if target in rows else "")
    if few and len(usable(rows, target)) < FEW:
        rings = rings.iloc[:, :0]
    rows = rows.join(rings)
    made = {key: panel(rows, key, test, riesz_s, few) for key in keys}
    lacking = [MEASUREMENTS[key].label for key, chart in made.items() if chart is None]
    charts = [chart for chart in made.values() if chart is not None]
    if target not in results.columns or results[target].isna().all():
        return Figure(name, title, missing=f"The table has no {LOSS} to set the measurements against.")
    if few and len(usable(rows, target)) < 2:
        return Figure(name, title, missing="One point has nothing to be set against.")
    if not charts:
        which = "The table has none of these measurements" + (" at two points" if few else "")
        return Figure(name, title, missing=f"{which}: {', '.join(lacking)}.")
    lack = f"Not in this table, so not drawn: {', '.join(lacking)}." if lacking else ""
    signs = signs_of(charts, bool(len(rings.columns)))
    charts[0] = say_hidden(charts[0], test)
    chart = together(charts, controls=controls)
    data = slim(rows, [*identity(rows), target, *keys, *rings.columns])
    if few:
        enough = max(len(usable(rows, key, target)) for key in keys) >= FEW
        reading = [HOW_TO if enough else POINTS + "."] + ([LINES] if few.names and len(rows) > 2 else [])
        reading += [f"No R² is given of fewer than {FEW} points."] if enough else []
        reading += [OTHER_TOKENS] if target != "val_loss" else []
    else:
        drawn = max(len(usable(rows, key, "val_loss")) for key in keys)
        points = "one point" if drawn == 1 else f"{drawn} points"
        reading = [HOW_TO, f"With {points}, no R² is given: it needs {FEWEST_ROWS}." if drawn < FEWEST_ROWS else ""]
    reading.insert(0, THEORY if LIMITS in signs else "")
    poles = [key for key in keys if made[key] is not None and near_pole(key, rows[key])]
    reading += [RINGS if len(rings.columns) else "", POLE_WORDS if poles else ""]
    return Figure(name, title, sentence(caption, *reading, lack, numbered), chart, rows=data, signs=signs)


def figure_1(results: pd.DataFrame) -> Figure:
    """Return Figure 1: NC1 (the paper's, and a scale-free one), GNC2 (un-centred and centred), UNC3 and NC4."""
    few = Few.of(results)
    colours = "model" if few and few.names else "the number of parameters"
    caption = (
        f"NC1, GNC2, UNC3 and NC4 against validation loss, coloured by {colours}. The paper's NC1 (4th power of the "
        "distance) also falls when features merely grow"
    )
    both = all(key in measurements_in(results) for key in FIGURE_1[:2])
    caption += "; the one beside it (square) does not." if both else "."
    title = "Figure 1. Neural collapse against validation loss"
    return panels_figure(results, FIGURE_1, "figure_1", title, caption, few=few)


def figure_2(results: pd.DataFrame) -> Figure:
    """Return Figure 2: equinormness, equiangularity and hyperspherical uniformity against validation loss."""
    caption = (
        "Equal norms (CoV of the norms and of their logs: they are different measurements), equal angles (CoV and "
        "standard deviation of the cosines) and uniform spread (GNC2) of the class means against validation loss."
    )
    title = "Figure 2. Geometry of the class means against validation loss"
    return panels_figure(results, FIGURE_2, "figure_2", title, caption, few=Few.of(results))


def figure_3(results: pd.DataFrame) -> Figure:
    """Return Figure 3: self-duality (NC3) and its uniform form (UNC3) against validation loss."""
    caption = "Alignment of classifier rows with class means (NC3) and its evenness (UNC3) against validation loss."
    title = "Figure 3. Duality of classifier and class means"
    return panels_figure(results, FIGURE_3, "figure_3", title, caption, few=Few.of(results))


def against_loss(results: pd.DataFrame, riesz_s: float | None = None) -> Figure:
    """Return every measurement of `results` against validation loss; `riesz_s` as measured, for its limits."""
    title = "Every measurement against validation loss"
    keys = measurements_in(results)
    if not keys:
        return Figure("against_loss", title, missing="The table has no measurement with a number in it.")
    return panels_figure(results, keys, "against_loss", title, "", riesz_s, Few.of(results))


def seeds_scatter(results: pd.DataFrame) -> Figure:
    """Return the measurements of Table 1 against validation loss for models that differ in their seed alone."""
    title = "Models that differ in their seed alone"
    rows = seed_rows(results)
    if isinstance(rows, Missing):
        return Figure("seeds", title, missing=rows.reason)
    if few_models(results) and len(rows) < FEW:
        return Figure("seeds", title, missing=f"A relation over seeds needs {FEW} of them; there are {len(rows)}.")
    keys = [key for key in TABLE_1.values() if key in measurements_in(rows)]
    if not keys:
        return Figure(
            "seeds", title, missing="The models that differ in their seed alone have none of Table 1's measurements."
        )
    first = rows.iloc[0]
    caption = (
        f"{len(rows)} seeds of one architecture and recipe (such as "
        f"{one_line(str(first['model']), 120)}@{first['checkpoint']}); the measurements of Table 1."
    )
    return panels_figure(rows, keys, "seeds", title, caption)
