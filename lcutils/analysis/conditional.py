"""Correlations controlling for size and training, without single models, and without rare classes.

`results` is as in `lcutils.analysis.relations`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scipy

from lcutils.analysis.definitions import Missing, in_display_order
from lcutils.analysis.directions import collapse_words
from lcutils.analysis.few import family_column, with_families
from lcutils.analysis.inference import (
    FEWEST_ROWS,
    NO_INTERVAL,
    Vector,
    holm,
    independent_columns,
    is_constant,
    partial_correlation,
)
from lcutils.analysis.marked import cooks_distance, influential
from lcutils.analysis.relations import LABEL_COLUMNS, finite_rows, label_columns, no_relation, pairs_with
from lcutils.analysis.rows import SETTING

CONTROLS = [*SETTING, "steps"]  # besides log parameters


def size_and_recipe(results: pd.DataFrame) -> pd.DataFrame:
    """What `results` say of each model's size and training, a column per control; those without a value left out."""
    controls = pd.DataFrame(index=results.index)
    if "n_params" in results:
        controls["log parameters"] = np.log(pd.to_numeric(results["n_params"], errors="coerce"))
    for column in CONTROLS:
        if column in results:
            controls[column.replace("_", " ")] = pd.to_numeric(results[column], errors="coerce")
    return controls.dropna(axis=1, how="all")


def partial_correlations(results: pd.DataFrame, target: str = "val_loss") -> pd.DataFrame | Missing:
    """Correlation of each measurement with `target`, given the size and the training of the model.

    Controls are log parameters, depth, width, epochs, weight decay and steps, each alone, then all of them together
    ("all"). A control that does not vary, or that earlier ones determine, is dropped and named in `dropped`.

    Returns:
        Columns `measurement, property, label, given, n, r, r2` (plain, over the same rows), `partial_r, partial_r2, p`
        (t test, two-sided), `p_holm` (over the measurements of one `given`), `low, high` (Fisher's interval of
        `partial_r`), `partial_r_log, partial_r2_log, p_log` (of the log of the measurement; nan where a value is
        not positive), `dropped` (joined by ", "), `note`, `collapse` (of `partial_r`: whether better models are more
        collapsed, see `collapse_words`).
    """
    if reason := no_relation(results, target):
        return Missing(reason)
    results = results.reset_index(drop=True)  # labels below are unique even if tables were joined
    controls = size_and_recipe(results)
    if controls.empty:
        return Missing("Nothing to control for: the table gives neither size nor training of its models.")
    names = [str(name) for name in controls]
    given = {name: [name] for name in names} | {"all": names}
    rows = []
    for name, chosen in given.items():
        known = finite_rows(controls, chosen)
        for key, x, y, used, note in pairs_with(results[known], target):
            row: dict[str, Any] = {**label_columns(key), "given": name, "n": len(x), "dropped": "", "note": note}
            rows.append(row)
            if not len(x):
                continue
            row["r"] = scipy.stats.pearsonr(x, y).statistic
            row["r2"] = row["r"] ** 2
            values = controls.loc[used.index[used], chosen].to_numpy(dtype=np.float64)
            kept = independent_columns(values)
            row["dropped"] = ", ".join(column for number, column in enumerate(chosen) if number not in kept)
            partial = partial_correlation(x, y, values[:, kept]) if kept else "no control varies"
            if isinstance(partial, str):
                row["note"] = partial
                continue
            row |= {"partial_r": partial.r, "partial_r2": partial.r**2, "p": partial.p}
            row |= {"low": partial.low, "high": partial.high}
            row["collapse"] = collapse_words(key, x, partial.r, partial.p, target)
            if np.isnan(partial.low):
                row["note"] = "; ".join(filter(None, (note, NO_INTERVAL)))
            logged = partial_correlation(np.log(x), y, values[:, kept]) if (x > 0).all() else ""
            if not isinstance(logged, str):
                row |= {"partial_r_log": logged.r, "partial_r2_log": logged.r**2, "p_log": logged.p}
    columns = [*LABEL_COLUMNS, "given", "n", "r", "r2", "partial_r", "partial_r2", "p", "p_holm"]
    columns += ["low", "high", "partial_r_log", "partial_r2_log", "p_log", "dropped", "note", "collapse"]
    table = pd.DataFrame(rows).reindex(columns=columns)
    if table["partial_r"].isna().all():
        return Missing(f"Partial correlations cannot be computed: {table['note'].iloc[-1]}.")
    table["p_holm"] = table.groupby("given")["p"].transform(holm)
    return table


