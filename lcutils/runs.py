"""What is trained or measured: run names, architectures, recipes, and the two types of run.

Plain values without torch. A study expands into runs (`lcutils.parameters`), the model is built from an architecture
(`lcutils.gptneo`), and training follows a recipe (`lcutils.training`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

from lcutils import paper
from lcutils.errors import UserError

UNITS = {"K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}  # of numbers such as 10M
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)(?:\.\.(\d+))?\}")
MOST_REVISIONS = 10_000  # of a model
_RUN_NAME = re.compile(r"(?P<depth>\d{2,})x(?P<width>\d{4,})_(?P<epochs>\d{2,})(?P<decay>[A-Za-z])(?P<seed>\d{2,})?")


@dataclass(frozen=True)
class RunName:
    """`{depth:02}x{width:04}_{epochs:02}{decay}{seed}`, for example `12x1024_10L` or `02x0768_01d07`.

    A name without a seed number means seed 42, as in the released runs.
    """

    depth: int
    width: int
    epochs: int
    decay: str
    seed: int | None = None

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read a run name; `UserError` if it has another form."""
        match = _RUN_NAME.fullmatch(name)
        if match is None:
            raise UserError(
                f"model: {name!r} is not a run name; write depth x width _ epochs decay [seed], such as 02x0064_01d"
            )
        depth, width, epochs = (int(match[key]) for key in ("depth", "width", "epochs"))
        run = cls(depth, width, epochs, match["decay"], None if match["seed"] is None else int(match["seed"]))
        if str(run) != name:
            raise UserError(f"model: {name!r} has extra zeros; write {run}")
        return run

    def __str__(self) -> str:
        seed = "" if self.seed is None else f"{self.seed:02}"
        return f"{self.depth:02}x{self.width:04}_{self.epochs:02}{self.decay}{seed}"


