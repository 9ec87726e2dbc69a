"""One sweep at a time in a study's folder, until the last of its jobs has ended.

Two files are locked with `flock`; a lock ends with the processes that hold it, however they end.

- `.sweep.lock`, by the sweep and its Snakemake. Its text is the sweep's token, a word that no other sweep has, the
  machine, and the processes that hold it.
- `.jobs.lock`, by the kernels that jobs run in, together. Its lines name their processes.

If Snakemake alone is killed, kernels may live on. Each looks every second whether its sweep still runs and ends itself
if not: nothing is lost, as all work goes on from its last save. A sweep begins when no kernel of an earlier one is
left. A kernel on another machine of a cluster looks only whether another sweep has begun: locks may not reach so far.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from lcutils.errors import UserError
from lcutils.text import one_line

SWEEP, JOBS = ".sweep.lock", ".jobs.lock"
TOKEN = "LCUTILS_SWEEP"  # in the environment of a job; Slurm hands it on
SECONDS_TO_END = 120.0  # that the jobs of an earlier sweep may take to notice that it is over
_held: dict[tuple[Path, str], TextIO] = {}  # by folder and token: locks that last as long as this process


@contextmanager
def one_sweep(folder: Path, *, dry_run: bool = False) -> Iterator[TextIO]:
    """Hold a study's folder for one sweep, no job of an earlier one being left; yields the file with the lock.

    Its descriptor may be handed to another process, which then holds the lock too.

    Raises:
        UserError: another sweep is running, or a job that does not end; the file system has no locks; or the folder
            cannot be written.
    """
    with _open(folder / SWEEP) as lock:
        _lock_sweep(folder, lock)
        if not dry_run:
            _write(lock, f"{uuid.uuid4().hex} {socket.gethostname()} {os.getpid()}\n")
            _wait_for_jobs(folder)
        try:
            yield lock
        finally:
            if not dry_run:
                end_sweep(folder, lock)


def end_sweep(folder: Path, lock: TextIO) -> None:
    """Tell the jobs that their sweep is over, and wait until none is left. Most often there is none."""
    _write(lock, "")
    _wait_for_jobs(folder)


def token_of(folder: Path) -> str:
    """The token of the sweep that runs in a folder, or of the last one; empty while one ends."""
    words = _text(folder / SWEEP).split()
    return words[0] if words else ""


def join_sweep(folder: Path) -> None:
    """Called in each process that runs jobs: hold the jobs' lock until the process ends, and end it with its sweep.

    Does nothing in a process that no sweep started, or that has joined already.

    Raises:
        UserError: the sweep is over already.
    """
    token = os.environ.get(TOKEN)
    if not token or (folder, token) in _held:
        return
    lock = _open(folder / JOBS)
    _flock(lock, fcntl.LOCK_SH)
    if token_of(folder) != token:
        lock.close()
        raise UserError("the sweep that this job belongs to is over; nothing is done")
    _held[folder, token] = lock
    lock.write(f"(process {os.getpid()} on {socket.gethostname()})\n")
    lock.flush()
    threading.Thread(target=_end_with_sweep, args=(folder, token), daemon=True).start()


def _end_with_sweep(folder: Path, token: str) -> None:
    """Kill this process once its sweep is over: killing at any time is what all work is made for."""
    while _is_alive(folder, token):
        time.sleep(1.0)
    print("error: the sweep that this job belongs to is over; the next one goes on from here", file=sys.stderr)
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def _is_alive(folder: Path, token: str) -> bool:
    words = _text(folder / SWEEP).split()
    if words[:1] != [token]:
        return False
    if words[1:2] != [socket.gethostname()]:  # a cluster's job outlives its sweep, until another one begins
        return True
    with (folder / SWEEP).open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _lock_sweep(folder: Path, lock: TextIO) -> None:
    began = time.monotonic()
    while True:
        try:
            _flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            # A job that looks holds the lock for an instant; and a sweep that ends waits for its jobs.
            if time.monotonic() - began > (SECONDS_TO_END if not token_of(folder) else 2.0):
                raise UserError(
                    f"{one_line(folder, 200)}: a sweep is running there{_holders(folder)}; wait for it, end it, or "
                    "name another outputs folder"
                ) from None
            time.sleep(0.05)


def hand_on(lock: TextIO, process: int) -> None:
    """Note that another process holds the lock too, so that a person can find it."""
    lock.write(f"{process}\n")  # appended: readers find the token whole at any time
    lock.flush()


def _holders(folder: Path) -> str:
    """The processes that hold the sweep's lock, for a message."""
    match _text(folder / SWEEP).split():
        case [_, host, *processes] if processes:
            return f" (kill -9 {' '.join(processes)} on {one_line(host)} ends it, and loses nothing)"
    return ""


def _wait_for_jobs(folder: Path) -> None:
    """Wait until no process of a job is left."""
    began, said = time.monotonic(), False
    with _open(folder / JOBS) as lock:
        while True:
            try:
                _flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lock.truncate(0)
                return
            except BlockingIOError:
                waited = time.monotonic() - began
                left = one_line("; ".join(filter(_may_run, _text(folder / JOBS).splitlines())), 200)
            if waited > SECONDS_TO_END:
                raise UserError(
                    f"{one_line(folder, 150)}: jobs of an earlier sweep do not end: {left}; end what is left of them, "
                    "and start again"
                )
            if waited > 2.0 and not said:
                print(f"waiting for jobs of an earlier sweep to end: {left}", file=sys.stderr, flush=True)
                said = True
            time.sleep(0.1)


def _may_run(line: str) -> bool:
    """False for a process of this machine that has ended."""
    found = re.search(r"\(process (\d+) on (.*)\)$", line)
    if not found or found[2] != socket.gethostname():
        return True
    try:
        os.kill(int(found[1]), 0)  # signal 0 only asks whether the process exists
    except ProcessLookupError:
        return False
    except PermissionError:  # it exists, and is another user's
        return True
    return True


def _open(path: Path) -> TextIO:
    try:
        return path.open("a+", encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(
            f"{one_line(path, 200)}: cannot be written ({error.strerror}); make it yours, or name other outputs"
        ) from None


def _flock(file: TextIO, kind: int) -> None:
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        raise
    except OSError as error:
        raise UserError(
            f"{one_line(file.name, 200)}: this file system has no locks ({error.strerror}); name another outputs folder"
        ) from None


def _write(file: TextIO, text: str) -> None:
    file.truncate(0)
    file.write(text)  # at the end, as the file is open for appending
    file.flush()


def _text(path: Path) -> str:
    """A lock file's text; none where somebody deleted it."""
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
