"""How the report shows each table: its caption, and the columns that a page is wide enough for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

from lcutils.analysis.corrected import CORRECTED
from lcutils.analysis.marked import INFLUENCE_WORDS
from lcutils.analysis.rows import ERROR
from lcutils.collapse.catalogue import COUNTS

_COLLAPSE = (
    "collapse: whether better models are more collapsed (with), less so (against), or neither is clear (t test, p of "
    "0.05 or more)."
)
_CARRIED = (
    f"influential counts the rows that the line leans on ({INFLUENCE_WORDS}); r_without is r without all of them; "
    "…_log is the same on a log scale."
)
_CORRELATIONS = (
    "property", "label", "n", "r", "r2", "collapse", "r2_low", "r2_high", "r_log", "r2_log", "collapse_log", "p",
    "p_smallest", "p_holm", "spearman", "influential", "r_without", "influential_log", "r_log_without",
    "reliability", "r_corrected", "above_1", "note",
)  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """How the report shows a table: its caption, the columns that a page is wide enough for, and how many rows."""

    caption: str = ""
    columns: tuple[str, ...] = ()  # all of them if empty; the CSV always has all
    most: int = 400


TABLES = {
    "table_1": Shown(
        "Table 1. R² of each measurement with validation loss over models that differ in their seed alone; p by "
        "permutation (two-sided), with its Monte-Carlo interval and Holm's correction; p_smallest: the least p that so "
        f"few models and orders can give; paper: whether the row is one of the paper's. {_COLLAPSE}",
        ("row", "label", "paper", "n", "r", "r2", "collapse", "p", "p_low", "p_high", "p_smallest", "p_holm", "note"),
    ),
    "table_2": Shown("Table 2. Configuration: the paper's, and this study's."),
    "table_3": Shown("Table 3. The paper's batch sizes (sequences per batch), by depth (rows) and width (columns)."),
    "table_5": Shown(
        "Table 5. First names beside the average token: CDNV and interference, each averaged over the other classes."
    ),
    "correlations": Shown(
        "Every measurement against validation loss, over all rows: on its own scale and (…_log) on a log scale; "
        "permutation p (p_smallest is the least that the test can find), Holm, Spearman, bootstrap intervals. "
        f"{_COLLAPSE} {_CARRIED}",
        _CORRELATIONS,
    ),
    "partial_correlations": Shown(
        f"Partial correlations with validation loss, given one control, or all of them. {_COLLAPSE}",
        (
            "property",
            "label",
            "given",
            "n",
            "r2",
            "partial_r",
            "collapse",
            "low",
            "high",
            "partial_r2",
            "p_holm",
            "note",
        ),
    ),
    "within_architecture": Shown(
        "Within a fixed architecture: over seeds, epochs and decays; pooled over architectures after centring. "
        f"{_COLLAPSE}",
        ("property", "label", "architecture", "groups", "n", "r", "r2", "collapse", "p", "p_holm", "note"),
    ),
    "influence": Shown(
        "What R² becomes without one row, the largest changes first; influential: whether the line leans on the row "
        f"({INFLUENCE_WORDS}).",
        most=100,
    ),
    "sensitivity": Shown(
        "Each measurement at each minimum class count, and its change from its value at the smallest one.", most=100
    ),
    "sensitivity_correlations": Shown(
        f"R² with validation loss at each minimum class count. {_COLLAPSE}",
        ("measurement", "label", "min_count", "n", "r", "r2", "r2_log", "collapse"),
    ),
    "trajectories": Shown("Measurements along the kept checkpoints.", most=100),
    "kind_shares": Shown(
        "Kinds of token: shares of the tokens that occur in the training text and were measured (not of the whole "
        "vocabulary), and of the data."
    ),
    "law": Shown(
        "The law of next-token prediction (He and Su 2024): the prediction residual of the first and last block, the "
        "factor by which each block multiplies it on the fitted line, and R² of its logarithm. All layers: "
        "tables/layers.csv.",
        ("model", "checkpoint", "measurement", "layers", "first", "last", "factor", "r", "r2"),
    ),
    "beside_published": Shown("Rows of the same model and checkpoint: ours, published, difference.", most=100),
    "times": Shown(
        "Where the time of each run went: seconds of training, of compilation beside it, of extracting and measuring "
        "its checkpoints, and tokens per second (of training in the last kept epoch, compilation left out)."
    ),
    "results": Shown(
        "One row per model and checkpoint: what it is, its losses, and the value of each measurement. Click a row to "
        "pick its model in every figure. tables/results.csv has all columns.",
        most=5_000,
    ),
    "measurements": Shown(
        "",
        ("measurement", "property", "label", "definition", "limit", "towards", "scale", "meaning", "hides", "source"),
    ),
}
TABLES["corrected"] = Shown(
    "Plain measurements, and the same corrected for the noise of classes with few samples: change is the "
    "corrected value over the plain one, less 1. singletons is the share of classes with one sample: nothing corrected "
    "has them. negative is the share of the other classes' pairs whose distance is not above its noise: CDNV has none "
    "of them, and where they are more than a few in a hundred, trust the quotient instead.",
    ("label", "plain", "corrected", "change", "singletons", "negative", "model", "checkpoint"),
)
TABLES["what_develops_with_what"] = Shown(
    "What develops with what: ● towards collapse as the factor grows or the loss falls (of the loss: lower), ○ away "
    "from it (higher), – no direction shown, ? cannot be told. It may say less than the sentences above: points of one "
    "architecture are no independent draws, and here whole architectures are left out in turn. The table of findings "
    "has the numbers.",
)
TABLES["findings"] = Shown(
    "What develops with what, among points that differ in nothing else: r with the factor (log₂) or the loss, its 95 % "
    "interval from leaving architectures out in turn (over seeds a bootstrap), p after Holm's correction within a "
    "question. A verdict needs both. “Batches as they are”: larger models have smaller batches and so more steps, if "
    "the recipe is the paper's.",
    ("question", "property", "label", "n", "architectures", "r", "low", "high", "p_holm", "verdict", "note"),
)
TABLES["errors"] = Shown(
    "What of each measurement is error. Medians over models of the value and of its standard error from eight parts of "
    "the text (jackknife; the value ± 2.36 se covers 95 %), and of the value without collapse (null) where it is "
    "known. spread: standard deviation between models; error: of what in it is error, the part of the text acting "
    "otherwise on one model than on the others; reliability: the share of the variance between models that is not "
    "error. R² with the loss before and after correction for both reliabilities (Spearman 1904), with 95 % bootstrap "
    "intervals over models; above_1: the corrected correlation is larger than 1, which says that the errors are "
    "uncertain themselves.",
    (
        "property", "label", "scale", "n", "value", "se", "null", "spread", "error", "reliability", "reliability_low",
        "reliability_high", "r2", "r2_low", "r2_high", "r2_corrected", "r2_corrected_low", "r2_corrected_high",
        "above_1", "note",
    ),
)  # fmt: skip
TABLES["settling"] = Shown(
    "How far each measurement has settled: relative change at the last doubling of the text (median and largest over "
    "points), points that changed by 1 % or less, points whose limit can be told from the last three doublings, their "
    "distance from it, the tokens there were, and those needed to be within 1 % of it.",
    ("property", "label", "points", "change", "largest_change", "settled", "told", "remaining", "tokens",
     "tokens_needed"),
)  # fmt: skip
TABLES["convergence"] = Shown("Every measurement at growing shares of the text.", most=100)
TABLES["models"] = Shown("The models that were not trained here: what they are, and where they come from.")

FEW_TABLES = {  # of a report of few models
    "table_5": replace(
        TABLES["table_5"],
        caption="First names beside the average token: CDNV and interference, each averaged over the other classes.",
    ),
    "correlations": replace(
        TABLES["correlations"],
        caption="Every measurement against the loss, over all rows: on its own scale and (…_log) on a log scale; "
        "permutation p (p_smallest is the least that the test can find), Holm, Spearman, bootstrap intervals. "
        f"{_COLLAPSE} {_CARRIED} Checkpoints of one model are not independent of one another.",
    ),
    "trajectories": replace(
        TABLES["trajectories"],
        columns=("measurement", "value", "model", "revision", "checkpoint", "steps", "tokens_seen", "val_loss"),
    ),
    "base_differences": Shown(
        "Each measurement of a fine-tuned model beside its base's. difference is value less base value, relative that "
        "over the size of the base value; collapse says whether the value came nearer to that of full collapse (of "
        "GNC2, of an even spread).",
        ("label", "base_value", "value", "difference", "relative", "collapse", "model", "checkpoint", "base"),
    ),
    "moved_tokens": Shown(
        "The tokens that moved most from base to fine-tuned model. factor is CDNV over the base's, divided by the "
        "median of that ratio over all tokens; of tokens with 20 samples or more in both.",
        (
            "text",
            "count",
            "factor",
            "base_cdnv",
            "cdnv",
            "base_norm",
            "norm",
            "base_agreement",
            "agreement",
            "model",
            "checkpoint",
            "base",
        ),
    ),
}
PAPER_TABLES = {"table_2": Shown("Table 2. Configuration of the paper's models.")}  # where no study made the rows
PRETRAINED_TABLES = {  # of a report of pretrained models alone
    "table_2": Shown("The settings of this study that apply to its models."),
    "times": Shown("Where the time went: seconds of extracting and measuring, and tokens per second."),
    "kind_shares": Shown(
        "Kinds of token: shares of the tokens that occur in the measured text and were measured (not of the whole "
        "vocabulary), and of the data."
    ),
}
NULL_TABLES = {  # of a study that asks for nulls
    "null_distances": Shown(
        "How far each measurement lies from its null, the value that it would have if labels said nothing of the "
        "features (of NC4: if decisions were dealt out at random). distance is (value − null) / sd of the null; all "
        "but nearest, the smallest size of it, are medians over points. random_network is the same network before "
        "training. A CoV whose mean crosses 0 has no meaningful distance."
    ),
    "nulls": Shown(
        "Every null of every point: drawn (labels at random, counts and total covariance kept), in closed form (what "
        "is supposed stands under basis), and of a network with random weights.",
        ("measurement", "value", "kind", "basis", "mean", "sd", "distance", "model", "checkpoint"),
        most=200,
    ),
}

# How the columns beside a value end: its error, its null, its corrections. Other tables and the figures show those.
COMPANIONS = (ERROR, "_null", "_null_sd", CORRECTED, "_crossed")
UNREAD = {*COUNTS, "noise_ratio"} - {"n_classes"}  # what says how a value came about


def read_columns(results: pd.DataFrame) -> list[str]:
    """The columns of `results` that a reader reads row by row: what a point is, its losses, its measurements."""
    return [column for column in map(str, results) if not column.endswith(COMPANIONS) and column not in UNREAD]
