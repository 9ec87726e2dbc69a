"""Files of tensors: others of the lab may read them."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lcutils.features.statistics import ClassStatistics
from lcutils.gptneo.checkpoint import write_checkpoint
from lcutils.gptneo.model import GPTNeo
from lcutils.runs import Architecture
from lcutils.tensors import save_tensors
from lcutils.training.optimizer import FlatParameters
from lcutils.training.resume import save_state


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o002])
def test_files_have_the_mode_of_any_new_file(tmp_path, mask):
    model = GPTNeo(Architecture(1, 16, 30), 0)
    flat = FlatParameters(model, torch.device("cpu"), torch.float32)
    before = os.umask(mask)
    try:
        save_tensors({"a": torch.arange(3)}, tmp_path / "a.safetensors")
        write_checkpoint(model, tmp_path / "checkpoint-0")
        ClassStatistics(3, 2).save(tmp_path / "statistics.safetensors")
        save_state(tmp_path, flat, {})
    finally:
        os.umask(before)
    assert load_file(tmp_path / "a.safetensors")["a"].tolist() == [0, 1, 2]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 5
    assert {mode(path) for path in files} == {0o666 & ~mask}
