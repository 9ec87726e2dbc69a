"""A changed value in a notebook that a person works in: a folder of its own; elsewhere a refusal."""

from __future__ import annotations

import nbformat
import pytest
from nbclient import NotebookClient

from lcutils.errors import UserError
from lcutils.parameters import ROOT
from lcutils.pipeline.changed import name_of
from lcutils.stages import extract_point, measure_point, open_study, prepare_data, train_run

MODEL = "01x0016_01d"


@pytest.fixture
def measured(tiny):
    """A study with one measured point."""
    work = open_study(tiny, tiny.parent)
    prepare_data(work)
    train_run(work, MODEL)
    extract_point(work, MODEL, 0)
    return measure_point(work, MODEL, 0)


def test_a_changed_value_gets_a_folder_of_its_own(tiny, measured, monkeypatch, capsys):
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/04_measure.ipynb")
    own = open_study(tiny, tiny.parent, {"riesz_s": 3.0}, {})
    assert own.folder == tiny.parent / "changed" / "riesz_s=3.0" / "tiny"
    assert "changed/riesz_s=3.0/tiny" in capsys.readouterr().out
    assert (own.statistics(MODEL, 0) / "manifest.json").is_file()  # data, model and statistics are as before
    assert not own.measurements(MODEL, 0).exists()
    assert measure_point(own, MODEL, 0).row["gnc2_riesz_mean"] != measured.row["gnc2_riesz_mean"]
    again = open_study(tiny, tiny.parent, {"riesz_s": 3.0}, {})
    assert again.folder == own.folder
    back = open_study(tiny, tiny.parent, {}, {})
    assert measure_point(back, MODEL, 0).row == measured.row


def test_what_follows_from_a_changed_value_is_not_taken_along(tiny, measured, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/02_train.ipynb")
    own = open_study(tiny, tiny.parent, {"learning_rate": 0.002}, {})
    assert own.data.exists()
    assert not own.run_folder(MODEL).exists()
    assert not own.statistics(MODEL, 0).exists()
    train_run(own, MODEL)
    assert (own.run_folder(MODEL) / "manifest.json").is_file()


@pytest.mark.parametrize("case", ["papermill", "sweep", "no server"])
def test_without_a_person_it_is_refused(tiny, measured, monkeypatch, case):
    namespace = {"In": ["# Parameters\noverrides = {}"], "overrides": {}} if case == "papermill" else {}
    if case != "no server":
        monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/04_measure.ipynb")
    if case == "sweep":
        monkeypatch.setenv("LCUTILS_SWEEP", "token")
        monkeypatch.setattr("lcutils.pipeline.overrides.join_sweep", lambda folder: None)
    work = open_study(tiny, tiny.parent, {"riesz_s": 3.0}, namespace)
    with pytest.raises(UserError, match="was made with riesz_s"):
        measure_point(work, MODEL, 0)


def test_a_folder_is_named_by_what_is_changed():
    assert name_of({"training.learning_rate": 0.001}) == "learning_rate=0.001"
    assert name_of({"measurement.sensitivity": [1, 5]}).startswith("sensitivity-")
    assert name_of({"source": "a/b"}) != name_of({"source": "a/c"})


def test_a_notebook_runs_with_a_changed_value(tiny, measured, monkeypatch):
    """As a person runs it in Jupyter, without the browser: 04 with a value that clashes with what is measured."""
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/04_measure.ipynb")
    notebook = nbformat.read(ROOT / "notebooks" / "04_measure.ipynb", 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    given = {"study": str(tiny), "outputs": str(tiny.parent), "model": MODEL, "checkpoint": 0}
    given["overrides"] = {"riesz_s": 3.0}
    code[0].source += "".join(f"\n{name} = {value!r}" for name, value in given.items())
    notebook.cells = code[:3]
    NotebookClient(notebook, startup_timeout=600, kernel_name="python3").execute(cwd=str(ROOT))
    assert "changed/riesz_s=3.0/tiny" in "".join(output.get("text", "") for output in code[1].outputs)
    assert (tiny.parent / "changed/riesz_s=3.0/tiny/measurements" / f"{MODEL}@0" / "row.json").is_file()
