"""What a report of few models has in place of a grid's relations, and what it leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lcutils import analysis
from lcutils.analysis import FEW, Missing, comparable_loss
from lcutils.analysis.few import given, last_checkpoints, related_rows

RELATIONS = ("table_1", "correlations", "partial_correlations", "within_architecture", "influence")


def last_bands(nulls: pd.DataFrame | None, results: pd.DataFrame) -> pd.DataFrame | None:
    """What the strips draw of nulls: those of each model's last checkpoint; None without any."""
    if nulls is None:
        return None
    return analysis.null_bands(nulls).merge(last_checkpoints(results)[["model", "checkpoint"]])


def none_trained(results: pd.DataFrame) -> bool:
    """Whether all models are pretrained ones, so that the recipe and the grid of a study say nothing of them."""
    return len(results) > 0 and bool(given(results, "family").all())


def statistics_text(results: pd.DataFrame) -> str:
    """What the text of the class statistics is called: a pretrained model was not trained on it."""
    return "measured text" if given(results, "family").any() else "training text"


def few_relations(
    results: pd.DataFrame, sensitivity: pd.DataFrame | None, trials: int
) -> dict[str, pd.DataFrame | Missing]:
    """Relations with the loss, of eight points or more each; else the sentence that says so.

    Returns:
        The tables of `RELATIONS` and `sensitivity_correlations` by name.
    """
    target = comparable_loss(results)
    known = pd.to_numeric(results[target], errors="coerce").notna().sum() if target in results else 0
    if known < FEW:
        reason = Missing(f"Relations with the loss need {FEW} points or more; there are {known}.")
        return dict.fromkeys((*RELATIONS, "sensitivity_correlations"), reason)
    rows = related_rows(results, target)
    tables: dict[str, pd.DataFrame | Missing] = {
        "table_1": analysis.table_1(rows, target, trials=trials),
        "correlations": analysis.correlations(rows, target, trials=trials),
        "partial_correlations": analysis.partial_correlations(rows, target),
        "within_architecture": analysis.within_architecture(rows, target),
        "influence": analysis.influence(rows, target),
        "sensitivity_correlations": Missing("No sensitivity table was given.")
        if sensitivity is None
        else analysis.sensitivity_correlations(sensitivity, rows, target),
    }
    return {name: _enough(table) for name, table in tables.items()}


def _enough(table: pd.DataFrame | Missing) -> pd.DataFrame | Missing:
    """The rows of a table of relations that rest on eight points."""
    if isinstance(table, Missing) or "n" not in table:
        return table
    kept = table[table["n"] >= FEW].reset_index(drop=True)
    return kept if len(kept) else Missing(f"No relation rests on {FEW} points.")


def few_tables(
    results: pd.DataFrame,
    settings: dict[str, Any],
    tokens: Mapping[str, pd.DataFrame],
    riesz_s: float | None,
    table_5: pd.DataFrame | Missing,
) -> dict[str, pd.DataFrame | Missing]:
    """Tables that only a report of few models has, and those that it has in another form.

    `table_5` stays where one of its names at least is a token.
    """
    tables: dict[str, pd.DataFrame | Missing] = {
        "base_differences": analysis.base_differences(results, riesz_s),
        "moved_tokens": analysis.moved_tokens(results, tokens),
    }
    if not isinstance(table_5, Missing) and table_5["token_id"].isna().all():
        tables["table_5"] = Missing("None of the names is one token of the text.")
    if none_trained(results):
        tables["table_2"] = analysis.own_settings(settings) if settings else Missing("No settings were given.")
        tables["table_3"] = Missing("No model was trained here: batch sizes say nothing of them.")
    return tables


def left_out(tables: Mapping[str, pd.DataFrame | Missing]) -> str:
    """One line that names what needs more models; "" if nothing does."""
    names = {
        "correlations": "correlations with validation loss and their intervals",
        "partial_correlations": "partial correlations",
        "within_architecture": "relations within an architecture",
        "influence": "the influence of single models",
        "table_1": "the relation over seeds",
    }
    lacking = [words for name, words in names.items() if isinstance(tables[name], Missing)]
    return f"Not in this report, because it takes {FEW} models or more: {', '.join(lacking)}." if lacking else ""
