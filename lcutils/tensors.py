"""Files of tensors, readable by all who may read the folder; and the pieces that large tensors are worked on in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

SPLIT = 8192  # rows of a large tensor that are worked on at a time, where that needs a temporary copy of them
NUMBERS = 1 << 23  # and the numbers in those rows at most: 64 MiB in float64
# How the format of safetensors calls the types that are saved row by row.
_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}


def pieces(number: int, width: int) -> Iterator[slice]:
    """Consecutive slices of the rows of a (number, width) tensor, small enough for temporary copies of each."""
    step = min(SPLIT, max(NUMBERS // max(width, 1), 1))
    return (slice(start, min(start + step, number)) for start in range(0, number, step))


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file with the usual mode of a new file; the library would make it 0600."""
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, metadata)  # replaces the file, and its mode
    path.chmod(mode)


@dataclass(frozen=True)
class ChosenRows:
    """Rows of a tensor, to be saved without a copy of all of them.

    Attributes:
        tensor: (n, …) on any device.
        rows: (m,) the positions of the chosen rows, in order; None for all.
        dtype: that they are saved in; None for the tensor's own.
    """

    tensor: Tensor
    rows: Tensor | None = None
    dtype: torch.dtype | None = None

    def parts(self) -> Iterator[Tensor]:
        """The rows on the CPU, piece by piece."""
        shape = self.shape
        rows = self.rows if self.rows is None else self.rows.to(self.tensor.device)
        for piece in pieces(shape[0], self.tensor[:1].numel()):
            part = self.tensor[piece] if rows is None else self.tensor.index_select(0, rows[piece])
            yield part.to("cpu", self.dtype or part.dtype)

    @property
    def shape(self) -> list[int]:
        """Of what is saved."""
        return [len(self.tensor if self.rows is None else self.rows), *self.tensor.shape[1:]]


def save_rows(tensors: Mapping[str, ChosenRows], path: Path) -> None:
    """Write a safetensors file piece by piece: a GPU's memory, and the host's, hold a piece at a time.

    The library needs whole tensors; it reads the file as any of its own.
    """
    header, end = dict[str, object](), 0
    # Widest numbers first, as the library has it, so that each tensor lies at a multiple of its numbers' size.
    order = sorted(tensors.items(), key=lambda item: -(item[1].dtype or item[1].tensor.dtype).itemsize)
    for name, chosen in order:
        dtype, begin = chosen.dtype or chosen.tensor.dtype, end
        end += torch.Size(chosen.shape).numel() * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": chosen.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, chosen in order:
            for part in chosen.parts():
                file.write(part.contiguous().flatten().view(torch.uint8).numpy().data)
