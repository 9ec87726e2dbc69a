"""What stage 3 leaves of a point: all that is needed to measure it, without the model, its tokenizer or the text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from lcutils.artifacts import write_json
from lcutils.features.statistics import ClassStatistics
from lcutils.manifests import check_artifact
from lcutils.tensors import save_tensors


@dataclass(frozen=True)
class Extracted:
    """Class statistics of the train text, agreement over the validation text, the head, and what the model is.

    Attributes:
        statistics: of the features of the train text.
        head: (V, D) the head's rows; zero for classes that do not occur in the train text.
        agreement: `hits` and `totals` (V,) over validation; `ood_mean` (D,) if the study has such text.
        texts: (seen classes,) the token of each class that occurs, decoded, in the order of class ids.
        record: what the model is and how well it predicts, as columns of `results.csv`.
    """

    statistics: ClassStatistics
    head: Tensor
    agreement: dict[str, np.ndarray]
    texts: list[str]
    record: dict[str, Any]

    @property
    def seen(self) -> Tensor:
        """(seen classes,) ids of the classes that occur in the train text."""
        return self.statistics.counts.nonzero()[:, 0]

    def save(self, folder: Path) -> None:
        """Write all of it into an existing folder."""
        self.statistics.save(folder / "statistics.safetensors")
        save_tensors({"rows": self.head[self.seen].cpu().contiguous()}, folder / "head.safetensors")
        np.savez(folder / "agreement.npz", **self.agreement)  # type: ignore[arg-type]  # numpy's stub mistakes the names
        write_json(folder / "texts.json", self.texts)
        write_json(folder / "point.json", self.record)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """Read what `save` wrote, the tensors onto `device`; a `UserError` names a file that is damaged."""
        check_artifact(folder)
        statistics = ClassStatistics.load(folder / "statistics.safetensors", device)
        rows = load_file(folder / "head.safetensors", device=str(device))["rows"]
        head = rows.new_zeros(statistics.num_classes, statistics.dim)
        head[statistics.counts.nonzero()[:, 0]] = rows
        with np.load(folder / "agreement.npz") as arrays:
            agreement = dict(arrays)
        texts, record = (json.loads((folder / name).read_text()) for name in ("texts.json", "point.json"))
        return cls(statistics, head, agreement, texts, record)
