"""What a sweep says while it runs and at its end: its jobs' logs, failures, files, and where the time went."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from tempfile import TemporaryFile

from tqdm import tqdm

from lcutils.pipeline.paths import FAILED, Workspace
from lcutils.pipeline.plan import planned_seconds
from lcutils.text import one_line


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
                if path.is_file() and os.access(path, os.R_OK):
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


def describe_failures(work: Workspace, began: float) -> str:
    """Why each job failed that did since then: the last line of what it left."""
    text = ""
    for log in sorted((work.folder / "logs").glob(f"*{FAILED}")):
        if log.stat().st_mtime >= began:
            lines = log.read_text(errors="replace").strip().splitlines()
            text += f"{one_line(log.stem)} failed: {one_line(lines[-1], 300)}\n"
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
        if path.stat().st_mtime >= began:
            duration = json.loads(path.read_bytes())["metadata"].get("papermill", {}).get("duration")
            seconds[path.stem] = duration or 0.0  # none where the kernel was killed
    words = [f"time           {tqdm.format_interval(time.time() - began)} for {len(seconds)} jobs"]
    planned = planned_seconds(work, seconds)
    if planned is not None:
        words += [f"planned {tqdm.format_interval(planned)} on one H200"]
    if busy:
        words += [f"GPUs busy {mean(busy):.0f} %"]
    slowest = sorted(seconds, key=lambda job: -seconds[job])[:3]
    words += ["slowest " + ", ".join(f"{one_line(job)} {tqdm.format_interval(seconds[job])}" for job in slowest)]
    return "; ".join(words)
