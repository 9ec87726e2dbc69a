"""What a run leaves in its folder so that it can be killed anywhere and continued.

`job.json` says which run the folder holds (`lcutils.artifacts.claim_folder`), `resume/state.safetensors` is the last
save (parameters, both moments of AdamW, the step, sums), written aside and renamed: the old one or the new one, never
half of either.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from lcutils.artifacts import atomic_path
from lcutils.runs import Architecture, Recipe
from lcutils.tensors import save_tensors
from lcutils.training.optimizer import FlatParameters

STATE_TENSORS = ("values", "first", "second")


def run_identity(
    architecture: Architecture, recipe: Recipe, blocks: np.ndarray, device: torch.device
) -> dict[str, Any]:
    """All that decides a run's weights: architecture, recipe, train blocks (by digest), threads of the CPU."""
    digest = hashlib.sha256(f"{blocks.shape} {blocks.dtype}".encode())
    for begin in range(0, len(blocks), 4096):  # a memory map is never read as a whole
        digest.update(np.ascontiguousarray(blocks[begin : begin + 4096]).data)
    identity = {"architecture": asdict(architecture), "recipe": asdict(recipe), "train blocks": digest.hexdigest()}
    return identity | ({"threads": torch.get_num_threads()} if device.type == "cpu" else {})


def save_state(path: Path, parameters: FlatParameters, facts: dict[str, Any]) -> float:
    """Save the flat tensors and `facts`; returns the seconds it took."""
    began = time.monotonic()
    with atomic_path(path) as aside:
        tensors = {name: getattr(parameters, name).cpu() for name in STATE_TENSORS}
        save_tensors(tensors, aside, {"facts": json.dumps(facts)})
    return time.monotonic() - began


def load_state(path: Path, parameters: FlatParameters) -> dict[str, Any]:
    """Copy a save into the flat tensors; returns its facts."""
    device = parameters.values.device
    with safe_open(path, framework="pt", device=str(device)) as file:
        for name in STATE_TENSORS:
            getattr(parameters, name).copy_(file.get_tensor(name))
        facts = json.loads(file.metadata()["facts"])
    parameters.compute.copy_(parameters.values)
    return facts


def cut_log(path: Path, steps: int) -> None:
    """Drop the lines of a JSON-lines log that come after step `steps`, which are about to be made again."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
        with atomic_path(path) as aside:
            aside.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= steps))
