"""NVIDIA's MPS daemon of a sweep: when one is started, what jobs are told, and that it ends. The program is a fake."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Never

import psutil
import pytest
import torch
from conftest import TINY

from lcutils.parameters import ROOT
from lcutils.pipeline import mps
from lcutils.pipeline.locks import SWEEP, one_sweep
from lcutils.pipeline.mps import CLIENT, sharing_gpus
from lcutils.pipeline.mps_daemon import PIPES, PROGRAM
from lcutils.pipeline.overrides import open_study
from lcutils.pipeline.paths import Workspace
from lcutils.pipeline.sweep import run_sweep

# As the real one does: `-d` leaves a daemon in the background, which keeps its output open; other words are its input.
# It returns once the daemon is seen to serve, however slow the machine.
FAKE = """#!/bin/sh
pipes=${CUDA_MPS_PIPE_DIRECTORY:-$FAKE_MPS/default}
case "$1" in
serve)
    echo $$ > "$pipes/nvidia-cuda-mps-control.pid"
    touch "$pipes/control"
    while [ -e "$pipes/control" ]; do sleep 0.1; done
    exit ;;
-d) said=$1 ;;
*) said=$(cat) ;;
esac
echo "$pipes ${CUDA_VISIBLE_DEVICES-all} ${CUDA_MPS_LOG_DIRECTORY-none} $said" >> "$FAKE_MPS/calls"
case "$said" in
-d)
    [ -e "$FAKE_MPS/broken" ] && { echo some words; echo "MPS is not for this GPU"; exit 1; }
    "$0" serve &
    while [ ! -e "$pipes/control" ]; do sleep 0.1; done ;;
quit*) [ -e "$FAKE_MPS/stubborn" ] || rm "$pipes/control" ;;
get_server_list) [ -e "$pipes/control" ] || { echo "Cannot find MPS control daemon process"; exit 1; } ;;
esac
"""


class Fake:
    """A fake program in a folder, and what it was called with."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.program = folder, folder / "bin" / PROGRAM
        self.default = folder / "default"  # where a daemon of the user's runs, if one does
        self.default.mkdir(parents=True)
        self.program.parent.mkdir()
        self.program.write_text(FAKE)
        self.program.chmod(0o755)

    def calls(self, word: str) -> list[list[str]]:
        """Of each call with that word: the folder of pipes, the visible GPUs, the folder of logs."""
        path = self.folder / "calls"
        calls = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [call[:3] for call in calls if call[3] == word]

    def daemons(self) -> list[psutil.Process]:
        """The daemons that run."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.cmdline()[1:] == [str(self.program), "serve"] and process.status() != "zombie":
                    found.append(process)
        return found


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    """Two GPUs, as far as a sweep can see, and the fake program for them, in a place of their own."""
    fake = Fake(tmp_path / "fake")
    own = tempfile.TemporaryDirectory(prefix="mps-")  # not where sweeps of other tests are
    monkeypatch.setenv("FAKE_MPS_PLACE", own.name)
    monkeypatch.setattr(mps, "_place_of_folders", lambda: own.name)
    monkeypatch.setenv("FAKE_MPS", str(fake.folder))
    monkeypatch.setenv("PATH", f"{fake.program.parent}:{os.environ['PATH']}")
    for name in (PIPES, mps.LOGS, mps.VISIBLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(mps, "choose_device", lambda name: torch.device("cpu" if name == "cpu" else "cuda"))
    monkeypatch.setattr(mps, "CLIENT", "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    properties = [SimpleNamespace(uuid=f"1234-{index}") for index in range(2)]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties[index])
    yield fake
    for daemon in fake.daemons():
        daemon.kill()
    own.cleanup()


def opened(tmp_path: Path, **changes: object) -> Workspace:
    """A study whose jobs share GPUs."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    work = open_study(path, tmp_path, {"device": "cuda", "jobs_per_gpu": 3} | changes)
    (work.folder / "logs").mkdir(parents=True, exist_ok=True)
    return work


def until(condition: Callable[[], object]) -> None:
    """Wait until it holds, however slow the machine; a state that does not come in ten minutes never will."""
    for _ in range(12_000):
        if condition():
            return
        time.sleep(0.05)
    raise TimeoutError("a state that never came")


