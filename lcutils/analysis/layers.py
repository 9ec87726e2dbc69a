"""Measurements through the layers of a model, and the law of next-token prediction that may hold along them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lcutils.analysis.definitions import Missing
from lcutils.analysis.rows import agreement_shares
from lcutils.collapse.catalogue import COUNTS, MEASUREMENTS, Measurement

FINAL = "final"  # the layer that is what the head multiplies
FEWEST_LAYERS = 3  # that a line is fitted through
_residual = partial(
    Measurement,
    "law",
    function="lcutils.collapse.layers:prediction_residual",
    reads="classes",
    log=True,
    limit="0 where features say the next token, 1 where they say nothing of it",
)
RESIDUALS = {  # beside the catalogue: of a layer, not of neural collapse
    "prediction_residual": _residual(
        "prediction residual",
        "share of the next token's variance that is left, by its number",
        "1 - R² of the next token's number in the vocabulary, by least squares on the layer's features (He "
        "and Su 2024).",
    ),
    "prediction_residual_one_hot": _residual(
        "prediction residual, one-hot",
        "share of the next token's variance that is left, by its indicators",
        "1 - R² of the indicators of all next tokens, by least squares on the layer's features; it does not "
        "depend on how tokens are numbered.",
    ),
}


def layer_table(
    row: Mapping[str, Any],
    final: Mapping[str, float],
    layers: Mapping[int, Mapping[str, float]],
    depth: int,
    agreement: Mapping[str, np.ndarray],
) -> pd.DataFrame:
    """The measurements of one point's layers, a row each: `layers.parquet`.

    Args:
        row: the point's row of `results.csv`, whose values are those of the layer "final".
        final: the prediction residual there.
        layers: measurements of inner layers, by number.
        depth: number of blocks.
        agreement: `totals` (V,), and `hits_layer0`, `hits_weights_layer0` (V,) … of the logit lens.

    Returns:
        Columns `model, checkpoint, layer` ("0" is the embeddings, "k" the output of block k, "final" what the head
        multiplies), `relative_depth` (k / depth; 1 for "final"), then the keys of the catalogue that some layer has,
        counts among them, and the prediction residuals where covariances were kept.
    """
    names = {key: row.get(key) for key in ("model", "checkpoint")}
    rows: list[dict[str, Any]] = []
    for layer, values in layers.items():
        of_layer = {**names, "layer": str(layer), "relative_depth": layer / depth, **values}
        of_layer |= {key: int(values[key]) for key in COUNTS if key in values}
        of_layer |= agreement_shares(agreement, f"_layer{layer}")
        rows.append(of_layer)
    known = [key for key in (*MEASUREMENTS, *COUNTS) if key in row]
    rows.append({**names, "layer": FINAL, "relative_depth": 1.0, **{key: row[key] for key in known}, **final})
    table = pd.DataFrame(rows)
    first = [*names, "layer", "relative_depth"]
    return table[[*first, *(key for key in (*MEASUREMENTS, *COUNTS, *RESIDUALS) if key in table)]]


def layer_keys(layers: pd.DataFrame) -> list[str]:
    """The measurements and residuals that some inner layer has."""
    inner = layers[layers["layer"] != FINAL]
    return [key for key in (*MEASUREMENTS, *RESIDUALS) if key in inner and inner[key].notna().any()]


def law_of_prediction(layers: pd.DataFrame) -> pd.DataFrame | Missing:
    """The law of next-token prediction (He and Su 2024): log10 of the prediction residual is linear in the layer.

    A line by least squares through the outputs of the blocks of each point, without the embeddings and without what
    stands behind the final norm. He and Su put every layer through a norm without gain first: `layers_norm: true` gives
    the same residuals, because they do not depend on a gain.

    Returns:
        One row per point and kind of residual: `model, checkpoint, measurement, layers` (their number), `first, last`
        (residual of the first and last of them), `factor` (by which one block multiplies the residual, on the line),
        `slope` (its log10), `intercept`, `r` (of log10 residual and layer), `r2`.
    """
    keys = [key for key in RESIDUALS if key in layers]
    if not keys:
        return Missing(
            "The law of next-token prediction needs covariances of inner layers: extraction.layers_law: true."
        )
    blocks = layers[~layers["layer"].isin([FINAL, "0"])]
    rows = []
    for (model, checkpoint), own in blocks.groupby(["model", "checkpoint"], sort=False):
        for key in keys:
            usable = own[own[key].astype(float) > 0]
            number, residual = usable["layer"].astype(int).to_numpy(), usable[key].astype(float).to_numpy()
            if len(number) < FEWEST_LAYERS:
                continue
            order = np.argsort(number)
            number, residual = number[order], residual[order]
            fit = stats.linregress(number, np.log10(residual))
            values = {"layers": len(number), "first": residual[0], "last": residual[-1], "factor": 10**fit.slope}
            values |= {"slope": fit.slope, "intercept": fit.intercept, "r": fit.rvalue, "r2": fit.rvalue**2}
            rows.append({"model": model, "checkpoint": checkpoint, "measurement": key, **values})
    if not rows:
        return Missing(f"The law of next-token prediction needs covariances of {FEWEST_LAYERS} blocks of one model.")
    return pd.DataFrame(rows)
