"""Progress writes lines that a person can read, to a log and to standard error."""

import nbformat
from nbclient import NotebookClient

from lcutils import progress
from lcutils.progress import Progress


def test_lines_say_speed_time_left_and_figures(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    log = tmp_path / "run.log"
    with Progress("02x0064_01d", total=1000, log=log, start=200) as bar:
        bar.update(300, loss=4.25)
        assert bar.done == 500
        bar.update(500)
    lines = log.read_text().splitlines()
    assert len(lines) == 3
    assert " 50% 500/1,000 tok" in lines[0]
    assert "tok/s" in lines[0]
    assert "left" in lines[0]
    assert lines[-1].endswith("loss 4.25")
    assert "100% 1,000/1,000" in lines[-1]
    assert "02x0064_01d" in capsys.readouterr().err


def test_preparation_is_said_and_does_not_count(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    log = tmp_path / "run.log"
    with Progress("02x0064_01d", total=1000, log=log) as bar:
        bar.prepare("compiling")
        now[0] = 60.0
        bar.begin(100)
        now[0] = 61.0
        bar.update(450)
        assert (bar.done, bar.rate) == (550, 450.0)
    first, last = log.read_text().splitlines()[:2]
    assert first.endswith("02x0064_01d  compiling")
    assert " 55% 550/1,000 tok  450 tok/s  00:01 left" in last


def test_in_a_notebook_the_bar_is_no_red_box():
    code = "from lcutils.progress import Progress\nwith Progress('train', 10) as bar:\n    bar.update(10)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, startup_timeout=600, kernel_name="python3").execute()
    assert {output.name for output in notebook.cells[0].outputs} == {"stdout"}
