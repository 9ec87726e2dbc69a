"""Files and folders that are complete or absent, and the manifests that say what they hold."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; rename it to `path` on success, remove it on error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: pandas, safetensors and Altair choose their format by it.
    aside = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary sibling folder; on success it replaces `path`, on error it is removed."""
    _remove_leftovers(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        if path.exists():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            # A folder cannot be replaced in one step: `path` is absent for an instant, but never half-written.
            path.replace(old)
            aside.replace(path)
            shutil.rmtree(old)
        else:
            aside.replace(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary folders that killed processes left beside `path`: a checkpoint's take gigabytes."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.*"):
        process, kind = leftover.name.rsplit(".", 2)[1:]
        if kind not in ("part", "old") or not process.isdigit():
            continue
        try:
            os.kill(int(process), 0)  # signal 0 only asks whether the process is there
        except ProcessLookupError:
            shutil.rmtree(leftover, ignore_errors=True)
        except PermissionError:  # it is there, another user's
            continue


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_path(path) as aside:
        aside.write_text(json.dumps(value, indent=1) + "\n")


def content_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a folder's files, manifests and hidden files left out."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and path.name != MANIFEST and not any(part.startswith(".") for part in inside.parts):
            digest.update(f"{inside.as_posix()} {file_digest(path)}\n".encode())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, remembered for as long as its size and time stay."""
    state = path.stat()
    return _digest_once(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)
def _digest_once(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a complete artifact; None where there is none."""
    path = folder / MANIFEST
    return json.loads(path.read_text()) if path.is_file() else None


@dataclass(frozen=True)
class Job:
    """An artifact, and what it is made from as things are now.

    Attributes:
        folder: of the artifact.
        made_by: the notebook that makes it, and with which model.
        parameters: what it reads from the study.
        inputs: name -> content digest of each input; None where an input is not there.
        before: the jobs that make the inputs.
        also: files outside `folder` that belong to it.
    """

    folder: Path
    made_by: str
    parameters: dict[str, Any]
    inputs: dict[str, str | None]
    before: tuple[Job, ...] = ()
    also: tuple[Path, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the artifact is there, current or stale."""
        return all(path.is_file() for path in (self.folder / MANIFEST, *self.also))

    @property
    def stale(self) -> str | None:
        """Why the artifact, or one that it follows from, does not fit what it would be made from now; None if it fits.

        An input that is not there says nothing: results may be moved without what they were made from.
        """
        manifest = read_manifest(self.folder)
        if manifest is not None:
            then, now = manifest["parameters"], self.parameters
            for key in sorted(then.keys() | now.keys()):
                if then.get(key) != now.get(key):
                    return f"was made with {key} = {then.get(key)}, the study says {now.get(key)}"
            then, now = manifest["inputs"], self.inputs
            for name in sorted(then.keys() | now.keys()):
                if name not in now or now[name] not in (None, then.get(name)):
                    return f"was made from another {name}"
        return next((why for job in self.before if (why := job.stale)), None)

    @property
    def blocked_by(self) -> Job | None:
        """The first job that has to be done before this one; None if this one can be done."""
        return next((job.blocked_by or job for job in self.before if not job.current), None)

    @property
    def current(self) -> bool:
        """Whether nothing is to be done."""
        return self.complete and not self.stale


def write_manifest(folder: Path, job: Job, began: float, facts: dict[str, Any]) -> dict[str, Any]:
    """Declare an artifact complete.

    Args:
        folder: holds the finished files, the job's own folder in the end; `manifest.json` is written into it last.
        job: what it was made from.
        began: `time.monotonic()` at the job's start.
        facts: further facts (device, seed, tokens_per_second …).
    """
    manifest = {
        "parameters": job.parameters,
        "inputs": job.inputs,
        "content": content_digest(folder),
        **facts,
        "seconds": round(time.monotonic() - began, 3),
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": git_commit(),
        "versions": {"python": platform.python_version()} | dict(_installed_versions()),
    }
    write_json(folder / MANIFEST, manifest)
    return manifest


def _installed_versions() -> Iterator[tuple[str, str]]:
    for name in ("torch", "transformers", "numpy", "datasets", "tokenizers"):
        with suppress(PackageNotFoundError):  # later stages run without `datasets`
            yield name, version(name)


def git_commit() -> str | None:
    """The commit of the checkout that this package lies in; None where it lies in none, or git is not there."""
    here = Path(__file__).parent
    try:
        answer = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True)
    except FileNotFoundError:  # a machine without git
        return None
    return answer.stdout.strip() or None
