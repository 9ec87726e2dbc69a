"""Validation loss, accuracy and perplexity."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lcutils.errors import UserError
from lcutils.features.batches import next_tokens, resident, widen
from lcutils.features.models import FeatureModel
from lcutils.gptneo.loss import prediction_loss

LOGITS_BYTES = 2**31  # of a batch in float32; transformers holds a few copies of them


def evaluate(
    features: Callable[[Tensor], Tensor],
    head: Tensor | None,
    blocks: np.ndarray,
    *,
    batch_size: int,
    device: torch.device | str,
) -> dict[str, float]:
    """Validation loss (mean over all predictions, in nats), accuracy and perplexity.

    The paper's losses were computed from fp32 weights without autocast: give features of that precision.

    Args:
        features: (B, S) tokens -> (B, S, D) float32, what the head multiplies, or (B, S, V) logits; on `device`.
        head: (V, D); None where `features` gives logits.
        blocks: (n, S) tokens; a block gives S - 1 predictions.
        batch_size: blocks at a time.
        device: where both are.
    """
    if not len(blocks):
        raise UserError("validation: no blocks to evaluate on; give more validation text or a smaller block_size")
    on = torch.device(device)
    loss = torch.zeros((), dtype=torch.float64, device=on)
    right = torch.zeros((), dtype=torch.float64, device=on)
    with torch.no_grad():
        for begin in range(0, len(blocks), batch_size):
            tokens = widen(resident(np.ascontiguousarray(blocks[begin : begin + batch_size]), on))
            labels = next_tokens(tokens)
            missing = batch_size - len(tokens)
            if missing and on.type == "cuda":  # another shape would be compiled anew
                tokens = torch.nn.functional.pad(tokens, (0, 0, 0, missing))
                labels = torch.nn.functional.pad(labels, (0, 0, 0, missing), value=-1)
            sums = prediction_loss(features(tokens).flatten(0, 1), head, labels.flatten())
            loss += sums[0]
            right += sums[1]
    predictions = len(blocks) * (blocks.shape[1] - 1)
    mean = float(loss) / predictions
    perplexity = math.exp(mean) if mean < 700 else math.inf
    return {"val_loss": mean, "val_accuracy": float(right) / predictions, "perplexity": perplexity}


def evaluate_model(
    model: FeatureModel, blocks: np.ndarray, *, batch_size: int, device: torch.device | str
) -> dict[str, float]:
    """Validation loss, accuracy and perplexity by the model's own logits, as `evaluate` gives them.

    Args:
        model: loaded with precision "fp32".
        blocks: (n, S) tokens.
        batch_size: blocks at a time; fewer where all their logits are held at once and would take too much room.
        device: where the model is.
    """
    if model.logits is None:
        return evaluate(model.features, model.classifier, blocks, batch_size=batch_size, device=device)
    fitting = max(1, LOGITS_BYTES // (4 * blocks.shape[1] * len(model.classifier)))
    return evaluate(model.logits, None, blocks, batch_size=min(batch_size, fitting), device=device)
