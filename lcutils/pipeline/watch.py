"""What a sweep shows while it runs: a table in a terminal, and lines where there is none, as in a log file.

Jobs say what they do by files, on whichever machine of a cluster they run: the executed notebook appears as a job
starts, a stamp as it is done, the reason as it fails, and lines of progress in a log.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lcutils.pipeline.outcome import last_line
from lcutils.pipeline.paths import FAILED, STAMPS, Workspace, notebook_copy
from lcutils.pipeline.plan import job_seconds
from lcutils.progress import short_time

STAGES = ("data", "train", "extract", "measure", "analyze")
SECONDS_BETWEEN_LOOKS = 1.0
LEAST_SECONDS = 5.0  # of work done, before a time is foretold from it
MOST_ROWS = 8  # of running jobs, and of failed ones
_PROGRESS = re.compile(r"^\S+ \S+ (?P<title>.*?) (?P<percent>\d+) %, (?P<words>.*)$")


class Watch:
    """The states of a sweep's jobs, as their files say them.

    Args:
        work: the study.
        jobs: names of the jobs that the sweep is to run.
    """

    def __init__(self, work: Workspace, jobs: Iterable[str]) -> None:
        self.work, self.jobs = work, list(jobs)
        self.began = time.time()
        self.started: dict[str, float] = {}
        self.ended: dict[str, float] = {}  # of those that are done
        self.failed: dict[str, str] = {}
        self.doing: dict[str, tuple[float, str]] = {}  # share done and last words, by job that runs
        self.costs = job_seconds(work, self.jobs)
        self._logs = work.folder / "logs"
        self._read = {path: path.stat().st_size for path in self._logs.glob("*.log")}

    def look(self) -> tuple[list[str], list[str]]:
        """Bring the states up to date; returns what is new, as lines: of the logs, and of jobs that ended."""
        lines, now, news = self._new_lines(), time.time(), []
        for job in self.jobs:
            if job in self.ended:
                continue
            name = notebook_copy(job)
            try:
                copied = (self.work.folder / "notebooks" / f"{name}.ipynb").stat().st_mtime
            except OSError:
                copied = 0.0
            if job not in self.started and copied >= self.began - 1:
                self.started[job] = now
                if job == "analyze":
                    news.append(self._analysing)
            reason = self._logs / f"{name}{FAILED}"
            if (self.work.folder / STAMPS / job).exists():
                self.ended[job] = now
                self.started.setdefault(job, now)
                self.failed.pop(job, None)
                if job.startswith("data"):  # now the size of the text is known
                    self.costs = job_seconds(self.work, self.jobs)
                news.append(f"{_shown(job)} done; {self.summary()}")
            elif job in self.started and job not in self.failed and reason.is_file():
                self.failed[job] = last_line(reason).removeprefix("error: ")
                news.append(f"{_shown(job)} failed: {self.failed[job]}")
        return lines, news

    def _new_lines(self) -> list[str]:
        """What was appended to the logs since the last look."""
        lines = []
        for path in sorted(self._logs.glob("*.log")):
            if path.is_file() and os.access(path, os.R_OK):
                with path.open(errors="replace") as file:
                    file.seek(self._read.get(path, 0))
                    new = file.read().splitlines()
                    self._read[path] = file.tell()
                lines += new
                for line in new:
                    if found := _PROGRESS.match(line):
                        self.doing[path.stem] = (int(found["percent"]) / 100, f"{found['title']}\t{found['words']}")
        return lines

    @property
    def _analysing(self) -> str:
        return f"analysing {len(self.work.study.points)} points"

    @property
    def running(self) -> list[str]:
        """Jobs that have started and not ended."""
        return [job for job in self.started if job not in self.ended and job not in self.failed]

    def seconds_left(self) -> float | None:
        """How long the rest will take: its planned times, corrected by what the jobs that are done took.

        None as long as too little is done to say.
        """
        now, took, planned = time.time(), defaultdict[str, float](float), defaultdict[str, float](float)
        busy = left = 0.0
        for job, began in self.started.items():
            seconds = self.ended.get(job, now) - began
            busy += seconds
            share = 1.0 if job in self.ended else self._share(job)
            if job not in self.failed and share > 0.05:
                took[_stage(job)] += seconds
                planned[_stage(job)] += share * self.costs[job]
        if sum(took.values()) < LEAST_SECONDS:
            return None
        usual = sum(took.values()) / sum(planned.values())
        for job in self.jobs:
            if job not in self.ended and job not in self.failed:
                stage = _stage(job)
                scale = took[stage] / planned[stage] if planned[stage] else usual
                left += scale * self.costs[job] * (1 - self._share(job))
        at_once = max(busy / (now - self.began), 1.0)
        return left / at_once

    def _share(self, job: str) -> float:
        """How much of a running job is done, as far as it says so."""
        name = job.partition("/")[2]
        says_it = job in self.started and _says_more(job)
        return self.doing.get(name or job, (0.0, ""))[0] if says_it else 0.0

    def summary(self) -> str:
        """How many jobs are done, and the time left."""
        words = [f"{len(self.ended)} of {len(self.jobs)} jobs done"]
        words += [f"{len(self.failed)} failed"] if self.failed else []
        left = self.seconds_left()
        return ", ".join(words + ([f"about {short_time(left)} left"] if left else []))

    def __rich__(self) -> Group:
        """The time, the table of stages, the jobs that run, and those that failed."""
        stages = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for name in ("stage", "done", "running", "failed", "to do"):
            stages.add_column(name, justify="left" if name == "stage" else "right")
        running = self.running
        for stage in STAGES:
            jobs = [job for job in self.jobs if _stage(job) == stage]
            counts = [sum(_stage(job) == stage for job in group) for group in (self.ended, running, self.failed)]
            if jobs:
                done, now, failed = counts
                rest = len(jobs) - sum(counts)
                cells: list[str | Text] = [
                    str(done),
                    str(now or ""),
                    Text(str(failed or ""), style="red"),
                    str(rest or ""),
                ]
                stages.add_row(stage, *cells, style="green" if done == len(jobs) else "")
        rows = Table(box=None, show_header=False, padding=(0, 2, 0, 0), expand=True)
        rows.add_column(no_wrap=True)
        rows.add_column(no_wrap=True, justify="right")
        rows.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for job in running[-MOST_ROWS:]:
            title, share, words = _shown(job), "", ""
            if _says_more(job) and (name := job.partition("/")[2] or job) in self.doing:
                part, said = self.doing[name]
                title, _, words = said.partition("\t")
                share = f"{part:.0%}".replace("%", " %")
            rows.add_row(Text(self._analysing if job == "analyze" else title), share, Text(words))
        # A low terminal cuts what is below.
        parts: list[Table | Text] = [Text(f"{short_time(time.time() - self.began)} so far; {self.summary()}"), stages]
        parts += [Text(""), rows] if running else []
        for job, reason in list(self.failed.items())[-MOST_ROWS:]:
            parts.append(Text(f"{_shown(job)} failed: {reason}", style="red"))
        return Group(*parts)


def _stage(job: str) -> str:
    return job.partition("/")[0].partition("-")[0]


def _shown(job: str) -> str:
    return job.replace("/", " ", 1)


def _says_more(job: str) -> bool:
    """True for jobs that write lines of progress."""
    return _stage(job) in ("data", "train", "extract")


@contextmanager
def watching(work: Workspace, jobs: Iterable[str]) -> Iterator[Watch]:
    """Show how a sweep's jobs go on, until the end."""
    watch, done = Watch(work, jobs), threading.Event()
    console = Console(highlight=False)
    live = Live(watch, console=console, auto_refresh=False) if sys.stdout.isatty() and watch.jobs else None

    def follow() -> None:
        over = False
        while not over:
            over = done.wait(SECONDS_BETWEEN_LOOKS)  # then once more, for what came in the last second
            lines, news = watch.look()
            if live is not None:
                live.refresh()
            else:
                for line in lines + news:
                    print(line, flush=True)

    thread = threading.Thread(target=follow, daemon=True)
    if live is not None:
        live.start(refresh=True)
    thread.start()
    try:
        yield watch
    finally:
        done.set()
        thread.join()
        if live is not None:
            live.stop()
