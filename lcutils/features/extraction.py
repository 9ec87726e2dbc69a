"""From token blocks and a model to class statistics (one pass over train) and agreement counts (one over validation).

Shapes: B blocks in a batch, S tokens per block, D features, V classes. The feature of a token is what the head
multiplies; its class is the next token, so a block gives S - 1 labelled features.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from lcutils.artifacts import find_sealed, remove, write_sealed
from lcutils.documents import Blocks, Documents, share
from lcutils.errors import NotFiniteError, UserError
from lcutils.features.batches import batches, tokens_in
from lcutils.features.layers import Counter, LayerAgreement, LayerStatistics
from lcutils.features.models import FeatureModel
from lcutils.features.sections import FILES, SectionSums
from lcutils.features.statistics import ClassStatistics, save_together
from lcutils.manifests import claim_folder, note_digest
from lcutils.progress import Progress
from lcutils.ranks import barrier

SECONDS_BETWEEN_STATES = 120.0
STATES = "statistics-*.safetensors"


class Tally(Protocol):
    """Counts batches of which it knows where they lie; `lcutils.features.validation_parts.ByPart` is one."""

    def update(self, features: Tensor, labels: Tensor, first: int, number: int, width: int) -> None:
        """Count (N, D) features with (N,) labels of `number` blocks of `width` tokens from block `first` on."""


@contextmanager
def explain_overflow(name: str, precision: str) -> Iterator[None]:
    """Turn a `NotFiniteError` of the extraction within into a `UserError` that names the model and the fix."""
    try:
        yield
    except NotFiniteError as error:
        fix = "use bf16 or fp32" if precision == "fp16" else "its weights are broken; give another checkpoint"
        raise UserError(f"extraction.precision: features of {name} are not finite in {precision}; {fix}") from error


@torch.no_grad()
def extract_statistics(
    model: FeatureModel,
    blocks: Blocks,
    *,
    batch_size: int,
    device: str | torch.device = "cpu",
    covariance: bool = True,
    classes: Tensor | None = None,
    narrow: bool = False,
    layers: LayerStatistics | None = None,
    resume: Path | None = None,
    job: Mapping[str, Any] | None = None,
    log: Path | None = None,
    rank: int = 0,
    world: int = 1,
    edges: Sequence[int] | None = None,
) -> ClassStatistics:
    """Statistics of all features of all blocks, in one pass.

    The state is saved every two minutes. A call with the same `resume` folder after a kill goes on from there; the
    result has the same bits with the same batch size, and differs by rounding with another.

    Several processes may each call it with their rank, in one process group (`lcutils.ranks`): each extracts its share
    of the blocks and saves its own state, and the first merges all of them.

    Args:
        model: features and head.
        blocks: (n, S) token ids, a memory map for instance.
        batch_size: blocks per batch.
        device: where features are made and counted.
        covariance: keep the pooled within-class covariance too (for `nc1_pinv`).
        classes: (R,) ascending ids of the tokens that may be labels; only these take memory. None for all.
        narrow: keep narrow pivots, which take a quarter of the memory of exact ones (see `ClassStatistics`).
        layers: empty ones of inner layers, which are filled in the same pass, and are part of the state; the statistics
            of the head's input have the same bits with them as without.
        resume: folder for the state, made if absent. Another extraction's state there is deleted. The complete state
            stays, for the caller to remove.
        job: what else decides the result, such as the content of the weights, as JSON values.
        log: file for lines of progress.
        rank, world: which of how many processes this is; several need `resume`.
        edges: where sections of the text begin and end, whose sums are left in `resume` too, for `gather_sections`. The
            statistics have the same bits with them.

    Returns:
        The statistics of all blocks; in a process that is not the first, those of its share.

    Raises:
        UserError: `resume` holds files that no extraction wrote, or the state of another process was lost.
        NotFiniteError: features overflowed; raised when the state is next saved, or at the end.
    """
    device, (begin, end) = torch.device(device), share(blocks, rank, world)
    if world > 1 and resume is None:
        raise ValueError("resume: several processes need a folder for their states")
    if edges is not None and resume is None:
        raise ValueError("resume: the sums of sections need a folder")
    vocabulary, dim = model.classifier.shape
    done, state, stats, sections = begin, None, None, None
    empty = partial(ClassStatistics, vocabulary, dim, covariance, device)
    if resume is not None:
        if rank == 0:
            identity = _identity(model, blocks, covariance) | {"narrow": narrow, "ranks": world, "job": job}
            identity |= {} if edges is None else {"edges": list(edges)}
            identity |= {} if layers is None else {"layers": layers.identity}
            claim_folder(resume, identity, discard=True, ours=[STATES, FILES])
        if world > 1:
            barrier()
        state = _State(resume, rank, world, layers)
        done, stats = state.load(device, "all" if classes is None else classes)
        done = max(done, begin)
        if edges is not None:
            sections = SectionSums(resume, blocks, edges, begin, end, partial(empty, narrow=narrow), rank, world)
            if not sections.go_on(done, device):  # the whole begins anew, and inner layers with it
                done, stats = begin, None
                if layers is not None:
                    layers.reset()
    saved_blocks = done
    stats = stats or empty(classes, narrow)
    saved_at = time.monotonic()
    title = "extract" if world == 1 else f"extract {rank + 1} of {world}"
    with Progress(title, tokens_in(blocks, begin, end), log=log, start=tokens_in(blocks, begin, done)) as progress:
        for number, tokens, labels in batches(blocks, batch_size, device, done, end):
            features = model.features(tokens) if layers is None else layers.features(tokens, labels)
            features = features.reshape(-1, dim)
            stats.update(features, labels)
            if sections is not None:
                sections.update(features, labels, done, number, tokens.shape[1])
            progress.update(tokens_in(blocks, done, done + number))
            done += number
            if state is not None and time.monotonic() - saved_at >= SECONDS_BETWEEN_STATES:
                _save(stats, layers, state, sections, done)
                saved_at = time.monotonic()
    _check_finite(stats, layers)
    if state is not None and done > saved_blocks:
        _save(stats, layers, state, sections, done)
    if resume is not None and world > 1:
        barrier()  # the states of all are complete
        for other in range(1, world) if rank == 0 else ():
            _merge_state(stats, layers, _State(resume, other, world), *share(blocks, other, world))
    return stats


def _save(
    stats: ClassStatistics, layers: LayerStatistics | None, state: _State, sections: SectionSums | None, done: int
) -> None:
    """Save the state of the whole, and those of sections in an order in which a kill at any moment loses nothing."""
    _check_finite(stats, layers)
    if sections is not None:
        sections.save(done)
    state.save(stats, done)
    if sections is not None:
        sections.tidy(done)


def _check_finite(stats: ClassStatistics, layers: LayerStatistics | None) -> None:
    stats.check_finite()
    if layers is not None:
        layers.check_finite()


def _merge_state(stats: ClassStatistics, layers: LayerStatistics | None, state: _State, begin: int, end: int) -> None:
    """Add the complete state of another rank, which had these blocks; it is read into the host's memory."""
    done, part = state.load(torch.device("cpu"))
    if max(done, begin) != end:
        raise UserError(f"{state.folder}: {state.states} up to block {end} is missing; extract again to make it")
    if part is not None:
        stats.merge(part)
        if layers is not None and state.loaded is not None:
            layers.merge(state.loaded)


