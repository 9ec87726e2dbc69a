"""What git stores of a notebook: the filter alone, and as `make` sets it up in a checkout."""

import json
import os
import shutil
import subprocess
import sys

import nbformat
import pytest

from lcutils.notebook_filter import clean_notebook
from lcutils.parameters import ROOT

LIVE, PICTURE = "application/vnd.vegalite.v5+json", "image/png"
needs_git = pytest.mark.skipif(not (shutil.which("git") and shutil.which("make")), reason="no git or no make here")


def notebook(data=None, metadata=None):
    """The JSON of a notebook with one code cell, as nbformat writes it."""
    outputs = [nbformat.v4.new_output("display_data", data)] if data else []
    cell = nbformat.v4.new_code_cell("1", outputs=outputs, metadata=metadata or {}, id="one")
    return nbformat.writes(nbformat.v4.new_notebook(cells=[cell])) + "\n"


@pytest.mark.parametrize("live", [LIVE, "application/vnd.vegalite.v6+json"])
def test_a_live_chart_beside_its_picture_is_dropped(live):
    words = {PICTURE: "iVBO", "text/plain": "Größe"}
    assert clean_notebook(notebook({live: {"mark": "bar"}} | words)) == notebook(words)
    assert clean_notebook(notebook({live: {"mark": "bar"}, "image/svg+xml": "<svg/>"})) == notebook(
        {"image/svg+xml": "<svg/>"}
    )


def test_times_are_dropped_and_tags_kept():
    timed = {"execution": {"iopub.status.busy": "2024-01-01T00:00:00Z"}, "papermill": {"duration": 1.5}}
    assert clean_notebook(notebook(metadata=timed | {"tags": ["parameters"]})) == notebook(
        metadata={"tags": ["parameters"]}
    )


@pytest.mark.parametrize("text", [notebook(), notebook({LIVE: {}}), notebook({PICTURE: "iVBO"})])
def test_what_has_nothing_to_drop_is_left_alone(text):
    assert clean_notebook(text) == text
    otherwise_laid_out = json.dumps(json.loads(text), indent=4)
    assert clean_notebook(otherwise_laid_out) == otherwise_laid_out


def test_bars_of_progress_are_dropped_and_what_is_printed_is_kept():
    """Bars come in pieces, or in one with what is printed after them."""
    shown = ["\r", "train:  0%|  | 0/9", "\r", "train: 100%|█| 9/9", "\n"]
    pieces = [["\rextract: 0%"], ["\rextract: 100%"], ["\n"], ["15 rows\n", "and a page\n"], [*shown, "done\n"]]
    cell = nbformat.v4.new_code_cell("1", id="one")
    cell["outputs"] = [nbformat.v4.new_output("stream", text="".join(piece)) for piece in pieces]
    text = nbformat.writes(nbformat.v4.new_notebook(cells=[cell])) + "\n"
    cell["outputs"] = [nbformat.v4.new_output("stream", text=kept) for kept in ("15 rows\nand a page\n", "done\n")]
    assert clean_notebook(text) == nbformat.writes(nbformat.v4.new_notebook(cells=[cell])) + "\n"


def test_cleaning_twice_is_cleaning_once():
    once = clean_notebook(notebook({LIVE: {"values": [1e-5, 0.1]}, PICTURE: "iVBO"}, {"execution": {}, "papermill": 1}))
    assert clean_notebook(once) == once


@pytest.mark.parametrize("text", ["<<<<<<< HEAD", "[]", "{}"])
def test_what_is_no_notebook_is_one_line(text):
    command = [sys.executable, "lcutils/notebook_filter.py"]  # as git runs it: it needs no lcutils
    outcome = subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True)
    assert outcome.returncode == 1
    assert outcome.stdout == ""
    assert outcome.stderr.count("\n") == 1
    assert "this is not a notebook" in outcome.stderr


@pytest.fixture
def folder(tmp_path):
    """What the filter needs of this repository, and an environment of the name that make gives it."""
    (tmp_path / "lcutils").mkdir()
    for name in ("Makefile", ".gitattributes", "lcutils/notebook_filter.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    return tmp_path


def run(folder, *command, **environment):
    return subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=True
    ).stdout


@needs_git
def test_make_sets_the_filter_up(folder):
    run(folder, "git", "init", "--quiet")
    run(folder, "make", "notebook-filter")
    text = notebook({LIVE: {"mark": "bar"}, PICTURE: "iVBO"})
    (folder / "chart.ipynb").write_text(text)
    run(folder, "git", "add", "chart.ipynb")
    assert run(folder, "git", "show", ":chart.ipynb") == clean_notebook(text)
    assert (folder / "chart.ipynb").read_text() == text  # the chart stays live for who works on it
    assert run(folder, "git", "status", "--porcelain", "chart.ipynb") == "A  chart.ipynb\n"


@needs_git
def test_make_goes_on_without_a_checkout_or_without_git(folder):
    run(folder, "make", "notebook-filter")
    (folder / ".git").mkdir()
    run(folder, shutil.which("make"), "notebook-filter", PATH=str(folder))


def test_the_setup_of_make_includes_the_filter():
    recipe = (ROOT / "Makefile").read_text().split(".venv/.ready: ")[1].split("\n\n")[0]
    assert "notebook-filter" in recipe