JOBS = ["data", "train/01x0016_01d", "analyze"]


def test_a_daemon_serves_for_the_length_of_a_sweep(fake, tmp_path, capsys):
    work = opened(tmp_path)
    with sharing_gpus(work, JOBS) as sharing:
        pipes = sharing.environment[PIPES]
        assert fake.calls("-d") == [[pipes, "all", str(work.folder / "logs" / "mps")]]
        assert len(fake.daemons()) == 1
        assert Path(pipes).stat().st_mode & 0o777 == 0o700
        assert len(pipes) < 70
        assert mps.VISIBLE not in sharing.environment
        assert len(sharing.held) == 2  # the pipe's end, and the lock
        assert not fake.calls("quit")
    assert [call[0] for call in fake.calls("quit")] == [pipes]
    assert not fake.daemons()
    assert not Path(pipes).exists()
    said = capsys.readouterr()
    assert "jobs share GPUs under NVIDIA's MPS" in said.out
    assert not said.err
    assert PIPES not in os.environ


def test_gpus_are_named_and_not_numbered(fake, tmp_path, monkeypatch):
    """The daemon's "2,3" would be its clients' 0 and 1, and a client that were told 2 would find none."""
    monkeypatch.setenv(mps.VISIBLE, "2,3")
    with sharing_gpus(opened(tmp_path), JOBS) as sharing:
        assert sharing.environment[mps.VISIBLE] == "GPU-1234-0,GPU-1234-1"
    assert [call[1] for call in fake.calls("-d")] == ["GPU-1234-0,GPU-1234-1"]
    monkeypatch.setenv(mps.VISIBLE, "GPU-abc")
    with sharing_gpus(opened(tmp_path), JOBS) as sharing:
        assert sharing.environment[mps.VISIBLE] == "GPU-abc"


