"""One job: an artifact, what it would be made from now, whether it is current; and how it is made."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lcutils.artifacts import MANIFEST, atomic_folder
from lcutils.errors import UserError
from lcutils.manifests import damaged_files, read_manifest, write_manifest


@dataclass(frozen=True)
class Job:
    """An artifact, and what it would be made from now: a look at one moment, which is not repeated.

    Attributes:
        folder: of the artifact.
        command_hint: the notebook that makes it, and with which model.
        parameters: the study's values that it reads, as plain JSON.
        inputs: name -> content digest of each input; None where an input is missing.
        upstream: the jobs that make the inputs.
        extra_files: files outside `folder` that belong to the artifact.
        spare: names of files of it that may be missing, because nothing needs them any more.
        digests: of the parts of an input, for rows that are kept without it; None for a part that is missing.
        kept: a row that came from elsewhere and is current by what its manifest carries (`carried`).
        differs: why such a row is not of this study any more.
    """

    folder: Path
    command_hint: str
    parameters: dict[str, Any]
    inputs: dict[str, str | None]
    upstream: tuple[Job, ...] = ()
    extra_files: tuple[Path, ...] = ()
    spare: tuple[str, ...] = ()
    digests: dict[str, str | None] = field(default_factory=dict)
    kept: bool = False
    differs: str | None = None

    @property
    def stage(self) -> str:
        """The stage that makes the artifact: data, train, extract, measure or analyze."""
        return self.command_hint.partition("_")[2].partition(" ")[0]

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the artifact's content."""
        return {"parameters": self.parameters, "inputs": self.inputs}

    @cached_property
    def complete(self) -> bool:
        """True if the artifact exists and is whole, up to date or not."""
        return (self.folder / MANIFEST).is_file() and not self.damaged

    @cached_property
    def damaged(self) -> list[str]:
        """Names of its files that are not as they were written."""
        return damaged_files(self.folder, self.spare)

    @cached_property
    def out_of_date(self) -> str | None:
        """Why this artifact, or anything upstream, is damaged or out of date; None if it is current.

        A missing input is no reason: results may be moved without what they were made from.
        """
        if damaged := self.damaged:
            return f"{damaged[0]} is damaged or missing"
        if self.differs:
            return self.differs
        manifest = read_manifest(self.folder)
        if manifest is not None:
            if why := another_value(manifest["parameters"], self.parameters):
                return why
            then, now = manifest["inputs"], self.inputs
            for name in sorted(then.keys() | now.keys()):
                if name not in now or now[name] not in (None, then.get(name)):
                    return f"was made from another {name}"
        return next((why for job in self.upstream if (why := job.out_of_date)), None)

    @property
    def blocked_by(self) -> Job | None:
        """The first job that must be done before this one; None if this one can be done."""
        return next((job.blocked_by or job for job in self.upstream if not job.current), None)

    @property
    def current(self) -> bool:
        """True if complete and up to date."""
        return self.complete and not self.out_of_date


def another_value(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first value, by its key's name, that an artifact was not made with; None if it was made with all."""
    for key in sorted(then.keys() | now.keys()):
        if then.get(key) != now.get(key):
            return f"was made with {key} = {then.get(key)}, the study says {now.get(key)}"
    return None


@contextmanager
def alone(job: Job) -> Iterator[None]:
    """Keep other processes, such as a notebook beside a sweep, from making the same artifact until the end.

    Raises:
        UserError: another process is making it.
    """
    lock = FileLock(job.folder.with_name(f".{job.folder.name}.lock"))
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(f"{job.folder}: another process is making it; wait for that, or stop it") from None
    except OSError as error:  # a folder or a broken link in its place, or another user's
        raise UserError(f"{lock.lock_file}: cannot be locked ({error.strerror}); delete it") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def making(job: Job, facts: dict[str, Any]) -> Iterator[Path]:
    """Yield an empty folder for the artifact's files; on success it is declared complete, on error removed.

    Args:
        job: whose artifact is made.
        facts: for its manifest (device, seed, tokens_per_second …); may be added to until the end.
    """
    began = time.monotonic()
    with alone(job), atomic_folder(job.folder) as aside:
        yield aside
        if job.digests:
            facts = facts | {"digests": job.digests}
        extra = {os.path.relpath(path, job.folder): path for path in job.extra_files if path.is_file()}
        write_manifest(aside, job.parameters, job.inputs, began, facts, extra)
