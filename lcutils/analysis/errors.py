"""Errors of measurement: standard errors from parts of the text, reliability over models, and corrected correlations.

Every measurement was taken again without each of G = 8 parts of its text (`parts.parquet` of a point): on the train
text, or for NC4 and losses on the validation text with the class means fixed. theta_(j) is the value without part j.

Shapes: m models (rows), G parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan, sqrt
from typing import Any

import numpy as np
import pandas as pd

from lcutils.analysis.definitions import MEASUREMENTS, Missing, measurements_in
from lcutils.analysis.few import FEW, few_models
from lcutils.analysis.inference import FEWEST_FOR_BOOTSTRAP, FEWEST_ROWS, LEVEL, Vector, is_constant, squared_interval

ON_VALIDATION = ("nc4_agreement", "nc4_agreement_weights", "val_loss", "val_accuracy")
NO_PARTS = "No point was extracted in parts: set extraction.parts: true for standard errors and convergence."
# Undefined resamples (of no reliability) beyond this share leave an interval without an end.
_MOST_UNDEFINED = (1 - LEVEL) / 2


def validation_replicates(by_part: Mapping[str, np.ndarray]) -> dict[str, Vector]:
    """Agreement, loss and accuracy without each part of the validation text: (G,) by key.

    Args:
        by_part: counts and sums of each part, as `lcutils.features.validation_parts` makes them.
    """
    ratios = {
        "nc4_agreement": ("hits", "totals"),
        "nc4_agreement_weights": ("hits_weights", "totals"),
        "val_loss": ("loss", "predictions"),
        "val_accuracy": ("right", "predictions"),
    }
    values = {}
    for key, names in ratios.items():
        if names[0] in by_part:
            above, below = (by_part[name].sum() - by_part[name].astype(np.float64) for name in names)
            values[key] = np.divide(above, below, out=np.full(len(above), nan), where=below > 0)
    return values


def replicates_table(without: Sequence[Mapping[str, float]], by_part: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """One row per part and measurement: `part`, `key`, `value` without that part of the text.

    Args:
        without: measurements of the train text without each part (`MeasuredSections.without_each`).
        by_part: as of `validation_replicates`.
    """
    rows = [(part, key, value) for part, values in enumerate(without) for key, value in values.items()]
    for key, values in validation_replicates(by_part).items():
        rows += [(part, key, value) for part, value in enumerate(values.tolist())]
    return pd.DataFrame(rows, columns=["part", "key", "value"])


def jackknife_error(replicates: np.ndarray) -> float:
    """Standard error of a value from replicates (G,), se² = (G-1)/G sum (theta_(j) - their mean)².

    An interval is the value ± t se with G - 1 = 7 degrees of freedom (t = 2.365 for 95 %). It is for the mean over
    samples of the same size, not for the limit of infinitely much text. nan where a replicate has no value.
    """
    replicates = np.asarray(replicates, dtype=np.float64)
    number = len(replicates)
    return float(np.sqrt((number - 1) / number * np.square(replicates - replicates.mean()).sum()))


def standard_errors(replicates: pd.DataFrame) -> dict[str, float]:
    """`<key>_se` of every measurement and of validation loss and accuracy, from a point's `replicates_table`."""
    keys = [key for key in (*MEASUREMENTS, "val_loss", "val_accuracy") if (replicates["key"] == key).any()]
    return {f"{key}_se": jackknife_error(_values(replicates, key)) for key in keys}


def _values(replicates: pd.DataFrame, key: str) -> np.ndarray:
    return replicates[replicates["key"] == key].sort_values("part")["value"].to_numpy(dtype=np.float64)


@dataclass(frozen=True)
class Errors:
    """What of a measurement is error, by a two-way analysis of models and parts.

    All models are measured on one text. What a part of it does to all of them alike shifts every value and changes no
    difference between models; only what it does to one model otherwise than to the others, the interaction, does.

    Attributes:
        values: (m,) of the models.
        interactions: (m, G) pseudo-values without the means of their model and of their part.
    """

    values: Vector
    interactions: Vector

    @classmethod
    def of(cls, values: np.ndarray, replicates: np.ndarray) -> Errors:
        """From values (m,) and replicates (m, G), all finite.

        The pseudo-value of a part is G theta - (G - 1) theta_(j); theta goes with the means that are taken away.
        """
        pseudo = -(replicates.shape[1] - 1) * replicates
        pseudo = pseudo - pseudo.mean(axis=1, keepdims=True)
        return cls(values, pseudo - pseudo.mean(axis=0, keepdims=True))

    def covariance(self, other: Errors, chosen: np.ndarray | None = None) -> Any:
        """Covariance over models of the errors of two measurements: of one with itself, its error variance.

        sum of products of interactions / ((m - 1) (G - 1)), over G: that of a mean over G parts.

        Args:
            other: over the same models; its part j is the same text.
            chosen: (B, m) models of each of B resamples.

        Returns:
            A number, or (B,).
        """
        mine, theirs = (e.interactions if chosen is None else e.interactions[chosen] for e in (self, other))
        # A resample has its own parts' means.
        mine, theirs = (e - e.mean(axis=-2, keepdims=True) for e in (mine, theirs))
        models, parts = mine.shape[-2:]
        return (mine * theirs).sum((-2, -1)) / ((models - 1) * (parts - 1) * parts)

    def reliability(self, chosen: np.ndarray | None = None) -> Any:
        """Share of the variance between models that is not error: 1 - error variance / variance of the values.

        It is negative where error alone would make models differ more than they do.
        """
        values = self.values if chosen is None else self.values[chosen]
        return 1 - _over(self.covariance(self, chosen), values.var(axis=-1, ddof=1))


