"""What a summary hides: other definitions of the same property, means next to 0, classes with one sample."""

from __future__ import annotations

import pandas as pd

from lcutils.analysis.directions import near_pole
from lcutils.analysis.rows import SETTING
from lcutils.collapse.catalogue import MEASUREMENTS

# The paper's measurement first, then what to read beside it.
ALTERNATIVES = {
    "NC1: a mean that few near pairs carry and the features' size moves; then what does without": (
        "nc1_cdnv", "nc1_cdnv_log", "nc1_cdnv_scaled", "nc1_cdnv_galanti", "nc1_pinv", "nc1_quotient",
        "nc1_quotient_corrected",
    ),
    "NC2: log norms, whose CoV depends on the unit; norms; without the noise of rare classes": (
        "nc2_log_norm_cov", "nc2_norm_cov", "nc2_norm_cov_corrected",
    ),
    "NC2: cosines, whose mean is next to 0; their spread": ("nc2_cosine_cov", "nc2_cosine_std"),
    "GNC2: the un-centred kernel, whose mean may cross 0; its spread; both centred": (
        "gnc2_log_uncentred_cov", "gnc2_log_uncentred_std", "gnc2_log_cov", "gnc2_log_std",
    ),
    "NC3: the mean cosine; without the noise of rare classes; the whole frame": (
        "nc3_cosine_mean", "nc3_cosine_mean_corrected", "nc3_duality_error",
    ),
}  # fmt: skip


def poles(results: pd.DataFrame) -> list[str]:
    """A sentence for each CoV of a mean that crosses 0 between the rows of a table."""
    said = []
    for key in MEASUREMENTS:
        base = key.removesuffix("_cov")
        columns = [key, f"{base}_mean", f"{base}_std"]
        if base == key or not set(columns) <= set(results.columns) or "crosses" not in near_pole(key, results[key]):
            continue
        cov, mean, std = (f"{results[column].min():.3g} to {results[column].max():.3g}" for column in columns)
        said.append(
            f"`{columns[1]}` crosses 0 between models ({mean}), so `{key}` runs from {cov} while the spread "
            f"`{columns[2]}` is {std}."
        )
    return [sentence.replace("(-", "(−").replace(" -", " −") for sentence in said]


def table_facts(results: pd.DataFrame) -> list[str]:
    """What a table is of, in sentences: points, sizes, classes, losses, and how many trainings end by overfitting."""
    said = []
    if {"model", "width", "depth"} <= set(results.columns):
        points = f"{len(results)} points of {results['model'].nunique()} runs"
        for column in ("width", "depth"):
            counted = ", ".join(f"{size}: {number}" for size, number in results.groupby(column).size().items())
            points += f"; by {column} {counted}"
        said.append(f"{points}.")
    if "n_classes" in results:
        single = ""
        if "singleton_classes" in results:
            share = (results["singleton_classes"] / results["n_classes"]).median()
            single = f", {100 * share:.1f} % of them with one sample"
        said.append(f"{results['n_classes'].median():,.0f} classes{single}.")
    if {*SETTING, "model", "seed", "checkpoint", "val_loss"} <= set(results.columns):
        known = results[results["val_loss"].notna()]
        ends = known[known["checkpoint"] == known["epochs"] - 1]
        losses = f"Validation loss {known['val_loss'].min():.3f} to {known['val_loss'].max():.3f} nats"
        later = _rises(known, ["model"], "checkpoint")
        if len(later):
            losses += f"; it rose between first and last checkpoint in {(later > 0).sum()} of {len(later)} trainings"
        longer = _rises(ends, ["depth", "width", "weight_decay", "seed"], "epochs")
        if len(longer):
            losses += f"; a model's longest training ended above its shortest in {(longer > 0).sum()} of {len(longer)}"
        said.append(f"{losses}.")
    return said


def _rises(known: pd.DataFrame, same: list[str], along: str) -> pd.Series:
    """By how much the loss rises from the first to the last `along`, of each group of `same` that has two."""
    groups = known.sort_values(along).groupby(same)
    several = groups[along].nunique() >= 2
    return (groups["val_loss"].last() - groups["val_loss"].first())[several]
