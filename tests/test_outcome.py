"""What a sweep says at its end about its time."""

import json
import os
import time
from pathlib import Path

import pytest

from lcutils.pipeline.costs import JOB_SECONDS, START_SECONDS, seconds_per_token
from lcutils.pipeline.outcome import describe_failures, describe_time, watching_gpus
from lcutils.pipeline.overrides import open_study
from lcutils.pipeline.paths import FAILED
from lcutils.pipeline.plan import planned_seconds


def test_the_time_of_a_sweep_names_its_slowest_jobs(tmp_path, tiny):
    work = open_study(tiny, tmp_path)
    copies = work.folder / "notebooks"
    copies.mkdir(parents=True)
    for job, duration in {
        "01_data": 3.0,
        "02_train_a": 75.0,
        "03_extract_a@0": 0.4,
        "old": 9e9,
        "killed": None,
    }.items():
        (copies / f"{job}.ipynb").write_text(json.dumps({"metadata": {"papermill": {"duration": duration}}}))
    os.utime(copies / "old.ipynb", (1, 1))
    (copies / "half.ipynb").write_text('{"metadata": {')
    words = describe_time(work, time.time() - 100.0, [40.0, 60.0])
    assert words.startswith(
        "time           1 min 40 s for 4 jobs; GPUs busy 50 %; slowest 02_train_a 1 min 15 s, 01_data 3 s, "
    )
    assert "planned" not in words  # of a CPU no speed is known
    assert "GPUs" not in describe_time(work, time.time(), [])
    assert describe_time(work, time.time() + 9.0, []).endswith(" for 0 jobs")
    (work.folder / "logs").mkdir()
    (work.folder / "logs" / f"02_train_a{FAILED}").touch()
    assert describe_failures(work, time.time() - 9.0) == "02_train_a failed: nothing could be written of it\n"


def test_the_plan_of_some_jobs(tmp_path, monkeypatch):
    work = open_study("paper", tmp_path)
    run = work.study.trained_run("12x1024_10L")
    training, extraction = seconds_per_token(run)
    tokens = 229_367 * 2048
    jobs = ["02_train_12x1024_10L", "03_extract_12x1024_10L@5", "04_measure_12x1024_10L@5"]
    expected = (training + extraction / 2) * tokens + 3 * JOB_SECONDS + START_SECONDS
    assert planned_seconds(work, jobs) == pytest.approx(expected)
    assert planned_seconds(open_study("paper", tmp_path, ["device=cpu"]), jobs) is None
    assert planned_seconds(open_study("demo", tmp_path), []) is None
    assert planned_seconds(open_study("paper", tmp_path, ["pretrained={a: some/model}"]), jobs) is None


def test_gpus_are_watched_where_there_are_any(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 20\necho '[N/A]'\necho 80\ntouch " + str(tmp_path / "told") + "\nsleep 600\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path), os.environ["PATH"]]))
    with watching_gpus() as busy:
        while not (tmp_path / "told").exists():
            time.sleep(0.01)
    assert busy == [20.0, 80.0]
    monkeypatch.setenv("PATH", str(Path(os.devnull)))
    with watching_gpus() as busy:
        pass
    assert busy == []
