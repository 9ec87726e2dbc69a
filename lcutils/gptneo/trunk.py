"""GPT-Neo's layers as one plain function over weights: the same code trains, evaluates and extracts.

Shapes: B sequences, S positions, D width, H heads, E = D/H head size. The residual stream and the LayerNorms
are fp32 at every precision; matrix products run in the dtype of the weights they are given, as under
autocast.

On CUDA each block is compiled once and used for every layer of its kind, which keeps the compile time of
twelve layers near that of one. A block hands over `(x, update)` with `update` not yet added to the residual
stream `x`, so that the addition is fused into the next block's LayerNorm and the stream is read once less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lcutils.gptneo.attention import FLEX_MIN_HEAD, FLEX_MIN_LENGTH, attention, attention_mask, flex_block

LAYER_NORM_EPS = 1e-5


class BlockWeights(NamedTuple):
    """One layer's weights; key, value and query projections stacked so that one product makes all three."""

    ln_1_weight: Tensor  # (D,) fp32, as the other LayerNorm weights
    ln_1_bias: Tensor  # (D,)
    kvq: Tensor  # (3D, D)
    out: Tensor  # (D, D)
    out_bias: Tensor  # (D,)
    ln_2_weight: Tensor  # (D,)
    ln_2_bias: Tensor  # (D,)
    fc: Tensor  # (4D, D)
    fc_bias: Tensor  # (4D,)
    proj: Tensor  # (D, 4D)
    proj_bias: Tensor  # (D,)


class TrunkWeights(NamedTuple):
    """The weights of all layers and of the final LayerNorm."""

    blocks: Sequence[BlockWeights]
    ln_f_weight: Tensor  # (D,)
    ln_f_bias: Tensor  # (D,)


def _block(
    x: Tensor, update: Tensor | None, w: BlockWeights, heads: int, mask: Any, windowed: bool
) -> tuple[Tensor, Tensor]:
    B, S, D = x.shape
    dtype, head_size = w.kvq.dtype, D // heads
    kvq_weight, out_weight, padded = w.kvq, w.out, head_size
    if x.is_cuda and head_size < FLEX_MIN_HEAD:
        # Zero columns add nothing to a score (there is no scale to correct) and are dropped by zero
        # rows of `out`.
        padded = FLEX_MIN_HEAD
        kvq_weight = F.pad(w.kvq.view(3, heads, head_size, D), (0, 0, 0, padded - head_size)).reshape(-1, D)
        out_weight = F.pad(w.out.view(D, heads, head_size), (0, padded - head_size)).reshape(D, -1)
    if update is not None:
        x = x + update
    h = F.layer_norm(x, (D,), w.ln_1_weight, w.ln_1_bias, LAYER_NORM_EPS).to(dtype)
    k, v, q = F.linear(h, kvq_weight).view(B, S, 3, heads, padded).unbind(2)
    x = x + F.linear(attention(q, k, v, mask, windowed).reshape(B, S, -1), out_weight, w.out_bias)
    h = F.layer_norm(x, (D,), w.ln_2_weight, w.ln_2_bias, LAYER_NORM_EPS).to(dtype)
    h = F.gelu(F.linear(h, w.fc, w.fc_bias), approximate="tanh")
    return x, F.linear(h, w.proj, w.proj_bias)


def _final_norm(x: Tensor, update: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    return F.layer_norm(x + update, x.shape[-1:], weight, bias, LAYER_NORM_EPS).to(dtype)


@lru_cache(maxsize=4)
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled by torch.compile, one specialised version for each shape it meets."""
    # The default limit of eight versions is passed by a run that trains and evaluates; beyond it, an
    # error, because FlexAttention without compilation would write out every score.
    torch._dynamo.config.recompile_limit = 256
    return torch.compile(function, dynamic=False, fullgraph=True)


def run_trunk(x: Tensor, weights: TrunkWeights, heads: int, window: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Features of embedded tokens.

    Args:
        x: (B, S, D) fp32, token plus position embeddings.
        weights: matrices and biases in the dtype to compute in, LayerNorm weights in fp32.
        heads: H.
        window: keys that a local layer's query sees; layers alternate global, local, global, ...
        dtype: of the result; the final LayerNorm is computed in fp32 whatever it is.

    Returns:
        (B, S, D): the output of the final LayerNorm.
    """
    cuda, given, head_size = x.is_cuda, x.shape[1], x.shape[2] // heads
    if cuda and given < FLEX_MIN_LENGTH:  # positions behind the last change nothing before it
        x = F.pad(x, (0, 0, 0, FLEX_MIN_LENGTH - given))
    length = x.shape[1]
    block, final_norm = (compiled(_block), compiled(_final_norm)) if cuda else (_block, _final_norm)
    update: Tensor | None = None
    for layer, w in enumerate(weights.blocks):
        seen = window if layer % 2 else None
        tile = flex_block(head_size, seen, x.device, w.kvq.dtype)
        mask = attention_mask(length, seen, x.device, tile)
        x, update = block(x, update, w, heads, mask, seen is not None)
    assert update is not None
    return final_norm(x, update, weights.ln_f_weight, weights.ln_f_bias, dtype)[:, :given]
