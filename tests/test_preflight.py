"""What a configuration says before weights are read: family, positions, libraries that are needed, code."""

import re
from importlib.util import find_spec

import pytest
import torch
import transformers as hf
from model_samples import change, refusal, tiny

from lcutils.features.models import load_feature_model
from lcutils.features.preflight import ModelFacts, check_model, position_limit


def test_facts_of_a_configuration_need_no_weights(tmp_path, monkeypatch):
    tiny().save_pretrained(tmp_path)
    monkeypatch.setattr(hf.AutoModelForCausalLM, "from_pretrained", None)
    assert check_model(tmp_path) == ModelFacts("llama", 64, 60, 2, None, None)
    change(tmp_path, lambda config: config.update({"model_type": "t5"}))
    assert "has no causal language model of its model_type" in refusal(check_model, tmp_path)
    change(tmp_path, lambda config: config.update({"model_type": "bart"}))
    assert "has an encoder" in refusal(check_model, tmp_path)
    change(tmp_path, lambda config: config.update({"model_type": "no-such"}))
    assert "does not know its model_type" in refusal(check_model, tmp_path)


LIMITS = {  # by family: values of the configuration, and how many tokens a text may have
    "roberta": ({"max_position_embeddings": 34}, 32),
    "camembert": ({"max_position_embeddings": 34}, 32),
    "xlm-roberta": ({"max_position_embeddings": 34, "pad_token_id": 3}, 30),
    "data2vec-text": ({"max_position_embeddings": 34}, 32),
    "roberta-prelayernorm": ({"max_position_embeddings": 34}, 32),
    "gpt2": ({"n_positions": 32}, 32),
    "gpt_bigcode": ({"n_positions": 32}, 32),
    "opt": ({"max_position_embeddings": 32}, 32),
    "biogpt": ({"max_position_embeddings": 32}, 32),
    "bert": ({"max_position_embeddings": 32}, 32),
    "trocr": ({"max_position_embeddings": 32}, 32),
    "mpt": ({"max_seq_len": 32}, 32),
    "bloom": ({"seq_length": 32}, None),  # the length of its training
    "falcon": ({"alibi": True, "max_position_embeddings": 32}, None),
    "mamba": ({}, None),
    "mistral": ({"max_position_embeddings": 64, "sliding_window": 8}, 64),
}
SMALL = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_heads": 2, "n_layers": 1, "ffn_dim": 48,
    "d_model": 32, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 48, "pad_token_id": 1,
    "word_embed_proj_dim": 32, "is_decoder": True, "cross_attention_hidden_size": 32,
}  # fmt: skip


@pytest.mark.parametrize("family", LIMITS)
def test_the_most_tokens_that_a_family_takes(family):
    values, limit = LIMITS[family]
    plain = hf.AutoConfig.for_model(family)
    config = hf.AutoConfig.for_model(family, **{k: v for k, v in SMALL.items() if hasattr(plain, k)} | values)
    assert position_limit(config) == limit
    model = hf.AutoModelForCausalLM.from_config(config).eval()

    def fed(tokens):
        with torch.no_grad():
            return model(input_ids=torch.full((1, tokens), 7), use_cache=False).logits

    assert fed(limit or 100).isfinite().all()
    if limit and family != "mistral":  # rotary positions are not stored, so that no code fails beyond
        with pytest.raises((IndexError, RuntimeError, ValueError)):
            fed(limit + 1)


@pytest.mark.parametrize(
    ("quantization", "library"),
    [
        ({"quant_method": "gptq", "bits": 4}, "optimum"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "awq", "bits": 4}, "gptqmodel"),
        ({"quant_method": "aqlm"}, "aqlm"),
        ({"quant_method": "hqq"}, "hqq"),
        ({"quant_method": "compressed-tensors", "format": "int-quantized"}, "compressed-tensors|compressed_tensors"),
    ],
)
def test_quantised_weights_name_the_library_that_they_need(tmp_path, quantization, library):
    if any(find_spec(name.replace("-", "_")) for name in library.split("|")):
        pytest.skip("the library is installed")
    tiny().save_pretrained(tmp_path)
    change(tmp_path, lambda config: config.update({"quantization_config": quantization}))
    assert re.search(library, refusal(check_model, tmp_path))


CODE = """from transformers import LlamaConfig, LlamaForCausalLM
class Settings(LlamaConfig):
    model_type = "mine"
class Mine(LlamaForCausalLM):
    config_class = Settings
"""


def test_code_of_a_folder_is_run_where_it_is_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    theirs, tokens = tiny(), torch.arange(5, 37)[None]
    folder = tmp_path / "model"
    theirs.save_pretrained(folder)
    automatic = {"AutoConfig": "mine.Settings", "AutoModelForCausalLM": "mine.Mine"}
    change(folder, lambda config: config.update({"auto_map": automatic, "model_type": "mine"}))
    (folder / "mine.py").write_text(CODE)
    for call in (check_model, load_feature_model):
        assert "code of its own (auto_map in config.json), which is not run" in refusal(call, folder)
    model = load_feature_model(folder, trust_remote_code=True)
    assert model.family == "mine"
    with torch.no_grad():
        torch.testing.assert_close(model.features(tokens) @ model.classifier.T, theirs(tokens).logits)
