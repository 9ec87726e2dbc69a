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

from lcutils.artifacts import MANIFEST, atomic_folder
from lcutils.parameters import Study, is_there, load_study
from lcutils.pipeline.clash import ClashError, refuse_clash
from lcutils.pipeline.jobs import all_jobs, check_overrides
from lcutils.pipeline.paths import Workspace

LARGE = 2**20  # bytes; what is smaller is copied
FOLDER = "changed"  # in the outputs folder: one folder for each set of overrides


def folder_of_its_own(work: Workspace, usual: Study) -> Workspace:
    """The workspace itself, or one in a folder of its own if its overrides clash with what is computed.

    The folder follows from the overrides: the same ones in the next notebook lead to the same folder. What is current
    under the overrides too, such as data and models where only a measurement changes, is taken along.

    Args:
        work: the study with its overrides.
        usual: the study without them.
    """
    try:
        check_overrides(work)
        refuse_clash(work, work.analysis, work.study.analysis.model_dump(mode="json"))
    except ClashError:
        pass
    else:
        return work
    folder = work.folder.parent / FOLDER / name_of(work.overrides) / work.folder.name
    own = replace(work, folder=folder, changed_from=replace(work, study=usual, overrides={}))
    take_along(work, own)
    print(
        f"{work.display(work.folder)} was made with other values and stays as it is.\n"
        f"With these overrides, results are in {work.display(folder)}: give the next notebooks the same ones.\n"
        "To come back, set overrides = {} and run all cells again."
    )
    return own


def file_of_its_own(study: Study, path: Path) -> Path:
    """Where the file of a study is written: `path`, or a place named by what differs from the study that lies there.

    For models that exist, whose study is written by what a notebook asks for. The models themselves do not count: each
    has results of its own.
    """
    if not any(path.parent.glob(f"data*/{MANIFEST}")) or not is_there(path):
        return path
    there = load_study(path)
    changed = {
        f"{section}.{key}": value
        for section in ("corpus", "extraction", "measurement", "analysis")
        for key, value in getattr(study, section).model_dump(mode="json").items()
        if value != getattr(there, section).model_dump(mode="json")[key]
    }
    if not changed:
        return path
    work = Workspace(study.model_copy(update={"threads": there.threads}), path.parent, {})
    own = replace(work, folder=path.parent.parent / FOLDER / name_of(changed) / path.parent.name)
    take_along(work, own)
    print(
        f"{work.display(work.folder)} was made with other values and stays as it is.\n"
        f"With these, results are in {work.display(own.folder)}.\n"
        "To come back, set them back and run all cells again."
    )
    return own.folder / path.name


def name_of(overrides: Mapping[str, Any]) -> str:
    """A folder's name that says what is changed, such as `learning_rate=0.001`; long ones end in a digest."""
    values = {key.rpartition(".")[2]: value for key, value in sorted(overrides.items())}
    name = ",".join(f"{key}={value}" for key, value in values.items())
    if re.fullmatch(r"[A-Za-z0-9_.,=-]{1,60}", name):
        return name
    digest = hashlib.sha256(json.dumps(dict(overrides), sort_keys=True, default=str).encode()).hexdigest()
    return f"{','.join(values)[:48]}-{digest[:8]}"


def take_along(work: Workspace, own: Workspace) -> None:
    """Link what lies in the folder of `work` and is current under its study into that of `own`.

    Finished artifacts are replaced whole, and never written into.
    """
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
