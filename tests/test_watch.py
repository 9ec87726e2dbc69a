"""What a sweep shows of its jobs while they run."""

import os
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from lcutils.parameters import ROOT
from lcutils.pipeline import watch as module
from lcutils.pipeline.jobs import all_jobs
from lcutils.pipeline.outcome import failed_points, note_failure
from lcutils.pipeline.overrides import open_study
from lcutils.pipeline.paths import STAMPS, notebook_copy
from lcutils.pipeline.plan import job_seconds
from lcutils.pipeline.watch import Watch, watching

SMALL, LARGE = "01x0016_01d", "01x0032_01d"


@pytest.fixture
def work(tiny, tmp_path):
    made = open_study(tiny, tmp_path / "out")
    for name in ("notebooks", "logs"):
        (made.folder / name).mkdir(parents=True)
    return made


def start(work, job):
    (work.folder / "notebooks" / f"{notebook_copy(job)}.ipynb").touch()


def finish(work, job):
    start(work, job)
    stamp = work.folder / STAMPS / job
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.touch()


def drawn(watch, width):
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(watch)
    lines = capture.get().splitlines()
    assert all(len(line) <= width for line in lines)
    return [line.rstrip() for line in lines]


@pytest.mark.parametrize("width", [80, 140])
def test_the_table_shows_stages_running_jobs_and_failures(work, width):
    old = work.folder / "notebooks" / f"02_train_{LARGE}.ipynb"
    old.touch()
    os.utime(old, (1, 1))  # of an earlier sweep: that is no start
    watch = Watch(work, [*all_jobs(work), "analyze"])
    finish(work, "data")
    start(work, f"train/{SMALL}")
    work.log(SMALL).write_text(f"2026-01-01 00:00:00 train {SMALL} 27 %, 310 k tokens/s, loss 2.31, 12 s left\n")
    watch.look()
    assert watch.running == [f"train/{SMALL}"]
    lines = drawn(watch, width)
    assert [line.split() for line in lines[1:4]] == [
        ["stage", "done", "running", "failed", "to", "do"], ["data", "1"], ["train", "0", "1", "1"],
    ]  # fmt: skip
    assert any(
        line.split(maxsplit=4) == ["train", SMALL, "27", "%", "310 k tokens/s, loss 2.31, 12 s left"] for line in lines
    )
    start(work, f"train/{LARGE}")
    note_failure(work, f"02_train_{LARGE}", "Traceback\nerror: out of [memory]; take smaller batches")
    assert watch.look()[1] == [f"train {LARGE} failed: out of [memory]; take smaller batches"]
    lines = drawn(watch, width)
    text = " ".join(lines)
    assert f"train {LARGE} failed: out of [memory]; take smaller batches" in text
    assert "1 of 8 jobs done, 1 failed" in lines[0]


def test_the_time_left_goes_by_cost_not_by_count(work, monkeypatch):
    now = [time.time()]
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: now[0]))
    jobs = [f"train/{SMALL}", f"train/{LARGE}"]
    watch = Watch(work, jobs)
    watch.costs = dict(zip(jobs, (10.0, 30.0), strict=True))
    assert watch.seconds_left() is None
    start(work, jobs[0])
    watch.look()
    now[0] += 20
    finish(work, jobs[0])
    start(work, jobs[1])
    watch.look()
    assert watch.seconds_left() == pytest.approx(60)  # three times the first one's 20 s
    work.log(LARGE).write_text(f"2026-01-01 00:00:00 train {LARGE} 50 %, 1 k tokens/s\n")
    watch.look()
    now[0] += 30
    assert watch.seconds_left() == pytest.approx(30, rel=0.02)
    assert watch.summary() == "1 of 2 jobs done, about 30 s left"


def test_without_a_terminal_there_are_lines(work, capsys):
    with watching(work, ["data", f"train/{SMALL}"]):
        finish(work, "data")
    assert capsys.readouterr().out.startswith("data done; 1 of 2 jobs done")


def test_costs_know_depth_and_width(tmp_path):
    work = open_study("paper", tmp_path)
    costs = job_seconds(work, ["data", "train/12x1024_10L", "train/01x0064_01d", "extract/12x1024_10L@5", "analyze"])
    data, large, small, extracted, analyze = costs.values()
    assert large > 10 * extracted > 10 * small > 10 * data == 10 * analyze


def test_copies_are_named_as_the_snakefile_names_them(work):
    text = (ROOT / "Snakefile").read_text()
    names = {
        "data": '"01_data"', "data-a-b": 'f"01_data_{', "train/a": 'f"02_train_{', "extract/a@0": 'f"03_extract_{',
        "measure/a@0": 'f"04_measure_{', "analyze": '"05_analyze"',
    }  # fmt: skip
    for job, start in names.items():
        assert start in text
        assert notebook_copy(job).startswith(start.strip('f"{'))
    assert notebook_copy("data-data-x") == "01_data_data-x"
    assert notebook_copy("extract/a/b@0") == "03_extract_a/b@0"


def test_a_job_that_ended_with_its_sweep_has_not_failed(work):
    note_failure(work, f"02_train_{SMALL}", "error: ended with its sweep; the next one goes on from here")
    note_failure(work, f"02_train_{LARGE}", "error: out of memory")
    assert failed_points(work) == {f"{LARGE}@0": "error: out of memory"}
