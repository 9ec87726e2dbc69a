"""What the numbers of a checkpoint are stored as, seen from the heads of its files."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from lcutils.features.model_folder import WEIGHTS

FLOATS = {"F32": torch.float32, "F64": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # as computed


@dataclass(frozen=True)
class StoredWeights:
    """What files of weights hold: the floating dtype that most of their numbers have, and how many bytes they are."""

    dtype: torch.dtype
    bytes: int


def stored_weights(name: str, revision: str | None) -> StoredWeights | None:
    """What the weights of a folder, or of a name on the hub, are stored as; None where their files do not say.

    Configurations often name another dtype than the tensors have. Of a sharded model on the hub the first file speaks.
    """
    from transformers.utils.hub import cached_file

    missing = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    try:
        found = (cached_file(name, file, revision=revision, **missing) for file in WEIGHTS)
        first = next((Path(file) for file in found if file), None)
        if first is None:
            return None
        if first.suffix != ".json":
            return _numbers_in(first)
        index = json.loads(first.read_text(encoding="utf-8"))
        shard = cached_file(name, min(index["weight_map"].values()), revision=revision)
        part = _numbers_in(Path(str(shard)))
        total = index.get("metadata", {}).get("total_size") or part.bytes * len(set(index["weight_map"].values()))
        return StoredWeights(part.dtype, int(total))
    except Exception:  # whatever is wrong with the files, loading the model reports it
        return None


def _numbers_in(file: Path) -> StoredWeights:
    """The dtype of most floating numbers in one file of weights, and the bytes of all of them."""
    from safetensors import safe_open

    numbers = dict.fromkeys(FLOATS.values(), 0)
    if file.suffix == ".safetensors":
        with safe_open(file, framework="numpy") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - the file is no mapping
                header = tensors.get_slice(key)
                if dtype := FLOATS.get(header.get_dtype()):
                    numbers[dtype] += math.prod(header.get_shape())
    else:
        for tensor in torch.load(file, map_location="meta", weights_only=True).values():
            if tensor.dtype in numbers:
                numbers[tensor.dtype] += tensor.numel()
    return StoredWeights(max(numbers, key=lambda dtype: numbers[dtype]), file.stat().st_size)