def test_a_daemon_that_does_not_quit_is_ended(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(mps.mps_daemon, "__file__", quick := str(tmp_path / "quick.py"))
    Path(quick).write_text(
        Path(ROOT / "lcutils/pipeline/mps_daemon.py").read_text().replace("TO_LEAVE = 10", "TO_LEAVE = 1")
    )
    (fake.folder / "stubborn").touch()
    with sharing_gpus(opened(tmp_path), JOBS) as sharing:
        assert len(fake.daemons()) == 1
    assert not fake.daemons()
    assert not Path(sharing.environment[PIPES]).exists()


def test_a_daemon_whose_holder_is_killed_ends_with_the_sweep(fake, tmp_path):
    with sharing_gpus(opened(tmp_path), JOBS) as sharing:
        [holder] = [child for child in psutil.Process().children() if "mps_daemon" in " ".join(child.cmdline())]
        holder.kill()
        holder.wait()
        assert len(fake.daemons()) == 1  # for the jobs that there are
    assert not fake.daemons()
    assert not Path(sharing.environment[PIPES]).exists()


@pytest.mark.parametrize("problem", ["broken", "client", "missing", "many", "stale"])
def test_a_daemon_that_cannot_be_had_is_one_line(fake, tmp_path, monkeypatch, capsys, problem):
    words, changes = "", {}
    if problem == "broken":
        (fake.folder / "broken").touch()
        words = f"MPS is not for this GPU; {tmp_path}/tiny/logs/mps may say more"
    elif problem == "client":
        monkeypatch.setattr(mps, "CLIENT", "raise SystemExit('CUDA answers 805 to a client')")
        words = f"CUDA answers 805 to a client; {tmp_path}/tiny/logs/mps may say more"
    elif problem == "missing":
        monkeypatch.setenv("PATH", str(tmp_path))
        words = f"there is no {PROGRAM}"
    elif problem == "many":
        changes["jobs_per_gpu"] = 25
        words = "it takes 48 jobs at a time; set jobs_per_gpu to 24 at most"
    else:
        monkeypatch.setenv(PIPES, str(tmp_path))
        words = f"no daemon answers in {tmp_path}, the value of {PIPES}; unset it for one of the sweep's own"
    before = dict(os.environ)
    with sharing_gpus(opened(tmp_path, **changes), JOBS) as sharing:
        assert sharing.environment == before
        assert not sharing.held
        assert not fake.daemons()
    assert capsys.readouterr().err == f"NVIDIA's MPS is not used: {words}. Jobs take turns on a GPU.\n"
    assert all(not Path(pipes).exists() for pipes, *_ in fake.calls("-d"))


@pytest.mark.parametrize(("init", "contexts", "said"), [(0, [0, 0], 0), (805, [0, 0], 805), (0, [0, 46], 46)])
def test_the_first_client_does_what_jobs_do(monkeypatch, init, contexts, said):
    """It makes a context on each GPU, by CUDA's driver; the status says what CUDA answers."""
    made: list[int] = []

    def count(number: object) -> int:
        number._obj.value = len(contexts)  # type: ignore[attr-defined]
        return 0

    def retain(context: object, device: int) -> int:
        made.append(device)
        return contexts[device]

    driver = SimpleNamespace(cuInit=lambda flags: init, cuDeviceGetCount=count, cuDevicePrimaryCtxRetain=retain)
    monkeypatch.setattr("ctypes.CDLL", lambda name: driver)
    with pytest.raises(SystemExit) as error:
        exec(CLIENT, {})
    assert error.value.code == (f"CUDA answers {said} to a client" if said else 0)
    assert made == ([] if init else [0, 1])


@pytest.mark.parametrize("named", [False, True])
def test_a_daemon_that_runs_is_used(fake, tmp_path, monkeypatch, capsys, named):
    folder = tmp_path if named else fake.default
    (folder / "control").touch()
    if named:
        monkeypatch.setenv(PIPES, str(folder))
        monkeypatch.setenv(mps.VISIBLE, "1")
    before = dict(os.environ)
    with sharing_gpus(opened(tmp_path), JOBS) as sharing:
        assert sharing.environment == before
        assert not sharing.held
    assert not fake.calls("-d")
    assert not fake.calls("quit")
    assert "the MPS daemon that runs already" in capsys.readouterr().out
    assert (folder / "control").exists()


@pytest.mark.parametrize(
    ("changes", "jobs"),
    [({"jobs_per_gpu": 1}, JOBS), ({"device": "cpu"}, JOBS), ({}, ["data", "analyze"]), ({}, [])],
)
def test_where_no_gpu_is_shared_nothing_is_started(fake, tmp_path, capsys, changes, jobs):
    with sharing_gpus(opened(tmp_path, **changes), jobs) as sharing:
        assert sharing.environment == dict(os.environ)
    assert not (fake.folder / "calls").exists()
    assert capsys.readouterr() == ("", "")


class AskedError(Exception):
    """Raised where a sweep asks for a daemon, with the jobs that it names."""


def test_neither_a_dry_run_nor_a_cluster_asks_for_one(fake, tmp_path, monkeypatch):
    def asked(work: Workspace, jobs: Iterable[str]) -> Never:
        raise AskedError(*jobs)

    monkeypatch.setattr("lcutils.pipeline.sweep.sharing_gpus", asked)
    monkeypatch.setattr("lcutils.pipeline.sweep._profile_folder", lambda profile, dry_run: tmp_path)
    for options, jobs in (({"dry_run": True}, 0), ({"profile": "slurm"}, 0), ({}, 8)):
        with pytest.raises(AskedError) as error:
            run_sweep(opened(tmp_path, device="cpu"), **options)
        assert len(error.value.args) == jobs


# A sweep on the CPU that takes it for two GPUs, and kernels that say what they were given, and stay until they may go.
SWEEPS = """
import os, sys
import torch
from lcutils.pipeline import mps
mps._shares, mps.CLIENT, torch.cuda.device_count = lambda work, jobs: bool([*jobs]), "", lambda: 2
mps._place_of_folders = lambda: os.environ["FAKE_MPS_PLACE"]
from lcutils.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
KERNEL = """
import os, sys, time
if "ipykernel_launcher" in sys.orig_argv:
    held = [os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd") if number > "2"
            and os.path.exists(f"/proc/self/fd/{number}")]
    with open(os.environ["FAKE_MPS"] + "/kernels", "a") as file:
        print(os.getpid(), os.environ.get("CUDA_MPS_PIPE_DIRECTORY"), *held, file=file)
    while os.path.exists(os.environ["FAKE_MPS"] + "/wait"):
        time.sleep(0.05)
"""


@pytest.fixture
def begun(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """A sweep with a daemon; its first kernel waits while there is a file `wait`."""
    study = tmp_path / "tiny.yaml"
    study.write_text(TINY)
    (tmp_path / "sitecustomize.py").write_text(KERNEL)
    (fake.folder / "wait").touch()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-c", SWEEPS, "sweep", study, "--outputs", tmp_path, "--model", "01x0016_01d"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as sweep:
        until(lambda: (fake.folder / "kernels").exists() or sweep.poll() is not None)
        yield sweep
        sweep.kill()


def kernels(fake: Fake) -> list[list[str]]:
    """Of each kernel: its number, the folder of pipes that it was given, what it has open."""
    return [line.split() for line in (fake.folder / "kernels").read_text().splitlines()]


def test_jobs_of_a_sweep_find_the_daemon(fake, begun, tmp_path):
    (fake.folder / "wait").unlink()
    said, _ = begun.communicate(timeout=600)
    assert begun.returncode == 0, said
    [[pipes, *_]] = fake.calls("-d")
    assert {kernel[1] for kernel in kernels(fake)} == {pipes}
    assert [call[0] for call in fake.calls("quit")] == [pipes]
    assert not fake.daemons()
    assert not Path(pipes).exists()


def test_a_killed_sweep_leaves_no_daemon(fake, begun, tmp_path):
    """Snakemake goes on without the sweep, and so does the daemon; it ends with Snakemake."""
    sweep = psutil.Process(begun.pid)
    children = {" ".join(child.cmdline()): child for child in sweep.children()}
    [holder] = [child for command, child in children.items() if "mps_daemon" in command]
    [snakemake] = [child for command, child in children.items() if "snakemake" in command]
    [[pipes, *_]] = fake.calls("-d")

    def open_files(process: psutil.Process) -> list[str]:
        return [str(path.readlink()) for path in Path(f"/proc/{process.pid}/fd").iterdir()]

    lock = str(tmp_path / "tiny" / SWEEP)
    assert lock in open_files(snakemake)
    assert all(lock not in open_files(process) for process in (holder, *fake.daemons()))
    [pipe] = {name for name in open_files(holder) if name.startswith("pipe:")} & set(open_files(snakemake))
    assert pipe in open_files(sweep)
    assert all(pipe not in kernel for kernel in kernels(fake))

    sweep.kill()
    begun.wait()
    time.sleep(1.0)
    assert fake.daemons()
    assert not fake.calls("quit")
    snakemake.kill()
    until(lambda: not Path(pipes).exists())
    assert [call[0] for call in fake.calls("quit")] == [pipes]
    assert not fake.daemons()
    (fake.folder / "wait").unlink()
    with one_sweep(tmp_path / "tiny"):  # no kernel is left, and nobody holds the lock
        pass


def is_free(path: Path) -> bool:
    """True if no process has a file locked."""
    with path.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def test_what_killed_processes_left_is_ended_by_the_next_sweep(fake, begun, tmp_path):
    """Not before the last of them is gone: Snakemake's jobs may be at work."""
    children = {" ".join(child.cmdline()): child for child in psutil.Process(begun.pid).children()}
    [holder] = [child for command, child in children.items() if "mps_daemon" in command]
    [snakemake] = [child for command, child in children.items() if "snakemake" in command]
    [[pipes, *_]] = fake.calls("-d")
    begun.kill()
    begun.wait()
    holder.kill()
    with sharing_gpus(opened(tmp_path), JOBS):
        until(lambda: len(fake.daemons()) == 2)
    assert len(fake.daemons()) == 1
    snakemake.kill()
    until(lambda: is_free(Path(pipes) / mps.IN_USE))  # its threads end after its main one
    with sharing_gpus(opened(tmp_path), JOBS) as sharing:
        assert len(fake.daemons()) == 1
        assert sharing.environment[PIPES] != pipes
        assert not Path(pipes).exists()
    assert not fake.daemons()
    (fake.folder / "wait").unlink()
    with one_sweep(tmp_path / "tiny"):  # no kernel is left
        pass
