"""A fine-tuned model beside its base: how each measurement differs, and which tokens moved most.

A row whose column `base` names another model of the table is fine-tuned from it; of a base with several checkpoints,
the last one counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lcutils.analysis.definitions import MEASUREMENTS, Missing, limits_at
from lcutils.analysis.few import PER_CHARACTER, given, last_checkpoints
from lcutils.analysis.rows import OUTCOMES

MOVED = 20  # tokens listed of each pair
OFTEN = 20  # samples that a class needs in both tables: of rarer ones, the variance is poorly known
NO_BASE = "No model of this table names another one as its base."


def base_pairs(results: pd.DataFrame) -> list[tuple[pd.Series, pd.Series]]:
    """Pairs of rows (base, fine-tuned), in the table's order; a base that is not in the table makes no pair."""
    if not {"model", "checkpoint", "base"} <= set(results.columns):
        return []
    bases = {row["model"]: row for _, row in last_checkpoints(results).iterrows()}
    tuned = [row for _, row in results[given(results, "base")].iterrows()]
    return [(bases[row["base"]], row) for row in tuned if row["base"] in bases and row["base"] != row["model"]]


def base_differences(results: pd.DataFrame, riesz_s: float | None = None) -> pd.DataFrame | Missing:
    """Each measurement of a fine-tuned model beside that of its base, in long form.

    Returns:
        Columns `model, checkpoint, base, measurement` (losses and accuracy too), `label, base_value, value,
        difference` (value - base_value), `relative` (difference / |base_value|), `collapse` ("towards" if the value
        is nearer to its value at collapse than the base's, "away" if it is farther, "" where that is not known).
    """
    labels = OUTCOMES | {PER_CHARACTER: "validation loss per character"}
    labels |= {key: f"{known.property} {known.label}" for key, known in MEASUREMENTS.items()}
    rows: list[dict[str, Any]] = []
    for base, tuned in base_pairs(results):
        for key, label in labels.items():
            if (
                key not in results
                or not np.isfinite(pd.to_numeric(pd.Series([base[key], tuned[key]]), errors="coerce")).all()
            ):
                continue
            before, after = float(base[key]), float(tuned[key])
            row = {"model": tuned["model"], "checkpoint": tuned["checkpoint"], "base": base["model"]}
            row |= {"measurement": key, "label": label, "base_value": before, "value": after}
            row |= {"difference": after - before, "relative": (after - before) / abs(before) if before else np.nan}
            rows.append(row | {"collapse": _direction(base, tuned, key, riesz_s)})
    return pd.DataFrame(rows) if rows else Missing(NO_BASE)


def _direction(base: pd.Series, tuned: pd.Series, key: str, riesz_s: float | None) -> str:
    """Whether `key` moved "towards" its value at collapse or "away"; "" if neither is known."""
    distances = []
    for row in (base, tuned):
        sizes = pd.to_numeric(pd.Series([row.get("width"), row.get("n_classes")]), errors="coerce")
        if not (sizes >= 2).all():
            return ""
        limits = limits_at(int(row["width"]), int(row["n_classes"]), riesz_s=riesz_s)
        limits = limits[limits["measurement"] == key].sort_values("limit")  # "collapse" before "uniform sphere"
        if limits.empty:
            return ""
        limit = float(limits["value"].iloc[0])  # where none is at collapse, as of GNC2, it is the even spread
        distances.append(abs(row[key] - limit) if np.isfinite(limit) else row[key])  # or falls without end
    if distances[0] == distances[1]:
        return ""
    return "towards" if distances[1] < distances[0] else "away"


def moved_tokens(
    results: pd.DataFrame, tokens: Mapping[str, pd.DataFrame], most: int = MOVED
) -> pd.DataFrame | Missing:
    """The tokens whose CDNV changed most from base to fine-tuned model.

    factor = (CDNV of the fine-tuned model / CDNV of the base) / the median of that ratio over all tokens. The median
    takes out what moves all tokens alike, such as features that grow. Tokens are the classes of both tables with the
    same id and text, and at least `OFTEN` samples in both. The largest |log factor| comes first.

    Args:
        results: table of results with a column `base`.
        tokens: "model@checkpoint" -> table of tokens; two of them are held at a time.
        most: tokens listed of each pair.

    Returns:
        Columns `model, checkpoint, base, token_id, text, count` (in the fine-tuned model's text), `factor, base_cdnv,
        cdnv`, and `base_…` and new values of norm, head_cosine and agreement.
    """
    parts, refused = [], NO_BASE
    for base, tuned in base_pairs(results):
        names = [f"{row['model']}@{row['checkpoint']}" for row in (base, tuned)]
        if not set(names) <= set(tokens):
            refused = "Tokens that moved need the token tables of a fine-tuned model and of its base."
            continue
        moved = _moved(*(tokens[name] for name in names))
        if moved.empty:
            refused = f"{names[1]} and its base {base['model']} share no token with {OFTEN} samples in both."
            continue
        place = {"model": tuned["model"], "checkpoint": tuned["checkpoint"], "base": base["model"]}
        parts.append(moved.head(most).assign(**place))
    if not parts:
        return Missing(refused)
    table = pd.concat(parts, ignore_index=True)
    return table[["model", "checkpoint", "base", *(c for c in table if c not in ("model", "checkpoint", "base"))]]


def _moved(base: pd.DataFrame, tuned: pd.DataFrame) -> pd.DataFrame:
    """All tokens of both tables that can be compared, those that moved most first."""
    values = ["cdnv", "norm", "head_cosine", "agreement"]
    kept = [table[(table["count"] >= OFTEN) & (table["cdnv"] > 0)] for table in (base, tuned)]
    columns = ["token_id", "text", "count", *values]
    both = kept[1][columns].merge(kept[0][["token_id", "text", *values]], on=["token_id", "text"], suffixes=("", "_b"))
    both = both.rename(columns={f"{key}_b": f"base_{key}" for key in values})
    logs = (both["cdnv"] / both["base_cdnv"]).map(math.log)
    logs -= logs.median()
    both["factor"] = np.exp(logs)
    order = logs.abs().sort_values(ascending=False, kind="stable").index
    beside = [name for key in values for name in (f"base_{key}", key)]
    return both.loc[order, ["token_id", "text", "count", "factor", *beside]].reset_index(drop=True)
