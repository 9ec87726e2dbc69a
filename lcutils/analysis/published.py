"""The tables that the paper's authors published, in the columns of our results.

The authors' repository holds two of them, one row a model: one of May 2024, behind the paper's figures and
tables, and one of October 2024, made by the code as released. They name and define things differently;
`load_published` reads both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from math import ceil
from pathlib import Path

import numpy as np
import pandas as pd

from lcutils import paper
from lcutils.errors import UserError
from lcutils.runs import RunName

RUN_COLUMNS = [
    "model",
    "depth",
    "width",
    "epochs",
    "weight_decay",
    "seed",
    "checkpoint",
    "steps",
    "tokens_seen",
]


def _same(values: pd.Series) -> pd.Series:
    return values


def _half(values: pd.Series) -> pd.Series:
    return values / 2


def _root(variance: pd.Series) -> pd.Series:
    return np.sqrt(variance)


def _ratio(mean: pd.Series, std: pd.Series) -> pd.Series:
    return std / mean


def _ratio_of_root(mean: pd.Series, variance: pd.Series) -> pd.Series:
    return np.sqrt(variance) / mean


def _share(hits: pd.Series, misses: pd.Series) -> pd.Series:
    return hits / (hits + misses)


@dataclass(frozen=True)
class _Format:
    """How one published table's columns become ours: our name -> (their columns, formula)."""

    columns: dict[str, tuple[tuple[str, ...], Callable[..., pd.Series]]]
    marks: frozenset[str]  # columns that only this format has


_SHARED: dict[str, tuple[tuple[str, ...], Callable[..., pd.Series]]] = {
    "n_params": (("n_params",), _same),
    "val_loss": (("val_loss",), _same),
    "val_accuracy": (("val_acc",), _same),
    "perplexity": (("perplex",), _same),
}
FORMATS = {
    "May 2024": _Format(
        _SHARED
        | {
            "nc1_cdnv": (("cdnv_mean",), _same),
            # norms_* are of SQUARED norms, whose logs are double: their CoV is the same, a std is halved.
            "nc2_log_norm_cov": (("norms_log_mean", "norms_log_std"), _ratio),
            "nc2_log_norm_std": (("norms_log_std",), _half),
            "nc2_cosine_mean": (("interfere_mean",), _same),
            "nc2_cosine_std": (("interfere_std",), _same),
            "nc2_cosine_cov": (("interfere_mean", "interfere_std"), _ratio),
            "gnc2_log_uncentred_mean": (("log_dist_mean",), _same),
            "gnc2_log_uncentred_std": (("log_dist_std",), _same),
            "gnc2_log_uncentred_cov": (("log_dist_mean", "log_dist_std"), _ratio),
            "nc3_cosine_mean": (("sims_mean",), _same),
            "unc3_cosine_cov": (("sims_mean", "sims_std"), _ratio),
            "nc4_agreement": (("matches", "misses"), _share),
        },
        frozenset({"cdnv_mean", "norms_log_std", "interfere_std", "log_dist_mean", "sims_mean", "matches"}),
    ),
    "October 2024": _Format(
        _SHARED
        | {
            "nc1_cdnv": (("cdnv",), _same),
            "nc2_norm_cov": (("norms_mean", "norms_var"), _ratio_of_root),
            "nc2_log_norm_cov": (("norms_log_mean", "norms_log_var"), _ratio_of_root),
            "nc2_log_norm_std": (("norms_log_var",), _root),
            # interfere_* became un-normalised inner products: no cosines can be had from this table.
            "nc2_etf_error": (("etf_error",), _same),
            "gnc2_log_mean": (("log_kern_mean",), _same),
            "gnc2_log_std": (("log_kern_var",), _root),
            "gnc2_log_cov": (("log_kern_mean", "log_kern_var"), _ratio_of_root),
            "nc3_cosine_mean": (("simcos_mean",), _same),
            "nc3_duality_error": (("dual_error",), _same),
            "unc3_cosine_cov": (("simcos_mean", "simcos_var"), _ratio_of_root),
            "nc4_agreement": (("hits", "misses"), _share),
        },
        frozenset({"cdnv", "norms_log_var", "etf_error", "log_kern_mean", "simcos_mean", "hits"}),
    ),
}


