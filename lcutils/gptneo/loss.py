"""Next-token cross-entropy through the head, with its gradients, never holding all logits in fp32.

Shapes: N tokens, D width, V vocabulary, P = V rounded up to `VOCABULARY_MULTIPLE` (the head is stored with P rows,
those beyond V zero). A label of -1 adds neither loss nor gradient: the token predicts nothing.

The loss is the last thing a training step computes forwards, so its gradient is written in the same pass.
There are three ways, chosen by device and width; they agree within rounding, as tests check:

- CPU: a chunk of rows at a time, so that the logits stay in the cache.
- CUDA, wide: bf16 logits, overwritten by their gradient in one kernel; the rest is matrix products.
- CUDA, narrow: kernels like flash attention that write no logits at all (`lcutils.gptneo.loss_kernels`).
"""

from __future__ import annotations

import torch
from torch import Tensor

VOCABULARY_MULTIPLE = 64  # rows of the stored head: CUDA's matrix products are slow on odd sizes such as 50,257
CPU_CHUNK_BYTES = 2**20  # logits of a chunk: they stay in a core's second-level cache
CUDA_CHUNK_BYTES = 2**28
FUSED_WIDTHS = (16, 32, 64, 128)  # above, recomputing logits costs more than moving them


def padded_vocabulary(vocab_size: int) -> int:
    """V rounded up to the rows that the head is stored with."""
    return -(-vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def head_loss(
    h: Tensor, head: Tensor, labels: Tensor, scale: Tensor, vocab_size: int, grad_head: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of the next token and its gradients.

    Args:
        h: (N, D) features in the dtype of the head.
        head: (P, D), rows from V on are ignored.
        labels: (N,) integers, -1 for none.
        scale: scalar fp32 tensor on the device, one over the number of labels in the whole batch.
        vocab_size: V.
        grad_head: (P, D) fp32, overwritten with the gradient of the loss; rows from V on with 0.

    Returns:
        The loss, a scalar fp32 tensor, and its gradient with respect to `h`, (N, D) in the dtype of `h`.
    """
    if not h.is_cuda or h.dtype == torch.float32:  # fp32 on CUDA is for checks and gets no kernel of its own
        return _chunked(h, head, labels, scale, vocab_size, grad_head)
    from lcutils.gptneo import loss_kernels

    if h.shape[1] in FUSED_WIDTHS:
        return loss_kernels.fused_head_loss(h, head, labels, scale, vocab_size, grad_head)
    return loss_kernels.in_place_head_loss(h, head, labels, scale, vocab_size, grad_head)


def _chunked(
    h: Tensor, head: Tensor, labels: Tensor, scale: Tensor, vocab_size: int, grad_head: Tensor
) -> tuple[Tensor, Tensor]:
    inputs, weight = h.float(), head[:vocab_size].float()
    rows = max(64, (CUDA_CHUNK_BYTES if h.is_cuda else CPU_CHUNK_BYTES) // (4 * vocab_size))
    valid = labels >= 0  # (N,)
    targets = torch.where(valid, labels, 0).long()[:, None]  # (N, 1)
    weights = valid * scale  # (N,) what each token's loss counts for
    grad_h, loss = torch.empty_like(inputs), torch.zeros((), dtype=torch.float64, device=h.device)
    grad_head.zero_()
    for begin in range(0, len(inputs), rows):
        part = slice(begin, begin + rows)
        logits = inputs[part] @ weight.T  # (n, V)
        highest = logits.amax(1)
        at_target = logits.gather(1, targets[part])[:, 0]
        p = torch.softmax(logits, 1, out=logits)
        # The largest probability is exp(highest - log-sum-exp), which gives the log-sum-exp without another pass.
        log_sum = highest - p.amax(1).log()
        loss += ((log_sum - at_target) * weights[part]).sum()
        p.scatter_add_(1, targets[part], torch.full_like(targets[part], -1.0, dtype=torch.float32))
        grad_h[part] = (p @ weight) * weights[part, None]
        grad_head[:vocab_size].addmm_(p.T, inputs[part] * weights[part, None])
    return loss.float(), grad_h.to(h.dtype)


@torch.no_grad()
def prediction_loss(h: Tensor, head: Tensor | None, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the cross-entropies and number of right predictions, in fp32, for evaluation.

    Args:
        h: (N, D) fp32, or (N, V) logits.
        head: (V, D) fp32; None where `h` is the logits.
        labels: (N,) integers, -1 for none.

    Returns:
        Two scalar fp64 tensors: the sum over labelled tokens of -log p(label), and how many labels have the
        highest logit.
    """
    classes = h.shape[1] if head is None else len(head)
    rows = max(64, (CUDA_CHUNK_BYTES if h.is_cuda else CPU_CHUNK_BYTES) // (4 * classes))
    valid = labels >= 0
    targets = torch.where(valid, labels, 0).long()
    loss = torch.zeros((), dtype=torch.float64, device=h.device)
    right = torch.zeros((), dtype=torch.float64, device=h.device)
    for begin in range(0, len(h), rows):
        part = slice(begin, begin + rows)
        logits = h[part] if head is None else h[part] @ head.T  # (n, V)
        losses = logits.logsumexp(1) - logits.gather(1, targets[part, None])[:, 0]
        loss += (losses.double() * valid[part]).sum()
        right += ((logits.argmax(1) == targets[part]) & valid[part]).sum()
    return loss, right