class _State:
    """The statistics so far of one rank, in one file whose name says how many blocks are in them, and its digest.

    Those of inner layers, if there are any, are in it too.
    """

    def __init__(self, folder: Path, rank: int, world: int, layers: LayerStatistics | None = None) -> None:
        self.folder, self.layers = folder, layers
        self.loaded: Path | None = None  # the file that was read
        self.name = "statistics" if world == 1 else f"statistics-rank{rank}of{world}"
        self.states = f"{self.name}-*.safetensors"

    def load(
        self, device: torch.device, classes: Tensor | Literal["all", "seen"] = "seen"
    ) -> tuple[int, ClassStatistics | None]:
        """Blocks done and their statistics; (0, None) where nothing was saved, or what was saved is damaged."""
        saved, damaged = find_sealed(self.folder, self.states, job=note_digest(self.folder))
        for file in damaged:
            print(f"{file}: is damaged, and removed; the work it held is done again", file=sys.stderr, flush=True)
            remove(file)
        if saved is None:
            return 0, None
        self.loaded = saved
        if self.layers is not None:
            self.layers.load(saved)
        return int(saved.stem.split("-")[-2]), ClassStatistics.load(saved, device, classes)

    def save(self, stats: ClassStatistics, done: int) -> None:
        """Write the new state, then remove the older ones."""
        name, job = f"{self.name}-{done:012d}.safetensors", note_digest(self.folder)
        every = {"": stats} | ({} if self.layers is None else self.layers.named)
        write_sealed(self.folder, name, partial(save_together, every), job=job, replaces=self.states)


