"""Files of tensors that whoever may read the folder may read."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file with the mode that any new file has here; the library's own is 0600."""
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, metadata)  # replaces the file
    path.chmod(mode)
