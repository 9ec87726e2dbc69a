"""Files and folders that are complete or absent, whatever is killed and however full the disk is."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from lcutils.errors import UserError

MANIFEST = "manifest.json"
NOTE = "job.json"  # in a folder of unfinished work: which job it belongs to
HOST = re.sub(r"[^\w-]", "-", platform.node())[:40]
# `.name.host-process.part` is being written, `….old` about to be deleted. The ending of a file stays last: pandas,
# safetensors and Altair choose their format by it.
_ASIDE = re.compile(r"\..*\.(?P<host>[\w-]*)-(?P<process>\d+)\.(?:part|old)(?:\.\w+)?")
ABANDONED = 86_400.0  # seconds after which what a process on another machine left is taken for abandoned
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room, over a user's quota, over a limit on files
_digests: dict[tuple[int, ...], str] = {}  # SHA-256 of the files that this process has read, by disk and state


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; rename it to `path` on success, remove it on error.

    The content is on the disk before the rename. A symbolic link stays one: the file that it leads to is replaced.

    Raises:
        UserError: the disk is full.
    """
    path = followed(path)
    with explain_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path.parent, path.stem)
        aside = _aside(path, "part", path.suffix)
        try:
            yield aside
            flush(aside)
            if path.is_dir():  # no file can replace a folder
                remove(path)
            aside.replace(path)
            flush(path.parent)
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary sibling folder; on success it replaces `path`, on error it is removed.

    All its content is on the disk before the rename. A symbolic link stays one: the folder it leads to is replaced.

    Raises:
        UserError: the disk is full.
    """
    path = followed(path)
    with explain_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path.parent, path.name)
        aside = _aside(path, "part")
        shutil.rmtree(aside, ignore_errors=True)  # of this process's number, from before the machine restarted
        aside.mkdir()
        try:
            yield aside
            for folder, _, names in os.walk(aside, topdown=False):
                for name in names:
                    flush(Path(folder, name))
                flush(Path(folder))
            # A folder cannot be replaced in one step: `path` is absent for an instant, but never half-written.
            old = _move_aside(path) if os.path.lexists(path) else None
            aside.replace(path)
            flush(path.parent)
            if old is not None:
                remove(old)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def followed(path: Path) -> Path:
    """The path that a symbolic link leads to, there or not; any other path, and links in a circle, as they are."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _aside(path: Path, kind: str, suffix: str = "") -> Path:
    name = path.stem if suffix else path.name
    return path.with_name(f".{name[:100]}.{HOST}-{os.getpid()}.{kind}{suffix}")


def flush(path: Path) -> None:
    """Wait until a file's or folder's content is on the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that cannot do so for a folder
            raise
    finally:
        os.close(file)


def remove(path: Path) -> None:
    """Delete a file, a link or a folder, a folder in such a way that half of it is never found."""
    if path.is_dir() and not path.is_symlink():
        aside = path if _ASIDE.fullmatch(path.name) else _move_aside(path)
        shutil.rmtree(aside, ignore_errors=True)  # what a network file system still holds is a leftover, removed later
    else:
        path.unlink(missing_ok=True)


def _move_aside(path: Path) -> Path:
    aside = _aside(path, "old")
    shutil.rmtree(aside, ignore_errors=True)  # of this process's number, from before the machine restarted
    return path.replace(aside)


def _remove_leftovers(folder: Path, name: str) -> None:
    """Remove what killed processes left in `folder` while they wrote the file or folder of that name."""
    for path in folder.glob(".*"):
        if path.name.startswith(f".{name[:100]}.") and _is_abandoned(path):
            remove(path)


def remove_leftovers(folder: Path) -> None:
    """Remove all that killed processes left half-written or half-deleted anywhere below `folder`."""
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            if name.startswith(".") and _is_abandoned(Path(parent, name)):
                remove(Path(parent, name))


def _is_abandoned(path: Path) -> bool:
    """True for a temporary file or folder whose writer is no longer alive, as far as this machine can know."""
    match = _ASIDE.fullmatch(path.name)
    if match is None or int(match["process"]) == os.getpid():
        return False
    if match["host"] != HOST:
        return time.time() - path.lstat().st_mtime > ABANDONED
    try:
        os.kill(int(match["process"]), 0)  # signal 0 only asks whether the process exists
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # it exists, and is another user's
        return False
    return False


@contextmanager
def explain_full_disk(path: Path) -> Iterator[None]:
    """Turn the error of a full disk, whichever library raises it, into a `UserError` that names `path`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not _is_full(error):
            raise
        place = Path(getattr(error, "filename", None) or path)
        raise UserError(f"{place}: {_no_room(place)}; make room or name another outputs folder") from error


def check_space(path: Path, need: int) -> None:
    """Raise a `UserError` if the disk that `path` is to be written to has less than `need` bytes left."""
    if shutil.disk_usage(_existing(path)).free < need:
        raise UserError(f"{path}: needs {_size(need)}, but {_no_room(path)}; make room or name another outputs folder")


# How libraries word it that lose the number of the error: safetensors (Rust), numpy's `tofile`, `datasets`.
_FULL_WORDS = re.compile(r"(code:|os error) (28|122|27)\b|\d+ requested and \d+ written|Not enough disk space")


