"""Run a study's grid: Snakemake decides which jobs to run; this starts it and reports the outcome."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import torch
import yaml

from lcutils.artifacts import remove, write_json
from lcutils.devices import choose_device
from lcutils.errors import UserError
from lcutils.parameters import ROOT, SHIPPED
from lcutils.pipeline.checks import check_kept, check_pretrained
from lcutils.pipeline.jobs import all_jobs, analyze_job, check_corpora, check_overrides, remove_remains, spared
from lcutils.pipeline.lanes import lanes
from lcutils.pipeline.locks import TOKEN, end_sweep, hand_on, one_sweep, token_of
from lcutils.pipeline.mps import sharing_gpus
from lcutils.pipeline.outcome import describe_failures, describe_outcome, describe_time, watching_gpus
from lcutils.pipeline.paths import REQUEST, STAMPS, Workspace
from lcutils.pipeline.plan import blocks_and_vocabulary
from lcutils.pipeline.watch import STAGES, watching
from lcutils.progress import said_if_slow
from lcutils.text import one_line

PROFILES = SHIPPED / "parameters" / "profiles"


def snakemake_command(
    work: Workspace,
    *,
    points: Sequence[tuple[str, int]] | None = None,
    profile: str | None = None,
    cores: int | None = None,
    dry_run: bool = False,
    only_analyze: bool = False,
) -> list[str]:
    """The Snakemake call that brings a study, or some points of it, up to date; writes the request that it reads.

    Args:
        work: the study.
        points: only these, to their measurements.
        profile: a folder of `parameters/profiles`.
        cores: that it may use; all by default.
        dry_run: only count the jobs.
        only_analyze: analyse what is measured, and make nothing else.
    """
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(SHIPPED / "Snakefile")]
    command += ["--directory", str(work.folder), "--rerun-incomplete", "--keep-going"]
    command += ["--nolock"]  # the sweep holds a lock of its own, and Snakemake's fails where a path has braces
    # `stamp_current` decides what is out of date. Snakemake runs what has no stamp, and what depends on it; its own
    # records are of no use.
    command += ["--rerun-triggers", "mtime", "--drop-metadata"]
    if profile is not None:
        command += ["--workflow-profile", str(_profile_folder(profile, dry_run=dry_run))]
        command += ["--cores", str(cores)] if cores else []
    else:
        cores = cores or os.cpu_count() or 1
        command += ["--quiet", "rules", "host", "--cores", str(cores), "--resources", *_resources(work, cores)]
    if dry_run:
        command += ["--dry-run"]
    targets = [f"{STAMPS}/analyze"] if only_analyze else []
    if points is not None:
        targets = [f"{STAMPS}/{work.jobs_of(*point)[-1]}" for point in points]
    # As JSON, every value arrives as it is: Snakemake's --config and papermill's -p read YAML and numbers.
    request = {"study": work.study.source, "outputs": str(work.folder.parent), "overrides": dict(work.overrides)}
    write_json(
        work.folder / REQUEST, {"parameters": request, "only_analyze": only_analyze, "spared": sorted(spared(work))}
    )
    command += ["--configfile", str(work.folder / REQUEST)]
    return [*command, "--", *targets] if targets else command


def _resources(work: Workspace, cores: int) -> list[str]:
    """What jobs on one machine share, as limits for Snakemake: places on GPUs, and the lanes' tickets."""
    jobs, gpus, tokens = max(cores // work.study.threads, 1), 0, None
    device = choose_device(work.study.device)
    if device.type == "cuda":
        gpus = work.study.jobs_per_gpu * (torch.cuda.device_count() if device.index is None else 1)
        jobs = min(jobs, gpus)
        blocks, _ = blocks_and_vocabulary(work)
        tokens = blocks and blocks * work.study.corpus.block_size
    tickets = {lane.ticket: lane.tickets(jobs) for lane in lanes(work.study, tokens)}
    return [f"{name}={number}" for name, number in ({"gpu": gpus} | tickets).items()]


def _profile_folder(profile: str, *, dry_run: bool) -> Path:
    known = sorted(path.name for path in PROFILES.iterdir() if path.is_dir())
    if profile not in known:
        raise UserError(
            f"PROFILE: parameters/profiles/{one_line(profile)} does not exist; choose one of {', '.join(known)}"
        )
    folder = PROFILES / profile
    files = sorted(folder.glob("config*.yaml"))
    if not files:
        raise UserError(f"PROFILE: parameters/profiles/{profile} holds no config.yaml; add one")
    for path in files:
        try:
            values = yaml.safe_load(path.read_bytes())  # as Snakemake reads it
        except (OSError, ValueError, yaml.YAMLError) as error:
            why = one_line(" ".join(str(error).split()), 200)
            raise UserError(f"parameters/profiles/{profile}/{path.name}: cannot be read: {why}") from None
        if not isinstance(values, dict):
            raise UserError(f"parameters/profiles/{profile}/{path.name}: should hold keys such as jobs and executor")
        if values.get("executor") == "slurm" and not dry_run and shutil.which("sbatch") is None:
            raise UserError(
                f"PROFILE: {profile} needs Slurm, and there is no sbatch on this machine; start it where there is one"
            )
    return folder


def stamp_current(work: Workspace) -> list[str]:
    """Write a stamp for every artifact that is complete and up to date, and for no other; returns the others' names.

    Snakemake deletes a job's outputs before it runs the job. Its outputs are therefore stamps: the artifact itself
    stays, and the job finds out whether it needs work.
    """
    _remove(work.folder / STAMPS)
    now, missing = time.time(), []
    jobs, unneeded = all_jobs(work), spared(work)
    for name, job in (jobs | {"analyze": analyze_job(work, jobs=jobs)}).items():
        if name in unneeded:
            continue
        stamp = work.folder / STAMPS / name
        stamp.parent.mkdir(parents=True, exist_ok=True)
        if job.current:
            stamp.touch()
            os.utime(stamp, (now, now))  # all of one age, so that none is newer than what depends on it
            continue
        missing.append(name)
        if damaged := job.damaged:
            print(f"{work.display(job.folder)}: {damaged[0]} is damaged or missing; made again", file=sys.stderr)
    return missing


def forget_snakemake(folder: Path) -> None:
    """Delete what Snakemake remembers of earlier sweeps, whole or damaged, but its logs: stamps say all that it needs.

    Only for the holder of the sweep's lock: the locks among it are those of a killed Snakemake.
    """
    state = folder / ".snakemake"
    if state.is_dir() and not state.is_symlink():
        for path in state.iterdir():
            if path.name not in ("log", "slurm_logs") or not path.is_dir():
                _remove(path)
    else:
        _remove(state)


def _remove(path: Path) -> None:
    """Delete a file, a link or a folder, or nothing; a `UserError` if it is another user's."""
    try:
        remove(path)
    except OSError as error:
        raise UserError(f"{one_line(path, 200)}: cannot be deleted ({error.strerror}); make it yours") from None


def run_sweep(
    work: Workspace,
    *,
    points: Sequence[tuple[str, int]] | None = None,
    profile: str | None = None,
    cores: int | None = None,
    dry_run: bool = False,
) -> int:
    """Run a study's grid, or some points of it without an analysis, to its end; returns Snakemake's exit status.

    Raises:
        UserError: a mistake in the study, found before any work; or another sweep of the same study is running.
    """
    with said_if_slow(f"looking at study {work.study.name}, its text and its models"):
        for model in [None] if points is None else dict(points):
            check_overrides(work, model)
            check_kept(work, model)
        check_pretrained(work)
    for name, problem in check_corpora(work).items():
        print(f"error: {name}: {problem}; the other models are measured", file=sys.stderr, flush=True)
    analyze_job(work)  # or a published table
    if profile is None:  # a cluster's login node need not have the device
        choose_device(work.study.device)
    if profile is not None:
        _profile_folder(profile, dry_run=dry_run)
    if cores is not None and cores < 1:
        raise UserError(f"CORES: should be at least 1, not {cores}")
    try:
        for name in ("notebooks", "logs"):  # papermill does not create the folder that it writes to
            (work.folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"outputs: {work.display(work.folder)} cannot be created ({error.strerror}); name another folder"
        ) from None
    # Snakemake's own words are of use only where it fails.
    with TemporaryFile() as said, one_sweep(work.folder, dry_run=dry_run) as lock:
        with said_if_slow(f"reading what is done of {len(work.study.points)} points"):
            if not dry_run:
                remove_remains(work)
            forget_snakemake(work.folder)
            missing = stamp_current(work)
        began, status = time.time(), 0

        def snakemake(**options: Any) -> int:
            command = snakemake_command(work, profile=profile, cores=cores, **options)
            shown = None if dry_run else said
            environment = sharing.environment | ({} if dry_run else {TOKEN: token_of(work.folder)})
            # Snakemake holds the lock too, and keeps it if only this process is killed.
            with subprocess.Popen(
                command, cwd=ROOT, env=environment, pass_fds=[lock.fileno(), *sharing.held], stdout=shown, stderr=shown
            ) as process:
                if not dry_run:
                    hand_on(lock, process.pid)
                try:
                    return process.wait()
                except KeyboardInterrupt:
                    if profile is None:  # else Snakemake cancels what it has submitted
                        process.kill()
                        end_sweep(work.folder, lock)
                    raise

        asked = {job for point in points or () for job in work.jobs_of(*point)}
        wanted = missing if points is None else [job for job in missing if job in asked]
        if not wanted:
            print("Nothing to be done: all is complete and up to date.")
        here = [] if dry_run or profile else wanted
        with (
            _ended_as_by_a_person(),
            sharing_gpus(work, here) as sharing,
            watching(work, [] if dry_run else wanted),
            watching_gpus() as busy,
        ):
            status = snakemake(points=points, dry_run=dry_run) if wanted else 0
            if status < 0:
                end_sweep(work.folder, lock)
            elif status and points is None and not dry_run and _is_worth_analysing(work):
                failures = describe_failures(work, began)  # an analysis that is made again forgets its own
                analysed = snakemake(only_analyze=True) == 0
                if analysed and not describe_failures(work, began):  # it was all that had failed
                    status = 0
                    print(failures, end="", file=sys.stderr, flush=True)
        snakemakes_words = _end_of(said)
    if status < 0:
        name = signal.Signals(-status).name
        print(f"Snakemake was ended by {name}; the same command goes on from here", file=sys.stderr)
        return 1
    if dry_run and wanted:
        stages = Counter(name.partition("/")[0].partition("-")[0] for name in wanted)
        print("to do: " + ", ".join(f"{stage} {stages[stage]}" for stage in STAGES if stages[stage]))
    if wanted and not dry_run:
        print(describe_time(work, began, busy))
    if status == 0 and not dry_run:
        print(describe_outcome(work, points))
    elif status and not dry_run:
        print(describe_failures(work, began) or snakemakes_words, end="", file=sys.stderr)
    return status


@contextmanager
def _ended_as_by_a_person() -> Iterator[None]:
    """Let SIGTERM, from `kill` or the end of a container, do what Ctrl-C does, unless whoever calls has other plans."""
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end_of(said: IO[bytes]) -> str:
    """The last lines of what Snakemake said, for where no job says why it failed."""
    said.seek(0)
    lines = [line for line in said.read().decode(errors="replace").splitlines() if line.strip()]
    return "".join(
        f"{one_line(line, 300)}\n" for line in [*lines[-10:], "error: Snakemake failed, as the lines above say"]
    )


def _is_worth_analysing(work: Workspace) -> bool:
    """True if something is measured that the analysis does not hold; says what is missing."""
    job = analyze_job(work)
    missing = [
        f"{model}@{k}"
        for (model, k), measured in zip(work.study.points, job.upstream, strict=True)
        if not measured.current
    ]
    if job.current or len(missing) == len(job.upstream):
        return False
    if missing:
        print(
            f"{len(missing)} of {len(job.upstream)} points will be missing in the results table and the report: "
            f"{one_line(', '.join(missing), 200)}",
            file=sys.stderr,
            flush=True,
        )
    return True
