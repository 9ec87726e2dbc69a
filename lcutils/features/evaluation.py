"""Validation loss, accuracy and perplexity of any model, while it is trained or later."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from lcutils.documents import Blocks
from lcutils.errors import UserError
from lcutils.features.batches import batches, tokens_in
from lcutils.features.models import FeatureModel
from lcutils.gptneo.loss import CPU_CHUNK_BYTES, CUDA_CHUNK_BYTES, prediction_loss
from lcutils.progress import Progress

CLASSES = 4096  # whose logits are computed together


@torch.no_grad()
def evaluate_model(
    model: FeatureModel, blocks: Blocks, *, batch_size: int, device: torch.device | str, log: Path | None = None
) -> dict[str, float]:
    """Validation loss (mean over all predictions, in nats), accuracy and perplexity, by the model's own logits.

    Logits are computed in float32 from the float32 features and the head, with the model's own bias, scale and soft
    cap; they are never held all at once. The paper's losses were computed from fp32 weights without autocast: give a
    model of that precision to compare.

    Args:
        model: on `device`.
        blocks: (n, S) tokens; a block gives S - 1 predictions, less where a label is missing (-1).
        batch_size: blocks at a time.
        device: where the work is done.
        log: file for lines of progress, of which there are none if it is quick.

    Returns:
        val_loss, val_accuracy and perplexity, the exponential of val_loss.

    Raises:
        UserError: there are no blocks, or no labels in them.
    """
    on = torch.device(device)
    loss = torch.zeros((), dtype=torch.float64, device=on)
    right, predictions = loss.clone(), loss.clone()
    with Progress("evaluate", blocks.size, log=log, if_slow=True) as progress:
        done = 0  # blocks
        for number, tokens, labels in batches(blocks, batch_size, on):
            features = model.features(tokens).flatten(0, 1)
            sums = loss_of(features, model, labels)
            loss += sums[0]
            right += sums[1]
            predictions += (labels >= 0).sum()
            progress.update(tokens_in(blocks, done, done + number))
            done += number
    if not (labelled := float(predictions)):
        raise UserError("validation: no blocks to evaluate on; give more validation text or a smaller block_size")
    mean = float(loss) / labelled
    perplexity = math.exp(mean) if mean < 700 else math.inf
    return {"val_loss": mean, "val_accuracy": float(right) / labelled, "perplexity": perplexity}


def loss_of(features: Tensor, model: FeatureModel, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the cross-entropies of a model's logits, and number of right decisions; as `loss_by_rule`."""
    if model.bias is None and model.scale == 1.0 and model.soft_cap is None and model.classifier.dtype == torch.float32:
        return prediction_loss(features, model.classifier, labels)
    return loss_by_rule(features, model, labels)


def loss_by_rule(features: Tensor, model: FeatureModel, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the cross-entropies of a model's logits, and number of right decisions, a part of the classes at a time.

    Args:
        features: (N, D) float32.
        model: its head, bias, scale and soft cap.
        labels: (N,) integers, -1 for none.

    Returns:
        Two scalar float64 tensors: the sum over labelled tokens of -log p(label), and how many labels have the
        highest score. Scores are compared before a soft cap, beyond which they may be equal by rounding.
    """
    valid = labels >= 0
    features, targets = features[valid], labels[valid].long()
    n, device = len(features), features.device
    log_sum = torch.full((n,), -math.inf, dtype=torch.float64, device=device)
    at_target = torch.zeros(n, dtype=torch.float64, device=device)
    best = torch.full((n,), -math.inf, device=device)
    decision = torch.zeros_like(targets)
    rows = (CUDA_CHUNK_BYTES if features.is_cuda else CPU_CHUNK_BYTES) // (4 * CLASSES)
    for first in range(0, len(model.classifier), CLASSES):
        weights = model.classifier[first : first + CLASSES].float()  # (c, D)
        bias = None if model.bias is None else model.bias[first : first + CLASSES]
        for begin in range(0, n, rows):
            part = slice(begin, begin + rows)
            scores = features[part] @ weights.T  # (m, c)
            if bias is not None:
                scores += bias
            if model.scale != 1.0:
                scores *= model.scale
            highest, where = scores.max(1)
            better = highest > best[part]  # the first of equal scores decides, as in argmax
            decision[part] = torch.where(better, where + first, decision[part])
            best[part] = torch.where(better, highest, best[part])
            if model.soft_cap is not None:
                scores = model.soft_cap * torch.tanh(scores / model.soft_cap)
            log_sum[part] = torch.logaddexp(log_sum[part], scores.logsumexp(1).double())
            here = targets[part] - first
            inside = (here >= 0) & (here < len(weights))
            label_score = scores.gather(1, here.clamp(0, len(weights) - 1)[:, None])[:, 0].double()
            at_target[part] = torch.where(inside, label_score, at_target[part])
    return (log_sum - at_target).sum(), (decision == targets).sum().double()
