"""What stage 3 leaves of a point: all that is needed to measure it, without the model, its tokenizer or the text."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from lcutils.artifacts import write_json
from lcutils.features.layers import LayerStatistics
from lcutils.features.statistics import ClassStatistics
from lcutils.manifests import check_artifact
from lcutils.tensors import ChosenRows, save_rows

PARTS = "parts"  # folder of the sections' statistics
BY_PART = "validation_parts.npz"
INNER, INNER_SUMS = "layers.json", "layers.safetensors"  # beside the statistics, where inner layers were asked for


@dataclass(frozen=True)
class InnerSums:
    """Class statistics of inner layers, in a file from which one layer at a time is read.

    Attributes:
        depth: blocks of the model.
        layers: those that were asked for, ascending.
        norm: whether their features went through the final norm.
        lens: whether there are statistics for the logit lens.
        path: of the file.
        device: where the statistics are read to.
    """

    depth: int
    layers: tuple[int, ...]
    norm: bool
    lens: bool
    path: Path
    device: torch.device | str

    def read(self, layer: int) -> tuple[ClassStatistics, ClassStatistics | None]:
        """The statistics of a layer, and those behind the final norm for the logit lens (the same, if `norm`)."""
        stats = ClassStatistics.load(self.path, self.device, "seen", f"layer{layer}")
        if not self.lens or self.norm:
            return stats, stats if self.lens else None
        return stats, ClassStatistics.load(self.path, self.device, "seen", f"lens{layer}")

    @classmethod
    def load(cls, folder: Path, device: torch.device | str) -> Self | None:
        """What `save_layers` wrote; None where no inner layers were asked for."""
        if not (folder / INNER).is_file():
            return None
        facts = json.loads((folder / INNER).read_text())
        return cls(**facts | {"layers": tuple(facts["layers"])}, path=folder / INNER_SUMS, device=device)


@dataclass(frozen=True)
class Extracted:
    """Class statistics of the train text, agreement over the validation text, the head, and what the model is.

    Attributes:
        statistics: of the features of the train text, with rows for the classes that occur in it.
        head: (R, D) the head's rows of `statistics.classes`, in the model's own type.
        agreement: `hits` and `totals` (V,) over validation, and `hits_weights` (V,) of the head's weights alone where
            its bias or scale set them apart; `ood_mean` (D,) if the study has such text; `hits_layer0` (V,), … and
            `hits_weights_layer0` (V,), … of inner layers by the logit lens. `decisions_head`, `decisions_nearest` (V,)
            and maybe `decisions_weights`, how often each side decided for each class, if a study asks for them.
        texts: (R,) the token of each class that occurs, decoded, in the order of class ids.
        record: what the model is and how well it predicts, as columns of `results.csv`.
        parts: files of the class statistics of the sections of the train text (`lcutils.features.sections`), in order;
            none if `extraction.parts` is off.
        by_part: what `lcutils.features.validation_parts` has summed over each part of the validation text, (8,) each.
        inner: class statistics of inner layers; None where none were asked for.
    """

    statistics: ClassStatistics
    head: Tensor
    agreement: dict[str, np.ndarray]
    texts: list[str]
    record: dict[str, Any]
    parts: tuple[Path, ...] = ()
    by_part: dict[str, np.ndarray] = field(default_factory=dict)
    inner: InnerSums | None = None

    @property
    def seen(self) -> Tensor:
        """(R,) ids of the classes that occur in the train text."""
        return self.statistics.classes

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """Read what `save_sums` and `save_rest` wrote; a `UserError` names a file that is damaged.

        The tensors come onto `device`.
        """
        check_artifact(folder)
        statistics = ClassStatistics.load(folder / "statistics.safetensors", device, "seen")
        head = load_file(folder / "head.safetensors", device=str(device))["rows"]
        with np.load(folder / "agreement.npz") as arrays:
            agreement = dict(arrays)
        texts, record = (json.loads((folder / name).read_text()) for name in ("texts.json", "point.json"))
        by_part = {}
        if (folder / BY_PART).is_file():
            with np.load(folder / BY_PART) as arrays:
                by_part = dict(arrays)
        parts, inner = tuple(sorted((folder / PARTS).glob("*"))), InnerSums.load(folder, device)
        return cls(statistics, head, agreement, texts, record, parts, by_part, inner)


def save_sums(folder: Path, statistics: ClassStatistics, classifier: Tensor) -> None:
    """Write the statistics, and the rows of the head (V, D) of the classes that occur, into an existing folder."""
    statistics.save(folder / "statistics.safetensors")
    save_rows({"rows": ChosenRows(classifier, statistics.counts.nonzero()[:, 0])}, folder / "head.safetensors")


def save_layers(folder: Path, layers: LayerStatistics) -> None:
    """Write the statistics of inner layers into an existing folder."""
    layers.save(folder / INNER_SUMS)
    facts = {"depth": layers.inner.depth, "layers": list(layers.layers), "norm": layers.norm, "lens": bool(layers.lens)}
    write_json(folder / INNER, facts)


def save_rest(folder: Path, agreement: dict[str, np.ndarray], texts: list[str], record: dict[str, Any]) -> None:
    """Write what else an `Extracted` holds into the folder."""
    np.savez(folder / "agreement.npz", **agreement)  # type: ignore[arg-type]  # numpy's stub mistakes the names
    write_json(folder / "texts.json", texts)
    write_json(folder / "point.json", record)
