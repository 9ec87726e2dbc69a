"""The file of class statistics: a safetensors file with the sums of the classes that have samples.

It is written and read piece by piece, so that neither a GPU nor the host ever holds a copy of all sums.
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


def write_sums(
    path: Path, num_classes: int, classes: Tensor, sums: Mapping[str, Tensor], scatter: Tensor | None
) -> None:
    """Write the sums of the classes that have samples; atomic.

    Args:
        path: of the file.
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
    with atomic_path(path) as aside:
        save_rows(tensors, aside)


@dataclass(frozen=True)
class SumsFile:
    """An open file of sums.

    Attributes:
        num_classes, dim: C and D.
        classes: (m,) ids of the classes that have samples.
        covariance: whether the scatter was kept.
        narrow: whether pivots are bfloat16.
    """

    num_classes: int
    dim: int
    classes: Tensor
    covariance: bool
    narrow: bool
    _file: Any

    def copy(self, name: str, target: Tensor, rows: Tensor) -> None:
        """Copy the sums of that name into `target` (R, …), at `rows` (m,)."""
        read = self._file.get_slice(name)
        for piece in pieces(len(rows), self.dim):
            target[rows[piece]] = read[piece].to(target.device, target.dtype)

    def scatter(self) -> Tensor:
        """(D, D) float64."""
        found: Tensor = self._file.get_tensor("scatter")
        return found


def open_sums(path: Path | str) -> SumsFile:
    """Open what `write_sums` wrote.

    Raises:
        UserError: the file is missing or holds no class statistics.
    """
    try:
        file = safe_open(path, framework="pt")
        num_classes, dim = file.get_tensor("shape").tolist()
        covariance, narrow = "scatter" in file.keys(), file.get_slice("pivots").get_dtype() == "BF16"  # noqa: SIM118
        return SumsFile(num_classes, dim, file.get_tensor("classes"), covariance, narrow, file)
    except Exception as error:
        raise UserError(f"{path}: no class statistics can be read from it ({error}); extract them again") from error
