"""What a study consists of, and what it will cost in disk space and time."""

from __future__ import annotations

import json
from collections.abc import Iterable

from lcutils import paper
from lcutils.artifacts import MANIFEST
from lcutils.corpus.tokenization import bpe_size
from lcutils.manifests import damaged_files
from lcutils.parameters import Study
from lcutils.pipeline.costs import JOB_SECONDS, START_SECONDS, epochs_trained, seconds_per_token
from lcutils.pipeline.jobs import all_jobs, spared
from lcutils.pipeline.lanes import lanes
from lcutils.pipeline.paths import Workspace
from lcutils.progress import short_number, short_time
from lcutils.runs import TrainedRun, count_parameters

# Blocks of the paper's packing (appendix A), known before the text is downloaded.
KNOWN_BLOCKS = {(paper.DATASET, "paper", paper.BLOCK_SIZE): paper.TRAIN_BLOCKS}
KNOWN_VOCABULARIES = {paper.TOKENIZER: paper.VOCABULARY}


def describe_plan(work: Workspace) -> str:
    """Runs, points, disk and time of a study, as lines of text."""
    study = work.study
    blocks, vocabulary = blocks_and_vocabulary(work)
    trained = [run for run in study.runs.values() if isinstance(run, TrainedRun)]
    lines = [
        f"study {study.name}: {len(study.runs)} runs ({len(trained)} to train), {len(study.points)} points to measure",
        f"outputs: {work.display(work.folder)}",
        *_done(work),
    ]
    if not trained:
        return "\n".join([*lines, "nothing is trained; statistics take 10 bytes per dimension and token that occurs"])
    if vocabulary is None:
        return "\n".join([*lines, "disk and time: known once 01_data has run"])
    sizes = {run.name: count_parameters(run.architecture(vocabulary)) for run in trained}
    weights = sum(4 * sizes[run.name] * len(run.checkpoints) for run in trained)
    statistics = sum(_statistics_bytes(run, vocabulary, study) * len(run.checkpoints) for run in trained)
    resume = max((12 * size for size in sizes.values()), default=0)
    data = 0 if blocks is None else blocks * study.corpus.block_size * (2 if vocabulary <= 65_535 else 4)
    fate = "deleted once measured" if study.drop_checkpoints else "kept; drop_checkpoints=true deletes them"
    sizes_of = {
        f"of checkpoints ({fate})": weights,
        "of class statistics at most": statistics,
        "of token blocks": data,
        "for the largest run's resume state": resume,
    }
    lines += ["disk:", *(f"{_gigabytes(size):>11} {words}" for words, size in sizes_of.items())]
    if blocks is None:
        return "\n".join([*lines, "time: known once 01_data has run"])
    tokens = blocks * study.corpus.block_size
    training = sum(tokens * epochs_trained(run) for run in trained)
    passes = 2 if study.extraction.random_network else 1  # each point's untrained network is extracted too
    extraction = passes * sum(tokens * len(run.checkpoints) for run in trained)
    lines += [
        f"work: {short_number(training)} tokens of training, {short_number(extraction)} tokens of extraction"
        + (", half of it of untrained networks" if passes == 2 else "")
    ]
    if vocabulary == paper.VOCABULARY:
        training, extraction = (tokens * sum(each) for each in zip(*map(seconds_per_token, trained), strict=True))
        starts = START_SECONDS * len(lanes(study)) + JOB_SECONDS * (len(trained) + 2 * len(study.points))
        lines += [
            "time on one H200, from measured speeds:",
            f"    {short_time(training)} training, {short_time(passes * extraction)} extraction, "
            f"{short_time(starts)} in which jobs start",
        ]
    else:
        lines += ["time: not known for this vocabulary; each training says its tokens/s"]
    return "\n".join(lines)