@dataclass(frozen=True)
class Architecture:
    """What makes one GPT-Neo differ from another: 30 pairs of depth and width in the paper."""

    depth: int
    width: int
    vocab_size: int
    heads: int = 16
    positions: int = 2048
    window: int = 256  # keys that a local layer's query sees, itself included

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise UserError(f"width: {self.width} is not a multiple of {self.heads} heads; choose one that is")
        for name in ("depth", "width", "vocab_size", "heads", "positions", "window"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: {getattr(self, name)} is less than 1; give a positive number")


def count_parameters(a: Architecture) -> int:
    """Parameters, the tied embedding once: (V + positions) D + depth (12 D^2 + 10 D) + 2 D."""
    D = a.width
    return (a.vocab_size + a.positions) * D + a.depth * (12 * D * D + 10 * D) + 2 * D


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; the defaults are the paper's (section 3.1 and appendix A).

    AdamW, a learning rate that falls linearly to 0 over all epochs without warm-up, gradients clipped to a norm of 1,
    each epoch in a new order, the last partial batch kept.

    Attributes:
        epochs: passes over the train blocks.
        batch_size: sequences per step, over all GPUs together.
        learning_rate: of the first step.
        weight_decay: 5e-4 for runs named `d`, 0.1 for `L`; not applied to biases and LayerNorms.
        betas, eps: of AdamW.
        clip_norm: largest norm of the gradient.
        seed: of the order of the data.
        init_seed: of the initial weights.
        autocast: type of matrix products, "bf16" (the weights stay fp32) or "fp32".
        deterministic: on a GPU, use algorithms that give the same bits every time; the CPU always does.
        checkpoints: 0-based epochs after which a checkpoint is kept.
    """

    epochs: int
    batch_size: int
    learning_rate: float = 5e-5
    weight_decay: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_norm: float = 1.0
    seed: int = paper.SEED
    init_seed: int = paper.SEED
    autocast: str = "bf16"
    deterministic: bool = False
    checkpoints: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if self.autocast not in ("bf16", "fp32"):
            raise UserError(f"autocast: models are not trained in {self.autocast!r}; choose bf16 or fp32")
        if not self.checkpoints or not all(0 <= k < self.epochs for k in self.checkpoints):
            raise UserError(
                f"checkpoints: {self.checkpoints} must name epochs from 0 to {self.epochs - 1}; correct the list"
            )
        if self.batch_size < 1:
            raise UserError(f"batch_size: {self.batch_size} is less than 1; give a positive number")


@dataclass(frozen=True)
class TrainedRun:
    """One model that this study trains."""

    name: str
    depth: int
    width: int
    heads: int
    positions: int
    window: int
    recipe: Recipe

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """0-based epochs whose checkpoints are kept and measured."""
        return self.recipe.checkpoints

    def architecture(self, vocab_size: int) -> Architecture:
        """The model's architecture, once the size of the vocabulary is known."""
        return Architecture(self.depth, self.width, vocab_size, self.heads, self.positions, self.window)

    def recipe_on(self, device_type: str) -> Recipe:
        """The recipe on a type of device: autocast is for GPUs, the CPU trains in fp32."""
        return self.recipe if device_type == "cuda" else replace(self.recipe, autocast="fp32")


@dataclass(frozen=True)
class PretrainedRun:
    """A model that others trained, measured as it is.

    Attributes:
        source: a checkpoint folder, or a name on the hub.
        revisions: branches, tags or commits on the hub, one per checkpoint; None for the main branch.
        several: whether the study asked for a list of revisions, early ones among them.
        tokens_per_step: turns a step in a revision's name into tokens seen.
        trust_remote_code: whether code that comes with the model may run.
        base: another model of the study, which this one was made from.
    """

    name: str
    source: str
    revisions: tuple[str | None, ...] = (None,)
    several: bool = False
    tokens_per_step: int | None = None
    trust_remote_code: bool = False
    base: str | None = None

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """One per revision: 0, 1, 2 …"""
        return tuple(range(len(self.revisions)))

    def progress_of(self, checkpoint: int) -> dict[str, int]:
        """How far the model was trained at a checkpoint, as its revision's name says: `steps`, `tokens_seen`."""
        name, facts = self.revisions[checkpoint] or "", dict[str, int]()
        if step := re.search(r"(?<![a-z])step[-_]?(\d+)", name, re.IGNORECASE):
            facts["steps"] = int(step[1])
        if tokens := re.search(r"(?<![a-z])tokens?[-_]?(\d+(?:\.\d+)?)([KMBT])(?![a-z])", name, re.IGNORECASE):
            facts["tokens_seen"] = round(float(tokens[1]) * UNITS[tokens[2].upper()])
        elif self.tokens_per_step and "steps" in facts:
            facts["tokens_seen"] = facts["steps"] * self.tokens_per_step
        return facts


def expand_revisions(names: Iterable[str]) -> tuple[str, ...]:
    """Names of revisions, each "step{1000..5000..1000}" written out, as a shell does it.

    Raises:
        ValueError: an empty or endless range, a name twice, or more names than MOST_REVISIONS.
    """
    expanded: list[str] = []
    for name in names:
        if (found := _RANGE.search(name)) is None:
            if "{" in name or "}" in name:
                raise ValueError(f"{name[:80]!r} has braces, but not as in step{{1000..5000..1000}}; correct it")
            expanded.append(name)
            continue
        first, last, step = int(found[1]), int(found[2]), int(found[3] or 1)
        if step < 1 or last < first or (last - first) // step >= MOST_REVISIONS:
            raise ValueError(f"{name[:80]!r} counts from {first} to {last} by {step}; correct the range")
        numbers = range(first, last + 1, step)
        expanded += expand_revisions(name[: found.start()] + str(number) + name[found.end() :] for number in numbers)
    if len(expanded) > MOST_REVISIONS:
        raise ValueError(f"these are more than {MOST_REVISIONS:,} revisions; name fewer")
    if len(set(expanded)) < len(expanded):
        twice = max(expanded, key=Counter(expanded).__getitem__)
        raise ValueError(f"{twice[:80]!r} is named twice; leave one out")
    return tuple(expanded)


Run = TrainedRun | PretrainedRun
