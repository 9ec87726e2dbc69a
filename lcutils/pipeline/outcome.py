"""What a sweep says at its end: its jobs' failures, files, and where the time went."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import mean
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from lcutils.manifests import read_manifest
from lcutils.pipeline.carried import MADE_FROM
from lcutils.pipeline.paths import ENDED, FAILED, Workspace, notebook_copy
from lcutils.pipeline.plan import planned_seconds
from lcutils.progress import short_time
from lcutils.text import one_line

if TYPE_CHECKING:
    import pandas as pd


def describe_failures(work: Workspace, began: float) -> str:
    """Why each job failed that did since then: the last line of what it left."""
    text = ""
    for log in sorted((work.folder / "logs").glob(f"*{FAILED}")):
        if log.stat().st_mtime >= began:
            text += f"{one_line(log.stem)} failed: {last_line(log)}\n"
    return text


def note_failure(work: Workspace, job: str, line: str) -> None:
    """Leave lines that say why a job failed, as a sweep's jobs do; the last one says it all."""
    work.log(job).with_suffix(FAILED).write_text(line + "\n", encoding="utf-8")


def forget_failures(work: Workspace) -> None:
    """Delete what failed jobs of earlier times have left."""
    for path in (work.folder / "logs").glob(f"*{FAILED}"):
        path.unlink()


def failed_points(work: Workspace) -> dict[str, str]:
    """Why points were not measured when they were last tried, by "model@checkpoint", one line each."""
    failed = {}
    for model, k in work.study.points:
        files = (work.folder / "logs" / f"{notebook_copy(job)}{FAILED}" for job in work.jobs_of(model, k))
        logs = [log for log in files if log.is_file()]
        if logs:
            newest = max(logs, key=lambda log: log.stat().st_mtime)
            if (why := last_line(newest)) != ENDED:
                failed[f"{model}@{k}"] = why
    return failed


def last_line(log: Path) -> str:
    """The last line of a file, which says why a job failed."""
    lines = log.read_text(errors="replace").strip().splitlines() or ["nothing could be written of it"]
    return one_line(lines[-1], 300)


def describe_outcome(work: Workspace, points: Sequence[tuple[str, int]] | None = None) -> str:
    """Where the files of a finished sweep are; of a sweep of some points, their rows."""
    if points is not None:
        rows = [work.measurements(*point) / "row.json" for point in points]
        return "\n".join(f"measurements   {work.display(path)}" for path in rows)
    figures = work.analysis / "figures"
    # Of few models there are strips, and no figure of the paper.
    kind, others_too = ("svg", " (and .html, .png)") if work.study.analysis.pictures else ("html", "")
    first = [figures / f"{name}.{kind}" for name in ("figure_1", "figure_2", "figure_3", "strips")]
    lines = [f"figure         {work.display(path)}{others_too}" for path in first if path.is_file()]
    others = len(list(figures.glob(f"*.{kind}"))) - len(lines)
    lines += [f"more figures   {work.display(figures)}: {others} more"]
    lines += [
        f"results table  {work.display(work.results)}",
        f"report         {work.display(work.analysis / 'report.html')}",
    ]
    return "\n".join(lines)


@contextmanager
def watching_gpus() -> Iterator[list[float]]:
    """Yield a list that in the end holds how busy this machine's GPUs were, in percent, second by second.

    NVIDIA counts the time in which any kernel ran. Without its `nvidia-smi` the list stays empty.
    """
    busy: list[float] = []
    if shutil.which("nvidia-smi") is None:
        yield busy
        return
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop=1"]
    with TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command + ([f"--id={chosen}"] if chosen else []), stdout=output, stderr=subprocess.DEVNULL
        )
        try:
            yield busy
        finally:
            process.kill()
            process.wait()
            output.seek(0)
            busy += [float(line) for line in output if line.strip().isdigit()]


def describe_time(work: Workspace, began: float, busy: list[float]) -> str:
    """What a sweep took beside what the plan said, how busy the GPUs were, and its slowest jobs."""
    seconds: dict[str, float] = {}
    for path in (work.folder / "notebooks").glob("*.ipynb"):
        if path.is_file() and path.stat().st_mtime >= began:
            with suppress(ValueError):  # a copy that papermill could not finish, on a full disk for instance
                duration = json.loads(path.read_bytes())["metadata"].get("papermill", {}).get("duration")
                seconds[path.stem] = duration or 0.0  # none where the kernel was killed
    words = [f"time           {short_time(time.time() - began)} for {len(seconds)} jobs"]
    planned = planned_seconds(work, seconds)
    if planned is not None:
        words += [f"planned {short_time(planned)} on one H200"]
    if busy:
        words += [f"GPUs busy {mean(busy):.0f} %"]
    if seconds:
        slowest = sorted(seconds, key=lambda job: -seconds[job])[:3]
        words += ["slowest " + ", ".join(f"{one_line(job)} {short_time(seconds[job])}" for job in slowest)]
    return "; ".join(words)


def run_times(work: Workspace) -> pd.DataFrame:
    """Where each run's time went, as its manifests and checkpoints say: seconds of each stage, and the speeds.

    Of a run that was killed and continued, training counts whole, the other stages from the last start. Rows that
    came from elsewhere carry the manifests of theirs.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for run in work.study.runs.values():
        row: dict[str, Any] = {"model": run.name}
        measured = [read_manifest(work.measurements(run.name, k)) or {} for k in run.checkpoints]
        behind = [manifest.get(MADE_FROM, {}) for manifest in measured]
        trained = read_manifest(work.run_folder(run.name)) or behind[-1].get("train")
        last = work.checkpoint(run.name, run.checkpoints[-1]) / "evaluation.json"
        if trained:
            record = json.loads(last.read_text()) if last.is_file() else trained
            row |= {"device": trained.get("device"), "train_seconds": record.get("seconds")}
            row |= {
                "compile_seconds": record.get("compile_seconds"),
                "train_tokens_per_second": record.get("tokens_per_second"),
            }
        extracted = [
            read_manifest(work.statistics(run.name, k)) or carried.get("extract", {})
            for k, carried in zip(run.checkpoints, behind, strict=True)
        ]
        row["device"] = row.get("device") or extracted[0].get("device")
        row["extract_seconds"] = sum(manifest.get("seconds", 0.0) for manifest in extracted)
        row["extract_tokens_per_second"] = extracted[-1].get("tokens_per_second")
        row["measure_seconds"] = sum(manifest.get("seconds", 0.0) for manifest in measured)
        if any(measured):
            rows.append(row)
    columns = ["model", "device", "train_seconds", "compile_seconds", "extract_seconds", "measure_seconds"]
    table = pd.DataFrame(rows, columns=[*columns, "train_tokens_per_second", "extract_tokens_per_second"])
    return table.round({column: 0 if "tokens" in column else 2 for column in table.columns[2:]})
