"""Run the notebooks of a sweep's jobs by papermill, one after another in kernels that stay.

A new process pays for imports, a CUDA context and compilation before it works. `Workers` belong to the Snakemake
process that runs the jobs; each job is lent a kernel: one that last worked on the same architecture, another that is
free, or a new one. Before a notebook the kernel forgets all variables and gives memory back. A kernel ends with a job
that fails, and takes no other with it. All end with Snakemake, and with the sweep (`lcutils.pipeline.locks`).
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient.exceptions import DeadKernelError
from papermill import PapermillExecutionError, execute_notebook
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, NotebookExecutionManager, papermill_engines

from lcutils.drawing import NO_PICTURES
from lcutils.errors import first_line
from lcutils.parameters import ROOT, SHIPPED
from lcutils.pipeline.locks import TOKEN, token_of
from lcutils.pipeline.paths import ENDED, FAILED, REQUEST
from lcutils.text import one_line

START_SECONDS = 600  # a busy machine takes long to start a kernel
ENGINE = "lcutils"
FORGET = """
get_ipython().reset(new_session=True)
import gc, sys
gc.collect()
if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
    sys.modules["torch"].cuda.empty_cache()
del gc, sys
"""


class JobError(Exception):
    """A job failed; the text is one line that says why."""


@dataclass
class _Worker:
    """A kernel that stays, and the task that it is warm for."""

    manager: AsyncKernelManager
    task: str = ""

    @property
    def process(self) -> Any:
        """The kernel's process, a `subprocess.Popen`."""
        provisioner: Any = self.manager.provisioner
        return provisioner.process


class _WarmEngine(NBClientEngine):
    """Papermill's own engine, but for the kernel: it is there before the notebook, and stays after it."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: NotebookExecutionManager, kernel_name: str, *, manager: AsyncKernelManager, **_: Any
    ) -> None:
        client = PapermillNotebookClient(nb_man, km=manager, kernel_name=kernel_name, startup_timeout=START_SECONDS)
        client.start_new_kernel_client()
        channels = client.kc
        try:
            reply = client.wait_for_reply(channels.execute(FORGET, silent=True))
            if reply is None or reply["content"]["status"] != "ok":
                raise RuntimeError(f"a kernel cannot be used again: {reply and reply['content']}")
            client.execute()
        finally:
            channels.stop_channels()


class Workers:
    """The kernels of one Snakemake process.

    Args:
        folder: of the study.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parameters = json.loads((folder / REQUEST).read_text())["parameters"]
        self._lock = threading.Lock()
        self._free: list[_Worker] = []
        self._started: list[_Worker] = []
        papermill_engines.register(ENGINE, _WarmEngine)
        atexit.register(self.end)

    def run(self, notebook: str, job: str, task: str = "", **parameters: Any) -> None:
        """Run a notebook with the sweep's parameters and these; its executed copy is `notebooks/{job}.ipynb`.

        Args:
            notebook: a name in `notebooks/`.
            job: the job's name, for files.
            task: what a kernel is warm for afterwards, such as an architecture.
            parameters: beside the sweep's, such as `model`.

        Raises:
            JobError: the notebook failed, or its kernel died.
        """
        source, copy = SHIPPED / "notebooks" / f"{notebook}.ipynb", self.folder / "notebooks" / f"{job}.ipynb"
        log, failure = self.folder / "logs" / f"{job}{FAILED}", ""
        log.unlink(missing_ok=True)
        with self._lent(task) as worker:
            try:
                execute_notebook(
                    *(str(path).replace("{", "{{").replace("}", "}}") for path in (source, copy)),  # else: parameters
                    parameters=self.parameters | parameters,
                    engine_name=ENGINE,
                    kernel_name="python3",
                    progress_bar=False,
                    manager=worker.manager,
                )
            except PapermillExecutionError as error:
                failure = str(error).strip()
            except DeadKernelError:
                failure = self._why_dead(-(worker.process.wait() or 0))
            except Exception as error:  # a full disk, a kernel that does not answer: whatever it is, the job has failed
                failure = f"{traceback.format_exc()}\nerror: {copy}: {type(error).__name__}: {first_line(error)}"
            if failure:  # what failed may have left the GPU, or memory, as no other job should find it
                worker.process.kill()
                worker.process.wait()
        if failure:
            with suppress(OSError):  # the disk may be full; the exception says it too
                log.write_text(failure + "\n", encoding="utf-8")
            raise JobError(one_line(failure.splitlines()[-1], 300))

    def _why_dead(self, number: int) -> str:
        if (token := os.environ.get(TOKEN)) and token_of(self.folder) != token:
            return ENDED
        reason = ", perhaps for lack of memory" if number == signal.SIGKILL else ""
        return f"error: the notebook's process was killed (signal {number}){reason}"

    @contextmanager
    def _lent(self, task: str) -> Iterator[_Worker]:
        """A worker for one job: the one that is warm for the task, one that is free, or a new one."""
        with self._lock:
            self._free = [worker for worker in self._free if worker.process.poll() is None]
            worker = min(self._free, key=lambda worker: worker.task != task, default=None)
            if worker is not None:
                self._free.remove(worker)
        if worker is None:
            worker = self._start()
        worker.task = task
        try:
            yield worker
        finally:
            with self._lock:
                self._free.append(worker)

    def _start(self) -> _Worker:
        worker = _Worker(AsyncKernelManager(kernel_name="python3"))
        self._started.append(worker)
        # What a library prints as it aborts the process goes where Snakemake prints; notebooks keep the rest.
        quiet = ["--IPKernelApp.log_level=ERROR"]
        # Logs want lines, not bars; and drawing takes longer than some jobs.
        environment = os.environ | {"TQDM_DISABLE": "1", NO_PICTURES: "1"}
        run_sync(worker.manager.start_kernel)(cwd=str(ROOT), env=environment, extra_arguments=quiet)
        return worker

    def end(self) -> None:
        """End all kernels."""
        for worker in self._started:
            worker.process.kill()
            worker.process.wait()
