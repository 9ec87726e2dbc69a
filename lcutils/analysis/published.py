"""The tables that the paper's authors published, in the columns of our results.

The authors' repository holds two of them, with one row per model: one of May 2024, behind the paper's figures and
tables, and one of October 2024, made by the released code. Their names and definitions differ; `load_published`
reads both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import reduce
from math import ceil
from pathlib import Path

import numpy as np
import pandas as pd

from lcutils import paper
from lcutils.analysis.origin import ORIGIN, published_origin
from lcutils.analysis.rows import POINT_COLUMNS, RUN_COLUMNS
from lcutils.errors import UserError
from lcutils.runs import RunName
from lcutils.text import read_csv

SQUARED_NORM = "mean_squared_norm"  # of centred class means: no measurement, but CDNV times it is free of scale
# Our column -> its formula in the columns of a published table.
_SHARED = {"n_params": "n_params", "val_loss": "val_loss", "val_accuracy": "val_acc", "perplexity": "perplex"}
FORMATS = {
    "May 2024": _SHARED
    | {
        "nc1_cdnv": "cdnv_mean",
        SQUARED_NORM: "norms_mean",
        # norms_* are of SQUARED norms, whose logs are double: their CoV is the same, a std is halved.
        "nc2_log_norm_cov": "norms_log_std / norms_log_mean",
        "nc2_log_norm_std": "norms_log_std / 2",
        "nc2_cosine_mean": "interfere_mean",
        "nc2_cosine_std": "interfere_std",
        "nc2_cosine_cov": "interfere_std / interfere_mean",
        "gnc2_log_uncentred_mean": "log_dist_mean",
        "gnc2_log_uncentred_std": "log_dist_std",
        "gnc2_log_uncentred_cov": "log_dist_std / log_dist_mean",
        "nc3_cosine_mean": "sims_mean",
        "unc3_cosine_cov": "sims_std / sims_mean",
        "nc4_agreement": "matches / (matches + misses)",
    },
    "October 2024": _SHARED
    | {
        "nc1_cdnv": "cdnv",
        SQUARED_NORM: "norms_var + norms_mean ** 2",
        "nc2_norm_cov": "sqrt(norms_var) / norms_mean",
        "nc2_log_norm_cov": "sqrt(norms_log_var) / norms_log_mean",
        "nc2_log_norm_std": "sqrt(norms_log_var)",
        # interfere_* became un-normalised inner products: this table has no cosines.
        "nc2_etf_error": "etf_error",
        "gnc2_log_mean": "log_kern_mean",
        "gnc2_log_std": "sqrt(log_kern_var)",
        "gnc2_log_cov": "sqrt(log_kern_var) / log_kern_mean",
        "nc3_cosine_mean": "simcos_mean",
        "nc3_duality_error": "dual_error",
        "unc3_cosine_cov": "sqrt(simcos_var) / simcos_mean",
        "nc4_agreement": "hits / (hits + misses)",
    },
}
MARKS = {  # columns that only this format has
    "May 2024": {"cdnv_mean", "norms_log_std", "interfere_std", "log_dist_mean", "sims_mean", "matches"},
    "October 2024": {"cdnv", "norms_log_var", "etf_error", "log_kern_mean", "simcos_mean", "hits"},
}


def load_published(path: str | Path) -> pd.DataFrame:
    """Read a published table (May or October 2024) as a results table.

    The columns decide which format it is. A measurement that a table does not hold is absent: no `nc2_norm_cov`
    in May's (its norms are squared), no cosines in October's (its inner products are not normalised). `steps`,
    `tokens_seen` and `n_classes` are in neither table: they follow from the paper's setting (229,367 blocks of 2,048
    tokens, the batch sizes of Table 3, 29,233 token types); `steps` is nan for an architecture that the paper does
    not have.

    Args:
        path: CSV with a column `model` such as `02x0768_01d07@0` (run name @ checkpoint).

    Returns:
        One row per model, in the file's order: `model` (without checkpoint), `depth`, `width`, `epochs`,
        `weight_decay`, `seed`, `checkpoint`, `steps`, `tokens_seen`, `n_params`, `val_loss` (nats),
        `val_accuracy`, `perplexity`, `n_classes`, then measurement keys, and `origin`: the file that the row is from.

    Raises:
        UserError: the file is missing, its format is unknown, or a model name or number cannot be read.
    """
    path = Path(path)
    try:
        raw = read_csv(path)  # every name as it is written
    except OSError:
        raise UserError(f"{path}: cannot be read; give the path of a published table (CSV)") from None
    except (ValueError, pd.errors.ParserError):
        raise UserError(f"{path}: is not a CSV table; give one of the authors' tables") from None
    formulas = _formulas(path, raw)
    table = _run_columns(path, raw["model"])
    for key, formula in formulas.items():
        sources = set(re.findall(r"[a-z]\w*", formula)) - {"sqrt"}
        if sources <= set(raw.columns):
            numbers = pd.DataFrame({source: _numbers(path, raw[source]) for source in sources})
            table[key] = numbers.eval(formula, engine="python")
    table.insert(sum(column in table for column in POINT_COLUMNS), "n_classes", paper.CLASSES)
    return table.assign(**{ORIGIN: published_origin(path)})


def load_published_tables(paths: Sequence[Path]) -> pd.DataFrame | None:
    """Several published tables as one; a value that two of them hold is the first one's. None without a path."""
    join = ["model", "checkpoint"]
    tables = [load_published(path).set_index(join) for path in paths]
    if not tables:
        return None
    whole = reduce(pd.DataFrame.combine_first, tables)
    named = pd.concat([table[ORIGIN] for table in tables]).groupby(level=join)
    return whole.assign(**{ORIGIN: named.agg(", completed from rows ".join)}).reset_index()


