"""One job of a sweep: a notebook run by papermill.

The Snakefile calls it: `python -m lcutils.pipeline.run_job FOLDER NOTEBOOK JOB [MODEL [CHECKPOINT]]`. What the study
is, it reads from the sweep's request, so that no value passes through a shell or through papermill's command line,
which makes numbers of names and YAML of text.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

from lcutils.errors import UserError
from lcutils.parameters import ROOT
from lcutils.pipeline.locks import JOB, join_sweep

REQUEST = ".request.json"  # in the study's folder: what the present sweep is asked for


def run_job(folder: Path, notebook: str, job: str, model: str | None = None, checkpoint: str | None = None) -> int:
    """Run a notebook on the sweep's study; returns the exit status."""
    os.environ |= {JOB: job, "TQDM_DISABLE": "1"}  # the kernel inherits them; logs want lines, not bars
    try:
        join_sweep(folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    parameters = json.loads((folder / REQUEST).read_text())["parameters"]
    if model is not None:
        parameters["model"] = model
    if checkpoint is not None:
        parameters["checkpoint"] = int(checkpoint)

    from nbclient.exceptions import DeadKernelError
    from papermill import PapermillExecutionError, execute_notebook

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # papermill fills parameters into braces of paths.
    paths = [
        str(path).replace("{", "{{").replace("}", "}}")
        for path in (ROOT / "notebooks" / f"{notebook}.ipynb", folder / "notebooks" / f"{job}.ipynb")
    ]
    try:
        execute_notebook(
            *paths,
            parameters=parameters,
            kernel_name="python3",
            progress_bar=False,
            cwd=ROOT,
            start_timeout=600,  # a busy machine takes long to start a kernel
        )
    except PapermillExecutionError as error:
        print(error, file=sys.stderr)
        return 1
    except DeadKernelError:
        print("error: the notebook's process was killed, perhaps for lack of memory", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_job(Path(sys.argv[1]), *sys.argv[2:]))
