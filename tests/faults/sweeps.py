"""Trials with the real command, `python -m lcutils sweep`: slow, for every job is a notebook in a kernel of its own.

The sweep is of one model, without the analysis, which takes longer than all else together.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

from damages import damage, files_by_class, names
from study import NAME, SECONDS, difference, results_of
from trials import Templates, not_one_line

from lcutils.parameters import ROOT

MODEL, LAST = "01x0016_02d", "01x0032_02d"  # the run whose files are damaged; the one that is trained in two sweeps


def command(templates: Templates, outputs: Path, model: str) -> list[str]:
    """The words of a sweep of one model."""
    words = ["sweep", str(templates.yaml), "--outputs", str(outputs), "--model", model, "--cores", "2"]
    return [sys.executable, "-m", "lcutils", *words]


def sweep(templates: Templates, outputs: Path, model: str) -> tuple[int, str]:
    """Exit status and standard error of a sweep."""
    outcome = subprocess.run(
        command(templates, outputs, model), cwd=ROOT, capture_output=True, text=True, timeout=10 * SECONDS
    )
    return outcome.returncode, outcome.stderr


def wrong(templates: Templates, outputs: Path, model: str) -> str:
    """What of a model's results differs from the template's; empty if nothing."""

    def ours(results: dict[str, str]) -> dict[str, str]:
        return {name: value for name, value in results.items() if model in name or name.startswith("data/")}

    return difference(ours(templates.results), ours(results_of(outputs / NAME)))


def one_swept_damage(templates: Templates, folder: Path, random: Random, number: int) -> str:
    """Damage one file of the text or of one model, and sweep that model."""
    outputs = templates.copy(templates.whole, folder)
    classes = files_by_class(outputs / NAME)
    chosen = {}
    for name, files in classes.items():
        if found := [path for path in files if MODEL in path.as_posix() or "/data/" in path.as_posix()]:
            chosen[name] = found
    files = chosen[random.choice(sorted(chosen))]
    path = random.choice(files)
    label = f"FAILED: {path.relative_to(outputs / NAME)}: {damage(path, files, random)}: "
    status, said = sweep(templates, outputs, MODEL)
    if "Traceback" in said:
        return f"{label}{said[-2000:]}"
    if status:
        line = said.strip().splitlines()[-1]
        if bad := not_one_line({"sweep": f"line: {line}"}, path):
            return f"{label}{bad}: {said[-1500:]}"
        again, said = sweep(templates, outputs, MODEL)
        return f"{label}again: {said[-1500:]}" if again and not re.search("delete|remove", line) else "one line"
    if different := wrong(templates, outputs, MODEL):
        return f"{label}{different}"
    return "remade" if names(said, path) else "no word: same numbers"


def two_sweeps(templates: Templates, folder: Path, random: Random, number: int) -> str:
    """Start a second sweep while the first one works: it is refused in one line, and the first goes on."""
    outputs = templates.copy(templates.unfinished, folder)
    first = subprocess.Popen(
        command(templates, outputs, LAST), cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    try:
        _wait_for(outputs, "snakemake")
        time.sleep(10 * random.random())
        if first.poll() is not None:
            return "FAILED: the first sweep was over before the second began"
        status, said = sweep(templates, outputs, LAST)
        if status != 2 or len(said.splitlines()) != 1 or "a sweep is running there" not in said:
            return f"FAILED: the second sweep ended with {status}: {said[-1500:]}"
        _, said = first.communicate(timeout=10 * SECONDS)
        if first.returncode:
            return f"FAILED: the first sweep: {said[-1500:]}"
    finally:
        _end(first, outputs)
    different = wrong(templates, outputs, LAST)
    return f"FAILED: {different}" if different else "second refused, first right"


def killed_snakemake(templates: Templates, folder: Path, random: Random, number: int) -> str:
    """Kill Snakemake alone while a kernel works, and sweep again at once, until a sweep ends well."""
    outputs = templates.copy(templates.unfinished, folder)
    first = subprocess.Popen(
        command(templates, outputs, LAST), cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for_job(outputs, "02_train" if random.random() < 0.7 else "03_extract")
        time.sleep(4 * random.random())
        victims = _processes(outputs, "snakemake")
        for process in victims:
            os.kill(process, signal.SIGKILL)
        if random.random() < 0.5:
            first.kill()
        refused, limit = 0, time.monotonic() + 10 * SECONDS
        while time.monotonic() < limit:
            status, said = sweep(templates, outputs, LAST)
            if status != 2 or "a sweep is running there" not in said:
                break
            refused += 1
        if status:
            return f"FAILED: after {refused} refusals, a sweep ended with {status}: {said[-2000:]}"
        if not victims:
            return "FAILED: Snakemake was over before it could be killed"
    finally:
        _end(first, outputs)
    different = wrong(templates, outputs, LAST)
    return f"FAILED: {different}" if different else "same bits" + (", refused while a kernel lived" if refused else "")


def _processes(outputs: Path, word: str) -> list[int]:
    """Numbers of the processes whose command names both this trial's folder and a word."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = place.read_bytes().decode(errors="replace")
        except OSError:  # it is over
            continue
        if str(outputs) in text and word in text and int(place.parent.name) != os.getpid():
            found.append(int(place.parent.name))
    return found


def _wait_for(outputs: Path, word: str) -> None:
    limit = time.monotonic() + 2 * SECONDS
    while not _processes(outputs, word) and time.monotonic() < limit:
        time.sleep(0.2)


def _wait_for_job(outputs: Path, stage: str) -> None:
    """Wait until the first notebook of a stage is run: papermill writes its copy as it begins."""
    began, limit = time.time(), time.monotonic() + 2 * SECONDS
    while time.monotonic() < limit:
        if any(copy.stat().st_mtime >= began for copy in outputs.glob(f"*/notebooks/{stage}*.ipynb")):
            return
        time.sleep(0.05)


def _end(process: subprocess.Popen[str] | subprocess.Popen[bytes], outputs: Path) -> None:
    """End a sweep and whatever of it is still alive."""
    process.kill()
    process.wait()
    for rest in _processes(outputs, ""):
        try:
            os.kill(rest, signal.SIGKILL)
        except ProcessLookupError:
            continue
