"""Folders that hold no whole causal language model, or code: one line each, and nothing of them is run."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file

from lcutils.errors import UserError
from lcutils.features.model_folder import check_model_folder
from lcutils.features.models import load_feature_model
from lcutils.parameters import ROOT

SIZES = {"vocab_size": 60, "bos_token_id": None, "eos_token_id": None}
OTHERS = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
BART = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
}  # fmt: skip


def gpt2(layers: int = 1) -> hf.GPT2LMHeadModel:
    torch.manual_seed(0)
    return hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=16, n_layer=layers, n_head=2, n_positions=32, **SIZES))


@pytest.fixture
def folder(tmp_path):
    """A whole checkpoint, to be damaged."""
    gpt2().save_pretrained(tmp_path / "model")
    check_model_folder(str(tmp_path / "model"))
    return tmp_path / "model"


def refusal(folder, *, early: bool) -> str:
    """The line that loading ends in; `early` where it is found without loading."""
    with pytest.raises(UserError) as caught:
        load_feature_model(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder}: ")
    assert "\n" not in message
    assert len(message) < 500
    if early:
        with pytest.raises(UserError) as caught:
            check_model_folder(str(folder))
        assert str(caught.value) == message
    else:
        check_model_folder(str(folder))
    return message


def configure(folder, **values):
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps(config))


# ------------------------------------------------------------------------------------------------------- the files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("null", "config.json is no JSON object"),
        ("[]", "config.json is no JSON object"),
        ('{"model_', "config.json cannot be read: Unterminated string"),
        ("", "config.json cannot be read: Expecting value"),
        ('{"a":' * 5000, "config.json cannot be read: maximum recursion depth"),
        ("\ufeff{}", "config.json cannot be read: Unexpected UTF-8 BOM"),
        ("{}".encode("utf-16"), "config.json cannot be read: 'utf-8' codec"),
    ],
)
def test_a_damaged_configuration(folder, text, message):
    (folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert message in refusal(folder, early=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "no-such"}, "does not know its model_type"),
        ({"model_type": None}, "does not know its model_type"),
        ({"model_type": ["gpt2"]}, "unhashable type"),
        ({"model_type": "vit"}, "has no causal language model of its model_type"),
        ({"vocab_size": "60"}, "expected int, got str"),
        ({"n_embd": 16.0}, "expected int, got float"),
        ({"n_embd": 15}, "must be divisible"),
        ({"n_head": 0}, "ZeroDivisionError"),
        ({"n_embd": 10**9}, "RuntimeError Storage size"),
        ({"activation_function": "no-such"}, "KeyError 'no-such'"),
        ({"quantization_config": 5}, "AttributeError"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"requires optimum.*; install that"),
        ({"vocab_size": 61}, "transformer.wte.weight has another shape than config.json says"),
        ({"n_layer": -1}, r"fewer layers than the weights have \(transformer.h.0."),
    ],
)
def test_a_configuration_of_wrong_values(folder, values, message):
    configure(folder, **values)
    with pytest.raises(UserError, match=message):
        load_feature_model(folder)
    refusal(folder, early=False)


@pytest.mark.parametrize("part", ["whole", "without head"])
def test_a_configuration_with_fewer_layers_than_the_weights(tmp_path, part):
    model = gpt2(layers=2)
    (model if part == "whole" else model.transformer).save_pretrained(tmp_path)
    assert load_feature_model(tmp_path).depth == 2
    configure(tmp_path, n_layer=1)
    assert "config.json says fewer layers than the weights have (" in refusal(tmp_path, early=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "model.safetensors: Error while deserializing header"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "is a Git LFS pointer); run git lfs"),
        (bytes(range(256)) * 9, "model.safetensors: Error while deserializing header"),
        (None, "incomplete metadata, file not fully covered"),
    ],
)
def test_damaged_weights(folder, content, message):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100] if content is None else content)
    assert message in refusal(folder, early=True)


def test_absent_files(folder, tmp_path):
    assert "it is a file" in refusal(folder / "model.safetensors", early=True)
    (folder / "model.safetensors").rename(folder / "model.gguf")
    assert "its weights are GGUF" in refusal(folder, early=True)
    (folder / "model.gguf").unlink()
    assert "it has neither model.safetensors nor pytorch_model.bin" in refusal(folder, early=True)
    (folder / "config.json").unlink()
    assert "there is no config.json" in refusal(folder, early=True)


INDICES = {
    "null": "is no JSON object",
    "[]": "is no JSON object",
    "{": "cannot be read",
    "{}": "no weight_map of files",
    '{"weight_map": null}': "no weight_map of files",
    '{"weight_map": {}}': "no weight_map of files",
    '{"weight_map": {"a": 5}}': "no weight_map of files",
    '{"weight_map": {"a": "/etc/passwd"}}': "such as /etc/passwd",
}


def test_an_index_of_several_files(tmp_path):
    gpt2().save_pretrained(tmp_path, max_shard_size="5KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    load_feature_model(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    whole = index.read_text()
    for text, message in INDICES.items():
        index.write_text(text)
        assert message in refusal(tmp_path, early=True)
    index.write_text(whole)
    shards[1].unlink()
    message = refusal(tmp_path, early=True)
    assert f"1 of the {len(shards)} files that {index.name} names are not there, such as {shards[1].name}" in message


# --------------------------------------------------------------------------------------------- other kinds of model


def test_models_of_other_kinds(tmp_path):
    kinds = {
        "t5": hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=16, num_layers=1)),
        "vit": hf.ViTModel(hf.ViTConfig(image_size=8, patch_size=4, **OTHERS)),
        "bert": hf.BertModel(hf.BertConfig(vocab_size=60, **OTHERS)),
        "whisper": hf.WhisperForConditionalGeneration(hf.WhisperConfig(**BART, vocab_size=60, pad_token_id=1)),
    }
    said = {}
    for name, model in kinds.items():
        model.save_pretrained(tmp_path / name)
        said[name] = refusal(tmp_path / name, early=False)
    for name in ("t5", "vit"):
        assert "has no causal language model of its model_type); give a causal language model" in said[name]
    assert "the checkpoint lacks" in said["bert"]
    assert "has an encoder, which its decoder cannot do without" in said["whisper"]
    decoder = hf.BartForCausalLM(hf.BartConfig(vocab_size=60, **BART))  # saved as a model of its own, it is one
    decoder.save_pretrained(tmp_path / "decoder")
    assert load_feature_model(tmp_path / "decoder").classifier.shape == (60, 16)


# ----------------------------------------------------------------------------------------------------- code in a folder


class Evil:
    """Its pickle makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle", "whole model"])