def influence(results: pd.DataFrame, target: str = "val_loss") -> pd.DataFrame | Missing:
    """How much each single model changes each R^2.

    Returns:
        One row per measurement and model, the largest changes first: `measurement, model, checkpoint, r2` (of all
        rows), `r2_without` (without this row; nan if nothing varies then), `change` (`r2_without - r2`),
        `cooks_distance` (in the regression of `target` on the measurement), `influential` (whether that is above 4/n).
    """
    if reason := no_relation(results, target):
        return Missing(reason)
    tables = []
    for key, x, y, used, _ in pairs_with(results, target):
        n = len(x)
        if n <= FEWEST_ROWS:
            continue
        dx, dy = x - x.mean(), y - y.mean()
        # Without row i, a sum of products loses n / (n - 1) times the product of its deviations.
        sxx, syy, sxy = ((a * b).sum() - n / (n - 1) * a * b for a, b in ((dx, dx), (dy, dy), (dx, dy)))  # (n,) each
        varies = (sxx > 1e-12 * (dx * dx).sum()) & (syy > 1e-12 * (dy * dy).sum())
        without = np.divide(sxy**2, sxx * syy, out=np.full(n, np.nan), where=varies)
        r2 = scipy.stats.pearsonr(x, y).statistic ** 2
        names = results.loc[used, [name for name in ("model", "checkpoint") if name in results]]
        names = names.assign(measurement=key, r2=r2, r2_without=without, change=without - r2)
        tables.append(names.assign(cooks_distance=cooks_distance(x, y), influential=influential(x, y)))
    if not tables:
        return Missing(f"Leaving one model out needs more than {FEWEST_ROWS} rows.")
    columns = ["measurement", "model", "checkpoint", "r2", "r2_without", "change", "cooks_distance", "influential"]
    table = pd.concat(tables, ignore_index=True).reindex(columns=columns)
    return table.sort_values("change", key=lambda change: -change.abs(), kind="stable", ignore_index=True)


def within_architecture(results: pd.DataFrame, target: str = "val_loss") -> pd.DataFrame | Missing:
    """Relations among models of one family and size: over seeds, epochs and decay, never over depth and width.

    "pooled" rows correlate deviations from the mean of each architecture, with n - groups - 1 degrees of freedom, so
    that differences between sizes do not count; then follows one row per architecture.

    Returns:
        Columns `measurement, property, label, architecture` ("02x0768", after the family's name where
        the table has families, or "pooled"), `depth, width, groups, n, r, r2,
        p` (t test, two-sided), `p_holm` (over the pooled rows), `r_log, r2_log, p_log` (of the log of the
        measurement; nan where a value is not positive), `note`, `collapse` (whether better models are more collapsed:
        `collapse_words`).
    """
    if reason := no_relation(results, target):
        return Missing(reason)
    if not {"depth", "width"} <= set(results.columns):
        return Missing("Relations within an architecture need the columns depth and width.")
    results = with_families(results)
    rows: list[dict[str, Any]] = []
    for key, *_ in pairs_with(results, target):
        known = results[finite_rows(results, [key, target, "depth", "width"])]
        values = known.astype(dict.fromkeys(("depth", "width", key, target), np.float64))
        by_architecture = values.groupby([*family_column(results), "depth", "width"])
        groups = [group for _, group in by_architecture if len(group) >= 2]
        rows.append({**label_columns(key), "architecture": "pooled", **_within(groups, key, target)})
        for group in groups:
            if len(group) >= FEWEST_ROWS:
                depth, width = (int(group[column].iloc[0]) for column in ("depth", "width"))
                name = " ".join([*group[family_column(results)].iloc[0], f"{depth:02}x{width:04}"])
                row = {**label_columns(key), "architecture": name, "depth": depth, "width": width}
                rows.append(row | _within([group], key, target))
    columns = [*LABEL_COLUMNS, "architecture", "depth", "width", "groups", "n", "r", "r2", "p", "p_holm"]
    table = pd.DataFrame(rows).reindex(columns=[*columns, "r_log", "r2_log", "p_log", "note", "collapse"])
    if not (table["n"] >= FEWEST_ROWS).any():
        return Missing("Relations within an architecture need several rows of one size.")
    table[["depth", "width"]] = table[["depth", "width"]].astype("Int64")
    pooled = table["architecture"] == "pooled"
    table.loc[pooled, "p_holm"] = holm(table.loc[pooled, "p"])
    return table


