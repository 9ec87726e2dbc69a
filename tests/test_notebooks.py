"""The notebooks under nbval: each runs as it is, in order, and the outputs marked for it are those committed."""

import re
import shutil
import subprocess
import sys

import nbformat
import pytest

from lcutils.notebook_filter import LIVE_CHART, clean_notebook
from lcutils.parameters import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
STAGES = ["00_measurements", "01_data", "02_train", "03_extract", "04_measure", "05_analyze", "06_your_model"]
STAGES += ["playground"]
CHECKED = "nbval-check-output"  # tag of the cells whose outputs nbval compares


def test_there_is_one_for_the_measurements_one_a_stage_one_for_other_models_and_one_to_play():
    assert [path.stem for path in NOTEBOOKS] == STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_a_notebook_reproduces_its_outputs(demo, stage):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"notebooks/{stage}.ipynb", "--nbval-lax"]
    command += ["--nbval-kernel-name", "python3", "--nbval-cell-timeout", "6000"]
    command += ["--nbval-kernel-startup-timeout", "600"]
    command += ["--nbval-sanitize-with", "tests/nbval_sanitize.cfg"]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout[-4000:]
    assert re.search(r"\d+ passed", outcome.stdout)


@pytest.mark.parametrize("stage", STAGES)
def test_a_notebook_is_tidy_as_git_stores_it(stage):
    """Outputs are included (a code host shows them), cells are short, nothing of the machine is in it."""
    text = clean_notebook((ROOT / "notebooks" / f"{stage}.ipynb").read_text())
    notebook = nbformat.reads(text, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    tags = [cell.metadata.get("tags", []) for cell in code]
    assert tags[0] == ["parameters"]
    assert re.search("# Values (that replace the YAML's|by the keys of a study|that all cases)", code[0].source)
    assert any(CHECKED in of_cell for of_cell in tags)
    for cell, of_cell in zip(code, tags, strict=True):
        assert len(cell.source.splitlines()) <= 15
        assert "NBVAL" not in cell.source
        assert not [output for output in cell.outputs if output.output_type == "error"]
        assert cell.outputs or CHECKED not in of_cell  # nbval has something to compare
    assert not re.search(r"/(root|work|home|tmp)/", text)


def test_the_notebooks_are_short_as_git_stores_them():
    assert sum(clean_notebook(path.read_text()).count("\n") for path in NOTEBOOKS) < 6000


@pytest.mark.skipif(not (ROOT / ".git").exists() or not shutil.which("git"), reason="this is no git checkout")
@pytest.mark.parametrize("stage", STAGES)
def test_git_stores_pictures_but_no_live_charts(stage):
    """A checkout without the filter (see the Makefile) would commit them."""
    command = ["git", "show", f":notebooks/{stage}.ipynb"]
    stored = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "image/png" in stored
    assert LIVE_CHART not in stored, f"git add --renormalize notebooks/{stage}.ipynb"


def test_an_unknown_papermill_parameter_is_refused(tmp_path):
    command = [sys.executable, "-m", "papermill", "notebooks/01_data.ipynb", str(tmp_path / "out.ipynb")]
    command += ["--start-timeout", "600"]
    outcome = subprocess.run([*command, "-p", "max_storys", "5"], cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode != 0
    assert "max_storys: no such parameter; did you mean max_stories?" in outcome.stderr


def test_papermill_runs_one_model_size_by_itself(tiny):
    """The commands of the README, on a tiny study: 01, then 02 to 04 for one model; an override by its plain name.

    What follows from an overridden stage is given the same override: without it the model is not the study's.
    """
    out = tiny.parent / "executed.ipynb"
    overridden = ["-p", "model", "01x0016_01d", "-p", "learning_rate", "0.001"]
    for stage, words in [
        ("01_data", []),
        ("02_train", overridden),
        ("03_extract", [*overridden, "-p", "checkpoint", "0"]),
        ("04_measure", [*overridden, "-p", "checkpoint", "0"]),
    ]:
        command = [sys.executable, "-m", "papermill", "--no-progress-bar", f"notebooks/{stage}.ipynb", str(out)]
        command += ["--start-timeout", "600", "-p", "study", str(tiny), "-p", "outputs", str(tiny.parent), *words]
        outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert outcome.returncode == 0, outcome.stderr[-3000:]
        assert "Loading weights" not in out.read_text()  # transformers' bar
    assert (tiny.parent / "tiny/measurements/01x0016_01d@0/row.json").is_file()
