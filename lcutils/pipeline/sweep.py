"""Run a study's grid: Snakemake decides which jobs to run; this starts it and reports the outcome."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lcutils.corpus import source_digest
from lcutils.devices import choose_device
from lcutils.errors import UserError
from lcutils.parameters import ROOT
from lcutils.pipeline.jobs import all_jobs, analyze_job, check_overrides
from lcutils.pipeline.paths import Workspace

PROFILES = ROOT / "parameters" / "profiles"
STAMPS = ".current"  # folder of empty files: an artifact with a stamp needs no work


def snakemake_command(
    work: Workspace,
    *,
    model: str | None = None,
    profile: str | None = None,
    cores: int | None = None,
    dry_run: bool = False,
) -> list[str]:
    """The Snakemake call that brings a study, or one model of it, up to date."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(work.folder), "--rerun-incomplete", "--keep-going"]
    # `stamp_current` decides what is out of date. Snakemake runs what has no stamp, and what depends on it.
    command += ["--rerun-triggers", "mtime"]
    if profile:
        if not (PROFILES / profile).is_dir():
            known = ", ".join(sorted(path.name for path in PROFILES.iterdir() if path.is_dir()))
            raise UserError(f"PROFILE: parameters/profiles/{profile} does not exist; choose one of {known}")
        command += ["--workflow-profile", str(PROFILES / profile)]
    else:
        command += ["--quiet", "rules", "host"]
    if cores or not profile:
        command += ["--cores", str(cores or os.cpu_count())]
    if dry_run:
        command += ["--dry-run"]
    command += ["--config", f"study={work.study.source}", f"outputs={work.folder.parent}"]
    command += [f"overrides={json.dumps(work.overrides)}"] if work.overrides else []
    if model:
        stamps = [f"measure/{model}@{k}" for k in work.study.run(model).checkpoints]
        command += ["--", *(f"{STAMPS}/{stamp}" for stamp in stamps)]
    return command


def stamp_current(work: Workspace) -> None:
    """Write a stamp for every artifact that is complete and up to date, and for no other.

    Snakemake deletes a job's outputs before it runs the job. Its outputs are therefore stamps: the artifact itself
    stays, and the job finds out whether it needs work.
    """
    now = time.time()
    jobs = all_jobs(work)
    for name, job in (jobs | {"analyze": analyze_job(work, jobs=jobs)}).items():
        stamp = work.folder / STAMPS / name
        stamp.parent.mkdir(parents=True, exist_ok=True)
        if job.current:
            stamp.touch()
            os.utime(stamp, (now, now))  # all of one age, so that none is newer than what depends on it
        else:
            stamp.unlink(missing_ok=True)
            if damaged := job.damaged:
                print(f"{work.display(job.folder)}: {damaged[0]} is damaged or missing; made again", file=sys.stderr)


def check_pretrained(work: Workspace) -> None:
    """Refuse a pretrained model's path that cannot hold a model; a hub name is assumed to exist."""
    for name, model in work.study.pretrained.items():
        source = Path(work.checkpoint_source(name, 0))
        looks_local = model.source.startswith((".", "/", "~")) or model.source.count("/") > 1
        if (looks_local or source.exists()) and not (source / "config.json").is_file():
            raise UserError(
                f"pretrained.{name}: {model.source} is no folder with a config.json; give a folder that "
                "save_pretrained wrote, or a hub name"
            )
        if model.revision and source.exists():
            raise UserError(f"pretrained.{name}.revision: is for models on the hub, not for a folder; leave it out")


def run_sweep(
    work: Workspace,
    *,
    model: str | None = None,
    profile: str | None = None,
    cores: int | None = None,
    dry_run: bool = False,
) -> int:
    """Run a study's grid to its end; returns Snakemake's exit status.

    Raises:
        UserError: a mistake in the study, found before any work; or another sweep of the same study is running.
    """
    check_overrides(work, model)
    check_pretrained(work)
    source_digest(work.corpus)  # fail early if the text is missing
    analyze_job(work)  # or a published table
    if profile is None:  # a cluster's login node need not have the device
        choose_device(work.study.device)
    command = snakemake_command(work, model=model, profile=profile, cores=cores, dry_run=dry_run)
    try:
        for name in ("notebooks", "logs"):  # papermill does not create the folder that it writes to
            (work.folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"outputs: {work.display(work.folder)} cannot be created ({error.strerror}); name another folder"
        ) from None
    with (work.folder / ".sweep.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{work.display(work.folder)}: a sweep is running there; wait for it, or name another outputs folder"
            ) from None
        # We hold the lock, so no other sweep is alive: a Snakemake lock here was left by a killed one.
        locks = work.folder / ".snakemake" / "locks"
        if locks.is_dir() and any(locks.iterdir()):
            unlock = [*snakemake_command(work, profile=profile, cores=cores), "--unlock"]
            subprocess.run(unlock, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        stamp_current(work)
        began = time.time()
        with following_logs(work.folder / "logs"):
            # Snakemake holds the lock too, and keeps it if only this process is killed.
            status = subprocess.run(command, cwd=ROOT, pass_fds=[lock.fileno()]).returncode
    if status == 0 and not dry_run:
        print(describe_outcome(work, model))
    elif status:
        print(describe_failures(work.folder / "logs", began), end="", file=sys.stderr)
    return status


@contextmanager
def following_logs(folder: Path) -> Iterator[None]:
    """Print what jobs append to their logs, on whichever machine of a cluster they run."""
    read = {path: path.stat().st_size for path in folder.glob("*.log")}
    done = threading.Event()

    def follow() -> None:
        over = False
        while not over:
            over = done.wait(1.0)  # then once more, for what came in the last second
            for path in sorted(folder.glob("*.log")):
                with path.open(errors="replace") as file:
                    file.seek(read.get(path, 0))
                    print(file.read(), end="", flush=True)
                    read[path] = file.tell()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def describe_failures(logs: Path, began: float) -> str:
    """The last line of each papermill log that was written since `began` and reports an error."""
    text = ""
    for log in sorted(logs.glob("*.papermill")):
        lines = log.read_text(errors="replace").strip().splitlines()
        if log.stat().st_mtime >= began and any(
            "Exception encountered" in line or "Traceback" in line for line in lines
        ):
            text += f"{log.stem} failed: {lines[-1]}\n"
    return text


def describe_outcome(work: Workspace, model: str | None = None) -> str:
    """Where the files of a finished sweep are."""
    if model:
        rows = [work.measurements(model, k) / "row.json" for k in work.study.run(model).checkpoints]
        return "\n".join(f"measurements   {work.display(path)}" for path in rows)
    figures = work.analysis / "figures"
    lines = [
        f"figure         {work.display(figures / f'figure_{number}.svg')} (and .html, .png)" for number in (1, 2, 3)
    ]
    others = len(list(figures.glob("*.svg"))) - len(lines)
    lines += [f"more figures   {work.display(figures)}: {others} more"]
    lines += [
        f"results table  {work.display(work.results)}",
        f"report         {work.display(work.analysis / 'report.html')}",
    ]
    return "\n".join(lines)