def _within(groups: list[pd.DataFrame], key: str, target: str) -> dict[str, Any]:
    """Relation of two columns, each less the mean of its group."""
    n = sum(map(len, groups))
    row: dict[str, Any] = {"groups": len(groups), "n": n}
    df = n - len(groups) - 1
    if df < 1:
        return row | {"note": "too few rows for the number of architectures"}
    scales = {"": np.asarray} | ({"_log": np.log} if all((group[key] > 0).all() for group in groups) else {})
    dy = _deviations([group[target].to_numpy() for group in groups])
    for scale, function in scales.items():
        dx = _deviations([function(group[key].to_numpy()) for group in groups])
        if not (dx.any() and dy.any()):
            return row | {"note": "the same value in every row of an architecture"}
        r = float(np.clip(dx @ dy / np.sqrt((dx @ dx) * (dy @ dy)), -1, 1))
        t = r * np.sqrt(df / max(1 - r * r, 1e-300))
        row |= {f"r{scale}": r, f"r2{scale}": r * r, f"p{scale}": 2 * float(scipy.stats.t.sf(abs(t), df))}
    values = pd.concat([group[key] for group in groups])
    return row | {"note": "", "collapse": collapse_words(key, values, row["r"], row["p"], target)}


def _deviations(groups: list[Vector]) -> Vector:
    """Values less the mean of their group, concatenated; exactly 0 in a group whose values differ by rounding only."""
    return np.concatenate([np.zeros_like(x) if is_constant(x) else x - x.mean() for x in groups])


def sensitivity_correlations(
    table: pd.DataFrame, results: pd.DataFrame, target: str = "val_loss"
) -> pd.DataFrame | Missing:
    """R^2 of each measurement with `target` for each minimum class count.

    Args:
        table: rows of `sensitivity.csv`: `model, checkpoint, min_count`, measurement keys.
        results: results table that has `target`.

    Returns:
        Columns `measurement, property, label, min_count, n, r, r2, r2_log` (of the log of the measurement; nan if a
        value is not positive), `collapse` (whether better models are more collapsed: `collapse_words`).
    """
    needed = {"model", "checkpoint"}
    if not needed | {"min_count"} <= set(table.columns) or not needed | {target} <= set(results.columns):
        return Missing(f"Sensitivity needs model, checkpoint and min_count, and {target} in the results.")
    left = table.drop(columns=target, errors="ignore")
    joined = left.merge(results[["model", "checkpoint", target]], on=["model", "checkpoint"])
    rows = []
    for min_count, group in joined.groupby("min_count"):
        for key, x, y, _, _ in pairs_with(group, target):
            if len(x):
                r, p = scipy.stats.pearsonr(x, y)
                log_r = scipy.stats.pearsonr(np.log(x), y).statistic if (x > 0).all() else np.nan
                row = {**label_columns(key), "min_count": min_count, "n": len(x), "r": r, "r2": r * r}
                rows.append(row | {"r2_log": log_r**2, "collapse": collapse_words(key, x, r, p, target)})
    if not rows:
        return Missing(f"Relations for each minimum class count need {FEWEST_ROWS} models that differ.")
    return in_display_order(pd.DataFrame(rows))
