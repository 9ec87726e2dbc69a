"""Damaged artifacts: one file of a complete study is damaged; its job, those that follow and its readers are asked."""

import atexit
import contextlib
import hashlib
import io
import os
import shutil
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))

import study
import torch
from damages import damage, files_by_class, names

from lcutils.analysis.rows import Measured
from lcutils.artifacts import MANIFEST, NOTE
from lcutils.corpus import open_data
from lcutils.errors import UserError
from lcutils.features.extracted import Extracted
from lcutils.manifests import read_manifest
from lcutils.pipeline.job import Job
from lcutils.pipeline.jobs import all_jobs, analyze_job, needs_work
from lcutils.pipeline.paths import Workspace
from lcutils.stages import open_study

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-template-"))
YAML = study.write_inputs(FOLDER)
study.make_template(YAML, FOLDER / "whole")
shutil.rmtree(FOLDER / "whole" / study.NAME / "logs")
shutil.rmtree(FOLDER / "whole" / study.NAME / ".current")


@atexit.register
def _remove_template(owner: int = os.getpid()) -> None:
    if os.getpid() == owner:
        shutil.rmtree(FOLDER)


def attempt(random: Random, folder: Path) -> str:
    """Damage a file. Somebody must name it in one line, and whoever reads, reads what was written."""
    outputs = folder / "outputs"
    shutil.copytree(FOLDER / "whole", outputs)
    classes = files_by_class(outputs / study.NAME)
    files = classes[random.choice(sorted(classes))]
    path = random.choice(files)
    what = damage(path, files, random)
    place = path.relative_to(outputs / study.NAME).as_posix()
    with contextlib.redirect_stderr(io.StringIO()) as said:
        work = open_study(YAML, outputs)
        jobs = all_jobs(work) | {"analyze": analyze_job(work)}
        name = next((name for name, job in jobs.items() if job.folder in path.parents), "analyze")
        after = [job for job in jobs.values() if any(before.folder == jobs[name].folder for before in job.upstream)]
        lines = [line for job in (jobs[name], *after) if (line := _reason(work, job))]
        digest, refusal = _reading(jobs[name], name)
    assert refusal or digest == _undamaged()[name], f"{place}: {what}: {name} reads something else"
    for line in (*lines, refusal):
        assert len(line.splitlines()) < 2, f"{place}: {what}: {line}"
        assert len(line) < 500, f"{place}: {what}: {line}"
    left = [path.name for path in outputs.rglob(".*.part*")]
    assert not left, f"{place}: {what}: left {left}"
    if not lines:
        spare = what.startswith("deleted") and path.name == "model.safetensors"  # nothing needs it any more
        # Of finished work, which nobody continues: its note, and the manifests of its checkpoints.
        note = path.name == NOTE or (path.name == MANIFEST and path.parent.name.startswith("checkpoint-"))
        note = note or (path.name == MANIFEST and read_manifest(path.parent) is not None)  # white space alone
        assert spare or note or study.NO_RESULT.search(place), f"{place}: {what}: nobody noticed"
        return "needed by nobody, read as it was"
    assert any(names(line, path) for line in [*lines, refusal, *said.getvalue().splitlines()]), (
        f"{place}: {what}: {lines}"
    )
    return "named in one line"


def _reason(work: Workspace, job: Job) -> str:
    """Why a job has work to do, or cannot; empty if its artifact is taken as it is."""
    try:
        return f"{job.folder}: {job.out_of_date or 'missing'}" if needs_work(work, job) else ""
    except UserError as error:
        return str(error)


def _reading(job: Job, name: str) -> tuple[str, str]:
    """Digest of what the artifact's reader returns; or the line that it refuses with."""
    digest, parts = hashlib.sha256(), list[Any]()
    try:
        if name == "data":
            data = open_data(job.folder)
            parts = [
                data.train.tobytes(),
                data.validation.tobytes(),
                data.blocks("ood").tobytes(),
                data.counts.tobytes(),
            ]
            parts += [data.summary]
        elif name.startswith("extract"):
            read = Extracted.load(job.folder)
            sums = read.statistics
            parts = [sums.counts, sums.means, sums.variances, sums.covariance, read.head, read.texts, read.record]
            parts += [read.agreement[key].tobytes() for key in sorted(read.agreement)]
        elif name.startswith("measure"):
            measured = Measured.load(job.folder)
            parts = [measured.row, measured.tokens.to_csv(), measured.sensitivity.to_csv()]
    except UserError as error:
        return "", str(error)
    for part in parts:
        digest.update(part.numpy().tobytes() if isinstance(part, torch.Tensor) else repr(part).encode())
    return digest.hexdigest(), ""


@lru_cache
def _undamaged() -> dict[str, str]:
    work = open_study(YAML, FOLDER / "whole")
    jobs = all_jobs(work) | {"analyze": analyze_job(work)}
    return {name: _reading(job, name)[0] for name, job in jobs.items()}
