"""PEFT adapters: merged into their base, or refused in one line."""

import json
import shutil

import pytest
import torch
import transformers as hf
from model_samples import refusal, tiny

from lcutils.features import adapters
from lcutils.features.model_folder import check_model_folder
from lcutils.features.models import load_feature_model
from lcutils.features.preflight import check_model


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(5, 60, (4, 32), generator=torch.Generator().manual_seed(0))


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
def test_an_adapter_is_merged_into_its_base(tmp_path, tokens, place, monkeypatch):
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
    assert model.n_params == base.n_params
    assert str(tmp_path / "adapter") in model.identity
    assert "base" in model.identity
    assert check_model(tmp_path / "adapter").family == "llama"


def test_an_adapter_with_tokens_of_its_own(tmp_path):
    """As for a chat's markers: embedding and head have more rows than the base's, and lie in the adapter."""
    peft = pytest.importorskip("peft", reason="peft merges adapters")
    tiny().save_pretrained(tmp_path / "base")
    grown = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    grown.resize_token_embeddings(64)
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]
    )
    theirs = peft.get_peft_model(grown, settings).eval()
    theirs.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "modules_to_save" in name or "lora_" in name:
                parameter += 0.3 * torch.randn_like(parameter)
    theirs.save_pretrained(tmp_path / "adapter")
    model = load_feature_model(tmp_path / "adapter")
    tokens = torch.arange(40, 64)[None]
    with torch.no_grad():
        torch.testing.assert_close(model.features(tokens) @ model.classifier.T, theirs(tokens).logits)
    assert len(model.classifier) == 64


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
    (tmp_path / "elsewhere" / "near").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")  # where a library would find it, and a sweep's jobs would not
    rename_base(folder, "near")
    said = refusal(check_model, folder)
    assert "its base, near, lies in the current folder and not beside the adapter" in said
    assert f"set base_model_name_or_path in adapter_config.json to {tmp_path}/elsewhere/near" in said
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