def _over(numerator: Any, denominator: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, nan), nan)


def corrected_correlation(x: Errors, y: Errors, shared: bool = False, chosen: np.ndarray | None = None) -> Any:
    """Correlation of two measurements without what their errors take from it, r / sqrt(rel_x rel_y) (Spearman 1904).

    Errors on one text (`shared`: NC4 and loss, both on the validation text) are correlated themselves: their
    covariance is then taken off the covariance of the values first, because Spearman's formula has no such errors.

    The result is an estimate, and may lie above 1. nan where a reliability is not above 0. `chosen` as of
    `Errors.covariance`.
    """
    values_x, values_y = (e.values if chosen is None else e.values[chosen] for e in (x, y))
    values_x, values_y = (v - v.mean(axis=-1, keepdims=True) for v in (values_x, values_y))
    covariance = (values_x * values_y).sum(-1) / (values_x.shape[-1] - 1)
    if shared:
        covariance = covariance - x.covariance(y, chosen)
    variances = [e.reliability(chosen) * v.var(axis=-1, ddof=1) for e, v in ((x, values_x), (y, values_y))]
    product = np.where((variances[0] > 0) & (variances[1] > 0), variances[0] * variances[1], nan)
    return covariance / np.sqrt(product)


def _interval(values: np.ndarray) -> tuple[float, float]:
    """Percentiles of resampled values; nan where too many of them are not defined."""
    if np.isnan(values).mean() > _MOST_UNDEFINED:
        return nan, nan
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def error_table(
    results: pd.DataFrame,
    replicates: pd.DataFrame | None,
    target: str = "val_loss",
    *,
    resamples: int = 2_000,
    seed: int = 0,
) -> pd.DataFrame | Missing:
    """Each measurement with its error, and its relation with `target` before and after correction for that.

    Args:
        results: the columns of `results.csv`.
        replicates: `replicates_table` of every point, with columns `model` and `checkpoint`; None without any.
        target: validation loss, per token or in another unit.
        resamples, seed: of the bootstrap over models.

    Returns:
        One row per measurement and scale (`scale`: "plain", or "log" too where a log axis is natural): `measurement,
        property, label, scale, n` (models in parts); medians over models of `value`, `se` (jackknife) and, where it is
        known, `null`; `spread` (standard deviation of the models' values), `error` (standard deviation of what is
        error in differences between models), `reliability` with its bootstrap interval `…_low`, `…_high`; `r2` and
        `r2_corrected` with theirs, `r_corrected` (…), `above_1` (whether the corrected r is), `note`. Below 3 models
        there is no reliability, and below 8 described one by one no relation.
    """
    if replicates is None or replicates.empty or not {"model", "checkpoint"} <= set(results.columns):
        return Missing(NO_PARTS)
    points = results.set_index(["model", "checkpoint"])
    wide = replicates.pivot_table(index=["model", "checkpoint"], columns=["key", "part"], values="value", dropna=False)
    points = points.loc[points.index.isin(wide.index)]
    if points.empty:
        return Missing(NO_PARTS)
    wide = wide.reindex(points.index)
    # In another unit, loss per character for instance, a point's loss has the same relative error.
    unit = points[target] / points["val_loss"] if {target, "val_loss"} <= set(points.columns) else None
    loss = None
    if unit is not None and "val_loss" in wide.columns.get_level_values(0):
        loss = wide["val_loss"].mul(unit.astype(float), axis=0).to_numpy(dtype=np.float64)  # (m, G)
    fewest = FEW if few_models(results) else FEWEST_ROWS
    rows = []
    for key in measurements_in(results):
        if key not in wide.columns.get_level_values(0):
            continue
        values, again = points[key].to_numpy(dtype=np.float64), wide[key].to_numpy(dtype=np.float64)
        about = {"measurement": key, "property": MEASUREMENTS[key].property, "label": MEASUREMENTS[key].label}
        for scale in ("plain", "log") if MEASUREMENTS[key].log else ("plain",):
            if scale == "log":
                with np.errstate(divide="ignore", invalid="ignore"):
                    values, again = np.log(values), np.log(again)
            known = np.isfinite(values) & np.isfinite(again).all(axis=1)
            row: dict[str, Any] = {**about, "scale": scale, "n": int(known.sum())}
            if known.any():
                row["value"] = float(np.median(values[known]))
                row["se"] = float(np.median([jackknife_error(one) for one in again[known]]))
            if scale == "plain" and f"{key}_null" in points:
                row["null"] = float(points[f"{key}_null"].median())
            row |= _related(
                (values, again, known),
                None if loss is None else (points[target].to_numpy(dtype=np.float64), loss),
                key in ON_VALIDATION,
                fewest,
                np.random.default_rng(seed),
                resamples,
            )
            rows.append(row)
    columns = ["measurement", "property", "label", "scale", "n", "value", "se", "null", "spread", "error"]
    for name in ("reliability", "r2", "r2_corrected", "r_corrected"):
        columns += [name, f"{name}_low", f"{name}_high"]
    table = pd.DataFrame(rows).reindex(columns=[*columns, "above_1", "note"])
    return table if table["null"].notna().any() else table.drop(columns="null")