def load_published(path: str | Path) -> pd.DataFrame:
    """Read a published table (May or October 2024) as a results table.

    The format is told by its columns. A measurement that a table does not hold is absent: no `nc2_norm_cov`
    in May's (its norms are squared), no cosines in October's (its inner products are not normalised).
    `steps`, `tokens_seen` and `n_classes` are in neither: they follow from the paper's setting (229,367
    blocks of 2,048 tokens, the batch sizes of Table 3, 29,233 token types); `steps` is nan for an
    architecture that is not the paper's.

    Args:
        path: CSV with a column `model` such as `02x0768_01d07@0` (run name @ checkpoint).

    Returns:
        One row a model, in the file's order: `model` (without checkpoint), `depth`, `width`, `epochs`,
        `weight_decay`, `seed`, `checkpoint`, `steps`, `tokens_seen`, `n_params`, `val_loss` (nats),
        `val_accuracy`, `perplexity`, `n_classes`, then measurement keys.

    Raises:
        UserError: no such file, an unknown format, a model name or a number that cannot be read.
    """
    path = Path(path)
    try:
        raw = pd.read_csv(path)
    except OSError:
        raise UserError(f"{path}: cannot be read; give the path of a published table (CSV)") from None
    except (ValueError, pd.errors.ParserError):
        raise UserError(f"{path}: is no CSV table; give one of the authors' tables") from None
    kind = _format_of(path, raw)
    table = _run_columns(path, raw["model"])
    for key, (sources, formula) in kind.columns.items():
        if set(sources) <= set(raw.columns):
            table[key] = formula(*(_numbers(path, raw[source]) for source in sources))
    first = [key for key in _SHARED if key in table]
    table.insert(len(RUN_COLUMNS) + len(first), "n_classes", paper.CLASSES)
    return table


def load_published_tables(paths: Sequence[Path]) -> pd.DataFrame | None:
    """Several published tables as one; where two hold the same value, the first is taken. None without a path."""
    join = ["model", "checkpoint"]
    tables = [load_published(path).set_index(join) for path in paths]
    return reduce(pd.DataFrame.combine_first, tables).reset_index() if tables else None


def _format_of(path: Path, raw: pd.DataFrame) -> _Format:
    found = [kind for kind in FORMATS.values() if kind.marks & set(raw.columns)]
    if "model" not in raw.columns or len(found) != 1:
        wanted = "; or ".join(f"{', '.join(sorted(kind.marks))} ({name})" for name, kind in FORMATS.items())
        raise UserError(f"{path}: is no published table; it needs the column model and {wanted}")
    return found[0]


def _numbers(path: Path, column: pd.Series) -> pd.Series:
    try:
        return pd.to_numeric(column)
    except (ValueError, TypeError):
        raise UserError(f"{path}: column {column.name} holds text; it should hold numbers only") from None


def _run_columns(path: Path, names: pd.Series) -> pd.DataFrame:
    """What a name such as `02x0768_01d07@0` says, and what follows from it in the paper's setting."""
    rows = []
    for name in names:
        model, _, checkpoint = str(name).partition("@")
        try:
            run, epochs_done = RunName.parse(model), int(checkpoint) + 1
            decay = paper.DECAY[run.decay]
        except (ValueError, KeyError):
            raise UserError(f"{path}: model {name!r} is no name such as 02x0768_01d07@0; mend that row") from None
        batch = paper.BATCH_SIZES.get((run.depth, run.width))
        rows.append(
            (
                *(model, run.depth, run.width, run.epochs, decay),
                *(paper.SEED if run.seed is None else run.seed, epochs_done - 1),
                epochs_done * ceil(paper.TRAIN_BLOCKS / batch) if batch else np.nan,
                epochs_done * paper.TRAIN_BLOCKS * paper.BLOCK_SIZE,
            )
        )
    return pd.DataFrame(rows, columns=RUN_COLUMNS)
