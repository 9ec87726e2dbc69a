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
FLEX_MIN_LENGTH = 128  # for shorter sequences it would take a kernel for decoding, which failed our tests on an H200
FLEX_BLOCK = 128  # side of the squares of scores that it skips as a whole where all are hidden
SMALL_BLOCK = 64
# Causal, and whole blocks: a row sees a key in the first block it meets, and its blocks lie side by side. In a window
# neither holds, and the first promise would give NaN.
WHOLE_CAUSAL = {"ROWS_GUARANTEED_SAFE": True, "BLOCKS_ARE_CONTIGUOUS": True}
# Tiles of the kernels for 16-bit data, the fastest tried on an H200.
SMALL_HEAD_TILES = {"bwd_BLOCK_M1": 32, "bwd_BLOCK_N1": 128, "bwd_BLOCK_M2": 128, "bwd_BLOCK_N2": 32}
WINDOW_TILES = {
    **{"fwd_BLOCK_M": 64, "fwd_BLOCK_N": 64},
    **{"bwd_BLOCK_M1": 32, "bwd_BLOCK_N1": 64, "bwd_BLOCK_M2": 64, "bwd_BLOCK_N2": 32},
}
PIPELINE = {"num_warps": 4, "num_stages": 3}


def flex_block(head_size: int, window: int | None, device: torch.device, dtype: torch.dtype) -> int | None:
    """FlexAttention's block for a layer of a compiled trunk; None if another kernel computes it.

    On the CPU FlexAttention would need torch.compile. On CUDA it is the only one that skips what a window hides, the
    faster one for small heads, and the only fast one that is deterministic; cuDNN wins for large global heads.
    """
    if device.type != "cuda":
        return None
    if dtype == torch.float32:
        return FLEX_BLOCK
    if window is None:
        slow = head_size > FLEX_MIN_HEAD and not torch.are_deterministic_algorithms_enabled()
        return None if slow else FLEX_BLOCK
    # Small blocks waste less at the window's edges; PyTorch takes them only where its own tiles are as small.
    small = head_size < 64 and torch.cuda.get_device_capability(device) == (9, 0)
    return SMALL_BLOCK if small else FLEX_BLOCK


def flex_options(shape: torch.Size, windowed: bool, dtype: torch.dtype) -> dict[str, Any]:
    """FlexAttention's kernel options for queries of a shape, (B, H, S, E)."""
    if dtype == torch.float32:
        # Products at full precision unless the caller asked for TF32: Triton's own default would be TF32.
        precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
        return {"FLOAT32_PRECISION": f"'{precision}'"}
    if windowed:
        return WINDOW_TILES | PIPELINE
    tiles = SMALL_HEAD_TILES | PIPELINE if shape[3] <= FLEX_MIN_HEAD else {}
    return tiles | (WHOLE_CAUSAL if shape[2] % FLEX_BLOCK == 0 else {})


@lru_cache(maxsize=32)
def attention_mask(length: int, window: int | None, device: torch.device, block: int | None) -> Any:
    """What `attention` needs to know beyond causality: FlexAttention's mask, a (S, S) bool band, or None.

    None means plain causal attention. A window that no query can leave is no window. `block` is from `flex_block`.
    """
    if window is not None and window >= length:
        window = None
    if block:
        from torch.nn.attention.flex_attention import create_block_mask

        def sees(_b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return query >= key if window is None else (query >= key) & (query - key < window)

        return create_block_mask(sees, None, None, length, length, device=device, BLOCK_SIZE=block)
    if window is None:
        return None
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return (distance >= 0) & (distance < window)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Any, windowed: bool) -> Tensor:
    """softmax(q k^T over the keys that each query sees) v, all (B, S, H, E).

    `mask` is from `attention_mask`, of a layer that is `windowed` or not.
    """
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # (B, H, S, E)
    if mask is None and q.is_cuda and q.dtype != torch.float32:
        # PyTorch's own choice would be its flash kernel, which is slower for large heads.
        out = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, True, scale=1.0)[0]
    elif mask is None or isinstance(mask, Tensor):
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=1.0)
    else:
        from torch.nn.attention.flex_attention import flex_attention

        options: Any = flex_options(q.shape, windowed, q.dtype)
        out = flex_attention(q, k, v, block_mask=mask, scale=1.0, kernel_options=options)
    return out.transpose(1, 2)  # (B, S, H, E)
