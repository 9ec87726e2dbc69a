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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lcutils.errors import UserError

MANIFEST = "manifest.json"
NOTE = "job.json"  # in a folder of unfinished work: which job it belongs to


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
            # A folder cannot be replaced in one step: `path` is absent for an instant, but never half-written.
            old = _move_aside(path)
            aside.replace(path)
            shutil.rmtree(old)
        else:
            aside.replace(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _move_aside(path: Path) -> Path:
    """Rename a folder that is about to be deleted, so that it is never found half deleted; returns its new path."""
    return path.replace(path.with_name(f".{path.name}.{os.getpid()}.old"))


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary folders that killed processes left beside `path`: a checkpoint's take gigabytes."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.*"):
        process, kind = leftover.name.rsplit(".", 2)[1:]
        if kind not in ("part", "old") or not process.isdigit():
            continue
        try:
            os.kill(int(process), 0)  # signal 0 only asks whether the process exists
        except ProcessLookupError:
            shutil.rmtree(leftover, ignore_errors=True)
        except PermissionError:  # it exists, and is another user's
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
    """The manifest of a complete artifact; None if the artifact is absent or unfinished."""
    path = folder / MANIFEST
    return json.loads(path.read_text()) if path.is_file() else None


def read_note(folder: Path) -> dict[str, Any]:
    """Which job the unfinished work in a folder belongs to; empty without a note."""
    path = folder / NOTE
    return json.loads(path.read_text()) if path.is_file() else {}


def claim_folder(folder: Path, job: Mapping[str, Any], *, discard: bool) -> None:
    """Note, in `job.json`, which job the unfinished work in a folder belongs to.

    Args:
        folder: of one job's unfinished work; made if absent.
        job: everything that decides the result, as JSON values.
        discard: if another job's work lies there, delete it and begin anew.

    Raises:
        UserError: another job's work lies there and is not to be discarded (the message names what differs), or files
            that no job claimed, which are never deleted.
    """
    job = json.loads(json.dumps(job))  # tuples become lists, as they are when read back
    _remove_leftovers(folder)
    if theirs := read_note(folder):
        if theirs == job:
            return
        if not discard:
            raise UserError(f"{folder}: holds {_difference(theirs, job)}; choose another folder or delete this one")
        shutil.rmtree(_move_aside(folder))
    elif folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UserError(f"{folder}: holds files of an unknown job; choose another folder or delete this one")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / NOTE, job)


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any], prefix: str = "") -> str:
    """The first value that differs between two jobs, in words."""
    for key in ours:
        old, new = theirs.get(key), ours[key]
        if isinstance(old, dict) and isinstance(new, dict) and old != new:
            return _difference(old, new, f"{prefix}{key}.")
        if old != new:
            # Digests of SHA-256 and whole mappings would say nothing to a reader.
            unreadable = isinstance(old, dict) or (isinstance(new, str) and len(new) == 64)
            return f"a run with other {key}" if unreadable else f"a run with {prefix}{key} = {old}, not {new}"
    return "a run of another kind"


def write_manifest(
    folder: Path,
    parameters: Mapping[str, Any],
    inputs: Mapping[str, str | None],
    began: float,
    facts: Mapping[str, Any],
) -> None:
    """Declare an artifact complete: write `manifest.json` into its folder, last of all files.

    Args:
        folder: holds the finished files.
        parameters: what the job read from the study.
        inputs: name -> content digest of each input.
        began: `time.monotonic()` when the job began.
        facts: further facts (device, seed, tokens_per_second …).
    """
    manifest = {
        "parameters": parameters,
        "inputs": inputs,
        "content": content_digest(folder),
        **facts,
        "seconds": round(time.monotonic() - began, 3),
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": git_commit(),
        "versions": {"python": platform.python_version()} | dict(_installed_versions()),
    }
    write_json(folder / MANIFEST, manifest)


def _installed_versions() -> Iterator[tuple[str, str]]:
    for name in ("torch", "transformers", "numpy", "datasets", "tokenizers"):
        with suppress(PackageNotFoundError):  # later stages run without `datasets`
            yield name, version(name)


def git_commit() -> str | None:
    """The commit of the checkout that this package lies in; None if it lies in none, or git is missing."""
    here = Path(__file__).parent
    try:
        answer = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True)
    except FileNotFoundError:  # a machine without git
        return None
    return answer.stdout.strip() or None
