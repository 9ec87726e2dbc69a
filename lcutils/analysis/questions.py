"""The questions that a grid of models is asked: whether a measurement goes with width, depth, training or the loss.

A question of `FACTORS` compares points that differ in one thing only; `same` names the columns in which they agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

LOSS = "val_loss"
BOUND = 4.5  # nats: above, a model of TinyStories has hardly begun to learn
GIVEN, SEEDS, NC1_BELOW = "loss given size and recipe", "loss over seeds", f"NC1 below {BOUND} nats"
_RUN = ("epochs", "weight_decay", "seed")


@dataclass(frozen=True)
class Question:
    """One question, and what it compares.

    Attributes:
        factor: the column that measurements are related to.
        same: columns in which the compared points agree.
        step: what one unit of the factor is, on the scale that it is taken on.
        words: the question, for a heading.
        beside: what else changes with the factor, or how to read the answer; a sentence.
        at_end: whether only the last checkpoint of each training counts.
        below: the loss that points must be below.
    """

    factor: str
    same: tuple[str, ...]
    step: str
    words: str
    beside: str = ""
    at_end: bool = False
    below: float = np.inf

    @property
    def needs(self) -> list[str]:
        """The columns without which it cannot be asked; architectures are told apart by depth and width."""
        return list(dict.fromkeys([self.factor, *self.same, "depth", "width", *["checkpoint"] * self.at_end]))

    def values(self, results: pd.DataFrame) -> pd.Series:
        """The factor of each row, on the scale that it is taken on."""
        column = pd.to_numeric(results[self.factor], errors="coerce").astype(np.float64)
        return SCALES.get(self.factor, lambda values: values)(column)

    def asked(self, results: pd.DataFrame) -> pd.DataFrame:
        """The rows that it is about."""
        if self.at_end:
            results = results[results["checkpoint"] == results["epochs"] - 1]
        return results[results[LOSS] < self.below] if np.isfinite(self.below) else results


# The grid's sizes and durations are powers of two, or nearly. Decays are taken by rank: one of them may be 0.
SCALES: dict[str, Callable[[pd.Series], pd.Series]] = {
    "width": np.log2,
    "depth": np.log2,
    "epochs": np.log2,
    "checkpoint": lambda checkpoints: np.log2(checkpoints + 1),
    "weight_decay": lambda decays: decays.rank(method="dense"),
}

FACTORS = {
    "width": Question(
        "width",
        ("depth", *_RUN, "checkpoint", "steps"),
        "doubling of the width",
        "Does it develop with width?",
        "Compared are models of the same depth, recipe and number of steps. The paper's batches shrink as models "
        "grow, so widths with other batches are not compared here.",
    ),
    "width, batches as they are": Question(
        "width",
        ("depth", *_RUN, "checkpoint"),
        "doubling of the width",
        "Does it develop with width, whatever the batch size?",
        "The paper's recipe gives larger models smaller batches and so more steps: part of this may be that.",
    ),
    "depth": Question(
        "depth",
        ("width", *_RUN, "checkpoint", "steps"),
        "doubling of the depth",
        "Does it develop with depth?",
        "Compared are models of the same width, recipe and number of steps: in the paper's grid 1 with 2 layers, 4 "
        "with 8, and 8 with 12.",
    ),
    "depth, batches as they are": Question(
        "depth",
        ("width", *_RUN, "checkpoint"),
        "doubling of the depth",
        "Does it develop with depth, whatever the batch size?",
        "The paper's recipe gives 12 layers a quarter of the batch of one, and so four times the steps: depth and "
        "steps cannot be told apart here.",
    ),
    "epochs": Question(
        "epochs",
        ("depth", "width", "weight_decay", "seed"),
        "doubling of the epochs",
        "Does it develop with training: more epochs?",
        "Compared are whole trainings of the same model, each at the end of its schedule.",
        at_end=True,
    ),
    "checkpoints": Question(
        "checkpoint",
        ("depth", "width", *_RUN),
        "doubling of the epochs done",
        "Does it develop with training: later in one training?",
        "Compared are checkpoints of one training; the learning rate falls between them.",
    ),
    "weight decay": Question(
        "weight_decay",
        ("depth", "width", "epochs", "seed", "checkpoint"),
        "step to the next larger decay",
        "Does it develop with weight decay?",
        "Compared are pairs that differ in weight decay alone: same initial weights, same order of the data.",
    ),
}
RELATIONS = {
    "loss": Question(
        LOSS,
        (),
        "nat of validation loss",
        "Does it go with validation loss, over all points?",
        "Size, recipe and training differ between points: this is no cause.",
    ),
    GIVEN: Question(
        LOSS,
        (),
        "",
        "Does it go with validation loss, given size and recipe?",
        "Log parameters, depth, width, epochs, weight decay and steps are held linearly.",
    ),
    "loss within architectures": Question(
        LOSS,
        ("depth", "width"),
        "nat of validation loss",
        "Does it go with validation loss, within an architecture?",
        "Deviations from the mean of each architecture, pooled: over epochs, checkpoints, decays and seeds.",
    ),
    SEEDS: Question(
        LOSS,
        (),
        "",
        "Does it go with validation loss, over seeds alone?",
        "Table 1 of the paper: models that differ in their seed alone, values as they are; permutation test and "
        "bootstrap interval over seeds.",
    ),
    NC1_BELOW: Question(
        LOSS,
        (),
        "nat of validation loss",
        f"Is NC1 still collapse on a scale-free measurement, below {BOUND} nats?",
        "Larger features alone lower the paper's CDNV and its log, and none of the others; `nc1_cdnv_scaled`, CDNV "
        "times the mean squared norm of the class means, stands for them in the published tables.",
        below=BOUND,
    ),
}
QUESTIONS = FACTORS | RELATIONS
