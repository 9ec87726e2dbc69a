"""What a study consists of, and what it will cost in disk space and time."""

from __future__ import annotations

import json

import numpy as np

from lcutils import paper
from lcutils.artifacts import MANIFEST
from lcutils.corpus.tokenization import bpe_size
from lcutils.gptneo.model import count_parameters
from lcutils.manifests import damaged_files
from lcutils.pipeline.paths import Workspace
from lcutils.runs import TrainedRun

# Blocks of the paper's packing (appendix A), known before the text is downloaded.
KNOWN_BLOCKS = {(paper.DATASET, "paper", paper.BLOCK_SIZE): paper.TRAIN_BLOCKS}
KNOWN_VOCABULARIES = {paper.TOKENIZER: paper.VOCABULARY}

# Seconds per token on one H200 with blocks of 2048, 50,257 tokens and the paper's batch sizes: a sum of terms in
# depth L and width D, 1, L, D, L D and L D² in training; 1 and L D in extracting (fp16, covariance). Fitted
# to the measured speeds of tests/benchmarks/README.md.
TRAINING_SECONDS = (1.55e-8, 3.83e-8, 5.18e-10, 4.44e-11, 1.127e-13)
EXTRACTION_SECONDS = (8.63e-9, 6.38e-11)


def describe_plan(work: Workspace) -> str:
    """Runs, points, disk and time of a study, as lines of text."""
    study = work.study
    blocks, vocabulary = _blocks_and_vocabulary(work)
    trained = [run for run in study.runs.values() if isinstance(run, TrainedRun)]
    lines = [
        f"study {study.name}: {len(study.runs)} runs ({len(trained)} to train), {len(study.points)} points to measure",
        f"outputs: {work.display(work.folder)}",
    ]
    if not trained:
        return "\n".join([*lines, "nothing is trained; statistics take 16 bytes per class and dimension"])
    if vocabulary is None:
        return "\n".join([*lines, "disk and time: known once 01_data has run"])
    sizes = {run.name: count_parameters(run.architecture(vocabulary)) for run in trained}
    weights = sum(4 * sizes[run.name] * len(run.checkpoints) for run in trained)
    statistics = sum(_statistics_bytes(run, vocabulary) * len(run.checkpoints) for run in trained)
    resume = max((12 * size for size in sizes.values()), default=0)
    data = 0 if blocks is None else blocks * study.corpus.block_size * (2 if vocabulary <= 65_535 else 4)
    fate = "deleted once measured" if study.drop_checkpoints else "kept; drop_checkpoints=true deletes them"
    lines += [
        f"disk: {_gigabytes(weights)} of checkpoints ({fate}), {_gigabytes(statistics)} of class statistics at most, "
        f"{_gigabytes(data)} of token blocks, {_gigabytes(resume)} for the largest run's resume state",
    ]
    if blocks is None:
        return "\n".join([*lines, "time: known once 01_data has run"])
    tokens = blocks * study.corpus.block_size
    training = sum(tokens * _epochs(run) for run in trained)
    extraction = sum(tokens * len(run.checkpoints) for run in trained)
    lines += [f"work: {_tokens(training)} of training, {_tokens(extraction)} of extraction"]
    if vocabulary == paper.VOCABULARY:
        hours = [tokens * sum(seconds) / 3600 for seconds in zip(*map(_seconds_of_epochs, trained), strict=True)]
        lines += [f"time on one H200, from measured speeds: {hours[0]:,.0f} h training, {hours[1]:,.1f} h extraction"]
    else:
        lines += ["time: see the tokens/s in the log of the first model"]
    return "\n".join(lines)


def _epochs(run: TrainedRun) -> int:
    """Epochs that are trained: none after the last kept checkpoint."""
    return max(run.checkpoints) + 1


def _seconds_of_epochs(run: TrainedRun) -> tuple[float, float]:
    """Seconds of training and of extraction of a run, per token of an epoch."""
    L, D = run.depth, run.width
    training = np.dot(TRAINING_SECONDS, (1, L, D, L * D, L * D * D))
    extraction = np.dot(EXTRACTION_SECONDS, (1, L * D))
    return float(training) * _epochs(run), float(extraction) * len(run.checkpoints)


def _blocks_and_vocabulary(work: Workspace) -> tuple[int | None, int | None]:
    """Train blocks and vocabulary size: from the prepared data, or as far as they are known beforehand."""
    if (work.data / MANIFEST).is_file() and not damaged_files(work.data):
        known = json.loads((work.data / "corpus.json").read_text())
        return known["train"]["blocks"], known["vocab_size"]
    corpus = work.study.corpus
    blocks = None if corpus.max_stories else KNOWN_BLOCKS.get((corpus.source, corpus.packing, corpus.block_size))
    return blocks, KNOWN_VOCABULARIES.get(corpus.tokenizer) or bpe_size(corpus.tokenizer)


def _statistics_bytes(run: TrainedRun, vocabulary: int) -> int:
    """Upper bound of a point: for every class pivots and head in fp32, sums in fp64; and the scatter matrix."""
    return 16 * vocabulary * run.width + 8 * run.width**2


def _tokens(number: int) -> str:
    return f"{number / 1e9:,.1f} G tokens" if number >= 1e9 else f"{number / 1e6:,.1f} M tokens"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
