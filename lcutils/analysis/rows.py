"""The measurements of one checkpoint as files, and the table of all checkpoints, `results.csv`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
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

LAYERS = "layers.parquet"  # beside a row, where inner layers were asked for


@dataclass(frozen=True)
class Measured:
    """The measurements of one checkpoint.

    Attributes:
        row: its row of `results.csv`.
        tokens: one row per kept class.
        sensitivity: one row per minimum class count.
        layers: one row per inner layer and one of the head's input (`lcutils.analysis.layers.layer_table`); None where
            no inner layers were asked for.
    """

    row: dict[str, Any]
    tokens: pd.DataFrame
    sensitivity: pd.DataFrame
    layers: pd.DataFrame | None = None

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
            agreement: `hits` and `totals` (V,), and `hits_weights` (V,) if the head has more than weights that decide.
        """
        hits, totals = agreement["hits"], agreement["totals"]
        measured = dict(by_count[min_count])
        for key, name in (("nc4_agreement", "hits"), ("nc4_agreement_weights", "hits_weights")):
            if name in agreement:
                measured[key] = float(agreement[name].sum() / totals.sum()) if totals.sum() else float("nan")
        row = {column: record.get(column) for column in POINT_COLUMNS}
        row |= measured | {key: int(measured[key]) for key in COUNTS}
        more = record.keys() - row.keys()
        row |= {column: value for column, value in record.items() if column in more}
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
        """Write `row.json`, `tokens.parquet` and `sensitivity.csv`, and perhaps `layers.parquet`, into a folder."""
        write_json(folder / "row.json", self.row)
        self.tokens.to_parquet(folder / "tokens.parquet", index=False)
        (folder / "sensitivity.csv").write_text(csv_text(self.sensitivity), encoding="utf-8")
        if self.layers is not None:
            self.layers.to_parquet(folder / LAYERS, index=False)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; a `UserError` names a file that is damaged."""
        return cls(load_row(folder), load_tokens(folder), load_sensitivity(folder), load_layers(folder))


def load_row(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's row of `results.csv` from its measurements."""
    check_artifact(folder)
    return json.loads((folder / "row.json").read_text())


def load_tokens(folder: Path) -> pd.DataFrame:
    """Read a checkpoint's table of tokens from its measurements."""
    check_artifact(folder)
    return pd.read_parquet(folder / "tokens.parquet")


def load_sensitivity(folder: Path) -> pd.DataFrame:
    """Read a checkpoint's measurements at each minimum class count."""
    check_artifact(folder)
    return read_csv(folder / "sensitivity.csv")


def load_layers(folder: Path) -> pd.DataFrame | None:
    """Read the measurements of a checkpoint's inner layers; None where none were asked for."""
    check_artifact(folder)
    return pd.read_parquet(folder / LAYERS) if (folder / LAYERS).is_file() else None


@dataclass(frozen=True)
class TokenTables(Mapping[str, pd.DataFrame]):
    """The token tables of many checkpoints, by "model@checkpoint".

    A table is read each time it is asked for, and not kept: those of 230 checkpoints take gigabytes.
    """

    folders: Mapping[str, Path]

    def __getitem__(self, name: str) -> pd.DataFrame:
        return load_tokens(self.folders[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.folders)

    def __len__(self) -> int:
        return len(self.folders)


def results_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows of measured points as one table, with the columns of `results.csv` in order."""
    results = pd.DataFrame(rows)
    first = [*POINT_COLUMNS, "n_classes"]
    keys = [key for key in MEASUREMENTS if key in results]
    rest = [key for key in results if key not in {*first, *keys}]
    return results[[*first, *keys, *rest]]
