"""Small sweeps through Snakemake and papermill: what runs, what does not, what is refused."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from conftest import lcutils_command

from lcutils.parameters import ROOT, load_study
from lcutils.sweep import snakemake_command
from lcutils.workspace import open_study


def planned(study: Path, model: str | None = None) -> list[str]:
    """The folders whose manifests a sweep would make."""
    command = snakemake_command(open_study(study, study.parent), model=model, dry_run=True)
    words = command.index("--quiet")
    del command[words : words + 3]  # the list of jobs is wanted
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    text = outcome.stdout + outcome.stderr
    return sorted(re.findall(r"^\s+output: (\S+?)/manifest\.json", text, re.MULTILINE))


def sweep(study: Path, *words: str) -> str:
    outcome = lcutils_command("sweep", study, "--outputs", study.parent, *words)
    assert outcome.returncode == 0, (outcome.stdout + outcome.stderr)[-3000:]
    return outcome.stdout


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """A tiny study, run once; tests copy it."""
    from conftest import TINY

    folder = tmp_path_factory.mktemp("swept")
    study = folder / "tiny.yaml"
    study.write_text(TINY)
    sweep(study)
    return study


@pytest.fixture
def copy(swept: Path, tmp_path: Path) -> Path:
    """A copy of the finished study: times differ, contents do not."""
    shutil.copytree(swept.parent, tmp_path / "copy")
    return tmp_path / "copy" / "tiny.yaml"


def test_a_sweep_leaves_rows_figures_and_a_report(swept):
    folder = swept.parent / "tiny"
    results = pd.read_csv(folder / "results.csv")
    assert set(results["model"]) == {"01x0016_01d", "01x0032_01d"}
    assert results[["val_loss", "nc1_cdnv", "nc4_agreement", "gnc2_log_cov", "unc3_cosine_cov"]].notna().all().all()
    assert (folder / "analysis" / "report.html").stat().st_size > 10_000
    for notebook in (folder / "notebooks").glob("*.ipynb"):
        outputs = [output for cell in nbformat.read(notebook, 4).cells for output in cell.get("outputs", [])]
        assert not [output for output in outputs if output.output_type == "error"]
    manifest = json.loads((folder / "runs" / "01x0016_01d" / "manifest.json").read_text())
    assert manifest["seed"] == 42
    assert manifest["tokens_per_second"] > 0
    assert (folder / "logs" / "01x0016_01d.log").read_text()


def test_a_finished_sweep_has_nothing_to_do(copy):
    assert planned(copy) == []
    for path in copy.parent.rglob("*.json"):
        path.touch()  # a time is no reason
    assert planned(copy) == []


def test_a_missing_artifact_reruns_its_branch_only(copy):
    shutil.rmtree(copy.parent / "tiny" / "statistics" / "01x0016_01d@0")
    assert planned(copy) == ["analysis", "measurements/01x0016_01d@0", "statistics/01x0016_01d@0"]


def test_a_changed_parameter_reruns_what_reads_it(copy):
    text = copy.read_text()
    copy.write_text(text + "\nmeasurement: {riesz_s: 2.0}\n")
    assert planned(copy) == ["analysis", "measurements/01x0016_01d@0", "measurements/01x0032_01d@0"]
    copy.write_text(text.replace("permutations: 200", "permutations: 300").replace("title: Tiny", "title: Other"))
    assert planned(copy) == ["analysis"]


def test_a_new_model_trains_only_itself(copy):
    copy.write_text(copy.read_text().replace("width: [16, 32]", "width: [16, 32, 48]"))
    new = "01x0048_01d"
    assert planned(copy) == ["analysis", f"measurements/{new}@0", f"runs/{new}", f"statistics/{new}@0"]
    assert planned(copy, new) == [f"measurements/{new}@0", f"runs/{new}", f"statistics/{new}@0"]


def test_overrides_reach_the_jobs_and_clashing_ones_are_refused(copy):
    outcome = lcutils_command("sweep", copy, "--outputs", copy.parent, "--set", "learning_rate=0.1", "--dry-run")
    assert outcome.returncode == 2
    assert "learning_rate = 0.003" in outcome.stderr
    assert "another outputs folder" in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1
    elsewhere = copy.parent / "elsewhere"
    words = ["--outputs", elsewhere, "--set", "learning_rate=0.1", "sensitivity=[1, 3]", "--model", "01x0016_01d"]
    outcome = lcutils_command("sweep", copy, *words)
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    folder = elsewhere / "tiny"
    assert json.loads((folder / "runs/01x0016_01d/manifest.json").read_text())["parameters"]["learning_rate"] == 0.1
    table = pd.read_csv(folder / "measurements/01x0016_01d@0/sensitivity.csv")
    assert table["min_count"].tolist() == [1, 3]


def test_a_killed_sweep_goes_on_to_the_same_numbers(swept, tmp_path):
    study = shutil.copy(swept, tmp_path)
    command = [sys.executable, "-m", "lcutils", "sweep", study, "--outputs", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "tiny/data/manifest.json").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(4)  # now in the middle of training
    process.kill()  # this one alone: Snakemake lives on
    process.wait()
    outcome = lcutils_command("sweep", study, "--outputs", tmp_path)
    assert outcome.returncode == 2, outcome.stderr
    assert "a sweep is running there" in outcome.stderr
    os.killpg(process.pid, signal.SIGKILL)  # Snakemake and its jobs
    sweep(Path(study))
    once, again = (pd.read_csv(folder / "tiny/results.csv") for folder in (swept.parent, tmp_path))
    pd.testing.assert_frame_equal(once, again, check_exact=True)


def test_mistakes_are_one_line_before_any_work(tmp_path, tiny):
    cases = [
        (["sweep", "nowhere"], "parameters/nowhere.yaml"),
        (["sweep", tiny, "--model", "01x0064_01d"], "model: 01x0064_01d is not in the grid"),
        (["sweep", tiny, "--profile", "cloud"], "slurm"),
        (["sweep", tiny, "--set", "blok_size=3"], "did you mean block_size"),
        (["sweep", tiny, "--set", "source=no/such.txt"], "no/such.txt"),
        (["sweep", tiny, "--set", "device=quantum"], "device: quantum"),
        (["plan", tiny, "--set", "grid=[]"], "grid: is empty"),
    ]
    for words, expected in cases:
        outcome = lcutils_command(*words, "--outputs", tmp_path / "out")
        assert outcome.returncode == 2, (words, outcome.stderr)
        assert expected in outcome.stderr
        assert len(outcome.stderr.strip().splitlines()) == 1, outcome.stderr
    assert not (tmp_path / "out").exists()


def test_the_paper_expands_without_running(tmp_path):
    study = load_study("paper")
    assert len(study.points) == 230
    outcome = lcutils_command("plan", "paper", "--outputs", tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert "170 runs" in outcome.stdout
    assert "230 points" in outcome.stdout
