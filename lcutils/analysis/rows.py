"""The measurements of one checkpoint as files, and the table of all checkpoints, `results.csv`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from lcutils.analysis.errors import replicates_table, standard_errors
from lcutils.artifacts import write_json
from lcutils.collapse.catalogue import COUNTS, MEASUREMENTS
from lcutils.errors import UserError
from lcutils.manifests import check_artifact
from lcutils.text import csv_text, read_csv, storable

SETTING = ["depth", "width", "epochs", "weight_decay"]  # what a run's name says, apart from its seed
RUN_COLUMNS = ["model", *SETTING, "seed", "checkpoint", "steps", "tokens_seen"]
OUTCOMES = {"val_loss": "validation loss", "val_accuracy": "validation accuracy", "perplexity": "perplexity"}
TOKENS = "tokens.parquet"  # in a folder of measurements: the table of tokens
ERROR = "_se"  # how the name of a standard error's column ends
PARTS, CONVERGENCE = "parts.parquet", "convergence.csv"
POINT_COLUMNS = [*RUN_COLUMNS, "n_params", *OUTCOMES]  # of `results.csv`, before the measurements

HITS = {"nc4_agreement": "hits", "nc4_agreement_weights": "hits_weights"}
LAYERS = "layers.parquet"  # beside a row, where inner layers were asked for


def agreement_shares(agreement: Mapping[str, np.ndarray], of: str = "") -> dict[str, float]:
    """NC4 from counts by class, `hits{of}` and maybe `hits_weights{of}` over `totals`, by key; nan without tokens."""
    total = agreement["totals"].sum()
    counted = {key: agreement[name + of].sum() for key, name in HITS.items() if name + of in agreement}
    return {key: float(hits / total) if total else float("nan") for key, hits in counted.items()}


@dataclass(frozen=True)
class Measured:
    """The measurements of one checkpoint.

    Attributes:
        row: its row of `results.csv`.
        tokens: one row per kept class.
        sensitivity: one row per minimum class count.
        nulls: what measurements are without structure (`lcutils.analysis.nulls`); None if a study does not ask.
        replicates: `part`, `key`, `value` without that part of the text, and
        convergence: one row per share of the text; both None unless the text was extracted in parts.
        layers: one row per inner layer and one of the head's input (`lcutils.analysis.layers.layer_table`); None where
            no inner layers were asked for.
    """

    row: dict[str, Any]
    tokens: pd.DataFrame
    sensitivity: pd.DataFrame
    nulls: pd.DataFrame | None = None
    replicates: pd.DataFrame | None = None
    convergence: pd.DataFrame | None = None
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
        measured = dict(by_count[min_count]) | agreement_shares(agreement)
        row = {column: record.get(column) for column in POINT_COLUMNS}
        row |= measured | {key: int(measured[key]) for key in COUNTS if key in measured}
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

    def with_parts(
        self,
        without: Sequence[Mapping[str, float]],
        by_part: Mapping[str, np.ndarray],
        growing: Sequence[Mapping[str, float]],
    ) -> Self:
        """The same with standard errors in the row, behind all else, and the tables that they come from.

        Args:
            without: measurements without each part of the text.
            by_part: sums over each part of the validation text.
            growing: measurements of growing shares of the text, up to all of it.
        """
        replicates = replicates_table(without, by_part)
        names = {"model": self.row["model"], "checkpoint": self.row["checkpoint"]}
        convergence = pd.DataFrame([names | dict(share) for share in growing])
        row = self.row | standard_errors(replicates)
        return replace(self, row=row, replicates=replicates, convergence=convergence)

    def save(self, folder: Path) -> None:
        """Write `row.json`, `tokens.parquet` and `sensitivity.csv` into an existing folder.

        And what was asked for beside: `nulls.csv`, of a text in parts `parts.parquet` and `convergence.csv`, of inner
        layers `layers.parquet`.
        """
        write_json(folder / "row.json", self.row)
        self.tokens.to_parquet(folder / TOKENS, index=False)
        (folder / "sensitivity.csv").write_text(csv_text(self.sensitivity), encoding="utf-8")
        if self.nulls is not None:
            (folder / "nulls.csv").write_text(csv_text(self.nulls), encoding="utf-8")
        if self.replicates is not None and self.convergence is not None:
            self.replicates.to_parquet(folder / PARTS, index=False)
            (folder / CONVERGENCE).write_text(csv_text(self.convergence), encoding="utf-8")
        if self.layers is not None:
            self.layers.to_parquet(folder / LAYERS, index=False)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; a `UserError` names a file that is damaged."""
        tables = load_tokens(folder), load_sensitivity(folder), load_nulls(folder)
        replicates, convergence = load_parts(folder)
        return cls(load_row(folder), *tables, replicates, convergence, load_layers(folder))


