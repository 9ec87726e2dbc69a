"""Kernels that stay from one notebook of a sweep to the next."""

import os
import signal
import threading
from pathlib import Path

import nbformat
import pytest

from lcutils.artifacts import write_json
from lcutils.pipeline import workers as module
from lcutils.pipeline.paths import FAILED, REQUEST
from lcutils.pipeline.workers import JobError, Workers

PROCESS = "import os; print(os.getpid(), 'before' in globals(), kind); before = 1"


@pytest.fixture
def workers(tmp_path, monkeypatch) -> Workers:
    """Workers of an empty study whose notebooks are one cell each."""
    monkeypatch.setattr(module, "ROOT", tmp_path)  # where kernels start
    monkeypatch.setattr(module, "SHIPPED", tmp_path)  # where notebooks lie
    for name in ("notebooks", "study/notebooks", "study/logs"):
        (tmp_path / name).mkdir(parents=True)
    cells = {
        "look": PROCESS,
        "die": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "hold": "import weakref\nclass Held: pass\nheld = Held()\nheld.itself = held\n"
        f"weakref.finalize(held, open, {str(tmp_path / 'freed')!r}, 'w')",
        "fail": "raise ValueError('no {such} thing')",
        "wait": "import time; time.sleep(1.0)\n" + PROCESS,
    }
    for name, code in cells.items():
        parameters = nbformat.v4.new_code_cell("kind = None", metadata={"tags": ["parameters"]})
        notebook = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(code)])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, tmp_path / "notebooks" / f"{name}.ipynb")
    write_json(tmp_path / "study" / REQUEST, {"parameters": {"kind": "given"}})
    made = Workers(tmp_path / "study")
    yield made
    made.end()


def printed(workers: Workers, job: str) -> list[str]:
    copy = nbformat.read(workers.folder / "notebooks" / f"{job}.ipynb", 4)
    assert [cell.execution_count for cell in copy.cells] == [1, 2, 3]  # as in a kernel of its own
    return copy.cells[-1].outputs[0].text.split()


def test_a_notebook_finds_a_warm_kernel_and_no_variables(workers):
    workers.run("look", "first")
    workers.run("look", "second", kind="own")
    process, known, kind = printed(workers, "first")
    assert (known, kind) == ("False", "given")
    assert printed(workers, "second") == [process, "False", "own"]


def test_what_a_notebook_held_is_freed_before_the_next(workers):
    workers.run("hold", "first")
    freed = workers.folder.parent / "freed"
    assert not freed.exists()
    workers.run("look", "second")
    assert freed.exists()


def test_a_job_gets_the_kernel_that_is_warm_for_its_task(workers):
    def at_once(*tasks: str) -> dict[str, str]:
        threads = [threading.Thread(target=workers.run, args=("wait", task, task)) for task in tasks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {task: printed(workers, task)[0] for task in tasks}

    processes = at_once("a", "b")
    assert processes["a"] != processes["b"]
    for task in ("b", "a", "b", "b"):
        workers.run("look", task, task)
        assert printed(workers, task)[0] == processes[task]
    workers.run("look", "other", "c")  # no third kernel is started while one is free
    assert printed(workers, "other")[0] in processes.values()


def test_a_killed_kernel_takes_one_job_with_it(workers):
    workers.run("look", "first")
    with pytest.raises(JobError, match=r"process was killed \(signal 9\), perhaps for lack of memory"):
        workers.run("die", "second")
    assert (workers.folder / "logs" / f"second{FAILED}").read_text().startswith("error: the notebook's process was")
    workers.run("look", "third")
    assert printed(workers, "third")[0] != printed(workers, "first")[0]
    os.kill(int(printed(workers, "third")[0]), signal.SIGKILL)  # while it has nothing to do
    while Path(f"/proc/{printed(workers, 'third')[0]}").exists() and workers._free[0].process.poll() is None:
        pass
    workers.run("look", "fourth")
    assert printed(workers, "fourth")[0] != printed(workers, "third")[0]


def test_a_failed_notebook_says_why_and_ends_its_kernel(workers):
    """What an error left in the process, or on the GPU, must not fail the jobs after it."""
    workers.run("look", "first")
    with pytest.raises(JobError, match=r"^ValueError: no \{such\} thing$"):
        workers.run("fail", "second")
    assert "no {such} thing" in (workers.folder / "logs" / f"second{FAILED}").read_text()
    workers.run("look", "second")
    assert not (workers.folder / "logs" / f"second{FAILED}").exists()
    assert printed(workers, "second")[0] != printed(workers, "first")[0]


def test_a_copy_that_cannot_be_written_is_one_line(workers):
    (workers.folder / "notebooks" / "first.ipynb").mkdir()
    with pytest.raises(JobError, match=r"first.ipynb: IsADirectoryError: "):
        workers.run("look", "first")
    assert "Traceback" in (workers.folder / "logs" / f"first{FAILED}").read_text()
    workers.run("look", "second")
    assert printed(workers, "second")