def _done(work: Workspace) -> list[str]:
    """A line that says what is done of a study, where something is."""
    if not any((work.measurements(*point) / MANIFEST).is_file() for point in work.study.points):
        return []  # at once, where there are large models to look at
    jobs, unneeded = all_jobs(work), spared(work)
    done = [job for job in jobs.values() if job.stage == "measure" and job.current]
    if not done:
        return []
    kept = sum(job.kept for job in done)
    left = sum(job.stage == "train" and not job.current and name not in unneeded for name, job in jobs.items())
    here = f", {kept} of them kept from elsewhere" if kept else ""
    return [f"done: {len(done)} of {len(work.study.points)} points{here}; left to train: {left} runs"]


def planned_seconds(work: Workspace, jobs: Iterable[str]) -> float | None:
    """Seconds that jobs, named as their notebooks' copies, would take one after another on one H200.

    None where no speed is known: other vocabularies, pretrained models, a CPU.
    """
    study, jobs = work.study, set(jobs)
    runs = [run for run in study.runs.values() if isinstance(run, TrainedRun)]
    blocks, vocabulary = blocks_and_vocabulary(work)
    if vocabulary != paper.VOCABULARY or not blocks or len(runs) < len(study.runs) or study.device == "cpu":
        return None
    seconds = JOB_SECONDS * len(jobs)
    for run in runs:
        training, extraction = seconds_per_token(run)
        extracted = sum(f"03_extract_{run.name}@{k}" in jobs for k in run.checkpoints)
        share = extracted / len(run.checkpoints)
        share *= 2 if study.extraction.random_network else 1
        seconds += (training * (f"02_train_{run.name}" in jobs) + extraction * share) * blocks * study.corpus.block_size
    return seconds + sum(START_SECONDS for lane in lanes(study) if any(f"02_train_{run}" in jobs for run in lane.runs))


def job_seconds(work: Workspace, jobs: Iterable[str]) -> dict[str, float]:
    """Seconds that each job of a sweep would take on one H200; elsewhere, and of other text, how they compare.

    Of pretrained models, and of text whose size is not known yet, it is a guess.
    """
    blocks, _ = blocks_and_vocabulary(work)
    tokens = blocks * work.study.corpus.block_size if blocks else 1e6
    seconds = {}
    for job in jobs:
        stage, _, name = job.partition("/")
        seconds[job] = JOB_SECONDS
        run = work.study.runs.get(name.rpartition("@")[0] if "@" in name else name)
        if isinstance(run, TrainedRun):
            training, extraction = seconds_per_token(run)
            share = {"train": training, "extract": extraction / len(run.checkpoints)}.get(stage, 0.0)
            seconds[job] += share * tokens
    return seconds


def blocks_and_vocabulary(work: Workspace) -> tuple[int | None, int | None]:
    """Train blocks and vocabulary size: from the prepared data, or as far as they are known beforehand."""
    if (work.data / MANIFEST).is_file() and not damaged_files(work.data):
        known = json.loads((work.data / "corpus.json").read_text())
        return known["train"]["blocks"], known["vocab_size"]
    corpus = work.study.corpus
    blocks = None if corpus.max_stories else KNOWN_BLOCKS.get((corpus.source, corpus.packing, corpus.block_size))
    return blocks, KNOWN_VOCABULARIES.get(corpus.tokenizer) or bpe_size(corpus.tokenizer)


def _statistics_bytes(run: TrainedRun, vocabulary: int, study: Study) -> int:
    """Upper bound of a point: for every class pivots and head in fp32, sums in fp64; and the scatter matrix.

    An inner layer has pivots and sums, those of the logit lens with pivots in bf16, and perhaps a scatter matrix.
    """
    asked, size = study.extraction, vocabulary * run.width
    number = run.depth + 1 if asked.layers == "all" else len(asked.layers)
    layer = 12 * size + (0 if asked.layers_norm else 10 * size) + (8 * run.width**2 if asked.layers_law else 0)
    return 16 * size + 8 * run.width**2 + number * layer


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
