"""What a run costs in time on one H200, from speeds that were measured."""

from __future__ import annotations

import numpy as np

from lcutils.runs import TrainedRun

# Seconds per token on one H200 with blocks of 2048, 50,257 tokens and the paper's batch sizes: a sum of terms in
# depth L and width D, 1, L, D, L D and L D² in training; 1 and L D in extracting (fp16, covariance). Fitted
# to the measured speeds of tests/benchmarks/README.md.
TRAINING_SECONDS = (1.55e-8, 3.83e-8, 5.18e-10, 4.44e-11, 1.127e-13)
EXTRACTION_SECONDS = (8.63e-9, 6.38e-11)
# Beside the work: of a new process's first run, compilation included, and of each further job in it.
START_SECONDS, JOB_SECONDS = 20.0, 2.0


def epochs_trained(run: TrainedRun) -> int:
    """Epochs that are trained: none after the last kept checkpoint."""
    return max(run.checkpoints) + 1


def seconds_per_token(run: TrainedRun) -> tuple[float, float]:
    """Seconds of training and of extraction of a run, per token of the train text."""
    L, D = run.depth, run.width
    training = np.dot(TRAINING_SECONDS, (1, L, D, L * D, L * D * D))
    extraction = np.dot(EXTRACTION_SECONDS, (1, L * D))
    return float(training) * epochs_trained(run), float(extraction) * len(run.checkpoints)
