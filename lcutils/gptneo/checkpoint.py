"""GPT-Neo checkpoints in Hugging Face's format: the configuration and the names of the weights that transformers reads.

Importing transformers' configuration of GPT-Neo imports all that generates text, some seconds. A run that is trained
and measured here does without: it writes `config.json` itself, as tests hold against transformers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file

from lcutils.artifacts import file_digest, flush, write_json
from lcutils.gptneo.model import INITIAL_STD, GPTNeo
from lcutils.gptneo.trunk import LAYER_NORM_EPS
from lcutils.runs import Architecture
from lcutils.tensors import save_tensors

if TYPE_CHECKING:
    from transformers import GPTNeoConfig, GPTNeoForCausalLM


KEYS = {  # of config.json, by the architecture's fields
    "depth": "num_layers",
    "width": "hidden_size",
    "vocab_size": "vocab_size",
    "heads": "num_heads",
    "positions": "max_position_embeddings",
    "window": "window_size",
}


class OtherLayoutError(ValueError):
    """A complete GPT-Neo, but not one that `GPTNeo` computes."""


def write_checkpoint(model: GPTNeo, folder: Path) -> None:
    """Write a checkpoint that `AutoModelForCausalLM.from_pretrained(folder)` loads; the folder is made if absent."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().to("cpu").contiguous() for name, tensor in model.state_dict().items()}
    save_tensors(state, folder / "model.safetensors", {"format": "pt"})
    write_json(folder / "config.json", _configuration(model.architecture))
    # The folder's last step waits for the disk, and its manifest asks for the digest: training evaluates meanwhile.
    flush(folder / "model.safetensors")
    file_digest(folder / "model.safetensors")


def read_checkpoint(folder: Path) -> GPTNeo:
    """A model that `write_checkpoint` wrote, on the CPU and frozen (no parameter requires a gradient)."""
    config = json.loads((folder / "config.json").read_text())
    model = GPTNeo(Architecture(**{field: config[key] for field, key in KEYS.items()}))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.requires_grad_(False)


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


def _configuration(a: Architecture) -> dict[str, Any]:
    """What `config.json` says; keys that it leaves out have transformers' defaults."""
    attention_types = [[["global", "local"], a.depth // 2], [["global"], a.depth % 2]]
    return {
        "architectures": ["GPTNeoForCausalLM"],
        "model_type": "gpt_neo",
        "dtype": "float32",
        **{key: getattr(a, field) for field, key in KEYS.items()},
        "attention_types": [kind for kind in attention_types if kind[1]],
        "attention_layers": ["local" if layer % 2 else "global" for layer in range(a.depth)],
        "activation_function": "gelu_new",
        "initializer_range": INITIAL_STD,
        "layer_norm_epsilon": LAYER_NORM_EPS,
        "bos_token_id": None,
        "eos_token_id": None,
    }


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
    return Architecture(**{field: getattr(config, key) for field, key in KEYS.items()})
