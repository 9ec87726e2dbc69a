"""A measured model in words: what it is, how well it predicts, and how far it has collapsed, a sentence a property."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from lcutils.analysis import MEASUREMENTS, comparable_loss, limits_at
from lcutils.analysis.few import PER_CHARACTER, last_checkpoints, point_names

MOST_DESCRIBED = 12  # models that the page describes in words; all have their rows


@dataclass(frozen=True)
class Described:
    """One model in words.

    Attributes:
        name: what it is called, with its revision or checkpoint where it has several.
        model, checkpoint: of its row.
        about: what it is.
        sentences: one for the loss, one for each property.
    """

    name: str
    model: str
    checkpoint: object
    about: str
    sentences: list[str]


def describe_models(results: pd.DataFrame, riesz_s: float | None = None) -> list[Described]:
    """Describe each model at its last checkpoint: the first `MOST_DESCRIBED` of them, in the table's order."""
    if not {"model", "checkpoint"} <= set(results.columns):
        return []
    per_character = comparable_loss(results) == PER_CHARACTER
    counts = results["model"].value_counts()
    last, made = last_checkpoints(results).head(MOST_DESCRIBED), []
    for name, (_, row) in zip(point_names(results)[last.index], last.iterrows(), strict=True):
        known = row[[column for column in results.columns if pd.notna(row[column]) and row[column] != ""]]
        about = _about(known, int(counts[row["model"]]))
        sentences = [s for s in (_loss(known, per_character), *_properties(known, riesz_s)) if s]
        made.append(Described(name, row["model"], row["checkpoint"], about, sentences))
    return made


def number(value: float) -> str:
    """A number of three significant digits, with a true minus sign."""
    return f"{value:.3g}".replace("-", "−")


def percent(share: float) -> str:
    """A share in percent, with one decimal."""
    return f"{100 * share:.1f} %"


def _about(row: pd.Series, checkpoints: int) -> str:
    parts = [str(row.get("family", "GPT-Neo"))]
    if "depth" in row:
        parts.append(f"{int(row['depth'])} layer{'s' if row['depth'] != 1 else ''}")
    parts += [f"width {int(row['width'])}"] if "width" in row else []
    parts += [f"{int(row['n_params']):,} parameters"] if "n_params" in row else []
    parts += [f"{int(row['n_classes']):,} token types as classes"] if "n_classes" in row else []
    parts += [f"fine-tuned from {row['base']}"] if "base" in row else []
    parts += [f"revision {row['revision']}"] if "revision" in row else []
    parts += [f"{int(row['epochs'])} epoch{'s' if row['epochs'] != 1 else ''}"] if "epochs" in row else []
    parts += [f"{int(row['steps']):,} training steps"] if "steps" in row else []
    parts += [f"the last of {checkpoints} checkpoints"] if checkpoints > 1 else []
    return ", ".join(parts) + "."


def _loss(row: pd.Series, per_character: bool) -> str:
    if "val_loss" not in row:
        return ""
    words = f"Validation loss {row['val_loss']:.4f} nats per token"
    if "perplexity" in row:
        words += f" (perplexity {row['perplexity']:.4g})"
    if per_character:
        words += f", {row[PER_CHARACTER]:.4f} nats per character, by which models with other tokenizers compare"
    if "val_accuracy" in row:
        words += f"; the next token is guessed right {percent(row['val_accuracy'])} of the time"
    if "unigram_entropy" in row:
        words += f"; who knew only how often each token occurs would have a loss of {row['unigram_entropy']:.3f}"
    return words + "."


def _properties(row: pd.Series, riesz_s: float | None) -> list[str]:
    """Return NC1 to NC5 in one sentence each, those that were measured."""
    limits: dict[tuple[str, str], float] = {}
    if {"width", "n_classes"} <= set(row.index) and row["width"] >= 2 and row["n_classes"] >= 2:
        table = limits_at(int(row["width"]), int(row["n_classes"]), riesz_s=riesz_s)
        limits = {(key, limit): value for key, limit, value in table.itertuples(index=False)}
    has = {key: float(row[key]) for key in MEASUREMENTS if key in row}
    return [_nc1(has), _nc2(has, limits), _gnc2(has, limits), _nc3(has), _nc4(has), _nc5(has)]


def _nc1(has: dict[str, float]) -> str:
    parts = []
    if "nc1_quotient" in has:
        parts.append(f"spread within classes over spread between their means is {number(has['nc1_quotient'])}")
    if "nc1_cdnv" in has:
        parts.append(f"the mean CDNV of two classes is {number(has['nc1_cdnv'])}")
    if not parts:
        return ""
    also = "; CDNV also falls when features merely grow" if "nc1_cdnv" in has else ""
    limit = f"(0 at full collapse: lower is nearer{also})"
    return f"NC1, features gather at their class means: {' and '.join(parts)} {limit}."


def _nc2(has: dict[str, float], limits: dict[tuple[str, str], float]) -> str:
    parts = []
    if "nc2_norm_cov" in has:
        parts.append(f"norms of the class means vary with a CoV of {number(has['nc2_norm_cov'])} (0 at full collapse)")
    if {"nc2_cosine_mean", "nc2_cosine_std"} <= has.keys():
        at = limits.get(("nc2_cosine_mean", "collapse"))
        all_at = f": all would be {number(at)}" if at is not None else ""
        parts.append(
            f"their cosines spread by {number(has['nc2_cosine_std'])} around {number(has['nc2_cosine_mean'])} "
            f"(0 at full collapse{all_at})"
        )
    end = ": lower spread is nearer." if parts else ""
    return f"NC2, equal norms and angles: {' and '.join(parts)}{end}" if parts else ""


def _gnc2(has: dict[str, float], limits: dict[tuple[str, str], float]) -> str:
    key = "gnc2_log_mean"
    if key not in has:
        return ""
    even = limits.get((key, "uniform sphere"))
    limit = f" ({number(even)} if they were spread evenly over a sphere: nearer to it is nearer)" if even else ""
    measured = f"their mean log inverse distance is {number(has[key])}"
    return f"GNC2, directions of class means spread evenly: {measured}{limit}."


def _nc3(has: dict[str, float]) -> str:
    if "nc3_cosine_mean" not in has:
        return ""
    cov = has.get("unc3_cosine_cov")
    even = "" if cov is None else f", and over classes they vary with a CoV of {number(cov)} (UNC3; 0 at full collapse)"
    return (
        f"NC3, the head's rows point along the class means: their cosines are {number(has['nc3_cosine_mean'])} on "
        f"average (1 at full collapse: higher is nearer){even}."
    )


def _nc4(has: dict[str, float]) -> str:
    if "nc4_agreement" not in has:
        return ""
    weights = has.get("nc4_agreement_weights")
    without = f"; without the head's bias {percent(weights)}" if weights is not None else ""
    share = f"on {percent(has['nc4_agreement'])} of the validation tokens{without}"
    return f"NC4, the head decides as the nearest class mean does: {share} (100 % at full collapse: higher is nearer)."


def _nc5(has: dict[str, float]) -> str:
    if "nc5_ood_deviation" not in has:
        return ""
    return (
        "NC5, class means are orthogonal to out-of-distribution text: their mean |cosine| with its mean feature is "
        f"{number(has['nc5_ood_deviation'])} (0 at full collapse: lower is nearer)."
    )