def _is_full(error: BaseException | None) -> bool:
    """True if an error, or what caused it, is that of a full disk."""
    while error is not None:
        if (isinstance(error, OSError) and error.errno in FULL) or _FULL_WORDS.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _no_room(path: Path) -> str:
    return f"the disk is full or a limit is reached ({_size(shutil.disk_usage(_existing(path)).free)} free)"


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())


def _size(number: int) -> str:
    return f"{number / 1e9:,.1f} GB" if number >= 1e9 else f"{number / 1e6:,.1f} MB"


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_path(path) as aside:
        aside.write_text(json.dumps(value, indent=1) + "\n")


def write_sealed_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object with a seal over its values, atomically."""
    write_json(path, sealed(values))


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a JSON object, and a seal over them."""
    values = json.loads(json.dumps(values))  # as they will be read back: tuples are lists
    return {**values, "seal": _json_seal(values)}


def _json_seal(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_sealed_json(path: Path) -> dict[str, Any] | None:
    """The values of a JSON file that carries a seal over them; None if it is absent or not whole."""
    try:
        return _read_once(path, *file_state(path))
    except OSError:
        return None


@lru_cache(maxsize=4096)
def _read_once(path: Path, *state: int) -> dict[str, Any] | None:
    """The values, which the caller does not change."""
    try:
        values = json.loads(path.read_bytes())
        whole = isinstance(values, dict) and values.pop("seal", None) == _json_seal(values)
    except (ValueError, RecursionError):
        return None
    return values if whole else None


def content_files(folder: Path) -> dict[str, Path]:
    """The files of a folder by their relative paths, in order; manifests, notes and hidden files are left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and path.name not in (MANIFEST, NOTE) and not any(p.startswith(".") for p in inside.parts):
            found[inside.as_posix()] = path
    return found


def content_digest(folder: Path, digest: Callable[[Path], str] | None = None) -> str:
    """SHA-256 over the names and contents of a folder's files; manifests, notes and hidden files are left out.

    Args:
        folder: of any files.
        digest: gives a file's SHA-256, for instance one that remembers it; `file_digest` if None.
    """
    return digest_of({name: (digest or file_digest)(path) for name, path in content_files(folder).items()})


def digest_of(digests: dict[str, str]) -> str:
    """SHA-256 over names and digests of files."""
    return hashlib.sha256("".join(f"{name} {value}\n" for name, value in digests.items()).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, remembered in this process for as long as its size and times stay.

    A file that has moved, with its folder for instance, is not read again.
    """
    state = (path.stat().st_dev, *file_state(path))
    if state not in _digests:
        with path.open("rb") as file:
            _digests[state] = hashlib.file_digest(file, "sha256").hexdigest()
    return _digests[state]


def file_state(path: Path) -> tuple[int, ...]:
    """What changes when a file's content does: its size, number on the disk, and times of change in nanoseconds."""
    state = path.stat()
    return state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns


class DigestMemory:
    """Digests of files that stay known when the process ends, for as long as the files' sizes and times stay.

    A memory that cannot be read or written costs the time to read the files again, nothing else.

    Args:
        path: JSON file of the memory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, Any] = dict(read_sealed_json(path) or {})
        self.changed = False

    def digest(self, path: Path, name: str | None = None) -> str:
        """SHA-256 of a file's content; the memory keeps it under `name`, or else under the whole path."""
        name, state = name or str(path), file_state(path)
        match self.known.get(name):
            case [*then, str(digest)] if then == [*state]:
                return digest
        digest, self.changed = file_digest(path), True
        self.known[name] = [*state, digest]
        return digest

    def save(self) -> None:
        """Write what was learned."""
        if self.changed:
            with suppress(OSError, UserError):  # results that lie where nobody may write are still verified
                write_sealed_json(self.path, self.known)
            self.changed = False


def write_sealed(folder: Path, name: str, write: Callable[[Path], None], *, job: str, replaces: str) -> None:
    """Write a file whose name ends with its seal, so that both appear in one step.

    Args:
        folder: where it goes; made if absent.
        name: of the file, without the seal.
        write: writes the content to the path that it is given.
        job: whose work it is. The seal depends on it, so that another job's file is not taken for this one's.
        replaces: pattern of the older files, which are then removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem, ending = Path(name).stem, Path(name).suffix
    aside = _aside(folder / name, "part", ending)
    with explain_full_disk(folder / name):
        try:
            write(aside)
            flush(aside)
            path = aside.replace(folder / f"{stem}-{_seal(aside, job)}{ending}")
            flush(folder)
        finally:
            aside.unlink(missing_ok=True)
    for older in folder.glob(replaces):
        if older != path:
            remove(older)


def find_sealed(folder: Path, pattern: str, *, job: str) -> tuple[Path | None, list[Path]]:
    """The last whole file of `write_sealed` that fits the pattern, None without one; and the damaged ones after it."""
    damaged: list[Path] = []
    for path in sorted(folder.glob(pattern), reverse=True):
        with suppress(OSError):  # a folder in its place, a broken link, not readable
            if path.stem.rpartition("-")[2] == _seal(path, job):
                return path, damaged
        damaged.append(path)
    return None, damaged


def _seal(path: Path, job: str) -> str:
    return hashlib.sha256(f"{job} {file_digest(path)}".encode()).hexdigest()[:16]
