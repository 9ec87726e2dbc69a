"""What can be seen of a checkpoint folder without loading the model: whether transformers could load one from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lcutils.errors import UserError, first_line
from lcutils.features.adapters import adapter_in_folder

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
POINTER = b"version https://git-lfs"


def no_checkpoint(name: str, reason: str, fix: str) -> UserError:
    """The error for a folder or hub name from which no model can be loaded."""
    return UserError(f"{name[:200]}: no checkpoint can be loaded from it ({reason[:360]}); {fix}")


def check_model_folder(name: str) -> None:
    """Raise a `UserError` if the folder `name` holds no whole causal language model; quick, and runs no code of it.

    Wrong values inside a whole config.json are found when the model is loaded.
    """
    folder = Path(name)
    if folder.is_file():
        raise no_checkpoint(name, "it is a file", "give the folder that save_pretrained wrote")
    if adapter := adapter_in_folder(name):
        if Path(adapter.base).exists():
            check_model_folder(adapter.base)
        return
    weights = next((folder / file for file in WEIGHTS if (folder / file).is_file()), None)
    if weights is None and any(folder.glob("*.gguf")):
        raise no_checkpoint(name, "its weights are GGUF", "convert them to safetensors by save_pretrained")
    if not (folder / "config.json").is_file():
        raise no_checkpoint(name, "there is no config.json", "give a folder of save_pretrained")
    config = _object(folder / "config.json", name)
    if weights is None:
        if "transformers_weights" in config:  # a file of another name, for transformers to find
            return
        raise no_checkpoint(name, f"it has neither {WEIGHTS[0]} nor {WEIGHTS[2]}", "copy or download the weights too")
    for file in _shards(weights, name) if weights.suffix == ".json" else [weights]:
        _check_file(file, name)


def _object(path: Path, name: str) -> dict[str, Any]:
    fix = f"correct {path.name}, or save the model again"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # unreadable, no UTF-8, no JSON, too deep
        raise no_checkpoint(name, f"{path.name} cannot be read: {first_line(error)}", fix) from None
    if not isinstance(value, dict):
        raise no_checkpoint(name, f"{path.name} is no JSON object", fix)
    return value


def _shards(index: Path, name: str) -> list[Path]:
    """The files that an index names."""
    shards = _object(index, name).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(file, str) for file in shards.values()):
        raise no_checkpoint(name, f"{index.name} has no weight_map of files", "save the model again")
    files = sorted(set(shards.values()))
    if absent := [file for file in files if "/" in file or not (index.parent / file).is_file()]:
        reason = f"{len(absent)} of the {len(files)} files that {index.name} names are not there, such as {absent[0]}"
        raise no_checkpoint(name, reason, "copy or download them too")
    return [index.parent / file for file in files]


def _check_file(file: Path, name: str) -> None:
    """Refuse a file of weights that is a stand-in for one, or not whole."""
    from safetensors import SafetensorError, safe_open

    try:
        with file.open("rb") as opened:
            if opened.read(len(POINTER)) == POINTER:
                raise no_checkpoint(name, f"{file.name} is a Git LFS pointer", "run git lfs pull in its folder")
        if file.suffix == ".safetensors":
            with safe_open(file, framework="numpy"):  # reads the header, and compares it with the file's size
                pass
    except (OSError, SafetensorError) as error:
        raise no_checkpoint(name, f"{file.name}: {first_line(error)}", "copy or download it again") from None
