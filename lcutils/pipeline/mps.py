"""NVIDIA's MPS for a sweep with several jobs on a GPU: they then run at once, where processes else take turns.

The daemon is the sweep's own. `mps_daemon` holds it, in a process that waits at the reading end of a pipe. The sweep
and its Snakemake hold the writing end, so that the daemon ends with the last of them, even by SIGKILL; kernels do not
hold it. Nor does that process hold the sweep's lock.

All three hold a lock in the folder of the daemon's pipes. Where that is free and the folder is still there, they were
all killed, and the next sweep ends what they left.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from lcutils.devices import choose_device
from lcutils.pipeline import mps_daemon
from lcutils.pipeline.mps_daemon import PIPES, PROGRAM, SERVES
from lcutils.pipeline.paths import Workspace
from lcutils.progress import said_if_slow
from lcutils.text import one_line

LOGS, VISIBLE = "CUDA_MPS_LOG_DIRECTORY", "CUDA_VISIBLE_DEVICES"
FOLDERS, IN_USE = "lcutils-mps-", "in-use"  # how the folders of pipes are called, and the lock in each
MOST_CLIENTS = 48  # of a GPU, by NVIDIA's documentation; one more is refused
# What a job does first: it connects, and makes a context on each GPU.
CLIENT = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
number, context = ctypes.c_int(), ctypes.c_void_p()
status = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(number))
for device in range(number.value):
    status = status or cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
raise SystemExit(f"CUDA answers {status} to a client" if status else 0)
"""


@dataclass(frozen=True)
class Sharing:
    """What a sweep's Snakemake is started with.

    Attributes:
        environment: of Snakemake, and so of its jobs.
        held: descriptors that it must inherit.
    """

    environment: dict[str, str]
    held: tuple[int, ...] = ()


@contextmanager
def sharing_gpus(work: Workspace, jobs: Iterable[str]) -> Iterator[Sharing]:
    """Run an MPS daemon for these jobs of a sweep on this machine, where they share GPUs and it can be had.

    A daemon that runs already is used as it is. Without one, jobs take turns, and a line says why.
    """
    alone = Sharing(dict(os.environ))
    if not _shares(work, jobs):
        yield alone
        return
    _end_left()
    named, answers = os.environ.get(PIPES), mps_daemon.servers() is not None
    if answers or (named and shutil.which(PROGRAM) is None):  # in a container, say, it can be used and not asked
        print("jobs share GPUs under the MPS daemon that runs already", flush=True)
        yield alone
        return
    if why := _hindrance(work, named):
        _say_turns(why)
        yield alone
        return
    logs = work.folder / "logs" / "mps"
    with suppress(OSError):  # the daemon, which can do without, will say so
        logs.mkdir(exist_ok=True)
    folder = _folder_of_pipes()
    environment = os.environ | _visible() | {PIPES: str(folder), LOGS: str(logs)}
    # In a session of its own, Ctrl-C does not end it before the jobs.
    with (
        _in_use(folder) as lock,
        subprocess.Popen(
            [sys.executable, "-I", mps_daemon.__file__, CLIENT],
            env=environment,
            pass_fds=[lock.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as holder,
    ):
        assert holder.stdin is not None
        assert holder.stdout is not None
        with said_if_slow("starting NVIDIA's MPS"):
            said = holder.stdout.readline().decode(errors="replace").strip()
        if said == SERVES:
            print(f"jobs share GPUs under NVIDIA's MPS (logs in {work.display(logs)})", flush=True)
            yield Sharing(environment, (holder.stdin.fileno(), lock.fileno()))
            return
    _say_turns(f"{one_line(said, 200) or 'it ended'}; {work.display(logs)} may say more")
    yield alone


def _shares(work: Workspace, jobs: Iterable[str]) -> bool:
    """True if several of these jobs may work on one GPU at a time."""
    if work.study.jobs_per_gpu == 1 or all(job.startswith(("data", "analyze")) for job in jobs):
        return False
    return choose_device(work.study.device).type == "cuda"


def _hindrance(work: Workspace, named: str | None) -> str:
    """Why no MPS daemon can be started for the sweep, as far as it is known beforehand."""
    if shutil.which(PROGRAM) is None:
        return f"there is no {PROGRAM}"
    if named:
        return f"no daemon answers in {one_line(named, 200)}, the value of {PIPES}; unset it for one of the sweep's own"
    gpus = torch.cuda.device_count() if choose_device(work.study.device).index is None else 1
    # A job may have been on another GPU before, and keeps its context there.
    if work.study.jobs_per_gpu * gpus > MOST_CLIENTS:
        return f"it takes {MOST_CLIENTS} jobs at a time; set jobs_per_gpu to {max(MOST_CLIENTS // gpus, 1)} at most"
    return ""


def _say_turns(why: str) -> None:
    print(f"NVIDIA's MPS is not used: {why}. Jobs take turns on a GPU.", file=sys.stderr, flush=True)


def _visible() -> dict[str, str]:
    """CUDA_VISIBLE_DEVICES for the daemon and its clients alike, where it is set.

    The daemon numbers its GPUs anew, so that clients would take a number for another GPU than the daemon does. Names
    stay; and they keep a client that lost its daemon from GPUs that the sweep may not use.
    """
    visible = os.environ.get(VISIBLE)
    if visible is None or visible.startswith(("GPU-", "MIG-")):
        return {}
    uuids = [torch.cuda.get_device_properties(index).uuid for index in range(torch.cuda.device_count())]
    return {VISIBLE: ",".join(f"GPU-{uuid}" for uuid in uuids)}


def _place_of_folders() -> str:
    """Where folders of pipes lie. A socket's path has 107 bytes: names in it and its own take up to 40."""
    usual = tempfile.gettempdir()
    return usual if len(os.fsencode(usual)) < 67 else "/tmp"


def _folder_of_pipes() -> Path:
    """A new folder, of this user alone."""
    return Path(tempfile.mkdtemp(prefix=FOLDERS, dir=_place_of_folders()))


@contextmanager
def _in_use(folder: Path) -> Iterator[IO[bytes]]:
    """Yield a lock of a folder of pipes, to be inherited; at the end a daemon that is left there is ended.

    One is left where the process that holds it was killed.
    """
    with (folder / "new").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / "new").rename(folder / IN_USE)  # nobody finds it free
        try:
            yield lock
        finally:
            if folder.exists():
                _end(folder)


def _end_left() -> None:
    """End this user's daemons whose sweep, Snakemake and holder were all killed."""
    for path in Path(_place_of_folders()).glob(f"{FOLDERS}*/{IN_USE}"):
        with suppress(OSError), path.open("rb") as lock:  # it is in use, or gone by now
            if path.stat().st_uid == os.getuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _end(path.parent)


def _end(folder: Path) -> None:
    """End the daemon of a folder of pipes, and delete the folder."""
    command = [sys.executable, "-I", mps_daemon.__file__]
    subprocess.run(command, env=os.environ | {PIPES: str(folder)}, stdin=subprocess.DEVNULL, check=False)
