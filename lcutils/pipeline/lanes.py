"""Lanes: which jobs of a study follow one another in one warm process, and which lane comes first.

A process that has trained an architecture has compiled it, so the runs of one architecture form a lane. How much work
a lane is decides its place in the queue and how many of its jobs may run at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lcutils.parameters import Study
from lcutils.pipeline.costs import JOB_SECONDS, START_SECONDS, seconds_per_token
from lcutils.runs import Run, TrainedRun


@dataclass(frozen=True)
class Lane:
    """The runs of one architecture, or one pretrained model.

    Attributes:
        name: such as 12x1024, for rules of the Snakefile.
        runs: their names.
        share: of the study's work, between 0 and 1, as far as it is known beforehand.
        start: of a process, on the same scale; 0 where it is not known.
    """

    name: str
    runs: tuple[str, ...]
    share: float
    start: float = 0.0

    @property
    def ticket(self) -> str:
        """The Snakemake resource that each of the lane's jobs takes one of."""
        return f"lane_{self.name}"

    def tickets(self, jobs: int) -> int:
        """How many of the study's jobs at a time may be the lane's: as many as its share, at least one.

        A process more has to start. That does not pay where the lane ends later than the others by less than a start.
        """
        return max(1, math.ceil(self.share / (1 / jobs + self.start) - 1e-9))  # three equal shares of three: one each


def lanes(study: Study, tokens: int | None = None) -> list[Lane]:
    """The lanes of a study, the one with most work first.

    Args:
        study: whose runs they are.
        tokens: of the train text, if its size is known: the starts of jobs, which are most of short ones, then count to
            a lane's share.
    """
    shapes: dict[tuple[int, ...] | str, list[Run]] = {}
    for run in study.runs.values():
        shape: tuple[int, ...] | str = run.name
        if isinstance(run, TrainedRun):
            shape = (run.depth, run.width, run.heads, run.positions, run.window)
        shapes.setdefault(shape, []).append(run)
    work = {shape: sum(map(_seconds, runs)) for shape, runs in shapes.items()}
    most = max(work.values()) or 1.0
    work = {shape: seconds or most for shape, seconds in work.items()}  # of a pretrained model nothing is known
    order = sorted(shapes, key=lambda shape: -work[shape])
    start = 0.0
    if tokens is not None:
        jobs = {shape: sum(1 + 2 * len(run.checkpoints) for run in runs) for shape, runs in shapes.items()}
        work = {shape: tokens * work[shape] + START_SECONDS + JOB_SECONDS * jobs[shape] for shape in shapes}
        start = START_SECONDS / sum(work.values())
    found: list[Lane] = []
    for shape in order:
        name = "pretrained" if isinstance(shape, str) else f"{shape[0]:02}x{shape[1]:04}"
        number = sum(lane.name.startswith(name) for lane in found)  # of equal names
        runs = tuple(run.name for run in shapes[shape])
        share = work[shape] / sum(work.values())
        found.append(Lane(f"{name}_{number}" if number else name, runs, share, start))
    return found


def _seconds(run: Run) -> float:
    return sum(seconds_per_token(run)) if isinstance(run, TrainedRun) else 0.0
