"""The five notebooks under nbval: each runs as it is, in order, and the outputs marked for it are those committed."""

import re
import subprocess
import sys
import time

import nbformat
import pytest

from lcutils.parameters import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
STAGES = ["01_data", "02_train", "03_extract", "04_measure", "05_analyze"]


def test_there_are_five():
    assert [path.stem for path in NOTEBOOKS] == STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_a_notebook_reproduces_its_outputs(demo, stage):
    began = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"notebooks/{stage}.ipynb", "--nbval-lax"]
    command += ["--nbval-kernel-name", "python3", "--nbval-cell-timeout", "120"]
    command += ["--nbval-sanitize-with", "tests/nbval_sanitize.cfg"]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout[-4000:]
    assert re.search(r"\d+ passed", outcome.stdout)
    assert time.monotonic() - began < 120


@pytest.mark.parametrize("stage", STAGES)
def test_a_committed_notebook_is_tidy(stage):
    """Outputs are there (a code host shows them), cells are short, nothing of the machine is in it."""
    path = ROOT / "notebooks" / f"{stage}.ipynb"
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert path.stat().st_size < 1_500_000
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].metadata.get("tags") == ["parameters"]
    assert any("NBVAL_CHECK_OUTPUT" in cell.source for cell in code)
    for cell in code:
        assert len(cell.source.splitlines()) <= 15
        assert not [output for output in cell.outputs if output.output_type == "error"]
    assert any(cell.outputs for cell in code)
    assert not re.search(r"/(root|work|home|tmp)/", path.read_text())


def test_an_unknown_papermill_parameter_is_refused(tmp_path):
    command = [sys.executable, "-m", "papermill", "notebooks/01_data.ipynb", str(tmp_path / "out.ipynb")]
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
        command += ["-p", "study", str(tiny), "-p", "outputs", str(tiny.parent), *words]
        outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert outcome.returncode == 0, outcome.stderr[-3000:]
        assert "Loading weights" not in out.read_text()  # transformers' bar
    assert (tiny.parent / "tiny/measurements/01x0016_01d@0/row.json").is_file()
