"""What a run leaves in its folder so that it can be killed anywhere and continued.

`job.json` says which run the folder holds (`lcutils.manifests.claim_folder`), `resume/state-….safetensors` is the last
save (parameters, both moments of AdamW, the step, sums). Its name ends with its digest: what is damaged is not used.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from lcutils.artifacts import atomic_path, check_space, find_sealed, remove, write_sealed
from lcutils.manifests import MANIFEST, damaged_files, note_digest
from lcutils.runs import Architecture, Recipe, count_parameters
from lcutils.tensors import save_tensors
from lcutils.training.optimizer import FlatParameters

STATES = "state-*.safetensors"
STATE_TENSORS = ("values", "first", "second")
LOG = "log.jsonl"
OURS = ("checkpoint-*", "resume", LOG)  # what training writes into a run's folder


def run_identity(
    architecture: Architecture, recipe: Recipe, blocks: np.ndarray, device: torch.device
) -> dict[str, Any]:
    """All that decides a run's weights: architecture, recipe, train blocks (by digest), threads of the CPU."""
    digest = hashlib.sha256(f"{blocks.shape} {blocks.dtype}".encode())
    for begin in range(0, len(blocks), 4096):  # a memory map is never read as a whole
        digest.update(np.ascontiguousarray(blocks[begin : begin + 4096]).data)
    identity = {"architecture": asdict(architecture), "recipe": asdict(recipe), "train blocks": digest.hexdigest()}
    return identity | ({"threads": torch.get_num_threads()} if device.type == "cpu" else {})


def is_kept(folder: Path) -> bool:
    """True if a checkpoint was written and evaluated, and all its files are as they were written."""
    return (folder / MANIFEST).is_file() and not damaged_files(folder)


def is_spent(folder: Path) -> bool:
    """True if a checkpoint was measured, and its weights then dropped. What was measured is of these very weights."""
    return is_kept(folder) and not (folder / "model.safetensors").exists()


def is_finished(run: Path, recipe: Recipe) -> bool:
    """True if all kept checkpoints of a run are written and evaluated, and whole."""
    written = not (run / "resume").exists() and (run / LOG).is_file()
    return written and all(is_kept(run / f"checkpoint-{k}") for k in recipe.checkpoints)


def check_unfinished(run: Path, architecture: Architecture, recipe: Recipe, blocks: int) -> None:
    """Remove what is damaged of earlier work, and raise a `UserError` if there is no room for the rest."""
    steps_per_epoch = -(-blocks // recipe.batch_size)
    checkpoints = {(k + 1) * steps_per_epoch: run / f"checkpoint-{k}" for k in recipe.checkpoints}
    check_state(run, checkpoints)
    missing = [checkpoint for checkpoint in checkpoints.values() if not is_kept(checkpoint)]
    if missing:
        saves = 2 * 12  # bytes per parameter of a state and its predecessor: weights and both moments in fp32
        check_space(run, (saves + 4 * len(missing)) * count_parameters(architecture))


def save_state(run: Path, parameters: FlatParameters, facts: dict[str, Any]) -> float:
    """Save the flat tensors and `facts` of the run in that folder; returns the seconds it took."""
    began = time.monotonic()
    facts = facts | {"log": _log_state(run / LOG)}
    tensors = {name: getattr(parameters, name).cpu() for name in STATE_TENSORS}

    def write(path: Path) -> None:
        save_tensors(tensors, path, {"facts": json.dumps(facts)})

    write_sealed(run / "resume", "state.safetensors", write, job=note_digest(run), replaces=STATES)
    return time.monotonic() - began


def check_state(run: Path, kept: Mapping[int, Path]) -> None:
    """Remove what was saved of a run if it cannot be continued from, and say why: training then begins anew.

    Args:
        run: the run's folder.
        kept: the checkpoints that are kept, each by its number of steps.
    """
    folder = run / "resume"
    if not os.path.lexists(folder):
        return
    path, damaged = find_sealed(folder, STATES, job=note_digest(run))
    for file in damaged:
        remove(file)
    why = f"{damaged[0].name} is damaged" if damaged else ""
    if path is not None:
        done = _facts(path)["done"]
        lost = [checkpoint.name for step, checkpoint in kept.items() if step <= done and not is_kept(checkpoint)]
        why = f"{lost[0]} is damaged or missing" if lost else ""
    if why:
        print(f"{folder}: {why}; the training of {run.name} begins anew", file=sys.stderr, flush=True)
    if why or path is None:
        remove(folder)


def load_state(run: Path, parameters: FlatParameters) -> dict[str, Any]:
    """Copy what was saved of a run into the flat tensors; returns its facts, empty if nothing was saved."""
    device, path = parameters.values.device, next((run / "resume").glob(STATES), None)
    if path is None:
        return {}
    with safe_open(path, framework="pt", device=str(device)) as file:
        for name in STATE_TENSORS:
            getattr(parameters, name).copy_(file.get_tensor(name))
    parameters.compute.copy_(parameters.values)
    return _facts(path)


def _facts(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["facts"])


def _log_state(log: Path) -> tuple[int, str]:
    """Size and digest of a log whose content is on the disk."""
    if not log.exists():
        return 0, hashlib.sha256().hexdigest()
    with log.open("rb") as file:
        os.fsync(file.fileno())
        return log.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def restore_log(run: Path, saved: tuple[int, str] | None) -> None:
    """Cut a run's log to what it held at the last save: the lines after it are about to be made again."""
    log = run / LOG
    content = log.read_bytes()[: saved[0]] if saved and log.is_file() else b""
    if saved and hashlib.sha256(content).hexdigest() != saved[1]:
        print(f"{log}: is damaged; it goes on with the steps that follow", file=sys.stderr, flush=True)
        content = b""
    with atomic_path(log) as aside:
        aside.write_bytes(content)
