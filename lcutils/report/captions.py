"""How the report shows each table: its caption, and the columns that a page is wide enough for."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Shown:
    """How the report shows a table: its caption, the columns that a page is wide enough for, and how many rows."""

    caption: str = ""
    columns: tuple[str, ...] = ()  # all of them if empty; the CSV always has all
    most: int = 400


TABLES = {
    "table_1": Shown(
        "Table 1. R² of each measurement with validation loss over models that differ in their seed alone; p by "
        "permutation (two-sided), with its Monte-Carlo interval and Holm's correction; paper: whether the row is one "
        "of the paper's.",
        ("row", "label", "paper", "n", "r", "r2", "p", "p_low", "p_high", "p_holm", "note"),
    ),
    "table_2": Shown("Table 2. Configuration: the paper's, and this study's."),
    "table_3": Shown("Table 3. The paper's batch sizes (sequences per batch), by depth (rows) and width (columns)."),
    "table_5": Shown(
        "Table 5. First names beside the average token: CDNV and interference, each averaged over the other classes."
    ),
    "correlations": Shown(
        "Every measurement against validation loss, over all rows: on its own scale and (…_log) on a log scale; "
        "permutation p with interval, Holm, Spearman, bootstrap intervals.",
        ("property", "label", "n", "r", "r2", "r2_low", "r2_high", "r2_log", "p", "p_holm", "spearman", "note"),
    ),
    "partial_correlations": Shown(
        "Partial correlations with validation loss, given one control, or all of them.",
        ("property", "label", "given", "n", "r2", "partial_r", "low", "high", "partial_r2", "p_holm"),
    ),
    "within_architecture": Shown(
        "Within a fixed architecture: over seeds, epochs and decays; pooled over architectures after centring.",
        ("property", "label", "architecture", "groups", "n", "r", "r2", "p", "p_holm", "note"),
    ),
    "influence": Shown("What R² becomes without one row, the largest changes first.", most=100),
    "sensitivity": Shown(
        "Each measurement at each minimum class count, and its change from its value at the smallest one.", most=100
    ),
    "sensitivity_correlations": Shown(
        "R² with validation loss at each minimum class count.",
        ("measurement", "label", "min_count", "n", "r", "r2", "r2_log"),
    ),
    "trajectories": Shown("Measurements along the kept checkpoints.", most=100),
    "kind_shares": Shown(
        "Kinds of token: shares of the tokens that occur in the training text and were measured (not of the whole "
        "vocabulary), and of the data."
    ),
    "beside_published": Shown("Rows of the same model and checkpoint: ours, published, difference.", most=100),
    "times": Shown(
        "Where the time of each run went: seconds of training, of compilation beside it, of extracting and measuring "
        "its checkpoints, and tokens per second (of training in the last kept epoch, compilation left out)."
    ),
    "results": Shown("One row per model and checkpoint; click a row to pick its model in every figure.", most=5_000),
    "measurements": Shown(),
}
TABLES["corrected"] = Shown(
    "Plain measurements, and the same corrected for the noise of classes with few samples: change is the "
    "corrected value over the plain one, less 1. singletons is the share of classes with one sample: nothing corrected "
    "has them. negative is the share of the other classes' pairs whose distance is not above its noise: CDNV has none "
    "of them, and where they are more than a few in a hundred, trust the quotient instead.",
    ("label", "plain", "corrected", "change", "singletons", "negative", "model", "checkpoint"),
)
TABLES["models"] = Shown("The models that were not trained here: what they are, and where they come from.")

FEW_TABLES = {  # of a report of few models
    "table_5": replace(
        TABLES["table_5"],
        caption="First names beside the average token: CDNV and interference, each averaged over the other classes.",
    ),
    "correlations": replace(
        TABLES["correlations"],
        caption="Every measurement against the loss, over all rows: on its own scale and (…_log) on a log scale; "
        "permutation p with interval, Holm, Spearman, bootstrap intervals. Checkpoints of one model are not "
        "independent of one another.",
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
PRETRAINED_TABLES = {  # of a report of pretrained models alone
    "table_2": Shown("The settings of this study that apply to its models."),
    "times": Shown("Where the time went: seconds of extracting and measuring, and tokens per second."),
    "kind_shares": Shown(
        "Kinds of token: shares of the tokens that occur in the measured text and were measured (not of the whole "
        "vocabulary), and of the data."
    ),
}
