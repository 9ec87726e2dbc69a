"""Measurements as the paper defines them, beside the same corrected for small samples."""

from __future__ import annotations

from math import nan

import pandas as pd

from lcutils.analysis.definitions import MEASUREMENTS

CORRECTED = "_corrected"  # how the keys of corrected measurements end


def beside_corrected(results: pd.DataFrame) -> pd.DataFrame | None:
    """Each corrected measurement of each row beside the plain one; None if the table has none.

    Returns:
        Columns `measurement` (the plain key), `label, plain, corrected, change` (corrected / plain - 1), `singletons`
        (share of the kept classes that have one sample), `negative` (share of the other classes' pairs that are left
        out of CDNV, as their corrected squared distance is not above 0), and `model, checkpoint` if the table has them.
    """
    keys = [key.removesuffix(CORRECTED) for key in MEASUREMENTS if key.endswith(CORRECTED) and key in results]
    rows = []
    for _, row in results.iterrows():
        classes, single = row.get("n_classes", nan), row.get("singleton_classes", nan)
        pairs = (classes - single) * (classes - single - 1) / 2
        for key in keys:
            plain, corrected = row.get(key, nan), row[key + CORRECTED]
            rows.append({
                "measurement": key,
                "label": f"{MEASUREMENTS[key].property} {MEASUREMENTS[key].label}",
                "plain": plain,
                "corrected": corrected,
                "change": corrected / plain - 1 if plain else nan,
                "singletons": single / classes,
                "negative": row.get("negative_pairs", nan) / pairs if pairs else nan,
                **{name: row[name] for name in ("model", "checkpoint") if name in results},
            })  # fmt: skip
    return pd.DataFrame(rows) if rows else None
