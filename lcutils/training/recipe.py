"""The order in which a run visits its data; `lcutils.runs.Recipe` holds all other choices."""

from __future__ import annotations

import numpy as np


def epoch_order(seed: int, epoch: int, blocks: int) -> np.ndarray:
    """(blocks,) the order in which an epoch visits the train blocks: a permutation drawn from (seed, epoch)."""
    return np.random.default_rng((seed, epoch)).permutation(blocks)
