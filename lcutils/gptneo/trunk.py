"""GPT-Neo's layers: modules that hold the parameters, and one plain function that computes a layer from its weights.

The same function trains, evaluates and extracts. It takes weights instead of a module, so that training can give it
views of its flat tensors.

Shapes: B sequences, S positions, D width, H heads, E = D/H head size. The residual stream and the LayerNorms are fp32
at every precision; matrix products run in the dtype of the weights they are given, as under autocast.

On CUDA a block can be compiled: once for each kind of layer, global and local, which keeps the compile time of twelve
layers near that of one. A block hands over `(x, update)` with `update` not yet added to the residual stream `x`, so
that the addition is fused into the next block's LayerNorm and the stream is read once less.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lcutils.gptneo.attention import FLEX_MIN_HEAD, FLEX_MIN_LENGTH, attention, attention_mask, flex_block
from lcutils.runs import Architecture

LAYER_NORM_EPS = 1e-5
Watch = Callable[[int, Tensor], None]  # is given a layer's number and the residual stream there, (B, S, D)
COMPILE_FROM = 1.5e8  # tokens x layers: passes over fewer are over sooner than the blocks are compiled


class BlockWeights(NamedTuple):
    """One layer's weights; key, value and query projections stacked so that one product makes all three."""

    ln_1_weight: Tensor  # (D,) fp32, like the other LayerNorm weights
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


# Field of `BlockWeights` -> Hugging Face's names of the parameters that it stacks; this order is that of the gradients.
PARAMETER_NAMES = {
    "ln_1_weight": ("ln_1.weight",),
    "ln_1_bias": ("ln_1.bias",),
    "kvq": ("attn.attention.k_proj.weight", "attn.attention.v_proj.weight", "attn.attention.q_proj.weight"),
    "out": ("attn.attention.out_proj.weight",),
    "out_bias": ("attn.attention.out_proj.bias",),
    "ln_2_weight": ("ln_2.weight",),
    "ln_2_bias": ("ln_2.bias",),
    "fc": ("mlp.c_fc.weight",),
    "fc_bias": ("mlp.c_fc.bias",),
    "proj": ("mlp.c_proj.weight",),
    "proj_bias": ("mlp.c_proj.bias",),
}


class TrunkWeights(NamedTuple):
    """The weights of all layers and of the final LayerNorm."""

    blocks: Sequence[BlockWeights]
    ln_f_weight: Tensor  # (D,)
    ln_f_bias: Tensor  # (D,)