def _related(
    measured: tuple[np.ndarray, np.ndarray, np.ndarray],
    loss: tuple[np.ndarray, np.ndarray] | None,
    on_validation: bool,
    fewest: int,
    random: np.random.Generator,
    resamples: int,
) -> dict[str, Any]:
    """Reliability of one measurement, and its relation with the loss: columns of `error_table`."""
    values, again, known = measured
    number = int(known.sum())
    if number < FEWEST_ROWS:
        return {"note": f"reliability needs {FEWEST_ROWS} models or more"}
    if is_constant(values[known]):
        return {"note": "the same value in every row"}
    x = Errors.of(values[known], again[known])
    chosen = random.integers(0, number, (resamples, number)) if number >= FEWEST_FOR_BOOTSTRAP else None  # (B, m)
    row: dict[str, Any] = {"spread": float(x.values.std(ddof=1)), "error": sqrt(x.covariance(x))}
    row["reliability"] = float(x.reliability())
    if chosen is not None:
        row["reliability_low"], row["reliability_high"] = _interval(x.reliability(chosen))
    if row["reliability"] <= 0:
        row["note"] = "no reliability: models differ no more than by error"
    if loss is None:
        return row
    target, target_again = loss
    both = known & np.isfinite(target) & np.isfinite(target_again).all(axis=1)
    if int(both.sum()) < fewest or is_constant(target[both]) or is_constant(values[both]):
        return row
    if (left_out := number - int(both.sum())) > 0:
        row["note"] = f"{left_out} rows without a loss left out of the relation"
    x, y = Errors.of(values[both], again[both]), Errors.of(target[both], target_again[both])
    exact_x, exact_y = (replace(e, interactions=np.zeros_like(e.interactions)) for e in (x, y))  # as if without error
    corrected = float(corrected_correlation(x, y, on_validation))
    row |= {
        "r2": float(corrected_correlation(exact_x, exact_y)) ** 2,
        "r_corrected": corrected,
        "r2_corrected": corrected**2,
    }
    row["above_1"] = abs(corrected) > 1 if np.isfinite(corrected) else None
    if int(both.sum()) >= FEWEST_FOR_BOOTSTRAP:
        chosen = random.integers(0, int(both.sum()), (resamples, int(both.sum())))
        plain = _interval(corrected_correlation(exact_x, exact_y, chosen=chosen))
        row["r_corrected_low"], row["r_corrected_high"] = _interval(corrected_correlation(x, y, on_validation, chosen))
        row["r2_low"], row["r2_high"] = squared_interval(*plain)
        row["r2_corrected_low"], row["r2_corrected_high"] = squared_interval(
            row["r_corrected_low"], row["r_corrected_high"]
        )
    return row


def with_reliability(correlations: pd.DataFrame | Missing, errors: pd.DataFrame | Missing) -> pd.DataFrame | Missing:
    """`correlations` with the columns `reliability`, `r_corrected` (with interval) and `above_1` behind its own."""
    if isinstance(correlations, Missing) or isinstance(errors, Missing):
        return correlations
    columns = ["reliability", "r_corrected", "r_corrected_low", "r_corrected_high", "above_1"]
    plain = errors[errors["scale"] == "plain"]
    return correlations.merge(plain[["measurement", *columns]], on="measurement", how="left")
