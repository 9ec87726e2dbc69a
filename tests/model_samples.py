"""Tiny checkpoints of a few kinds, changes to their files, and the one line in which a call is refused."""

import json

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from lcutils.errors import UserError

SIZES = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "initializer_range": 0.2,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": 1,
}  # fmt: skip
KINDS = {
    "llama": (hf.LlamaConfig, hf.LlamaForCausalLM, {}),
    "gemma2": (hf.Gemma2Config, hf.Gemma2ForCausalLM, {}),
    "cohere": (hf.CohereConfig, hf.CohereForCausalLM, {}),
    "gpt_neox": (hf.GPTNeoXConfig, hf.GPTNeoXForCausalLM, {}),
    "opt": (hf.OPTConfig, hf.OPTForCausalLM, {"word_embed_proj_dim": 24, "ffn_dim": 48}),
}


def tiny(kind="llama", dtype=torch.float32, **values):
    torch.manual_seed(0)
    config_kind, model_kind, own = KINDS[kind]
    model = model_kind(config_kind(**(SIZES | own | values)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    return model.to(dtype).eval()


def change(folder, change_config=None, change_weights=None):
    if change_config:
        config = json.loads((folder / "config.json").read_text())
        change_config(config)
        (folder / "config.json").write_text(json.dumps(config))
    if change_weights:
        state = load_file(folder / "model.safetensors")
        change_weights(state)
        save_file(state, folder / "model.safetensors", {"format": "pt"})


def refusal(call, *args, **options) -> str:
    with pytest.raises(UserError) as caught:
        call(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message
