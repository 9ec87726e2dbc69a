"""Causal attention without a 1/sqrt(head size) scale, global or within a window, by the fastest kernel of the
device.

Shapes: B sequences, S positions, H heads, E head size. GPT-Neo never divides the scores, so every call says
scale=1. A local layer's query i sees the keys i - window + 1 ... i; a window of None is a global layer.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

FLEX_MIN_HEAD = 16  # FlexAttention's smallest head size; smaller heads are padded with zeros, which is exact
FLEX_BLOCK = 128  # side of the tiles that FlexAttention may skip


@lru_cache(maxsize=32)
def attention_mask(length: int, window: int | None, device: torch.device, flex: bool) -> Any:
    """What `attention` needs to know beyond causality: a FlexAttention block mask, a (S, S) bool band, or
    None.

    None means plain causal attention. A window that no query can leave is no window.
    """
    if window is not None and window >= length:
        window = None
    if flex:
        from torch.nn.attention.flex_attention import create_block_mask

        def sees(_b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return query >= key if window is None else (query >= key) & (query - key < window)

        return create_block_mask(sees, None, None, length, length, device=device, BLOCK_SIZE=FLEX_BLOCK)
    if window is None:
        return None
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return (distance >= 0) & (distance < window)


def uses_flex(head_size: int, window: int | None, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether FlexAttention computes this layer; otherwise PyTorch's scaled_dot_product_attention does.

    On the CPU FlexAttention would need torch.compile. On CUDA it is the only one that skips what a window
    hides, the faster one for small heads, and the only fast one that is deterministic; cuDNN wins for
    large global heads.
    """
    if device.type != "cuda":
        return False
    if window is not None or head_size <= FLEX_MIN_HEAD or dtype == torch.float32:
        return True
    return torch.are_deterministic_algorithms_enabled()


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Any) -> Tensor:
    """softmax(q k^T over the keys that each query sees) v, all (B, S, H, E); `mask` from `attention_mask`."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # (B, H, S, E)
    if mask is None and q.is_cuda:
        # PyTorch's own choice would be its flash kernel, which is slower for large heads.
        out = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, True, scale=1.0)[0]
    elif mask is None or isinstance(mask, Tensor):
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=1.0)
    else:
        from torch.nn.attention.flex_attention import flex_attention

        # fp32 products at full precision unless the caller asked for TF32: Triton's own default would be TF32.
        precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
        options: Any = {"FLOAT32_PRECISION": f"'{precision}'"} if q.dtype == torch.float32 else None
        out = flex_attention(q, k, v, block_mask=mask, scale=1.0, kernel_options=options)
    return out.transpose(1, 2)  # (B, S, H, E)
