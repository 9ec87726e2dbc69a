"""One trial of each kind of fault; each returns how it ended, "FAILED: …" if wrong."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import study
from damages import damage, files_by_class, names
from safetensors import safe_open
from study import NAME, SECONDS, EndedError, difference, in_child, results_of, run_again

from lcutils.artifacts import MANIFEST, NOTE
from lcutils.pipeline.sweep import stamp_current
from lcutils.stages import open_study


@dataclass(frozen=True)
class Templates:
    """What trials copy: a complete study, and one killed in the middle of a training and of an extraction."""

    yaml: Path
    whole: Path
    unfinished: Path
    results: dict[str, str]

    @classmethod
    def make(cls, folder: Path) -> Templates:
        yaml = study.write_inputs(folder)
        study.make_template(yaml, folder / "whole")
        study.make_unfinished(yaml, folder / "whole", folder / "unfinished")
        return cls(yaml, folder / "whole", folder / "unfinished", results_of(folder / "whole" / NAME))

    def copy(self, template: Path, folder: Path) -> Path:
        """A copy of a template, as outputs of a trial."""
        shutil.copytree(template, folder / "outputs", symlinks=True)
        return folder / "outputs"

    def again(self, outputs: Path, **options: Any) -> study.Jobs:
        """Sweep in a child of its own."""
        return in_child(lambda: run_again(self.yaml, outputs, **options), seconds=3 * SECONDS)


def _look(templates: Templates, outputs: Path) -> None:
    """What any sweep does first: find out what is complete, and remember what was verified."""
    in_child(lambda: study.quietly(lambda: stamp_current(open_study(templates.yaml, outputs))))


# -------------------------------------------------------------------------------------------------------------- damages


def one_damage(templates: Templates, folder: Path, random: Random, number: int) -> str:
    """Damage one file, sweep twice, and compare."""
    template = templates.unfinished if number % 4 == 3 else templates.whole
    outputs = templates.copy(template, folder)
    _look(templates, outputs)
    time.sleep(0.02)  # file systems keep times by ticks of the clock
    classes = files_by_class(outputs / NAME)
    if template == templates.unfinished:  # what is finished has its turn in the other three trials
        classes = {name: files for name, files in classes.items() if re.search("resume|runs/", name)}
    turn = number // 4 if number % 4 == 3 else number - number // 4  # so that every class has its turn
    order = Random(0).sample(sorted(classes), len(classes))
    files = classes[order[turn % len(classes)]]
    path = random.choice(files)
    what = damage(path, files, random)
    label = f"{path.relative_to(outputs / NAME)}: {what}"
    end = judge_damage(templates, outputs, path, what)
    return f"FAILED: {label}: {end[8:]}" if end.startswith("FAILED") else end


def judge_damage(templates: Templates, outputs: Path, path: Path, what: str) -> str:
    """Sweep after a damage; how it ended."""
    first = templates.again(outputs)
    if first.errors:
        if wrong := not_one_line(first.errors, path):
            return wrong
        second = templates.again(outputs)
        if second.errors:
            line = next(iter(second.errors.values()))
            if not re.search("; .", line):
                return f"FAILED: fails again, and no fix is named: {line}"
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
            second = templates.again(outputs)
        if second.errors:
            return f"FAILED: the fix does not help: {second.errors}"
        different = difference(templates.results, results_of(outputs / NAME))
        return f"FAILED: wrong after the fix: {different}" if different else "one line"
    place = path.relative_to(outputs / NAME).as_posix()
    allowed = _allowed(path, place, what, first)
    found, expected = results_of(outputs / NAME), dict(templates.results)
    if allowed and found.get(place) != expected.get(place):
        expected.pop(place)
        found = {name: value for name, value in found.items() if name != place and not name.startswith(f"{place}/")}
        if "swapped" in what:  # with another file of its kind, which may stay as it is too
            found, expected = (
                {n: v for n, v in all_.items() if Path(n).name != path.name} for all_ in (found, expected)
            )
    if different := difference(expected, found):
        return f"FAILED: {'wrong' if first.ran else 'not noticed'}: {different}; ran {first.ran}"
    second = templates.again(outputs)
    if second.errors or second.ran:
        return f"FAILED: the second sweep is not at rest: {second.errors or second.ran}"
    if study.NO_RESULT.search(place):
        return "no result: same numbers"
    if allowed:
        return allowed
    if what.startswith("deleted"):
        return "remade" if first.ran else "FAILED: missing"
    if not first.ran and path.name == MANIFEST:
        return "white space of a manifest: same numbers"
    if not first.ran and path.read_bytes() != (templates.whole / NAME / place).read_bytes():
        return "FAILED: not noticed, and still damaged"
    return "remade" if names(first.said, path) else f"FAILED: remade without a word: ran {first.ran}"


def _allowed(path: Path, place: str, what: str, first: study.Jobs) -> str:
    """How it ended, if the damaged file may stay as it is; empty for all that must be as it was."""
    if what.startswith("deleted") and path.name == "model.safetensors" and not first.ran:
        return "measured weights deleted, needed by nobody: same numbers"
    if path.name == NOTE and (path.parent / MANIFEST).is_file():
        return "note of finished work, read by nobody: same numbers"
    if path.name == MANIFEST and path.parent.name.startswith("checkpoint-") and (path.parents[1] / MANIFEST).is_file():
        return "checkpoint's own manifest, read by nobody once the run's is written: same numbers"
    if place.endswith("log.jsonl") and f"{path}: is damaged" in first.said:
        return "log goes on after what was damaged, which is said: same numbers"
    return ""


def not_one_line(errors: dict[str, str], path: Path) -> str:
    for name, text in errors.items():
        if not text.startswith("line: "):
            return f"FAILED: {name}: {text}"
        line = text.removeprefix("line: ")
        if len(line) > 500 or "\n" in line:
            return f"FAILED: {name}: not one short line: {line}"
        if not names(line, path):
            return f"FAILED: {name}: does not name the file: {line}"
    return ""


# ---------------------------------------------------------------------------------------------------------------- kills


def die_at_event(folder: Path, number: int) -> None:
    """From now on, kill this process as it is about to do the `number`th change to a file below `folder`."""
    left = iter(range(number))
    prefix = str(folder)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            changes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            changes = event in CHANGES
        if changes and str(arguments[0]).startswith(prefix) and next(left, None) is None:
            os.kill(os.getpid(), 9)

    sys.addaudithook(hook)


CHANGES = {
    "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.utime", "os.chmod",
    "shutil.rmtree", "shutil.copyfile", "shutil.copytree", "shutil.move",
}  # fmt: skip


def kills(templates: Templates, folder: Path, random: Random, number: int) -> tuple[str, int]:
    """Kill a study again and again at random moments, then let it end; how it ended, and the number of kills."""
    outputs = folder / "outputs"
    start = random.choice(["nothing", "unfinished", "whole"])
    if start != "nothing":
        templates.copy(getattr(templates, start), folder)
    outputs.mkdir(exist_ok=True)
    if start == "whole":  # from one stage on
        stages = ["runs", "statistics", "measurements", "analysis"]
        for stage in stages[random.randrange(4) :]:
            shutil.rmtree(outputs / NAME / stage)
    done, count = dict[str, bytes](), 0
    for _ in range(12):
        by_event = random.random() < 0.6
        event, delay = int(random.choice((20, 120, 500)) * random.random()), random.random() * 2.5

        def run(by_event: bool = by_event, event: int = event) -> dict[str, str]:
            study.save_often()
            if by_event:
                die_at_event(outputs, event)
            return run_again(templates.yaml, outputs, forked=False).errors

        try:
            if errors := in_child(run, kill_after=None if by_event else delay):
                return f"FAILED: started from {start}, after {count} kills: {errors}", count
            break
        except EndedError as error:
            if "killed" not in str(error) and "status -9" not in str(error):
                return f"FAILED: started from {start}, after {count} kills: {error}", count
        count += 1
        if lost := _lost(done, outputs / NAME):
            return f"FAILED: started from {start}, after {count} kills: {lost}", count
        done |= _finished(outputs / NAME)
    last = templates.again(outputs)
    if last.errors:
        return f"FAILED: started from {start}, after {count} kills: {last.errors}", count
    if different := difference(templates.results, results_of(outputs / NAME)):
        return f"FAILED: started from {start}, after {count} kills: {different}", count
    lost = _lost(done, outputs / NAME)
    return (f"FAILED: started from {start}, after {count} kills: {lost}" if lost else "same bits, nothing lost"), count


def _finished(folder: Path) -> dict[str, bytes]:
    """What must not be made again: finished artifacts by their manifests, kept checkpoints, and the log's beginning."""
    found = [*folder.glob("data/manifest.json"), *folder.glob("[mrs]*/[!.]*/manifest.json")]
    finished = {str(path): path.read_bytes() for path in found}
    for state in folder.glob("runs/*/resume/state-*.safetensors"):
        with safe_open(state, framework="np") as file:
            saved = json.loads(file.metadata()["facts"])["done"]
        for path in state.parents[1].glob("checkpoint-*/evaluation.json"):
            if json.loads(path.read_text())["steps"] <= saved:  # else the run goes on from before this checkpoint
                finished[str(path)] = path.read_bytes()
        log = state.parents[1] / "log.jsonl"
        finished[str(log)] = log.read_bytes().splitlines()[0]
    return finished