class Weights(nn.Module):
    """A weight and perhaps a bias, not yet initialised, under the names that torch's own layers give them.

    Those layers initialise themselves, which takes seconds for large ones, and 900 imports to leave it out.
    """

    def __init__(self, *shape: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        if bias:
            self.bias = nn.Parameter(torch.empty(shape[0]))


class SelfAttention(nn.Module):
    """The four projections of one attention layer; only the last has a bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.k_proj = Weights(width, width)
        self.v_proj = Weights(width, width)
        self.q_proj = Weights(width, width)
        self.out_proj = Weights(width, width, bias=True)


class Attention(nn.Module):
    """Holds the projections under the name that Hugging Face gives them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = SelfAttention(width)


class Perceptron(nn.Module):
    """The two linear layers of a block's second half."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = Weights(4 * width, width, bias=True)
        self.c_proj = Weights(width, 4 * width, bias=True)


class Block(nn.Module):
    """One layer: LayerNorm, attention, LayerNorm, a perceptron four times as wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1 = Weights(width, bias=True)
        self.attn = Attention(width)
        self.ln_2 = Weights(width, bias=True)
        self.mlp = Perceptron(width)

    def weights(self, dtype: torch.dtype) -> BlockWeights:
        """This layer's weights, those of matrix products and their biases cast to `dtype`."""

        def stacked(field: str, names: Sequence[str]) -> Tensor:
            parts: list[Tensor] = [self.get_parameter(name) for name in names]
            whole = torch.cat(parts) if len(parts) > 1 else parts[0]
            return whole if field.startswith("ln_") else whole.to(dtype)

        return BlockWeights(**{field: stacked(field, names) for field, names in PARAMETER_NAMES.items()})


def _block(
    x: Tensor, update: Tensor | None, w: BlockWeights, heads: int, mask: Any, windowed: bool
) -> tuple[Tensor, Tensor]:
    """One layer: x = x + attention(norm(x)), then the update perceptron(norm(x)), which the next layer adds."""
    B, S, D = x.shape
    dtype, head_size = w.kvq.dtype, D // heads
    kvq_weight, out_weight, padded = w.kvq, w.out, head_size
    if x.is_cuda and head_size < FLEX_MIN_HEAD:
        # Zero columns add nothing to a score (there is no scale to correct); zero rows of `out` drop them again.
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


class Transformer(nn.Module):
    """Embeddings, blocks and the final LayerNorm."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.wte = Weights(a.vocab_size, a.width)
        self.wpe = Weights(a.positions, a.width)
        self.h = nn.ModuleList(Block(a.width) for _ in range(a.depth))
        self.ln_f = Weights(a.width, bias=True)

    def weights(self, dtype: torch.dtype) -> TrunkWeights:
        """The weights of all layers, as `run_trunk` takes them."""
        blocks = cast(Iterable[Block], self.h)
        return TrunkWeights([block.weights(dtype) for block in blocks], self.ln_f.weight, self.ln_f.bias)


def start_compiler() -> None:
    """Load what torch.compile needs, which takes a new process seconds, and say where what it makes is kept.

    What is compiled stays in the user's cache folder, for later processes and for other machines that share it, until
    torch or the kind of GPU changes. `TORCHINDUCTOR_CACHE_DIR` names another folder.
    """
    # A run that trains and evaluates needs more than the default of eight versions. Beyond the limit there is an error,
    # because FlexAttention without compilation would write out every score.
    torch._dynamo.config.recompile_limit = 256
    # It advises TF32 for every fp32 product, of which training has none and the others want all digits.
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lcutils" / "torchinductor"
    with suppress(OSError, RuntimeError):  # without a home that can be written, torch takes a temporary folder
        cache.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
    import_module("torch._inductor.compile_fx")  # after the folder is named


@lru_cache(maxsize=4)
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled by torch.compile, one specialised version for each shape it meets."""
    start_compiler()
    return torch.compile(function, dynamic=False, fullgraph=True)


def worth_compiling(depth: int, tokens: float) -> bool:
    """True if so many tokens take so long, in passes through a trunk on a GPU, that compiling its blocks first pays."""
    return tokens * depth >= COMPILE_FROM


def run_trunk(
    x: Tensor,
    weights: TrunkWeights,
    heads: int,
    window: int,
    dtype: torch.dtype = torch.float32,
    compile_blocks: bool = False,
    watch: Watch | None = None,
    watched: Collection[int] = (),
) -> Tensor:
    """Features of embedded tokens.

    Args:
        x: (B, S, D) fp32, token plus position embeddings.
        weights: matrices and biases in the dtype to compute in, LayerNorm weights in fp32.
        heads: H.
        window: keys that a local layer's query sees; layers alternate global, local, global, ...
        dtype: of the result; the final LayerNorm is computed in fp32 whatever it is.
        compile_blocks: by torch.compile, on CUDA only.
        watch: called with the residual stream in fp32 at each of the layers in `watched`: 0 is `x` as it is given, k
            the output of block k. The result is the same with it as without, bit for bit.
        watched: numbers of layers.

    Returns:
        (B, S, D): the output of the final LayerNorm.
    """
    given, head_size = x.shape[1], x.shape[2] // heads
    if watch is not None and 0 in watched:
        watch(0, x)
    block, final_norm, update = _block, _final_norm, None
    if compile_blocks:
        if given < FLEX_MIN_LENGTH:  # later positions change nothing before them
            x = F.pad(x, (0, 0, 0, FLEX_MIN_LENGTH - given))
        block, final_norm = compiled(_block), compiled(_final_norm)
        # Without an update the first block would have to be compiled for itself.
        update = torch.zeros_like(x, dtype=weights.blocks[0].kvq.dtype, requires_grad=x.requires_grad)
    for layer, w in enumerate(weights.blocks):
        seen = window if layer % 2 else None
        tile = flex_block(head_size, seen, x.device, w.kvq.dtype) if compile_blocks else None
        mask = attention_mask(x.shape[1], seen, x.device, tile)
        x, update = block(x, update, w, heads, mask, seen is not None)
        if watch is not None and layer + 1 in watched:
            watch(layer + 1, (x + update)[:, :given])
    assert update is not None
    return final_norm(x, update, weights.ln_f_weight, weights.ln_f_bias, dtype)[:, :given]
