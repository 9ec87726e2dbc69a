"""What sets a table of few models apart: when it is one, its families and losses, what its points are called.

Rows of pretrained models have a column `family` (their model_type, such as "llama"). Rows without one are GPT-Neos of
a grid, trained by a study or by the paper's authors.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from lcutils.analysis.definitions import MEASUREMENTS
from lcutils.text import one_line

FEW = 8  # points: with fewer, a table is described model by model, and no R^2, interval or p is given
GRID = "gpt_neo (grid)"  # the family of rows that name none
PER_CHARACTER = "val_loss_per_character"


def given(results: pd.DataFrame, column: str) -> pd.Series:
    """Mask of the rows in which a column of words holds one: false for nan, for "" and for a missing column."""
    if column not in results:
        return pd.Series(False, index=results.index)
    return results[column].notna() & (results[column].astype(str) != "")


def few_models(results: pd.DataFrame) -> bool:
    """Whether a table is described model by model: fewer than eight rows, or no model of a grid among them."""
    return len(results) < FEW or bool(given(results, "family").all())


def with_families(results: pd.DataFrame) -> pd.DataFrame:
    """`results` with a family in every row, `GRID` where none is named; the same table if it has no such column.

    Rows are grouped by family too wherever they are grouped by depth and width: a Llama and a GPT-NeoX of one depth
    and width are two architectures.
    """
    if "family" not in results:
        return results
    return results.assign(family=results["family"].where(given(results, "family"), GRID))


def family_column(results: pd.DataFrame) -> list[str]:
    """`["family"]` if rows are to be grouped by it too, `[]` if the table has no such column."""
    return ["family"] if "family" in results else []


def comparable_loss(results: pd.DataFrame) -> str:
    """The column by which models are compared: loss per character if their tokenizers differ, else `val_loss`.

    Models with one tokenizer have the same number of tokens per character of the validation text, and so the same
    ratio of both losses.
    """
    if not {"val_loss", PER_CHARACTER} <= set(results.columns):
        return "val_loss"
    per_token, per_character = (
        pd.to_numeric(results[column], errors="coerce").astype(float) for column in ("val_loss", PER_CHARACTER)
    )
    ratios = (per_token / per_character).replace([np.inf, -np.inf], np.nan)  # characters per token
    differ = ratios.max() - ratios.min() > 1e-6 * ratios.max()  # false where none is known
    return PER_CHARACTER if differ and per_character.notna().all() else "val_loss"


def point_names(results: pd.DataFrame) -> pd.Series:
    """What each row is called on a chart: its model, with the revision (or @checkpoint) where a model has several."""
    if "model" not in results:
        return pd.Series([f"row {i}" for i in range(len(results))], index=results.index, dtype=object)
    models = results["model"].astype(str)
    if "checkpoint" not in results:
        return models
    ends = "@" + results["checkpoint"].astype(str)
    if "revision" in results:
        ends = ends.mask(given(results, "revision"), " " + results["revision"].astype(str))
    return models.where(~models.duplicated(keep=False), models + ends)


def short_names(names: list[str], most: int = 28) -> dict[str, str]:
    """Names as one line of at most `most` characters, longer ones where two would become the same."""
    for length in (most, 2 * most, 4 * most):
        short = {name: one_line(name, length) for name in names}
        if len(set(short.values())) == len(short):
            return short
    return {name: name for name in names}


def last_checkpoints(results: pd.DataFrame) -> pd.DataFrame:
    """The row of each model's last checkpoint, in the table's order of models."""
    if not {"model", "checkpoint"} <= set(results.columns):
        return results
    ordered = results.sort_values("checkpoint", kind="stable")
    return results.loc[results.index.isin(ordered.groupby("model", sort=False).tail(1).index)]


def training_axis(rows: pd.DataFrame) -> str:
    """The column along which checkpoints are drawn: `tokens_seen` if all rows have it, else `steps`, else their number.

    Revisions of pretrained models know one, the other or neither.
    """
    for column in ("tokens_seen", "steps"):
        if column in rows and len(rows) and pd.to_numeric(rows[column], errors="coerce").notna().all():
            return column
    return "checkpoint"


def related_rows(results: pd.DataFrame, target: str) -> pd.DataFrame:
    """`results` without the measurements that fewer than eight rows have together with `target`."""
    known = pd.to_numeric(results[target], errors="coerce").notna() if target in results else False
    rare = [key for key in MEASUREMENTS if key in results and (results[key].notna() & known).sum() < FEW]
    return results.drop(columns=rare)