def _formulas(path: Path, raw: pd.DataFrame) -> dict[str, str]:
    """The formulas of the one format whose columns the table has."""
    found = [name for name, marks in MARKS.items() if marks & set(raw.columns)]
    if "model" not in raw.columns or len(found) != 1:
        wanted = "; or ".join(f"{', '.join(sorted(marks))} ({name})" for name, marks in MARKS.items())
        raise UserError(
            f"{path}: is not a published table: it needs the column model and {wanted}; give one of the authors' tables"
        )
    return FORMATS[found[0]]


def _numbers(path: Path, column: pd.Series) -> pd.Series:
    try:
        return pd.to_numeric(column)
    except (ValueError, TypeError):
        raise UserError(f"{path}: column {column.name} holds text; replace it by numbers") from None


def _run_columns(path: Path, names: pd.Series) -> pd.DataFrame:
    """What a name such as `02x0768_01d07@0` says, and what follows from it in the paper's setting."""
    rows = []
    for name in names:
        model, _, checkpoint = str(name).partition("@")
        try:
            run, epochs_done = RunName.parse(model), int(checkpoint) + 1
            decay = paper.DECAY[run.decay]
        except (ValueError, KeyError):
            raise UserError(f"{path}: model {name!r} is not a name such as 02x0768_01d07@0; correct that row") from None
        batch = paper.BATCH_SIZES.get((run.depth, run.width))
        row = {
            "model": model,
            "depth": run.depth,
            "width": run.width,
            "epochs": run.epochs,
            "weight_decay": decay,
            "seed": paper.SEED if run.seed is None else run.seed,
            "checkpoint": epochs_done - 1,
            "steps": epochs_done * ceil(paper.TRAIN_BLOCKS / batch) if batch else np.nan,
            "tokens_seen": epochs_done * paper.TRAIN_BLOCKS * paper.BLOCK_SIZE,
        }
        rows.append(row)
    return pd.DataFrame(rows, columns=RUN_COLUMNS)
