"""A model, data and recipe small enough to train in a second; subprocesses of tests import them too."""

import os
import signal

import numpy as np

from lcutils.runs import Architecture, Recipe

SMALL = Architecture(2, 32, 101, heads=4, positions=32, window=8)


def blocks(number, length=16, vocabulary=101, seed=0):
    """(number, length) uint16 tokens in which the next depends on the last, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    out = rng.zipf(1.3, (number, length)) % vocabulary
    repeat = rng.random((number, length)) < 0.5
    for t in range(1, length):
        out[:, t] = np.where(repeat[:, t], (3 * out[:, t - 1] + 1) % vocabulary, out[:, t])
    return out.astype(np.uint16)


def die_at_the_end():
    """Have this process end by SIGKILL before it writes checkpoint 2, if it has not been killed by then.

    Whoever kills it at a random moment can therefore not be too late, however busy the machine is.
    """
    from lcutils.training import loop

    write = loop._Trainer._write_checkpoint

    def write_or_die(trainer, epoch):
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        write(trainer, epoch)

    loop._Trainer._write_checkpoint = write_or_die


def logits(model, tokens):
    """(B, S, V) fp32 scores of the next token, by our GPT-Neo."""
    return model.features(tokens) @ model.head.T


def recipe(**changes):
    settings = {"epochs": 3, "batch_size": 4, "learning_rate": 3e-3, "autocast": "fp32", "checkpoints": (2,)}
    return Recipe(**settings | changes)