def test_a_pickle_with_code(folder, tmp_path, form):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert load_feature_model(folder).classifier.shape == (60, 16)  # plain tensors are loaded
    value = gpt2() if form == "whole model" else {"a": Evil(tmp_path / "ran")}
    with (folder / "pytorch_model.bin").open("wb") as file:
        if form == "bare pickle":
            pickle.dump(value, file, protocol=2)
        else:
            torch.save(value, file, _use_new_zipfile_serialization=form != "legacy")
    assert "code in it is not run); save its weights as safetensors" in refusal(folder, early=False)
    assert not (tmp_path / "ran").exists()


AUTOMATIC = {"AutoConfig": "mine.Settings", "AutoModelForCausalLM": "mine.Mine"}
CODE = """open({ran!r}, "w").close()
from transformers import GPT2Config, GPT2LMHeadModel
class Settings(GPT2Config):
    model_type = "mine"
class Mine(GPT2LMHeadModel):
    config_class = Settings
"""
SCRIPT = """import sys, warnings
warnings.simplefilter("ignore")
from lcutils.features.models import load_feature_model
load_feature_model(sys.argv[1])
print("loaded")
"""


def load_with_somebody_at_the_keyboard(name, **environment):
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, name], input="y\n" * 9, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **environment},
    )  # fmt: skip


@pytest.mark.parametrize("place", ["folder", "hub"])
@pytest.mark.parametrize("known", [True, False])
def test_code_of_a_folder_is_not_run(folder, tmp_path, place, known):
    """A model that transformers knows is loaded as its own; the hub is one in the hub's cache."""
    ran = tmp_path / "ran"
    configure(folder, auto_map=AUTOMATIC, model_type="gpt2" if known else "mine")
    (folder / "mine.py").write_text(CODE.format(ran=str(ran)))
    name = str(folder)
    if place == "hub":
        name, repository = "some/model", tmp_path / "models--some--model"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0" * 40)
        shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
    outcome = load_with_somebody_at_the_keyboard(name, HF_HUB_CACHE=str(tmp_path), HF_MODULES_CACHE=str(tmp_path / "m"))
    assert not ran.exists()
    assert "[y/N]" not in outcome.stdout + outcome.stderr
    if known:
        assert outcome.stdout == "loaded\n", outcome.stderr
    else:
        assert f"{name}: no checkpoint can be loaded from it (it comes with code of its own" in outcome.stderr
        assert "which is not run); convert it to a model class of transformers" in outcome.stderr


def test_every_call_of_from_pretrained_says_that_code_is_not_trusted():
    """A call without the argument asks on a terminal, and runs what it finds if somebody types y."""
    calls = []
    for path in [*(ROOT / "lcutils").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")]:
        before, *parts = path.read_text().split(".from_pretrained(")
        for call in parts:
            # That of a docstring, and that which puts an adapter on a model that is loaded, are none of those meant.
            if not call.startswith("folder)`") and not before.endswith("PeftModel"):
                calls.append((path.name, call))
            before = call
    assert len(calls) >= 4
    given = ("trust_remote_code=False", "trust_remote_code=trust_remote_code")  # the second's default is False
    assert not [name for name, call in calls if not any(words in call[:400] for words in given)]
