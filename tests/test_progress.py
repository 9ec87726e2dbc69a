"""Progress writes lines that a person can read, to a log and to standard error."""

import io
import threading

import nbformat
from nbclient import NotebookClient

from lcutils import progress
from lcutils.progress import Progress, said_if_slow, short_number, short_percent, short_time


def test_lines_say_speed_time_left_and_figures(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    log = tmp_path / "02x0064_01d.log"
    with Progress("train", total=1000, log=log, start=200) as bar:
        bar.update(300, loss=4.25)
        assert bar.done == 500
        bar.update(500)
    lines = log.read_text().splitlines()
    assert len(lines) == 3
    assert " train 02x0064_01d 50 %, " in lines[0]
    assert " tokens/s, loss 4.25, under 1 s left" in lines[0]
    assert " train 02x0064_01d 100 %, " in lines[-1]
    assert lines[-1].endswith("tokens/s, loss 4.25")
    assert "train 02x0064_01d" in capsys.readouterr().err


def test_preparation_is_said_and_does_not_count(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    log = tmp_path / "02x0064_01d.log"
    with Progress("train", total=1000, log=log) as bar:
        bar.prepare("compiling")
        now[0] = 60.0
        bar.begin(100)
        now[0] = 61.0
        bar.update(450)
        assert (bar.done, bar.rate) == (550, 450.0)
    first, last = log.read_text().splitlines()[:2]
    assert first.endswith(" train 02x0064_01d compiling")
    assert last.endswith(" train 02x0064_01d 55 %, 450 tokens/s, 1 s left")


def test_of_quick_work_nothing_is_shown_if_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TQDM_DISABLE", "1")  # as in a batch job: lines, no bar
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    for seconds, lines in ((4.0, []), (6.0, ["50 %", "100 %"])):
        log = tmp_path / f"{seconds}.log"
        with Progress("evaluate", total=100, log=log, if_slow=True) as bar:
            now[0] += seconds
            bar.update(50)
            bar.update(50)
        written = log.read_text().splitlines() if log.exists() else []
        assert [line.split(", ")[0].partition(".0 ")[2] for line in written] == lines
    assert capsys.readouterr().err.count("evaluate") == 2


def test_a_bar_within_anothers_time_takes_its_line(monkeypatch):
    """Where a cell shows both, a line above cannot be written again."""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(progress.sys, "stderr", terminal := io.StringIO())
    terminal.isatty = lambda: True
    with Progress("train", total=100) as outer:
        outer.update(50)
        with Progress("evaluate", total=10, if_slow=True) as inner:
            inner.update(10)
        outer.update(50)
    seen = terminal.getvalue()
    assert "evaluate: 100%" in seen
    assert "\x1b[A" not in seen
    assert seen.count("\n") == 2


def test_what_is_slow_is_said_and_what_is_not_is_not(capsys):
    said = threading.Event()
    with said_if_slow("never", 1000):
        pass
    with said_if_slow("reading", 0.0):
        while "reading" not in (text := capsys.readouterr().err):
            said.wait(0.01)
    assert text == "reading\n"


def test_numbers_and_times_are_short():
    assert [short_number(n) for n in (0, 12, 999.9, 310_400, 2_500_000, 3e9, 1.5e13)] == [
        "0",
        "12",
        "1 k",
        "310 k",
        "2.5 M",
        "3 G",
        "15 T",
    ]
    shares = [short_percent(share) for share in (0.0, 0.00123, 0.0456, 0.994, 0.996, 1.5, 123.456)]
    assert shares == ["0 %", "0.12 %", "4.6 %", "99 %", "100 %", "150 %", "12,346 %"]
    times = (0.2, 12, 59.6, 100, 200, 599.6, 700, 3599, 7500, 86_000, 280_000, 3_600_000)
    assert [short_time(n) for n in times] == [
        "under 1 s", "12 s", "1 min", "1 min 40 s", "3 min 20 s", "10 min", "12 min", "1 h", "2 h 5 min",
        "23 h 53 min", "78 h", "1,000 h",
    ]  # fmt: skip


def test_in_a_notebook_the_bar_is_no_red_box():
    code = "from lcutils.progress import Progress\nwith Progress('train', 10) as bar:\n    bar.update(10)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, startup_timeout=600, kernel_name="python3").execute()
    assert {output.name for output in notebook.cells[0].outputs} == {"stdout"}
