"""The file of class statistics: a safetensors file with the sums of the classes that have samples.

It is written and read piece by piece, so that neither a GPU nor the host ever holds a copy of all sums. A file may hold
several statistics, each under a name that its tensors begin with, such as "layer3/totals".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from lcutils.artifacts import atomic_path
from lcutils.errors import UserError
from lcutils.tensors import ChosenRows, pieces, save_rows


def rows_of_sums(
    num_classes: int, classes: Tensor, sums: Mapping[str, Tensor], scatter: Tensor | None
) -> dict[str, ChosenRows]:
    """The tensors that a file holds of one statistics: the sums of the classes that have samples.

    Args:
        num_classes: C, seen or not.
        classes: (R,) ids.
        sums: counts (R,) int64, pivots (R, D) float64 or bfloat16, totals (R, D) and squares (R,) float64.
        scatter: (D, D) float64, if it is kept.
    """
    rows, pivots = sums["counts"].nonzero()[:, 0], sums["pivots"]
    tensors = {name: ChosenRows(values, rows) for name, values in {"classes": classes, **sums}.items()}
    tensors["shape"] = ChosenRows(torch.tensor([num_classes, pivots.shape[1]]))
    if pivots.dtype == torch.float64:  # features are float32 as a rule, and so are these pivots then
        parts = (pivots[rows[piece]] for piece in pieces(len(rows), pivots.shape[1]))
        if all(torch.equal(part.float().double(), part) for part in parts):
            tensors["pivots"] = ChosenRows(pivots, rows, torch.float32)
    if scatter is not None:
        tensors["scatter"] = ChosenRows(scatter)
    return tensors


def write_sums(path: Path, named: Mapping[str, Mapping[str, ChosenRows]]) -> None:
    """Write the `rows_of_sums` of one or several statistics, by name; atomic. One may have the name ""."""
    tensors = {place(name, key): rows for name, sums in named.items() for key, rows in sums.items()}
    with atomic_path(path) as aside:
        save_rows(tensors, aside)


def place(name: str, key: str) -> str:
    """What a tensor of the statistics of that name is called in a file."""
    return f"{name}/{key}" if name else key


@dataclass(frozen=True)
class SumsFile:
    """An open file of sums.

    Attributes:
        num_classes, dim: C and D.
        classes: (m,) ids of the classes that have samples.
        covariance: whether the scatter was kept.
        narrow: whether pivots are bfloat16.
        name: of the statistics in the file.
    """

    num_classes: int
    dim: int
    classes: Tensor
    covariance: bool
    narrow: bool
    name: str
    _file: Any

    def copy(self, name: str, target: Tensor, rows: Tensor) -> None:
        """Copy the sums of that name into `target` (R, …), at `rows` (m,)."""
        read = self._file.get_slice(place(self.name, name))
        for piece in pieces(len(rows), self.dim):
            target[rows[piece]] = read[piece].to(target.device, target.dtype)

    def scatter(self) -> Tensor:
        """(D, D) float64."""
        found: Tensor = self._file.get_tensor(place(self.name, "scatter"))
        return found


def open_sums(path: Path | str, name: str = "") -> SumsFile:
    """Open what `write_sums` wrote under that name.

    Raises:
        UserError: the file is missing or holds no class statistics.
    """
    try:
        file = safe_open(path, framework="pt")
        num_classes, dim = file.get_tensor(place(name, "shape")).tolist()
        covariance = place(name, "scatter") in file.keys()  # noqa: SIM118
        narrow = file.get_slice(place(name, "pivots")).get_dtype() == "BF16"
        classes = file.get_tensor(place(name, "classes"))
        return SumsFile(num_classes, dim, classes, covariance, narrow, name, file)
    except Exception as error:
        raise UserError(f"{path}: no class statistics can be read from it ({error}); extract them again") from error
