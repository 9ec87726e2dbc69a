"""Relations of the measurements to loss (or any other column), over all models and over the seeds of one model.

`results` is always a table with the columns of `results.csv`, ours or `load_published`'s. Absent columns and cells
that are nan are left out with a note; if nothing remains, `Missing` says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import scipy

from lcutils.analysis.definitions import MEASUREMENTS, Missing, measurements_in
from lcutils.analysis.directions import collapse_words
from lcutils.analysis.few import family_column, with_families
from lcutils.analysis.inference import (
    FEWEST_ROWS,
    NO_INTERVAL,
    Permutation,
    Vector,
    bootstrap_interval,
    holm,
    is_constant,
    permutation_tests,
    said_interval,
    squared_interval,
)
from lcutils.analysis.marked import influential, r_without
from lcutils.analysis.rows import SETTING
from lcutils.errors import UserError
from lcutils.runs import RunName

LABEL_COLUMNS = ["measurement", "property", "label"]
TABLE_1 = {  # the paper's rows
    "NC1": "nc1_cdnv",
    "NC2 equinorm": "nc2_log_norm_cov",
    "NC2 equiangular": "nc2_cosine_cov",
    "GNC2": "gnc2_log_uncentred_cov",
    "NC3": "nc3_cosine_mean",
    "UNC3": "unc3_cosine_cov",
    "NC4": "nc4_agreement",
}
TABLE_1_BESIDE = {  # other definitions of the same properties
    "NC1, log": "nc1_cdnv_log",
    "NC2 equinorm, norms": "nc2_norm_cov",
    "GNC2, centred": "gnc2_log_cov",
    "NC3, error": "nc3_duality_error",
}


def finite_rows(results: pd.DataFrame, keys: list[str]) -> pd.Series:
    """Mask of the rows in which all columns of `keys` hold a finite number."""
    values = results[keys].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    return pd.Series(np.isfinite(values).all(axis=1), index=results.index)


def no_relation(results: pd.DataFrame, target: str) -> str | None:
    """Why no measurement at all can be related to `target`; None if some can."""
    if target not in results:
        return f"Nothing can be related to {target}: the table has no such column."
    if not [key for key in measurements_in(results) if key != target]:
        return "Nothing can be related: the table holds no measurement."
    rows = int(finite_rows(results, [target]).sum())
    if rows < FEWEST_ROWS:
        return f"A relation with {target} needs at least {FEWEST_ROWS} rows that have it; there are {rows}."
    if is_constant(results.loc[finite_rows(results, [target]), target].to_numpy(dtype=np.float64)):
        return f"Nothing can be related to {target}: it has the same value in every row."
    return None


def pairs_with(results: pd.DataFrame, target: str) -> Iterator[tuple[str, Vector, Vector, pd.Series, str]]:
    """For each measurement: its key, its values, the target's values, a mask of their rows, and a note.

    There are no values if they cannot be related; the note says why.
    """
    for key in measurements_in(results):
        if key == target:
            continue
        rows = finite_rows(results, [key, target])
        x = results.loc[rows, key].to_numpy(dtype=np.float64)
        y = results.loc[rows, target].to_numpy(dtype=np.float64)
        left_out = len(rows) - len(x)
        note = f"{left_out} rows without a value left out" if left_out else ""
        if len(x) < FEWEST_ROWS:
            yield key, x[:0], y[:0], rows, f"only {len(x)} rows have a value"
        elif is_constant(x):
            yield key, x[:0], y[:0], rows, "the same value in every row"
        elif is_constant(y):
            yield key, x[:0], y[:0], rows, f"the same {target} in every row"
        else:
            yield key, x, y, rows, note


def label_columns(key: str) -> dict[str, str]:
    """The values of `LABEL_COLUMNS` for a measurement."""
    return {"measurement": key, "property": MEASUREMENTS[key].property, "label": MEASUREMENTS[key].label}


def _permuted(columns: dict[str, tuple[Vector, Vector]], trials: int, seed: int) -> dict[str, Permutation]:
    """Permutation tests of many pairs (x, y); pairs with the same y share the permutations."""
    families: dict[bytes, list[str]] = {}
    for name, (_, y) in columns.items():
        families.setdefault(y.tobytes(), []).append(name)
    outcomes: dict[str, Permutation] = {}
    for names in families.values():
        xs = np.stack([columns[name][0] for name in names])
        outcomes |= dict(zip(names, permutation_tests(xs, columns[names[0]][1], trials, seed), strict=True))
    return outcomes


def correlations(
    results: pd.DataFrame,
    target: str = "val_loss",
    *,
    trials: int = 10_000,
    resamples: int = 2_000,
    seed: int = 0,
) -> pd.DataFrame | Missing:
    """Relate each measurement to `target`, on its own scale and on a log scale.

    p and intervals assume that rows are exchangeable. Checkpoints of one run and models of one size are not quite:
    Table 1 (`table_1`), `partial_correlations` and `within_architecture` account for that.

    Returns:
        One row per measurement: `measurement, property, label, n`; `r, r2` (Pearson); `p` (permutation test,
        two-sided) with its Monte-Carlo interval `p_low, p_high`, and `p_holm` over all rows; `p_pearson` (normal
        theory); `spearman, spearman_p`; `r_low, r_high, r2_low, r2_high` (BCa bootstrap; nan below 5 rows, and
        where an interval would span nearly all there is); the same for the log of the measurement in `r_log, r2_log,
        p_log, r2_log_low, r2_log_high` (nan where a value is not positive); `note`; `collapse` and `collapse_log`
        (whether better models are more collapsed: `collapse_words`); `p_smallest` (the smallest p that the test can
        find); `influential` and `influential_log` (rows that carry the fit), `r_without` and `r_log_without` (r without
        all of them). A measurement that cannot be related has a row of nan, with the reason in `note`.
    """
    if reason := no_relation(results, target):
        return Missing(reason)
    pairs = list(pairs_with(results, target))
    plain = {key: (x, y) for key, x, y, _, _ in pairs if len(x)}
    logged = {f"{key} log": (np.log(x), y) for key, (x, y) in plain.items() if (x > 0).all()}
    logged = {name: (log_x, y) for name, (log_x, y) in logged.items() if not is_constant(log_x)}
    permuted = _permuted(plain | logged, trials, seed)
    rows = []
    for key, x, y, _, note in pairs:
        row: dict[str, Any] = {**label_columns(key), "n": len(x), "note": note}
        if key in plain:
            pearson, spearman, test = scipy.stats.pearsonr(x, y), scipy.stats.spearmanr(x, y), permuted[key]
            low, high = bootstrap_interval(x, y, resamples, seed)
            row |= {"r": pearson.statistic, "r2": pearson.statistic**2, "p_pearson": pearson.pvalue}
            row |= {"p": test.p, "p_low": test.low, "p_high": test.high, "r_low": low, "r_high": high}
            row |= {"spearman": spearman.statistic, "spearman_p": spearman.pvalue}
            row["r2_low"], row["r2_high"] = said_interval(*squared_interval(low, high), 1)
            if np.isnan(row["r2_low"]):
                row["note"] = "; ".join(filter(None, (note, NO_INTERVAL)))
            row |= {"p_smallest": test.smallest, **_direction_and_carriers(key, x, x, y, target)}
        if f"{key} log" in logged:
            log_x = logged[f"{key} log"][0]
            r, interval = scipy.stats.pearsonr(log_x, y).statistic, bootstrap_interval(log_x, y, resamples, seed)
            row |= {"r_log": r, "r2_log": r**2, "p_log": permuted[f"{key} log"].p}
            row["r2_log_low"], row["r2_log_high"] = said_interval(*squared_interval(*interval), 1)
            row |= _direction_and_carriers(key, x, log_x, y, target, "_log")
        rows.append(row)
    columns = [*LABEL_COLUMNS, "n", "r", "r2", "p", "p_low", "p_high", "p_holm", "p_pearson"]
    columns += ["spearman", "spearman_p", "r_low", "r_high", "r2_low", "r2_high"]
    columns += ["r_log", "r2_log", "p_log", "r2_log_low", "r2_log_high", "note"]
    columns += ["collapse", "collapse_log", "p_smallest"]
    columns += ["influential", "r_without", "influential_log", "r_log_without"]
    table = pd.DataFrame(rows).reindex(columns=columns)
    table["p_holm"] = holm(table["p"])
    return table


def _direction_and_carriers(
    key: str, values: Vector, x: Vector, y: Vector, target: str, scale: str = ""
) -> dict[str, Any]:
    """`collapse`, `influential` and `r_without` of the relation of `x` (the values, or their log) with `y`."""
    pearson, marked = scipy.stats.pearsonr(x, y), influential(x, y)
    return {
        f"collapse{scale}": collapse_words(key, values, pearson.statistic, pearson.pvalue, target),
        f"influential{scale}": int(marked.sum()),
        f"r{scale}_without": r_without(x, y, marked),
    }


def seed_groups(results: pd.DataFrame) -> pd.DataFrame | Missing:
    """Groups of models that differ in their seed only, at the same checkpoint.

    Returns:
        One row per group of two seeds or more, most seeds first: `model` (run name without seed), `checkpoint`,
        `depth`, `width`, `epochs`, `weight_decay`, `seeds`, and `family` if the table has one.
    """
    wanted = [*SETTING, "checkpoint", "seed", "model"]
    if absent := [column for column in wanted if column not in results]:
        return Missing(f"Seeds cannot be compared: the table lacks {', '.join(absent)}.")
    results = with_families(results)
    keys = [*SETTING, "checkpoint", *family_column(results)]
    groups = results.dropna(subset=keys).groupby(keys, sort=False, as_index=False)
    table = groups.agg(seeds=("seed", "nunique"), model=("model", "first"))
    table = table[table["seeds"] >= 2].sort_values("seeds", ascending=False, kind="stable")
    if table.empty:
        return Missing("Seeds cannot be compared: no model of this table was trained with several.")
    table["model"] = [_without_seed(name) for name in table["model"]]
    return table[["model", "checkpoint", *SETTING, *family_column(results), "seeds"]].reset_index(drop=True)


def _without_seed(name: str) -> str:
    try:
        run = RunName.parse(name)
    except UserError:  # a table from elsewhere: its names are its own
        return name
    return str(RunName(run.depth, run.width, run.epochs, run.decay))


def seed_rows(results: pd.DataFrame) -> pd.DataFrame | Missing:
    """The rows of the group with the most seeds (three at least)."""
    groups = seed_groups(results)
    if isinstance(groups, Missing):
        return groups
    results = with_families(results)
    keys, group = [*SETTING, "checkpoint", *family_column(results)], groups.iloc[0]
    if group["seeds"] < FEWEST_ROWS:
        return Missing(f"A relation over seeds needs at least {FEWEST_ROWS} seeds of one model; the most is 2.")
    same = (results[keys] == group[keys]).all(axis=1)
    return results[same].drop_duplicates("seed").reset_index(drop=True)


def table_1(
    results: pd.DataFrame, target: str = "val_loss", *, trials: int = 10_000, seed: int = 0
) -> pd.DataFrame | Missing:
    """Table 1 of the paper: each property against `target` over the seeds of one model.

    It takes the group with the most seeds; in the published table that is 02x0768_01d at checkpoint 0, 21 seeds.

    Returns:
        Columns `row` (property), `measurement, label, paper` (true for rows of the paper; the others are other
        definitions of the same properties), `group, n, r, r2, p` (permutation, two-sided), `p_low, p_high`
        (Monte-Carlo interval), `p_holm` (over the paper's rows, and over the others), `trials, note`, `collapse`
        (whether better seeds are more collapsed: `collapse_words`), `p_smallest` (the smallest p that so many rows and
        trials can give).
    """
    seeds = seed_rows(results)
    if isinstance(seeds, Missing):
        return Missing(f"Table 1 cannot be made. {seeds}")
    if reason := no_relation(seeds, target):
        return Missing(f"Table 1 cannot be made. {reason}")
    group = f"{_without_seed(seeds['model'].iloc[0])}@{int(seeds['checkpoint'].iloc[0])}, {len(seeds)} seeds"
    found = {key: (x, y, note) for key, x, y, _, note in pairs_with(seeds, target)}
    tests = _permuted({key: (x, y) for key, (x, y, _) in found.items() if len(x)}, trials, seed)
    rows = []
    for paper, table in ((True, TABLE_1), (False, TABLE_1_BESIDE)):
        for name, key in table.items():
            label = MEASUREMENTS[key].label
            row: dict[str, Any] = {"row": name, "measurement": key, "label": label, "paper": paper}
            x, y, note = found.get(key, (np.empty(0), np.empty(0), "not in this table"))
            row |= {"group": group, "n": len(x), "trials": trials, "note": note}
            if test := tests.get(key):
                pearson = scipy.stats.pearsonr(x, y)
                r = float(pearson.statistic)
                row |= {"r": r, "r2": r**2, "p": test.p, "p_low": test.low, "p_high": test.high}
                row["collapse"] = collapse_words(key, x, r, float(pearson.pvalue), target)
                row["p_smallest"] = test.smallest
            rows.append(row)
    columns = ["row", "measurement", "label", "paper", "group", "n"]
    columns += ["r", "r2", "p", "p_low", "p_high", "p_holm", "trials", "note", "collapse", "p_smallest"]
    whole = pd.DataFrame(rows).reindex(columns=columns)
    whole["p_holm"] = whole.groupby("paper")["p"].transform(holm)
    return whole
