"""GPT-Neo as the paper trains it, with Hugging Face's parameter names, computing at the speed of the device.

Shapes: V tokens of the vocabulary, D width, B sequences, S positions. Layers alternate global and local
attention, scores are not scaled, the head is the token embedding, and there is no dropout (Wu & Papyan 2024,
section 3). The modules only hold parameters; `lcutils.gptneo.trunk` computes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lcutils.artifacts import atomic_folder
from lcutils.errors import UserError
from lcutils.gptneo.trunk import LAYER_NORM_EPS, BlockWeights, TrunkWeights, run_trunk
from lcutils.runs import Architecture
from lcutils.tensors import save_tensors

INITIAL_STD = 0.02
PRECISIONS = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class OtherLayoutError(UserError):
    """A model that is complete, but not one that `GPTNeo` computes."""


def count_parameters(a: Architecture) -> int:
    """Parameters, the tied embedding once: (V + positions) D + depth (12 D^2 + 10 D) + 2 D."""
    D = a.width
    return (a.vocab_size + a.positions) * D + a.depth * (12 * D * D + 10 * D) + 2 * D


def training_flops_per_token(a: Architecture, block_size: int) -> float:
    """Floating-point operations that one token's forward and backward pass must do (recomputation not
    counted).

    Three times the forward pass: 2 operations for every weight of a matrix product, the head included,
    and 4 D for every key that a query sees: (S + 1)/2 of them on average in a global layer, fewer in a
    local one.
    """
    S, D, W = block_size, a.width, min(a.window, block_size)
    keys_local = (W * (W + 1) / 2 + (S - W) * W) / S
    keys = (a.depth + 1) // 2 * (S + 1) / 2 + a.depth // 2 * keys_local
    return 3 * (2 * (12 * D * D * a.depth + a.vocab_size * D) + 4 * D * keys)


class SelfAttention(nn.Module):
    """The four projections of one attention layer; only the last has a bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.out_proj = nn.Linear(width, width)


class Attention(nn.Module):
    """Holds the self-attention under the name that Hugging Face's parameters have."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = SelfAttention(width)


class Perceptron(nn.Module):
    """The two linear layers of a block's second half."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)


class Block(nn.Module):
    """One layer: LayerNorm, attention, LayerNorm, a perceptron four times as wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attn = Attention(width)
        self.ln_2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = Perceptron(width)

    def weights(self, dtype: torch.dtype) -> BlockWeights:
        """This layer's weights as `lcutils.gptneo.trunk` takes them, matrices and biases cast to `dtype`."""
        attention, fc, proj = self.attn.attention, self.mlp.c_fc, self.mlp.c_proj
        kvq = torch.cat([attention.k_proj.weight, attention.v_proj.weight, attention.q_proj.weight])
        return BlockWeights(
            ln_1_weight=self.ln_1.weight,
            ln_1_bias=self.ln_1.bias,
            kvq=kvq.to(dtype),
            out=attention.out_proj.weight.to(dtype),
            out_bias=attention.out_proj.bias.to(dtype),
            ln_2_weight=self.ln_2.weight,
            ln_2_bias=self.ln_2.bias,
            fc=fc.weight.to(dtype),
            fc_bias=fc.bias.to(dtype),
            proj=proj.weight.to(dtype),
            proj_bias=proj.bias.to(dtype),
        )


class Transformer(nn.Module):
    """Embeddings, blocks and the final LayerNorm."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.wte = nn.Embedding(a.vocab_size, a.width)
        self.wpe = nn.Embedding(a.positions, a.width)
        self.h = nn.ModuleList(Block(a.width) for _ in range(a.depth))
        self.ln_f = nn.LayerNorm(a.width, eps=LAYER_NORM_EPS)

    def weights(self, dtype: torch.dtype) -> TrunkWeights:
        """All layers' weights as `lcutils.gptneo.trunk` takes them."""
        blocks = cast(Iterable[Block], self.h)
        return TrunkWeights([block.weights(dtype) for block in blocks], self.ln_f.weight, self.ln_f.bias)


