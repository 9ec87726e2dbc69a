"""Tiny models of many families: features, head, bias, scale and cap give each one's own logits, decisions and loss."""

import numpy as np
import pytest
import torch
import transformers as hf

from lcutils.errors import UserError
from lcutils.features.evaluation import evaluate_model
from lcutils.features.fit import check_fit
from lcutils.features.models import load_feature_model

ROWS = 90  # of the vocabulary; the first five stand for markers, the last ten for pictures

# Of these, a family gets the keys that its configuration has. Large weights, so that every part of a model is seen.
SIZES = {
    "vocab_size": ROWS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "initializer_range": 0.2,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": 1, "is_decoder": True,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "n_group": 1, "topk_group": 1,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
    "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "n_inner": 48, "rotary_dim": 8,
    "d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 48, "ffn_dim": 48,
    "word_embed_proj_dim": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 48,
}  # fmt: skip
PICTURES = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
UNTIED = {"tie_word_embeddings": False}
TIED = {"tie_word_embeddings": True}
MARKERS = {"bos_token_id": 1, "eos_token_id": 2}  # for those that do not take None

FAMILIES: dict[str, dict] = {
    # A scale, of either sign, a soft cap, or rows that are no class
    "cohere": {"logit_scale": 0.25, **TIED},
    "cohere2": {"logit_scale": -0.5, **UNTIED},
    "granite": {"logits_scaling": 4.0},
    "granitemoe": {"logits_scaling": -8.0, **TIED},
    "granitemoeshared": {"logits_scaling": 0.3, "shared_intermediate_size": 16},
    "hyperclovax": {"logits_scaling": 0.7},
    "falcon_h1": {
        "lm_head_multiplier": 0.3, "mamba_d_ssm": 32, "mamba_n_heads": 2, "mamba_d_head": 16, "mamba_d_state": 8,
        "mamba_chunk_size": 8,
    },
    "minicpm3": {"dim_model_base": 16},
    "gemma": {},
    "gemma2": {"final_logit_softcapping": 2.0},
    "gemma3_text": {"final_logit_softcapping": 3.0},
    "recurrent_gemma": {"logits_soft_cap": 4.0, "lru_width": 32, "attention_window_size": 16, "num_key_value_heads": 1},
    "nanochat": {"final_logit_softcapping": 1.5},
    "beam": {"final_logit_softcapping": 6.0},
    "inkling_text": {"logits_mup_width_multiplier": 3.0, "unpadded_vocab_size": 85},
    "inkling2_text": {"unpadded_vocab_size": 85},
    # A bias in the head
    "gptj": {},
    "codegen": {"n_head": 4, "num_attention_heads": 4},
    "phi": {},
    "phimoe": {"lm_head_bias": True},
    "ctrl": {"dff": 48},
    "bert": {},
    "bert-generation": {},
    "roberta": {},
    "xlm-roberta": {},
    "camembert": {},
    "electra": {"embedding_size": 24},
    "roformer": {"embedding_size": 32},
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 24},
    # No positions, positions in the attention, a table of them
    "bloom": {},
    "mpt": {"n_heads": 2, "n_layers": 2, "max_seq_len": 64},
    "falcon": {"alibi": True, "head_dim": ...},
    "gpt2": {},
    "gpt_bigcode": {},
    "gpt_neo": {"num_layers": 2, "num_heads": 2, "attention_types": [[["local", "global"], 1]], "window_size": 8},
    "gpt_neox": {},
    "openai-gpt": {},
    "opt": {"word_embed_proj_dim": 24},
    "xglm": {"num_layers": 2, "attention_heads": 2},
    "biogpt": {},
    # Recurrent
    "mamba": {"state_size": 4},
    "mamba2": {"state_size": 4, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 8},
    "rwkv": {"attention_hidden_size": 32},
    "jamba": {"mamba_dt_rank": 4, "mamba_d_state": 4},
    # Mixtures of experts
    "mixtral": {},
    "qwen2_moe": {},
    "qwen3_moe": {},
    "olmoe": {},
    "deepseek_v2": {},
    "gpt_oss": {},
    # Others
    "llama": {},
    "mistral": TIED,
    "ministral3": {},
    "qwen2": TIED,
    "qwen3": {},
    "olmo": {},
    "olmo2": {},
    "phi3": {},
    "stablelm": {},
    "starcoder2": {},
    "persimmon": {},
    "nemotron": {},
    "helium": {},
    "smollm3": TIED,
    "arcee": {},
    # Text within pictures and text
    "gemma3": {"vision_config": PICTURES, "mm_tokens_per_image": 1, "image_token_index": 88, "boi_token_index": 86},
    "llama4": {
        "vision_config": PICTURES
        | {"vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16}
    },
    "llava": {"vision_config": {"model_type": "clip_vision_model", **PICTURES}, "image_token_index": 88},
    "mistral3": {"vision_config": {"model_type": "pixtral", **PICTURES}, "image_token_index": 88},
    "qwen3_5": {
        "vision_config": PICTURES | {"depth": 1, "num_heads": 2, "out_hidden_size": 32},
        "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    },
}  # fmt: skip


def configuration(family: str, values: dict):
    """A small configuration; where its text is nested, the sizes are those of the text."""
    plain = hf.AutoConfig.for_model(family)
    text = plain.get_text_config(decoder=True)
    given = {key: value for key, value in (SIZES | values).items() if value is not ...}
    sizes = {key: value for key, value in given.items() if hasattr(text, key) and values.get(key) is not ...}
    if text is plain:
        return hf.AutoConfig.for_model(family, **sizes)
    outer = {key: value for key, value in values.items() if key not in sizes}
    return hf.AutoConfig.for_model(family, text_config={"model_type": text.model_type, **sizes}, **outer)


def build(family: str, values: dict) -> torch.nn.Module:
    torch.manual_seed(0)
    config = configuration(family, values)
    nested = config.get_text_config(decoder=True) is not config  # then with the part for pictures, as they are given
    model = (hf.AutoModelForImageTextToText if nested else hf.AutoModelForCausalLM).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # gains and biases that differ
                parameter += 0.1 * torch.randn_like(parameter)
        bias = getattr(model.get_output_embeddings(), "bias", None)
        if bias is not None:
            bias.normal_()
    return model


@pytest.fixture(scope="module")
def blocks() -> np.ndarray:
    return np.random.default_rng(0).integers(5, ROWS - 10, (4, 32)).astype(np.uint16)


@pytest.mark.filterwarnings("ignore:.*transformers computes this GPT-Neo")
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_decisions_and_loss_are_the_models_own(family, tmp_path, blocks):
    if family not in hf.CONFIG_MAPPING:
        pytest.skip("this version of transformers does not know the family")
    theirs = build(family, FAMILIES[family])
    theirs.save_pretrained(tmp_path)
    tokens = torch.from_numpy(blocks.astype(np.int64))
    with torch.no_grad():
        logits = theirs(input_ids=tokens, use_cache=False).logits.double()  # (B, S, V)
    model = load_feature_model(tmp_path)
    check_fit(model, family, [blocks], ROWS, str)
    assert model.family == family
    assert model.precision == "fp32"
    assert model.classifier.shape[0] == logits.shape[2]
    with torch.no_grad():
        scores = model.features(tokens).double() @ model.classifier.double().T
    scores = model.scale * (scores + (0.0 if model.bias is None else model.bias.double()))
    ours = scores if model.soft_cap is None else model.soft_cap * torch.tanh(scores / model.soft_cap)
    torch.testing.assert_close(ours, logits, rtol=1e-4, atol=1e-4 * float(logits.abs().max()))
    chosen = logits.gather(2, scores.argmax(2, keepdim=True))[..., 0]  # equal logits, by a cap, are all the highest
    assert bool((logits.amax(2) - chosen <= 1e-5 * logits.abs().max()).all())
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    measured = evaluate_model(model, blocks, batch_size=3, device="cpu")
    assert measured["val_loss"] == pytest.approx(float(loss), rel=1e-5)


def test_the_table_holds_every_rule(tmp_path):
    """The families above are many, and between them have what may stand between a product and its logits."""
    assert len(FAMILIES) >= 40
    found = {}
    for family in ("cohere2", "granitemoe", "falcon_h1", "gemma2", "inkling2_text", "gptj", "llama"):
        if family not in hf.CONFIG_MAPPING:
            pytest.skip(f"this version of transformers does not know {family}")
        build(family, FAMILIES[family]).save_pretrained(tmp_path / family)
        found[family] = load_feature_model(tmp_path / family)
    scales = {family: model.scale for family, model in found.items()}
    assert (scales["cohere2"], scales["granitemoe"], scales["falcon_h1"]) == (-0.5, -1 / 8, 0.3)
    assert {family for family, model in found.items() if model.soft_cap} == {"gemma2", "inkling2_text"}
    assert found["gemma2"].soft_cap == pytest.approx(2.0, rel=1e-6)
    assert scales["gemma2"] == 1.0
    assert len(found["inkling2_text"].classifier) == 85
    assert {family for family, model in found.items() if model.bias is not None} == {"gptj"}
    assert (found["llama"].scale, found["llama"].soft_cap, found["llama"].bias) == (1.0, None, None)


REFUSED = {
    "t5": "has no causal language model of its model_type",
    "vit": "has no causal language model of its model_type",
    "whisper": "has an encoder, which its decoder cannot do without",
    "bart": "has an encoder, which its decoder cannot do without",
    "marian": "has an encoder, which its decoder cannot do without",
    "prophetnet": "has an encoder, which its decoder cannot do without",
    "bert": "its features see the tokens that follow",
    "electra": "its features see the tokens that follow",
    "cpmant": "its features see the tokens that follow",
    "xlnet": "its features see the tokens that follow",
    "xlm": "its features see the tokens that follow",
}
BUILT = {"t5": hf.T5ForConditionalGeneration, "vit": hf.ViTModel, "whisper": hf.WhisperForConditionalGeneration}


@pytest.mark.filterwarnings("ignore:.*is_decoder")
@pytest.mark.parametrize("family", REFUSED)
def test_what_is_no_causal_language_model_is_refused_by_name(family, tmp_path, blocks):
    torch.manual_seed(0)
    values = {"is_decoder": False, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "image_size": 8}
    values |= {"patch_size": 4, "dim_head": 16, "dim_ff": 48, "max_source_positions": 8, "max_target_positions": 64}
    values |= {"num_decoder_layers": 1, "num_encoder_layers": 1, "d_inner": 48, "decoder_start_token_id": 2}
    if family in ("t5", "whisper", "bart", "marian", "prophetnet"):
        values |= {"bos_token_id": 2, "eos_token_id": 2, "is_decoder": ...}
    kinds = {"bart": hf.BartForConditionalGeneration, "marian": hf.MarianMTModel}
    kinds |= {"prophetnet": hf.ProphetNetForConditionalGeneration} | BUILT
    if family in ("prophetnet", "xlnet"):  # their configurations refuse these
        values |= {"num_hidden_layers": ..., "max_position_embeddings": ...}
    plain = hf.AutoConfig.for_model(family)
    sizes = {key: value for key, value in (SIZES | values).items() if value is not ... and hasattr(plain, key)}
    config = hf.AutoConfig.for_model(family, **sizes)
    model = kinds[family](config) if family in kinds else hf.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError) as caught:
        check_fit(load_feature_model(tmp_path), str(tmp_path), [blocks], ROWS, str)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: ")
    assert REFUSED[family] in message
    assert "\n" not in message
