"""How models are loaded: own dtype, one copy, the last norm in float32; adapters, positions, quantised weights."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from lcutils.errors import UserError
from lcutils.features import adapters, loading, models
from lcutils.features.evaluation import evaluate_model
from lcutils.features.fit import check_fit
from lcutils.features.model_folder import check_model_folder
from lcutils.features.models import FeatureModel, load_feature_model
from lcutils.features.preflight import ModelFacts, check_model, position_limit
from lcutils.features.stored_weights import stored_weights

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


@pytest.fixture(scope="module")
def blocks():
    return np.random.default_rng(0).integers(5, 60, (4, 32)).astype(np.uint16)


@pytest.fixture(scope="module")
def tokens(blocks):
    return torch.from_numpy(blocks.astype(np.int64))


@pytest.fixture
def loaded(monkeypatch):
    """The models that transformers has loaded, as they are then."""
    kept = []
    load = models.load_whole

    def watched(*args):
        kept.append(load(*args))
        return kept[-1]

    monkeypatch.setattr(models, "load_whole", watched)
    return kept


# ---------------------------------------------------------------------------------------------------------- dtypes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("said", ["float32", "bfloat16", None])
def test_the_tensors_say_the_dtype_whatever_the_configuration_says(tmp_path, loaded, dtype, said):
    tiny(dtype=dtype).save_pretrained(tmp_path)
    change(tmp_path, lambda config: config.update({"dtype": said} if said else {"dtype": None}))
    model = load_feature_model(tmp_path)
    assert {parameter.dtype for parameter in loaded[0].parameters()} == {dtype}
    assert model.precision == {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]
    assert model.classifier.dtype == dtype
    assert model.classifier.data_ptr() == loaded[0].get_output_embeddings().weight.data_ptr()  # no second copy


@pytest.mark.parametrize("form", ["sharded", "pickle", "mixed"])
def test_dtypes_of_other_forms_of_checkpoint(tmp_path, form):
    model = tiny(dtype=torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="10KB" if form == "sharded" else "1GB")
    if form == "pickle":
        torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    elif form == "mixed":  # norms are often kept in fp32
        change(tmp_path, None, lambda state: state.update({"model.norm.weight": state["model.norm.weight"].float()}))
    assert (form == "sharded") == (len(list(tmp_path.glob("*.safetensors"))) > 2)
    assert load_feature_model(tmp_path).precision == "bf16"
    numbers = sum(parameter.numel() for parameter in model.parameters())
    assert stored_weights(str(tmp_path), None).bytes == pytest.approx(2 * numbers, rel=0.2)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
def test_a_precision_that_is_asked_for_is_that_of_the_weights(tmp_path, loaded, precision):
    tiny(dtype=torch.bfloat16).save_pretrained(tmp_path)
    model = load_feature_model(tmp_path, precision=precision)
    wanted = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
    assert {parameter.dtype for parameter in loaded[0].parameters()} == {wanted}
    assert model.precision == precision


@pytest.mark.parametrize(("dtype", "precision"), [(torch.float32, "fp32"), (torch.bfloat16, "bf16")])
def test_a_gpt_neo_keeps_fp32_weights(tmp_path, tokens, dtype, precision):
    config = hf.GPTNeoConfig(
        vocab_size=60, hidden_size=32, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]]
    )
    hf.GPTNeoForCausalLM(config).to(dtype).save_pretrained(tmp_path)
    model = load_feature_model(tmp_path)
    assert model.logits is None  # ours
    assert (model.precision, model.classifier.dtype) == (precision, torch.float32)
    assert torch.equal(model.features(tokens), load_feature_model(tmp_path, precision=precision).features(tokens))


def naive_norm(kind, norm, x):
    """The norm of (N, D) numbers in fp64, from its formula."""
    x, gain = x.double().numpy(), norm.weight.detach().double().numpy()
    if kind == "gpt_neox":
        spread = np.sqrt(x.var(1, keepdims=True) + norm.eps)
        return (x - x.mean(1, keepdims=True)) / spread * gain + norm.bias.detach().double().numpy()
    if kind == "cohere":
        return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + norm.variance_epsilon) * gain
    root = np.sqrt((x**2).mean(1, keepdims=True) + (norm.eps if kind == "gemma2" else norm.variance_epsilon))
    return x / root * (1 + gain if kind == "gemma2" else gain)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "cohere", "gpt_neox"])
def test_the_last_norm_of_a_16_bit_model_is_computed_in_float32(tmp_path, tokens, kind, blocks, loaded):
    tiny(kind, torch.bfloat16).save_pretrained(tmp_path)
    model = load_feature_model(tmp_path)
    trunk = loaded[0].base_model
    norm = trunk.final_layer_norm if kind == "gpt_neox" else trunk.norm
    given = []
    norm.register_forward_hook(lambda _, inputs, output: given.append((inputs[0], output)))
    with torch.no_grad():
        features = model.features(tokens)
    inputs, rounded = (value.flatten(0, 1) for value in given[0])
    exact = naive_norm(kind, norm, inputs)
    ours = features.flatten(0, 1).double().numpy()
    assert np.abs(ours - exact).max() < 1e-5 * np.abs(exact).max()
    assert np.abs(rounded.double().numpy() - exact).max() > 1e-3 * np.abs(exact).max()  # what the model itself gives
    check_fit(model, kind, [blocks], 60, str)


def test_features_that_are_no_norms_output_are_the_heads_input(tmp_path, tokens):
    theirs = tiny("opt", torch.bfloat16)  # a projection lies between
    theirs.save_pretrained(tmp_path)
    given = []
    theirs.lm_head.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with torch.no_grad():
        theirs(tokens)
        assert torch.equal(load_feature_model(tmp_path).features(tokens), given[0].float())


@pytest.mark.parametrize("kind", ["llama", "gemma2", "cohere"])
def test_the_loss_of_a_16_bit_model_is_computed_in_float32(tmp_path, blocks, tokens, kind, monkeypatch):
    tiny(kind, torch.bfloat16).save_pretrained(tmp_path)
    model = load_feature_model(tmp_path)
    with torch.no_grad():
        scores = model.scale * (model.features(tokens).double() @ model.classifier.double().T)
    logits = scores if model.soft_cap is None else model.soft_cap * torch.tanh(scores / model.soft_cap)
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    right = (logits[:, :-1].argmax(2) == tokens[:, 1:]).double().mean()
    for classes in (4096, 7):
        monkeypatch.setattr("lcutils.features.evaluation.CLASSES", classes)
        scores = evaluate_model(model, blocks, batch_size=3, device="cpu")
        assert scores["val_loss"] == pytest.approx(float(loss), rel=1e-6)
        assert scores["val_accuracy"] == pytest.approx(float(right), abs=1e-9)


def test_labels_that_are_missing_count_neither_as_loss_nor_as_predictions(tmp_path, blocks, tokens, monkeypatch):
    tiny().save_pretrained(tmp_path)
    model = load_feature_model(tmp_path)
    labels = tokens.roll(-1, 1).to(torch.int32)
    labels[:, -1], labels[1, 9:], labels[3, 20:] = -1, -1, -1  # documents shorter than a block
    monkeypatch.setattr(
        "lcutils.features.evaluation.batches", lambda *_: iter([(4, tokens.to(torch.int32), labels.flatten())])
    )
    with torch.no_grad():
        logits = model.logits(tokens).double()
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten().long(), ignore_index=-1)
    assert evaluate_model(model, blocks, batch_size=4, device="cpu")["val_loss"] == pytest.approx(float(expected))


def test_a_head_that_configuration_calls_tied_and_weights_do_not(tmp_path, tokens):
    theirs = tiny(tie_word_embeddings=False)
    theirs.save_pretrained(tmp_path)
    change(tmp_path, lambda config: config.update({"tie_word_embeddings": True}))
    model = load_feature_model(tmp_path)
    again = hf.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(model.features(tokens) @ model.classifier.T, again(tokens).logits)
    assert torch.equal(model.classifier, theirs.lm_head.weight)


# ----------------------------------------------------------------------------------------------------- several GPUs


def test_several_gpus_are_used_only_where_one_is_too_small(tmp_path, monkeypatch):
    tiny().save_pretrained(tmp_path)
    stored, cuda = stored_weights(str(tmp_path), None), torch.device("cuda")
    free = stored.bytes * 2

    def placement(dtype, device=cuda):
        return loading._placement("model", None, stored, dtype, device)

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, free))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert placement(torch.float32) is None
    free = stored.bytes
    assert placement(torch.float32) == "auto"
    assert placement(torch.float32, torch.device("cpu")) is None
    assert placement(torch.bfloat16) is None  # half as many bytes
    monkeypatch.setattr(loading, "find_spec", lambda _: None)
    assert "accelerate, which uses several, is not installed" in refusal(placement, torch.float32)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert placement(torch.float32) is None


def test_a_model_of_which_a_part_would_lie_on_the_disk_is_refused(tmp_path, monkeypatch):
    tiny().save_pretrained(tmp_path)
    monkeypatch.setattr(loading, "_placement", lambda *_: {"": "cpu"})
    assert "does not fit on the GPUs of this host" in refusal(load_feature_model, tmp_path, device="cuda")


# -------------------------------------------------------------------------------------------------------- adapters


def adapter_of(folder, base, **settings):
    """A LoRA adapter with random weights, and the model that it makes of its base."""
    peft = pytest.importorskip("peft", reason="peft merges adapters")
    torch.manual_seed(1)
    options = {"task_type": "CAUSAL_LM", "r": 2, "target_modules": ["q_proj", "v_proj"]} | settings
    model = peft.get_peft_model(hf.AutoModelForCausalLM.from_pretrained(base), peft.LoraConfig(**options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    return model.eval()


def rename_base(folder, base):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": base}))


@pytest.mark.parametrize("place", ["absolute", "relative"])
def test_an_adapter_is_merged_into_its_base(tmp_path, tokens, place, loaded, monkeypatch):
    tiny().save_pretrained(tmp_path / "base")
    theirs = adapter_of(tmp_path / "adapter", tmp_path / "base")
    if place == "relative":
        rename_base(tmp_path / "adapter", "../base")
    monkeypatch.chdir("/")
    model = load_feature_model(tmp_path / "adapter")
    base = load_feature_model(tmp_path / "base")
    with torch.no_grad():
        torch.testing.assert_close(model.features(tokens) @ model.classifier.T, theirs(tokens).logits)
        assert (base.features(tokens) - model.features(tokens)).norm() > 0.1 * base.features(tokens).norm()
    assert type(loaded[0]) is hf.LlamaForCausalLM  # nothing of peft is left in it
    assert model.n_params == base.n_params
    assert str(tmp_path / "adapter") in model.identity
    assert "base" in model.identity
    assert check_model(tmp_path / "adapter").family == "llama"


def test_an_adapter_on_the_hub_and_its_base(tmp_path, tokens, monkeypatch):
    """As the hub's cache holds them; there is no network."""
    tiny().save_pretrained(tmp_path / "base")
    theirs = adapter_of(tmp_path / "adapter", tmp_path / "base")
    rename_base(tmp_path / "adapter", "some/base")
    for name in ("base", "adapter"):
        repository = tmp_path / "cache" / f"models--some--{name}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("1" * 40)
        shutil.copytree(tmp_path / name, repository / "snapshots" / ("1" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert load_feature_model("some/base").commit == "1" * 40
    model = load_feature_model("some/adapter")
    with torch.no_grad():
        torch.testing.assert_close(model.features(tokens) @ model.classifier.T, theirs(tokens).logits)


def test_adapters_that_cannot_be_merged(tmp_path, monkeypatch):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("[")
    for call in (check_model, check_model_folder, load_feature_model):
        assert "an adapter without adapter_model.safetensors" in refusal(call, str(folder))
    (folder / "adapter_model.safetensors").touch()
    assert "adapter_config.json cannot be read" in refusal(check_model, folder)
    (folder / "adapter_config.json").write_text("{}")
    assert "does not name the adapter's base" in refusal(check_model, folder)
    rename_base(folder, "./no/such/base")
    with monkeypatch.context() as patched:
        patched.setattr(adapters, "find_spec", lambda _: None)
        assert refusal(check_model, folder).endswith("peft, which merges it, is not installed; pip install peft")
    monkeypatch.setattr(adapters, "find_spec", lambda _: True)
    assert "its base, ./no/such/base, is no folder here; set base_model_name_or_path" in refusal(check_model, folder)
    rename_base(folder, ".")
    assert "its base, ., holds an adapter too; give that a folder of its own" in refusal(check_model, folder)
    (tmp_path / "base").mkdir()
    rename_base(folder, "../base")
    for call in (check_model, check_model_folder):
        assert "there is no config.json" in refusal(call, str(folder))


def test_an_adapter_of_another_shape_or_kind(tmp_path):
    peft = pytest.importorskip("peft", reason="peft merges adapters")
    tiny().save_pretrained(tmp_path / "base")
    tiny(hidden_size=16, num_attention_heads=1, num_key_value_heads=1).save_pretrained(tmp_path / "other")
    adapter_of(tmp_path / "adapter", tmp_path / "base")
    rename_base(tmp_path / "adapter", str(tmp_path / "other"))
    assert "cannot be merged into its base" in refusal(load_feature_model, tmp_path / "adapter")
    settings = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    peft.get_peft_model(tiny(), settings).save_pretrained(tmp_path / "prompt")
    rename_base(tmp_path / "prompt", str(tmp_path / "base"))
    assert "adapters of kind PROMPT_TUNING have nothing that can be merged" in refusal(
        load_feature_model, tmp_path / "prompt"
    )


# ------------------------------------------------------------------------------------ what a configuration says of it


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
    import re
    from importlib.util import find_spec

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


def test_code_of_a_folder_is_run_where_it_is_trusted(tmp_path, tokens, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    theirs = tiny()
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


# ---------------------------------------------------------------------------------------- rules that are not ours


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (lambda z: z**3, "changes them in another way than by a bias, a scale or a soft cap"),
        (lambda z: z.clamp(-5, 5), "changes them in another way"),
        (lambda z: z.log_softmax(-1), "changes them in another way"),
        (lambda z: 0 * z, "changes them in another way"),
        (lambda z: z.masked_fill(torch.arange(60) == 7, -1e9), "changes them in another way"),
        (lambda z: z + torch.arange(z.shape[1])[:, None], "adds to its logits what differs from token to token"),
        (lambda z: z[..., None, :].expand(*z.shape[:2], 2, -1), "gives logits of shape"),
        (lambda z: z.no_such, "fails on 8 tokens of text alone (AttributeError"),
    ],
)
def test_logits_of_another_rule_are_refused(tmp_path, monkeypatch, rule, said):
    tiny().save_pretrained(tmp_path)
    forward = hf.LlamaForCausalLM.forward

    def changed(self, **inputs):
        output = forward(self, **inputs)
        output.logits = rule(output.logits)
        return output

    monkeypatch.setattr(hf.LlamaForCausalLM, "forward", changed)
    message = refusal(load_feature_model, tmp_path)
    assert said in message
    assert str(tmp_path) in message


@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("scale", [1.0, -0.37])
def test_a_bias_after_the_head_is_found(tmp_path, monkeypatch, tokens, blocks, cap, scale):
    """Under names that no configuration has."""
    tiny().save_pretrained(tmp_path)
    forward = hf.LlamaForCausalLM.forward
    added = torch.linspace(-1, 1, 60)

    def changed(self, **inputs):
        output = forward(self, **inputs)
        output.logits = scale * (output.logits + added)
        if cap:
            output.logits = cap * torch.tanh(output.logits / cap)
        return output

    monkeypatch.setattr(hf.LlamaForCausalLM, "forward", changed)
    model = load_feature_model(tmp_path)
    assert model.scale == pytest.approx(scale, rel=1e-4)
    assert model.soft_cap == (None if cap is None else pytest.approx(cap, rel=1e-5))
    torch.testing.assert_close(model.bias, added, rtol=1e-3, atol=1e-4)
    check_fit(model, "theirs", [blocks], 60, str)


def test_a_head_that_is_not_called_is_refused(tmp_path, monkeypatch):
    tiny().save_pretrained(tmp_path)
    monkeypatch.setattr(hf.LlamaForCausalLM, "get_output_embeddings", lambda self: torch.nn.Linear(32, 60))
    assert "does not call its output embedding" in refusal(load_feature_model, tmp_path)
    monkeypatch.setattr(hf.LlamaForCausalLM, "get_output_embeddings", lambda self: torch.nn.Embedding(60, 32).half)
    assert "has no (classes, features) matrix" in refusal(load_feature_model, tmp_path)
    monkeypatch.setattr(hf.LlamaForCausalLM, "get_output_embeddings", lambda self: None)
    assert "has no output embedding" in refusal(load_feature_model, tmp_path)


# ---------------------------------------------------------------------------------------------- the model and the text


def fitted(folder, blocks, **changes):
    model = load_feature_model(folder)
    for name, value in changes.items():
        setattr(model, name, value)
    check_fit(model, "theirs", [blocks], 60, lambda token: f"<{token}>")


def test_logits_that_are_not_those_of_features_and_head_are_refused(tmp_path, blocks):
    tiny().save_pretrained(tmp_path)
    fitted(tmp_path, blocks)
    for changes in ({"scale": 1.01}, {"bias": torch.ones(60)}, {"soft_cap": 2.0}):
        message = refusal(fitted, tmp_path, blocks, **changes)
        assert message.startswith("theirs: its logits are not a scaled product of its features and its head")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_rows_of_the_head_that_are_not_finite_are_named(tmp_path, blocks, value):
    model = tiny(tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight[3, 1] = value  # no token of the text
    model.save_pretrained(tmp_path)
    fitted(tmp_path, blocks)
    with torch.no_grad():
        model.lm_head.weight[[7, 9], 1] = value
    model.save_pretrained(tmp_path)
    assert "the head's rows of 2 tokens of the text are not finite, such as 7 ('<7>'), 9 ('<9>')" in refusal(
        fitted, tmp_path, blocks
    )


def test_features_that_overflow_are_refused_before_the_work(tmp_path, blocks):
    model = tiny()
    with torch.no_grad():
        model.model.norm.weight[3] = torch.inf
    model.save_pretrained(tmp_path)
    assert "features of theirs are not finite in fp32" in refusal(fitted, tmp_path, blocks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reach", ["all", "next", "none"])
def test_features_that_see_what_follows_are_refused(tmp_path, blocks, dtype, reach):
    """Whether they see all the text, or only the next token; a 16-bit model's rounding is not taken for it."""
    tiny(dtype=dtype).save_pretrained(tmp_path)
    model = load_feature_model(tmp_path)
    features = model.features

    def seeing(tokens):
        made = features(tokens)
        if reach == "all":
            return made + 0.02 * made.std() * features(tokens.flip(1)).mean(1, keepdim=True)
        if reach == "next":
            made[:, :-1] += 0.5 * made[:, 1:]
        return made * (1 + 1e-3 * torch.rand(made.shape)) if dtype == torch.bfloat16 else made

    if reach == "none":
        fitted(tmp_path, blocks, features=seeing)
    else:
        message = refusal(fitted, tmp_path, blocks, features=seeing)
        assert message == "theirs: its features see the tokens that follow; use a causal language model"


def test_a_text_of_one_token_is_checked_too(tmp_path):
    tiny().save_pretrained(tmp_path)
    fitted(tmp_path, np.full((3, 8), 7, np.uint16))
    fitted(tmp_path, np.array([[7, 8]], np.uint16))


def test_a_model_of_ours_is_said_to_be_one():
    model = FeatureModel(lambda tokens: tokens.float(), torch.eye(3))
    assert (model.family, model.commit, model.scale, model.bias, model.soft_cap) == ("gpt_neo", None, 1.0, None, None)
