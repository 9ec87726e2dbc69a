"""What an artifact is made of: its manifest, whether its files are still as they were written, and unfinished work.

A manifest is the last file of an artifact's folder. It holds what the artifact was made from, the size and SHA-256 of
every file, and a seal over itself. Whoever reads an artifact asks `check_artifact` first.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lcutils.artifacts import (
    MANIFEST,
    NOTE,
    DigestMemory,
    content_files,
    digest_of,
    followed,
    read_sealed_json,
    remove,
    remove_leftovers,
    write_sealed_json,
)
from lcutils.errors import UserError

MEMORY = ".verified"  # in an artifact's folder: the digests that were computed, by size and time of the files


def write_manifest(
    folder: Path,
    parameters: Mapping[str, Any],
    inputs: Mapping[str, str | None],
    began: float,
    facts: Mapping[str, Any],
    extra_files: Mapping[str, Path] | None = None,
) -> None:
    """Declare an artifact complete: write `manifest.json` into its folder, last of all files.

    Args:
        folder: holds the finished files.
        parameters: what the job read from the study.
        inputs: name -> content digest of each input.
        began: `time.monotonic()` when the job began.
        facts: further facts (device, seed, tokens_per_second …).
        extra_files: files elsewhere that belong to the artifact, by their paths relative to its folder.
    """
    content, memory = content_files(folder), DigestMemory(folder / MEMORY)
    files: dict[str, dict[str, Any]] = {
        name: {"size": path.stat().st_size, "sha256": memory.digest(path, name)}
        for name, path in (content | dict(extra_files or {})).items()
    }
    memory.save()
    manifest = {
        "parameters": parameters,
        "inputs": inputs,
        "content": digest_of({name: files[name]["sha256"] for name in content}),
        "files": files,
        **facts,
        "seconds": round(time.monotonic() - began, 3),
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": git_commit(),
        "versions": {"python": platform.python_version()} | dict(_installed_versions()),
    }
    write_sealed_json(folder / MANIFEST, manifest)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a complete artifact; None if the artifact is absent or unfinished, or the manifest damaged."""
    return read_sealed_json(folder / MANIFEST)


def damaged_files(folder: Path, spare: Collection[str] = ()) -> list[str]:
    """Names of an artifact's files that are not as they were written; none for one that is whole, or absent.

    Args:
        folder: of the artifact.
        spare: names of files that may be missing, because nothing needs them any more.
    """
    if not os.path.lexists(folder / MANIFEST):
        return []
    manifest = read_manifest(folder)
    if manifest is None:
        return [MANIFEST]
    memory = DigestMemory(folder / MEMORY)
    damaged = [
        name
        for name, entry in manifest["files"].items()
        if not _is_whole(folder / name, name, entry, memory) and (name not in spare or os.path.lexists(folder / name))
    ]
    memory.save()
    return damaged


def _is_whole(path: Path, name: str, entry: Mapping[str, Any], memory: DigestMemory) -> bool:
    try:
        return memory.digest(path, name) == entry["sha256"]
    except OSError:  # missing, a folder in its place, a broken link, not readable
        return False


def check_artifact(folder: Path) -> None:
    """Raise a `UserError` that names the first damaged file of an artifact. One that is being made is not checked."""
    if damaged := damaged_files(folder):
        raise UserError(
            f"{folder / damaged[0]}: is damaged or missing; run the stage that makes {folder.name} again, or make sweep"
        )


def read_note(folder: Path) -> dict[str, Any]:
    """Which job the unfinished work in a folder belongs to; empty without a whole note."""
    return read_sealed_json(folder / NOTE) or {}


def note_digest(folder: Path) -> str:
    """SHA-256 of the job that the unfinished work in a folder belongs to."""
    return hashlib.sha256(json.dumps(read_note(folder), sort_keys=True).encode()).hexdigest()


def claim_folder(folder: Path, job: Mapping[str, Any], *, discard: bool, ours: Collection[str] = ()) -> None:
    """Note, in `job.json`, which job the unfinished work in a folder belongs to.

    Args:
        folder: of one job's unfinished work; made if absent.
        job: everything that decides the result, as JSON values.
        discard: if another job's work lies there, delete it and begin anew.
        ours: patterns of the names of files that such jobs write. A folder without a whole note that holds nothing
            else is work of ours too, whose note was lost.

    Raises:
        UserError: another job's work lies there and is not to be discarded (the message names what differs), or files
            that no job claimed, which are never deleted.
    """
    job, folder = json.loads(json.dumps(job)), followed(folder)  # tuples become lists, as they are when read back
    if folder.is_dir():
        remove_leftovers(folder)
    theirs = read_note(folder)
    if theirs == job:
        return
    if theirs and not discard:
        raise UserError(f"{folder}: holds {_difference(theirs, job)}; choose another folder or delete this one")
    if visible := _visible_names(folder):
        known = (NOTE, MANIFEST, *ours) if discard and ours else ()
        if not theirs and not all(any(fnmatch(name, pattern) for pattern in known) for name in visible):
            raise UserError(f"{folder}: holds files of an unknown job; choose another folder or delete this one")
        if not theirs:
            print(f"{folder}: {NOTE} is damaged or missing; its work begins anew", file=sys.stderr, flush=True)
        remove(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_sealed_json(folder / NOTE, job)


def _visible_names(folder: Path) -> list[str]:
    """Names of what lies in a folder, hidden files left out; the name of a file that is in its place."""
    if folder.is_dir():
        return [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    return [folder.name] if os.path.lexists(folder) else []


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


def _installed_versions() -> Iterator[tuple[str, str]]:
    for name in ("torch", "transformers", "numpy", "datasets", "tokenizers"):
        with suppress(PackageNotFoundError):  # later stages run without `datasets`
            yield name, version(name)


def git_commit() -> str | None:
    """The commit of the checkout that this package lies in; None if it lies in none, or git is missing."""
    here = Path(__file__).parent
    if (here / "shipped").is_dir():  # an installed package; the checkout around it, if any, is another project's
        return None
    try:
        answer = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True)
    except FileNotFoundError:  # a machine without git
        return None
    return answer.stdout.strip() or None
