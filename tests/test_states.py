"""`lcutils list`: how far each point has come."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file

from lcutils.errors import UserError
from lcutils.pipeline.checks import check_pretrained_run
from lcutils.pipeline.jobs import all_jobs
from lcutils.pipeline.outcome import note_failure
from lcutils.pipeline.overrides import open_study
from lcutils.pipeline.plan import describe_plan
from lcutils.pipeline.states import describe_states
from lcutils.stages import extract_point, measure_point, prepare_data, train_run

SMALL, LARGE = "01x0016_01d", "01x0032_01d"


def states(work):
    return [line.split(maxsplit=2) for line in describe_states(work).splitlines()[1:]]


def test_points_go_through_their_states(tiny, tmp_path, lcutils_here):
    work = open_study(tiny, tmp_path)
    assert describe_states(work).splitlines()[0] == "study tiny: 2 runs, 2 points: 2 to do"
    prepare_data(work)
    assert [line[1] for line in states(work)] == ["data", "data"]
    train_run(work, SMALL)
    assert states(work)[0] == [f"{SMALL}@0", "trained"]
    extract_point(work, SMALL, 0)
    assert states(work)[0] == [f"{SMALL}@0", "extracted"]
    measure_point(work, SMALL, 0)
    note_failure(work, f"02_train_{LARGE}", "Traceback\nerror: out of memory")
    row = json.loads((all_jobs(work)[f"measure/{SMALL}@0"].folder / "row.json").read_text())
    assert states(work) == [
        [f"{SMALL}@0", "measured", f"val_loss {row['val_loss']:.4f}"], [f"{LARGE}@0", "failed", "out of memory"],
    ]  # fmt: skip
    assert describe_states(work).startswith("study tiny: 2 runs, 2 points: 1 measured, 1 failed\n")
    outcome = lcutils_here("list", tiny, "--outputs", tmp_path)
    assert outcome.stdout == describe_states(work) + "\n"
    changed = describe_states(open_study(tiny, tmp_path, ["min_count=3"])).splitlines()[1]
    assert changed.split(maxsplit=2)[1] == "trained"
    assert "out of date: " in changed


def test_blocks_longer_than_a_models_positions_are_known_before_work(tiny, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(
        '{"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 1, "n_positions": 16}'
    )
    save_file({"some": torch.zeros(1)}, folder / "model.safetensors")
    work = open_study(tiny, tmp_path, [f"pretrained={{short: {folder}}}"])
    with pytest.raises(
        UserError, match="pretrained.short: has 16 positions, and corpus.block_size is 32; use at most 16"
    ):
        check_pretrained_run(work, work.study.run("short"))


def test_the_plan_counts_untrained_networks(tmp_path):
    once, twice = (
        describe_plan(open_study("paper", tmp_path, [f"random_network={value}", "nulls=20"]))
        for value in ("false", "true")
    )
    assert "108 G tokens of extraction\n" in once
    assert "216 G tokens of extraction, half of it of untrained networks\n" in twice
    assert "4 h 51 min extraction" in once
    assert "9 h 41 min extraction" in twice


def test_the_plan_of_small_work_has_minutes_and_seconds(tmp_path):
    """One small model of the paper's grid: no time of it is an hour."""
    one = "grid=[{depth: 1, width: 64, epochs: 10, decay: d, checkpoints: 9}]"
    [times] = [
        line for line in describe_plan(open_study("paper", tmp_path, [one])).splitlines() if "which jobs" in line
    ]
    assert re.fullmatch(r"    \d+ min( \d+ s)? training, \d+ s extraction, \d+ s in which jobs start", times)


@pytest.mark.parametrize("study", ["paper", "demo", "sample"])
def test_a_plan_fits_into_a_terminal(study, tmp_path):
    lines = describe_plan(open_study(study, tmp_path)).splitlines()
    assert max(len(line) for line in lines if not line.startswith("outputs:")) <= 80
