"""Validation loss, accuracy and perplexity of any model, while it is trained or later."""

from __future__ import annotations

import math

import torch

from lcutils.documents import Blocks
from lcutils.errors import UserError
from lcutils.features.batches import batches
from lcutils.features.models import FeatureModel
from lcutils.gptneo.loss import prediction_loss

LOGITS_BYTES = 2**31  # of a batch in float32; transformers holds a few copies of them


@torch.no_grad()
def evaluate_model(
    model: FeatureModel, blocks: Blocks, *, batch_size: int, device: torch.device | str
) -> dict[str, float]:
    """Validation loss (mean over all predictions, in nats), accuracy and perplexity, by the model's own logits.

    The paper's losses were computed from fp32 weights without autocast: give a model of that precision.

    Args:
        model: on `device`.
        blocks: (n, S) tokens; a block gives S - 1 predictions; or documents.
        batch_size: blocks at a time; fewer where all their logits are held at once and would take too much room.
        device: where the work is done.

    Returns:
        val_loss, val_accuracy and perplexity, the exponential of val_loss.

    Raises:
        UserError: there are no blocks.
    """
    if not len(blocks):
        raise UserError("validation: no blocks to evaluate on; give more validation text or a smaller block_size")
    scores, head = (model.features, model.classifier) if model.logits is None else (model.logits, None)
    if head is None:
        batch_size = min(batch_size, max(1, LOGITS_BYTES // (4 * blocks.shape[1] * len(model.classifier))))
    on = torch.device(device)
    loss = torch.zeros((), dtype=torch.float64, device=on)
    right = torch.zeros((), dtype=torch.float64, device=on)
    predictions = torch.zeros((), dtype=torch.int64, device=on)
    for _, tokens, labels in batches(blocks, batch_size, on):
        sums = prediction_loss(scores(tokens).flatten(0, 1), head, labels)
        loss += sums[0]
        right += sums[1]
        predictions += (labels >= 0).sum()
    number = int(predictions)
    mean = float(loss) / number
    perplexity = math.exp(mean) if mean < 700 else math.inf
    return {"val_loss": mean, "val_accuracy": float(right) / number, "perplexity": perplexity}
