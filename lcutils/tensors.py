"""Files of tensors, readable by all who may read the folder."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file with the usual mode of a new file; the library would make it 0600."""
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, metadata)  # replaces the file, and its mode
    path.chmod(mode)