class GPTNeo(nn.Module):
    """GPT-Neo for causal language modelling; `state_dict` has Hugging Face's names, without the tied
    `lm_head`.

    Args:
        architecture: depth, width and the rest.
        init_seed: seed of the initial weights; None draws from torch's global generator. Matrices and embeddings are
            normal with standard deviation 0.02, biases 0, LayerNorms 1, as Hugging Face initialises GPT-Neo.
    """

    def __init__(self, architecture: Architecture, init_seed: int | None = None) -> None:
        super().__init__()
        self.architecture = a = architecture
        with torch.device("meta"):  # no time is spent on torch's own initialisation
            self.transformer = Transformer(a)
        self.to_empty(device="cpu")
        self._initialise(None if init_seed is None else torch.Generator().manual_seed(init_seed))
        self._cast: dict[str, tuple[Any, TrunkWeights]] = {}

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator | None) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, INITIAL_STD, generator=generator)
            else:
                parameter.fill_(1.0 if ".ln_" in name and name.endswith("weight") else 0.0)

    @property
    def head(self) -> Tensor:
        """(V, D): the classifier, which is the token embedding."""
        return self.transformer.wte.weight

    def _trunk_weights(self, precision: str) -> TrunkWeights:
        """All layers' weights in the dtype of `precision`; those of a frozen model are cast once and kept."""
        if any(p.requires_grad for p in self.transformer.h.parameters()):
            return self.transformer.weights(PRECISIONS[precision])
        state = [(p.data_ptr(), p._version) for p in self.transformer.h.parameters()]
        if precision not in self._cast or self._cast[precision][0] != state:
            self._cast = {precision: (state, self.transformer.weights(PRECISIONS[precision]))}
        return self._cast[precision][1]

    def features(self, tokens: Tensor, precision: str = "fp32") -> Tensor:
        """Output of the final LayerNorm: what the head multiplies.

        Args:
            tokens: (B, S) integers.
            precision: of the matrix products: "fp32", "tf32" (fp32 on the CPU), "fp16" or "bf16". The residual
                stream, the LayerNorms and the result are fp32 whatever it is.

        Returns:
            (B, S, D) float32.

        Raises:
            UserError: an unknown precision, or more positions than the model has.
        """
        a, S = self.architecture, tokens.shape[1]
        if precision not in PRECISIONS:
            raise UserError(f"precision: {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}")
        if a.positions < S:
            raise UserError(f"block_size: {S} tokens exceed the model's {a.positions} positions; use shorter blocks")
        x = nn.functional.embedding(tokens, self.head) + self.transformer.wpe.weight[:S]
        with tf32(precision == "tf32"):
            return run_trunk(x, self._trunk_weights(precision), a.heads, a.window)

    def logits(self, tokens: Tensor) -> Tensor:
        """(B, S, V) fp32 scores of the next token; for tests and small inputs, as they take 4 V bytes a token."""
        return self.features(tokens) @ self.head.T


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow, or forbid, TF32 in CUDA's fp32 matrix products for a while."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _config(a: Architecture) -> dict[str, Any]:
    """Hugging Face's config.json for this architecture."""
    attention_types = [[["global", "local"], a.depth // 2]] if a.depth > 1 else []
    if a.depth % 2:
        attention_types.append([["global"], 1])
    return {
        "architectures": ["GPTNeoForCausalLM"],
        "model_type": "gpt_neo",
        "vocab_size": a.vocab_size,
        "hidden_size": a.width,
        "num_layers": a.depth,
        "num_heads": a.heads,
        "max_position_embeddings": a.positions,
        "window_size": a.window,
        "attention_types": attention_types,
        "attention_layers": ["local" if layer % 2 else "global" for layer in range(a.depth)],
        "intermediate_size": None,
        "activation_function": "gelu_new",
        "attention_dropout": 0.0,
        "embed_dropout": 0.0,
        "resid_dropout": 0.0,
        "initializer_range": INITIAL_STD,
        "layer_norm_epsilon": LAYER_NORM_EPS,
        "bos_token_id": None,
        "eos_token_id": None,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }


def _architecture(config: dict[str, Any], source: str) -> Architecture:
    """The architecture in a Hugging Face config; `OtherLayoutError` where this model cannot compute what it says."""
    expected = {
        "model_type": "gpt_neo",
        "activation_function": "gelu_new",
        "layer_norm_epsilon": LAYER_NORM_EPS,
        "intermediate_size": (None, 4 * config.get("hidden_size", 0)),
        "attention_layers": ["local" if layer % 2 else "global" for layer in range(config.get("num_layers", 0))],
        "tie_word_embeddings": True,
    }
    for key, value in expected.items():
        allowed = value if isinstance(value, tuple) else (value,)
        if key in config and config[key] not in allowed:
            raise OtherLayoutError(
                f"{source}: {key} is {config[key]!r}, GPT-Neo here has {allowed[-1]!r}; use another model"
            )
    return Architecture(
        depth=config["num_layers"],
        width=config["hidden_size"],
        vocab_size=config["vocab_size"],
        heads=config["num_heads"],
        positions=config["max_position_embeddings"],
        window=config["window_size"],
    )


def write_model(model: GPTNeo, folder: Path) -> None:
    """Write config.json and model.safetensors into an existing folder, without making the whole atomic."""
    state = {name: tensor.detach().to("cpu").contiguous() for name, tensor in model.state_dict().items()}
    save_tensors(state, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_config(model.architecture), indent=1) + "\n")


def save_model(model: GPTNeo, folder: Path) -> None:
    """Save a checkpoint that `AutoModelForCausalLM.from_pretrained(folder)` loads; complete or absent."""
    with atomic_folder(folder) as aside:
        write_model(model, aside)


def load_model(folder: Path | str, device: torch.device | str = "cpu", revision: str | None = None) -> GPTNeo:
    """Load a GPT-Neo checkpoint: a folder of `save_model` or `save_pretrained`, or a name on the hub.

    The model comes frozen (no parameter requires a gradient): `features` then casts its weights only once.

    Raises:
        UserError: there is no checkpoint, or a broken one; `OtherLayoutError` where it is not a GPT-Neo that this
            model can compute.
    """
    path = Path(folder)
    if (path / "config.json").is_file() and (path / "model.safetensors").is_file():
        config, state = json.loads((path / "config.json").read_text()), load_file(path / "model.safetensors")
    else:
        from transformers import AutoModelForCausalLM

        try:
            theirs = AutoModelForCausalLM.from_pretrained(str(folder), revision=revision, dtype=torch.float32)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{folder}: no model there ({reason}); give a checkpoint folder") from error
        config, state = theirs.config.to_dict(), theirs.state_dict()
    model = GPTNeo(_architecture(config, str(folder)))
    # Older checkpoints carry the tied head and the attention masks as tensors of their own.
    wanted = model.state_dict().keys()
    missing = wanted - state.keys()
    if missing:
        raise UserError(f"{folder}: the checkpoint lacks {sorted(missing)[0]}; save it again")
    model.load_state_dict({name: state[name].float() for name in wanted})
    return model.to(device).requires_grad_(False)