def _identity(model: FeatureModel, blocks: Blocks, covariance: bool) -> dict[str, Any]:
    """What decides the statistics, as far as this function's arguments say."""
    # Some rows tell models apart; all of them would take as long as the rest of a short extraction.
    digest = hashlib.sha256(model.classifier[::64].detach().float().cpu().numpy().tobytes())
    for block in (blocks[:1], blocks[-1:]):
        digest.update(np.ascontiguousarray(block).tobytes())
    return {
        "model": model.identity,
        "blocks": list(blocks.shape),
        "covariance": covariance,
        "head and text": digest.hexdigest(),
    }


@torch.no_grad()
def extract_agreement(
    model: FeatureModel,
    blocks: Blocks,
    counter: Counter,
    *,
    batch_size: int,
    device: str | torch.device = "cpu",
    layers: LayerAgreement | None = None,
    log: Path | None = None,
    rank: int = 0,
    world: int = 1,
    tally: Tally | None = None,
) -> tuple[Tensor, Tensor]:
    """NC4 over the blocks: per-class hits and totals, (V,) int64 each, as `classifier_agreement` defines them.

    Args:
        model: features and head.
        blocks: (n, S) token ids of text that the model was not trained on.
        counter: of the train text's class means, a `lcutils.collapse.AgreementCounter`.
        batch_size: blocks per batch.
        device: where the work is done.
        layers: counters of inner layers, which count in the same pass.
        log: file for lines of progress.
        rank, world: which of how many processes this is: it counts its share of the blocks.
        tally: updates the counter in its place, a part of the text at a time.

    Raises:
        NotFiniteError: features overflowed; raised at the end.
    """
    device, (done, end) = torch.device(device), share(blocks, rank, world)
    with Progress("agreement", tokens_in(blocks, done, end), log=log) as progress:
        for number, tokens, labels in batches(blocks, batch_size, device, done, end):
            features = model.features(tokens) if layers is None else layers.features(tokens, labels)
            features = features.flatten(0, 1)
            if tally is None:
                counter.update(features, labels)
            else:
                tally.update(features, labels, done, number, tokens.shape[1])
            progress.update(tokens_in(blocks, done, done + number))
            done += number
    return counter.result()


@torch.no_grad()
def extract_mean(
    model: FeatureModel,
    blocks: Blocks,
    *,
    batch_size: int,
    device: str | torch.device = "cpu",
    log: Path | None = None,
) -> Tensor:
    """Mean feature over all positions of all blocks, or of documents: (D,) float64, for `ood_deviation`.

    Raises:
        ValueError: there is no block.
        NotFiniteError: features overflowed.
    """
    if len(blocks) == 0:
        raise ValueError("there is no text to take the mean feature of")
    device = torch.device(device)
    total = torch.zeros(model.classifier.shape[1], dtype=torch.float64, device=device)
    done = 0
    with Progress("mean feature", blocks.size, log=log) as progress:
        for number, tokens, _ in batches(blocks, batch_size, device):
            features = model.features(tokens)[:number]
            if isinstance(blocks, Documents):  # nothing behind the end of a row
                lengths = torch.from_numpy(blocks.lengths_in(done, done + number)).to(device)  # (B,)
                behind = torch.arange(tokens.shape[1], device=device) >= lengths[:, None]  # (B, width)
                features = features.masked_fill(behind[..., None], 0.0)
            total += features.sum((0, 1), dtype=torch.float64)
            progress.update(tokens_in(blocks, done, done + number))
            done += number
    if not total.isfinite().all():
        raise NotFiniteError("the mean feature is not finite")
    return total / blocks.size
