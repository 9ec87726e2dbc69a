"""The paper's recipe for training one model, and the order in which it visits the data.

AdamW, a learning rate that falls linearly to 0 over all epochs without warm-up, gradients clipped to a norm of 1, every
epoch in a new order, the last partial batch kept (Wu & Papyan 2024, appendix; the released code ran Hugging Face's
Trainer, which the tests follow step for step).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lcutils.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; the defaults are the paper's.

    Attributes:
        epochs: passes over the train blocks.
        batch_size: sequences a step, over all GPUs together.
        learning_rate: of the first step.
        weight_decay: 5e-4 for runs named `d`, 0.1 for `L`; not on biases and LayerNorms.
        betas, eps: of AdamW.
        clip_norm: largest norm of the gradient.
        seed: of the order of the data.
        init_seed: of the initial weights.
        precision: of matrix products, "bf16" (as under autocast; the weights stay fp32) or "fp32".
        deterministic: on a GPU, take algorithms that give the same bits every time; the CPU always does.
        keep: 0-based epochs after which a checkpoint is kept.
    """

    epochs: int
    batch_size: int
    learning_rate: float = 5e-5
    weight_decay: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_norm: float = 1.0
    seed: int = 42
    init_seed: int = 42
    precision: str = "bf16"
    deterministic: bool = False
    keep: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if self.precision not in ("bf16", "fp32"):
            raise UserError(f"precision: {self.precision!r} is no precision to train in; choose bf16 or fp32")
        if not self.keep or not all(0 <= k < self.epochs for k in self.keep):
            raise UserError(f"keep: {self.keep} must name epochs from 0 to {self.epochs - 1}; correct the list")
        if self.batch_size < 1:
            raise UserError(f"batch_size: {self.batch_size} is less than 1; give a positive number")


def epoch_order(seed: int, epoch: int, blocks: int) -> np.ndarray:
    """(blocks,) the order in which an epoch visits the train blocks: a permutation drawn from (seed, epoch)."""
    return np.random.default_rng((seed, epoch)).permutation(blocks)
