"""GPT-Neo checkpoints in Hugging Face's format: transformers' own configuration, and its names of the weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcutils.gptneo.model import INITIAL_STD, GPTNeo
from lcutils.gptneo.trunk import LAYER_NORM_EPS
from lcutils.runs import Architecture
from lcutils.tensors import save_tensors

if TYPE_CHECKING:
    from transformers import GPTNeoConfig, GPTNeoForCausalLM


class OtherLayoutError(ValueError):
    """A complete GPT-Neo, but not one that `GPTNeo` computes."""


def write_checkpoint(model: GPTNeo, folder: Path) -> None:
    """Write a checkpoint that `AutoModelForCausalLM.from_pretrained(folder)` loads; the folder is made if absent."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().to("cpu").contiguous() for name, tensor in model.state_dict().items()}
    save_tensors(state, folder / "model.safetensors", {"format": "pt"})
    _configuration(model.architecture).save_pretrained(folder)


def from_transformers(theirs: GPTNeoForCausalLM) -> GPTNeo:
    """The same model computed by `GPTNeo`, on the CPU.

    It comes frozen (no parameter requires a gradient): `GPTNeo.features` then casts its weights only once.

    Raises:
        OtherLayoutError: `GPTNeo` cannot compute this model; the message says why.
    """
    if theirs.lm_head.weight is not theirs.transformer.wte.weight:
        raise OtherLayoutError("its head is not the token embedding")
    model, state = GPTNeo(_architecture(theirs.config)), theirs.state_dict()
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    return model.requires_grad_(False)


def _configuration(a: Architecture) -> GPTNeoConfig:
    from transformers import GPTNeoConfig

    attention_types = [[["global", "local"], a.depth // 2], [["global"], a.depth % 2]]
    return GPTNeoConfig(
        architectures=["GPTNeoForCausalLM"],
        dtype="float32",
        vocab_size=a.vocab_size,
        hidden_size=a.width,
        num_layers=a.depth,
        num_heads=a.heads,
        max_position_embeddings=a.positions,
        window_size=a.window,
        attention_types=[kind for kind in attention_types if kind[1]],
        initializer_range=INITIAL_STD,
        layer_norm_epsilon=LAYER_NORM_EPS,
        bos_token_id=None,
        eos_token_id=None,
    )


def _architecture(config: GPTNeoConfig) -> Architecture:
    """The architecture that a configuration says, defaults of absent keys included."""
    computed: dict[str, list[Any]] = {
        "activation_function": ["gelu_new"],
        "layer_norm_epsilon": [LAYER_NORM_EPS],
        "intermediate_size": [None, 4 * config.hidden_size],
        "attention_layers": [["local" if layer % 2 else "global" for layer in range(config.num_layers)]],
    }
    for key, allowed in computed.items():
        value = getattr(config, key)
        if value not in allowed:
            raise OtherLayoutError(f"its {key} is {value!r}, where ours is {allowed[-1]!r}")
    return Architecture(
        depth=config.num_layers,
        width=config.hidden_size,
        vocab_size=config.vocab_size,
        heads=config.num_heads,
        positions=config.max_position_embeddings,
        window=config.window_size,
    )
