"""How far each point of a study has come, as lines of text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

from lcutils.pipeline.job import Job
from lcutils.pipeline.jobs import all_jobs
from lcutils.pipeline.outcome import failed_points
from lcutils.pipeline.paths import Workspace
from lcutils.text import one_line

# What a point has reached, from the last stage to the first. What is kept was measured elsewhere (`lcutils import`).
STATES = {
    "kept": "measure/{point}",
    "measured": "measure/{point}",
    "extracted": "extract/{point}",
    "trained": "train/{model}",
    "data": "{data}",
}


def describe_states(work: Workspace) -> str:
    """A line per point: its model and checkpoint, how far it has come, its validation loss or why it failed."""
    jobs, failed = all_jobs(work), failed_points(work)
    width = max(len(one_line(f"{model}@{k}")) for model, k in work.study.points)
    lines, counts = [], Counter[str]()
    for model, k in work.study.points:
        point = f"{model}@{k}"
        state, words = _reached(work, jobs, model, k), ""
        measured = jobs[f"measure/{point}"]
        if measured.current:
            row = json.loads((measured.folder / "row.json").read_text())
            words = f"val_loss {loss:.4f}" if (loss := row.get("val_loss")) is not None else ""
        elif point in failed:
            state, words = "failed", failed[point].removeprefix("error: ")
        elif measured.complete:
            words = f"its measurements are out of date: {measured.out_of_date}"
        counts[state] += 1
        lines.append(f"{one_line(point):<{width}}  {state:<9}  {one_line(words, 300)}".rstrip())
    total = ", ".join(f"{counts[state]} {state}" for state in (*STATES, "to do", "failed") if counts[state])
    study = work.study
    return "\n".join([f"study {study.name}: {len(study.runs)} runs, {len(study.points)} points: {total}", *lines])


def _reached(work: Workspace, jobs: Mapping[str, Job], model: str, checkpoint: int) -> str:
    names = {"point": f"{model}@{checkpoint}", "model": model, "data": work.data_of(model).name}
    for state, job in STATES.items():
        found = jobs.get(job.format(**names))
        if found and found.current and (found.kept or state != "kept"):
            return state
    return "to do"
