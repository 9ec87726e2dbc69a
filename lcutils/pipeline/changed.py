"""A changed value in a notebook gets an outputs folder of its own, so that nothing that is computed is lost."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lcutils.artifacts import atomic_folder
from lcutils.pipeline.clash import ClashError
from lcutils.pipeline.jobs import all_jobs, check_overrides
from lcutils.pipeline.paths import Workspace

LARGE = 2**20  # bytes; what is smaller is copied
FOLDER = "changed"  # in the outputs folder: one folder for each set of overrides


def folder_of_its_own(work: Workspace) -> Workspace:
    """The workspace itself, or one in a folder of its own if its overrides clash with what is computed.

    The folder follows from the overrides: the same ones in the next notebook lead to the same folder. What is current
    under the overrides too, such as data and models where only a measurement changes, is taken along.
    """
    try:
        check_overrides(work)
    except ClashError:
        pass
    else:
        return work
    outputs = work.folder.parent / FOLDER / name_of(work.overrides)
    own = replace(work, folder=outputs / work.folder.name)
    _take_along(work, own)
    print(
        f"{work.display(work.folder)} was made with other values and stays as it is.\n"
        f"With these overrides, results are in {work.display(own.folder)}: give the next notebooks the same ones.\n"
        "To come back, set overrides = {} and run all cells again."
    )
    return own


def name_of(overrides: Mapping[str, Any]) -> str:
    """A folder's name that says what is changed, such as `learning_rate=0.001`; long ones end in a digest."""
    values = {key.rpartition(".")[2]: value for key, value in sorted(overrides.items())}
    name = ",".join(f"{key}={value}" for key, value in values.items())
    if re.fullmatch(r"[A-Za-z0-9_.,=-]{1,60}", name):
        return name
    digest = hashlib.sha256(json.dumps(dict(overrides), sort_keys=True, default=str).encode()).hexdigest()
    return f"{','.join(values)[:48]}-{digest[:8]}"


def _take_along(work: Workspace, own: Workspace) -> None:
    """Link what is current under the overrides: finished artifacts are replaced whole, and never written into."""
    for job in all_jobs(work).values():
        target = own.folder / job.folder.relative_to(work.folder)
        if not target.exists() and job.blocked_by is None and job.current:
            with atomic_folder(target) as aside:
                shutil.copytree(job.folder, aside, dirs_exist_ok=True, copy_function=_link)


def _link(source: str, target: str) -> None:
    if Path(source).stat().st_size < LARGE:  # logs are appended to
        shutil.copy2(source, target)
        return
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