def _lost(done: dict[str, bytes], folder: Path) -> str:
    """The first finished file that is gone or was made again."""
    for name, content in done.items():
        path = Path(name)
        if not path.is_file() or not path.read_bytes().startswith(content):
            return f"{path.relative_to(folder)} was finished and was made again, or is gone"
    return ""


# ------------------------------------------------------------------------------------------------------------ full disk


def full_disk(templates: Templates, folder: Path, random: Random, number: int) -> str:
    """Run on a disk that fills, then make space and run again. Every other trial limits the size of files instead."""
    start = random.choice(["nothing", "unfinished"])
    disk = folder / "disk"
    disk.mkdir()
    mounted = number % 2 == 0 and mount(disk)
    try:
        if start == "unfinished":
            templates.copy(templates.unfinished, disk)
        outputs = disk / "outputs"
        outputs.mkdir(exist_ok=True)
        left = int(2 ** random.uniform(8, 21.5))  # bytes
        if mounted:
            fill(disk, left)
            first = templates.again(outputs)
            (disk / "filler").unlink()
        else:
            first = in_child(lambda: _limited(templates, outputs, left), seconds=3 * SECONDS)
        label = f"FAILED: {'disk' if mounted else 'size limit'} with {left} bytes left, from {start}: "
        for name, text in first.errors.items():
            line = text.removeprefix("line: ")
            if line == text or len(line) > 500 or "\n" in line:
                return f"{label}{name}: {text}"
            if not re.search(r"disk|space|quota|large", line) or str(NAME) not in line:
                return f"{label}{name}: names no file or no need: {line}"
        parts = [path.name for path in (outputs / NAME).rglob("*") if re.search(r"\.part|\.old$", path.name)]
        if parts:
            return f"{label}left {parts[:3]}"
        last = templates.again(outputs)
        different = last.errors or difference(templates.results, results_of(outputs / NAME))
        if different:
            return f"{label}after space was made: {different}"
        return f"{'full disk' if mounted else 'size limit'}: " + (
            "one line, then same bits" if first.errors else "fits"
        )
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)


def mount(folder: Path) -> bool:
    """Mount a small file system in memory there; False where that is not allowed."""
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(folder)]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0


def fill(disk: Path, left: int) -> None:
    """Leave `left` bytes, rounded up to pages, of a file system free."""
    state = os.statvfs(disk)
    with (disk / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, state.f_bavail * state.f_frsize - left))


def _limited(templates: Templates, outputs: Path, size: int) -> study.Jobs:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return run_again(templates.yaml, outputs)
