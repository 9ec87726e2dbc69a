"""Files of tensors: others of the lab may read them."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lcutils import tensors
from lcutils.features.statistics import ClassStatistics
from lcutils.gptneo.checkpoint import write_checkpoint
from lcutils.gptneo.model import GPTNeo
from lcutils.runs import Architecture
from lcutils.tensors import ChosenRows, save_rows, save_tensors
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


@pytest.mark.parametrize("numbers", [1, 8, 1 << 23])
def test_rows_are_written_piece_by_piece_and_read_by_the_library(tmp_path, monkeypatch, numbers):
    monkeypatch.setattr(tensors, "NUMBERS", numbers)
    table, rows = torch.randn(9, 4, dtype=torch.float64), torch.tensor([0, 3, 4, 8])
    every, none = torch.arange(9), rows[:0]
    given = {
        "chosen": (ChosenRows(table, rows), table[rows]),
        "all": (ChosenRows(table), table),
        "none": (ChosenRows(table, none), table[none]),
        "narrow": (ChosenRows(table.bfloat16(), rows), table.bfloat16()[rows]),
        "half": (ChosenRows(table.half(), rows), table.half()[rows]),
        "made narrower": (ChosenRows(table, rows, torch.float32), table[rows].float()),
        "transposed": (ChosenRows(table.T), table.T),
        "whole numbers": (ChosenRows(every, rows), rows),
    }
    save_rows({name: chosen for name, (chosen, _) in given.items()}, tmp_path / "rows.safetensors")
    read = load_file(tmp_path / "rows.safetensors")
    assert read.keys() == given.keys()
    for name, (_, expected) in given.items():
        assert read[name].dtype == expected.dtype
        assert torch.equal(read[name], expected), name