def load_row(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's row of `results.csv` from its measurements."""
    check_artifact(folder)
    return json.loads((folder / "row.json").read_text())


def load_tokens(folder: Path) -> pd.DataFrame:
    """Read a checkpoint's table of tokens from its measurements; a row from elsewhere may have come without."""
    check_artifact(folder)
    if not (folder / TOKENS).is_file():
        raise UserError(f"{folder}: its table of tokens was not kept; measure the point in another outputs folder")
    return pd.read_parquet(folder / TOKENS)


def load_sensitivity(folder: Path) -> pd.DataFrame:
    """Read a checkpoint's measurements at each minimum class count."""
    check_artifact(folder)
    return read_csv(folder / "sensitivity.csv")


def load_nulls(folder: Path) -> pd.DataFrame | None:
    """Read a checkpoint's values without structure; None if the study did not ask for them."""
    check_artifact(folder)
    return read_csv(folder / "nulls.csv") if (folder / "nulls.csv").is_file() else None


def load_all_nulls(folders: Iterable[Path]) -> pd.DataFrame | None:
    """The values without structure of many checkpoints, one under another; None if none has any."""
    tables = [table for folder in folders if (table := load_nulls(folder)) is not None]
    return pd.concat(tables, ignore_index=True) if tables else None


def load_parts(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame] | tuple[None, None]:
    """Read a checkpoint's replicates and its convergence from its measurements; nothing if it has none."""
    if not (folder / PARTS).is_file():
        return None, None
    check_artifact(folder)
    return pd.read_parquet(folder / PARTS), read_csv(folder / CONVERGENCE)


def gather_parts(folders: Mapping[str, Path]) -> tuple[pd.DataFrame, pd.DataFrame] | tuple[None, None]:
    """The replicates, with columns `model` and `checkpoint`, and the convergence of all points that have them."""
    replicates, convergence = [], []
    for name, folder in folders.items():
        again, course = load_parts(folder)
        if again is not None and course is not None:
            model, _, checkpoint = name.rpartition("@")
            replicates.append(again.assign(model=model, checkpoint=int(checkpoint)))
            convergence.append(course)
    if not replicates:
        return None, None
    return pd.concat(replicates, ignore_index=True), pd.concat(convergence, ignore_index=True)


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

    @classmethod
    def kept(cls, folders: Mapping[str, Path]) -> TokenTables:
        """The tables that are there: rows that come from another machine may do without, the largest of their files."""
        return cls({name: folder for name, folder in folders.items() if (folder / TOKENS).is_file()})

    def __getitem__(self, name: str) -> pd.DataFrame:
        return load_tokens(self.folders[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.folders)

    def __len__(self) -> int:
        return len(self.folders)


def results_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows of measured points as one table, with the columns of `results.csv` in order."""
    results = pd.DataFrame(rows)
    # Of models trained here: the mean over the checkpoint's epoch, while the weights change.
    first = [*POINT_COLUMNS, *(["train_loss"] if "train_loss" in results else []), "n_classes"]
    entries = MEASUREMENTS | COUNTS
    extras = [key for key, entry in entries.items() if entry.group != "paper" and key in results]
    keys = [key for key in MEASUREMENTS if key in results and key not in extras]
    rest = [key for key in results if key not in {*first, *keys, *extras}]
    errors = [key for key in rest if str(key).endswith(ERROR)]
    return results[[*first, *keys, *(key for key in rest if key not in errors), *extras, *errors]]
