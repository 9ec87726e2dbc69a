"""Triton kernels for the cross-entropy of a large vocabulary on CUDA; `lcutils.gptneo.loss` says when each is used.

Shapes: N tokens, D width, V vocabulary, P padded vocabulary (rows of the head; logits beyond V do not exist).
A label of -1 gives no loss and no gradient. It is imported only on CUDA, as Triton may be absent elsewhere.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lcutils.gptneo.determinism import add_rows

LOG2_E = tl.constexpr(1.4426950408889634)
# If no |logit| log2(e) can exceed this, exp needs no subtracted maximum: sums stay within 2^±116, fp32's normal range.
SAFE_EXPONENT = tl.constexpr(100.0)

# (tokens per program, vocabulary per tile, warps, pipeline stages), the fastest measured on an H200 by width
FORWARD_TILES = {16: (128, 128, 4, 2), 32: (128, 128, 4, 2), 64: (128, 128, 4, 2), 128: (64, 128, 4, 3)}
# (vocabulary per program, tokens per tile, warps, pipeline stages), at every width
BACKWARD_TILE = (64, 128, 4, 3)


@triton.jit
def _in_place_kernel(logits, labels, losses, scale, V, P, BLOCK: tl.constexpr):
    """Overwrite a row of logits with its gradient: scale (softmax - one-hot); write its unscaled loss.

    Sums of exp(logit - label's logit) need no maximum: they are at least 1, and their logarithm is the loss. Only a
    loss beyond 88 nats overflows them; then the maximum is found after all. A row is read twice, the second time from
    the cache: a program is as wide as possible so that few rows are in flight.
    """
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row)
    start, column = logits + row * P, tl.arange(0, BLOCK)
    if label < 0:
        for begin in range(0, P, BLOCK):
            tl.store(start + begin + column, tl.zeros([BLOCK], logits.dtype.element_ty), mask=begin + column < P)
        tl.store(losses + row, 0.0)
    else:
        at_label = tl.load(start + label).to(tl.float32)
        shift = at_label * LOG2_E
        whole = V // BLOCK * BLOCK  # what follows is read with a mask
        rest = whole + column
        sums = tl.zeros([BLOCK], tl.float32)
        for begin in range(0, whole, BLOCK):
            x = tl.load(start + begin + column, eviction_policy="evict_last").to(tl.float32)
            sums += tl.exp2(x * LOG2_E - shift)
        x = tl.load(start + rest, mask=rest < V, other=float("-inf")).to(tl.float32)
        total = tl.sum(sums + tl.exp2(x * LOG2_E - shift), 0)
        if total == float("inf"):
            highest = tl.max(x, 0)
            for begin in range(0, whole, BLOCK):
                highest = tl.maximum(highest, tl.max(tl.load(start + begin + column).to(tl.float32), 0))
            shift = highest * LOG2_E
            sums = tl.exp2(x * LOG2_E - shift)
            for begin in range(0, whole, BLOCK):
                sums += tl.exp2(tl.load(start + begin + column).to(tl.float32) * LOG2_E - shift)
            total = tl.sum(sums, 0)
        shift += tl.log2(total)  # now the log-sum-exp
        tl.store(losses + row, shift / LOG2_E - at_label)
        factor = tl.load(scale)
        tl.debug_barrier()  # the label's logit is read by all before one of them overwrites it
        for begin in range(0, whole, BLOCK):
            x = tl.load(start + begin + column, eviction_policy="evict_first").to(tl.float32)
            gradient = tl.exp2(x * LOG2_E - shift) * factor
            tl.store(start + begin + column, gradient.to(logits.dtype.element_ty))
        x = tl.load(start + rest, mask=rest < V, other=float("-inf")).to(tl.float32)
        gradient = tl.exp2(x * LOG2_E - shift) * factor
        tl.store(start + rest, gradient.to(logits.dtype.element_ty), mask=rest < P)
        tl.debug_barrier()  # the label's place is written last
        gradient_at_label = (tl.exp2(at_label * LOG2_E - shift) - 1.0) * factor
        tl.store(start + label, gradient_at_label.to(logits.dtype.element_ty))


def in_place_head_loss(
    h: Tensor, head: Tensor, labels: Tensor, scale: Tensor, vocab_size: int, grad_head: Tensor
) -> tuple[Tensor, Tensor]:
    """`lcutils.gptneo.loss.head_loss` with logits in the dtype of `h`, overwritten by their gradient."""
    P = len(head)
    logits = h @ head.T  # (N, P)
    losses = torch.empty(len(h), device=h.device)
    _in_place_kernel[(len(h),)](logits, labels, losses, scale, vocab_size, P, BLOCK=8192, num_warps=32)
    torch.mm(logits.T, h, out_dtype=torch.float32, out=grad_head)
    return losses.sum() * scale, logits @ head


@triton.jit
def _fused_forward_kernel(
    features, head, labels, longest, losses, log_sums, grad_features, scale, N, V,
    D: tl.constexpr, TOKENS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """For a tile of tokens: log-sum-exp over the vocabulary, loss, and gradient of the features.

    The gradient's main part, softmax(x W^T) W, is attention with keys and values W, so that it needs no second pass.
    """
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    d, v = tl.arange(0, D), tl.arange(0, TILE)
    here = token < N
    x = tl.load(features + token[:, None] * D + d[None, :], mask=here[:, None], other=0.0)  # (TOKENS, D)
    total = tl.zeros([TOKENS], tl.float32)
    mixed = tl.zeros([TOKENS, D], tl.float32)  # sum over the vocabulary of exp(logit) w
    whole = V // TILE * TILE
    # Cauchy-Schwarz: no logit of this tile exceeds the longest feature times the longest row of the head.
    wide = x.to(tl.float32)
    bound = tl.max(tl.sqrt_rn(tl.sum(wide * wide, 1)), 0) * tl.load(longest) * LOG2_E
    if bound <= SAFE_EXPONENT:
        for begin in range(0, whole, TILE):
            w = tl.load(head + (begin + v)[:, None] * D + d[None, :])  # (TILE, D)
            p = tl.exp2(tl.dot(x, tl.trans(w)) * LOG2_E)  # (TOKENS, TILE)
            total += tl.sum(p, 1)
            mixed = tl.dot(p.to(w.dtype), w, mixed)
        inside = whole + v < V
        w = tl.load(head + (whole + v)[:, None] * D + d[None, :], mask=inside[:, None], other=0.0)
        p = tl.where(inside[None, :], tl.exp2(tl.dot(x, tl.trans(w)) * LOG2_E), 0.0)
        total += tl.sum(p, 1)
        mixed = tl.dot(p.to(w.dtype), w, mixed)
        log_sum = tl.log2(total)
    else:
        highest = tl.full([TOKENS], float("-inf"), tl.float32)
        for begin in range(0, V, TILE):
            inside = begin + v < V
            w = tl.load(head + (begin + v)[:, None] * D + d[None, :], mask=inside[:, None], other=0.0)
            s = tl.where(inside[None, :], tl.dot(x, tl.trans(w)) * LOG2_E, float("-inf"))
            higher = tl.maximum(highest, tl.max(s, 1))
            p = tl.exp2(s - higher[:, None])
            shrink = tl.exp2(highest - higher)
            total = total * shrink + tl.sum(p, 1)
            mixed = tl.dot(p.to(w.dtype), w, mixed * shrink[:, None])
            highest = higher
        log_sum = highest + tl.log2(total)
    label = tl.load(labels + token, mask=here, other=-1)
    counted = label >= 0
    target = tl.load(head + tl.where(counted, label, 0)[:, None] * D + d[None, :]).to(tl.float32)  # (TOKENS, D)
    loss = log_sum / LOG2_E - tl.sum(wide * target, 1)
    gradient = (mixed / total[:, None] - target) * tl.load(scale)
    gradient = tl.where(counted[:, None], gradient, 0.0)
    tl.store(losses + token, tl.where(counted, loss, 0.0), mask=here)
    # Infinity makes every probability of a token without a label 0 in the backward kernel.
    tl.store(log_sums + token, tl.where(counted, log_sum, float("inf")), mask=here)
    tl.store(grad_features + token[:, None] * D + d[None, :], gradient.to(x.dtype), mask=here[:, None])


@triton.jit
def _fused_backward_kernel(
    features, head, log_sums, grad_head, scale, N, V, P,
    D: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """For a tile of the head's rows: scale times the sum over tokens of p(row) x, the one-hot part left out."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    d, t = tl.arange(0, D), tl.arange(0, TILE)
    w = tl.load(head + row[:, None] * D + d[None, :], mask=(row < P)[:, None], other=0.0)  # (ROWS, D)
    gradient = tl.zeros([ROWS, D], tl.float32)
    for begin in range(0, N, TILE):
        here = begin + t < N
        x = tl.load(features + (begin + t)[:, None] * D + d[None, :], mask=here[:, None], other=0.0)  # (TILE, D)
        log_sum = tl.load(log_sums + begin + t, mask=here, other=float("inf"))
        p = tl.exp2(tl.dot(w, tl.trans(x)) * LOG2_E - log_sum[None, :])  # (ROWS, TILE)
        gradient = tl.dot(p.to(x.dtype), x, gradient)
    gradient = tl.where((row < V)[:, None], gradient * tl.load(scale), 0.0)
    tl.store(grad_head + row[:, None] * D + d[None, :], gradient, mask=(row < P)[:, None])


def fused_head_loss(
    h: Tensor, head: Tensor, labels: Tensor, scale: Tensor, vocab_size: int, grad_head: Tensor
) -> tuple[Tensor, Tensor]:
    """`lcutils.gptneo.loss.head_loss` without any logits in memory; D must be a power of two from 16 to 128."""
    (N, D), P = h.shape, len(head)
    losses, log_sums = torch.empty(N, device=h.device), torch.empty(N, device=h.device)
    grad_h = torch.empty_like(h)
    longest = torch.linalg.vector_norm(head, dim=1, dtype=torch.float32).amax()
    tokens, tile, warps, stages = FORWARD_TILES[D]
    _fused_forward_kernel[(triton.cdiv(N, tokens),)](
        h, head, labels, longest, losses, log_sums, grad_h, scale, N, vocab_size,
        D=D, TOKENS=tokens, TILE=tile, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    rows, tile, warps, stages = BACKWARD_TILE
    _fused_backward_kernel[(triton.cdiv(P, rows),)](
        h, head, log_sums, grad_head, scale, N, vocab_size, P,
        D=D, ROWS=rows, TILE=tile, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    counted = labels >= 0
    add_rows(grad_head, labels.clamp(min=0), h.float() * (counted * -scale)[:, None])
    return losses.sum() * scale, grad_h
