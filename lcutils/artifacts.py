"""Files and folders that are complete or absent, and the manifests that say what they hold."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
            with path.open("rb") as file:
                digest.update(f"{inside.as_posix()} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a complete artifact; None where there is none."""
    path = folder / MANIFEST
    return json.loads(path.read_text()) if path.is_file() else None


def is_current(folder: Path, parameters: dict[str, Any], inputs: dict[str, str]) -> bool:
    """True if the folder holds a complete artifact made from these parameters and inputs."""
    manifest = read_manifest(folder)
    return manifest is not None and manifest["parameters"] == parameters and manifest["inputs"] == inputs


def write_manifest(
    folder: Path, parameters: dict[str, Any], inputs: dict[str, str], began: float, facts: dict[str, Any]
) -> dict[str, Any]:
    """Declare the artifact in `folder` complete.

    Args:
        folder: holds the finished files; `manifest.json` is written into it last.
        parameters: what the job read from the study.
        inputs: name -> content digest of each input.
        began: `time.monotonic()` at the job's start.
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
    return manifest


def _installed_versions() -> Iterator[tuple[str, str]]:
    for name in ("torch", "transformers", "numpy", "datasets", "tokenizers"):
        with suppress(PackageNotFoundError):  # later stages run without `datasets`
            yield name, version(name)


def git_commit() -> str | None:
    """The commit of the checkout that this package lies in; None where it lies in none."""
    here = Path(__file__).parent
    answer = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True)
    return answer.stdout.strip() or None
