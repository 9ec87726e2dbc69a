"""The measurements of one checkpoint as files, and the table of all checkpoints, `results.csv`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from lcutils.artifacts import write_json
from lcutils.collapse.catalogue import COUNTS, MEASUREMENTS
from lcutils.manifests import check_artifact
from lcutils.text import csv_text, read_csv, storable

SETTING = ["depth", "width", "epochs", "weight_decay"]  # what a run's name says, apart from its seed
RUN_COLUMNS = ["model", *SETTING, "seed", "checkpoint", "steps", "tokens_seen"]
OUTCOMES = {"val_loss": "validation loss", "val_accuracy": "validation accuracy", "perplexity": "perplexity"}
POINT_COLUMNS = [*RUN_COLUMNS, "n_params", *OUTCOMES]  # of `results.csv`, before the measurements


@dataclass(frozen=True)
class Measured:
    """The measurements of one checkpoint.

    Attributes:
        row: its row of `results.csv`.
        tokens: one row per kept class.
        sensitivity: one row per minimum class count.
    """

    row: dict[str, Any]
    tokens: pd.DataFrame
    sensitivity: pd.DataFrame

    @classmethod
    def of(
        cls,
        record: Mapping[str, Any],
        by_count: Mapping[int, Mapping[str, float]],
        min_count: int,
        tokens: Mapping[str, np.ndarray],
        texts: Mapping[int, str],
        agreement: Mapping[str, np.ndarray],
    ) -> Self:
        """Put measurements into tables.

        Args:
            record: what the model is: the columns of `results.csv` before the measurements.
            by_count: measurements for each minimum class count.
            min_count: the count whose measurements become the row.
            tokens: result of `measure_tokens`.
            texts: class id -> text of the token.
            agreement: `hits` and `totals` (V,).
        """
        hits, totals = agreement["hits"], agreement["totals"]
        measured = dict(by_count[min_count])
        measured["nc4_agreement"] = float(hits.sum() / totals.sum()) if totals.sum() else float("nan")
        row = {column: record.get(column) for column in POINT_COLUMNS}
        row |= measured | {key: int(measured[key]) for key in COUNTS}
        names = {"model": row["model"], "checkpoint": row["checkpoint"]}
        sensitivity = [names | {"min_count": count} | dict(values) for count, values in by_count.items()]

        table = pd.DataFrame({name: values for name, values in tokens.items() if name != "nearest"})
        ids = table["token_id"]
        table.insert(1, "text", [storable(texts[i]) for i in ids])
        table["hits"], table["total"] = hits[ids], totals[ids]
        table["agreement"] = table["hits"] / table["total"].where(table["total"] > 0)
        table["nearest_ids"] = list(tokens["nearest"])
        return cls(row, table, pd.DataFrame(sensitivity))

    def save(self, folder: Path) -> None:
        """Write `row.json`, `tokens.parquet` and `sensitivity.csv` into an existing folder."""
        write_json(folder / "row.json", self.row)
        self.tokens.to_parquet(folder / "tokens.parquet", index=False)
        (folder / "sensitivity.csv").write_text(csv_text(self.sensitivity), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; a `UserError` names a file that is damaged."""
        check_artifact(folder)
        row = json.loads((folder / "row.json").read_text())
        return cls(row, pd.read_parquet(folder / "tokens.parquet"), read_csv(folder / "sensitivity.csv"))


def results_table(points: Sequence[Measured]) -> pd.DataFrame:
    """The rows of measured points as one table, with the columns of `results.csv` in order."""
    results = pd.DataFrame([point.row for point in points])
    first = [*POINT_COLUMNS, "n_classes"]
    keys = [key for key in MEASUREMENTS if key in results]
    rest = [key for key in results if key not in {*first, *keys}]
    return results[[*first, *keys, *rest]]
