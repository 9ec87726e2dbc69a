"""What a sweep looks at before any work: rows that came from elsewhere, and pretrained models."""

from __future__ import annotations

import sys
from pathlib import Path

from lcutils.errors import UserError
from lcutils.features.preflight import check_model
from lcutils.pipeline.carried import another_input
from lcutils.pipeline.jobs import all_jobs, has_kept, spared
from lcutils.pipeline.paths import Workspace
from lcutils.runs import PretrainedRun
from lcutils.text import one_line


def check_kept(work: Workspace, model: str | None = None) -> None:
    """Look at rows that came from elsewhere and are not of this study any more; those with other values are named.

    Raises:
        UserError: rows were made from another text, tokenizer or model. They are not made again from this one: the
            folder may be the only place where they are.
    """
    if not has_kept(work):
        return
    differ = [job for job in all_jobs(work, model).values() if job.differs]
    others = [(job, why) for job in differ if (why := another_input(job))]
    if others:
        job, why = others[0]
        more = f" and {len(others) - 1} more kept points" if len(others) > 1 else ""
        raise UserError(f"{work.display(job.folder)}{more}: {why}; name that one there, or another outputs folder")
    if differ:
        print(
            f"kept points that are made again: {len(differ)}; {one_line(differ[0].folder.name)} {differ[0].differs}",
            file=sys.stderr,
        )


def check_pretrained(work: Workspace) -> None:
    """Say at once which pretrained models cannot be loaded; raise a `UserError` if that leaves nothing to do.

    A model that fails does not stop the others: its own jobs fail with the same line. A path that leads to no folder
    is a mistake in the study, and refused.
    """
    problems, unneeded = [], spared(work)
    for run in work.study.runs.values():
        kept = all(f"extract/{run.name}@{k}" in unneeded for k in run.checkpoints)
        if isinstance(run, PretrainedRun) and not kept:
            if any(run.revisions) and Path(work.checkpoint_source(run.name, 0)).exists():
                raise UserError(
                    f"pretrained.{run.name}.revision: is for models on the hub, not for a folder; leave it out"
                )
            if not Path(work.checkpoint_source(run.name, 0)).is_dir():
                check_pretrained_run(work, run)
                continue
            try:
                check_pretrained_run(work, run)
            except UserError as error:
                problems.append(error)
    if problems and len(problems) == len(work.study.runs):
        raise problems[0]
    for problem in problems:
        print(f"error: {problem}; the other models are measured", file=sys.stderr, flush=True)


def check_pretrained_run(work: Workspace, run: PretrainedRun) -> None:
    """Refuse a pretrained model that cannot be loaded, as far as its configuration and the names of its files say."""
    source = work.checkpoint_source(run.name, 0)
    local = Path(source).exists() or run.source.startswith((".", "/", "~")) or run.source.count("/") > 1
    try:
        if local:  # the hub is asked once the model's turn comes
            facts = check_model(source, trust_remote_code=run.trust_remote_code)
            block_size = work.settings_of(run.name).block_size
            if facts.positions and facts.positions < block_size:
                raise UserError(
                    f"has {facts.positions} positions, and corpus.block_size is {block_size}; use at most "
                    f"{facts.positions}"
                )
    except UserError as error:
        raise UserError(f"pretrained.{run.name}: {error}") from None
