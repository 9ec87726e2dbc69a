"""How models are loaded: in their own dtype, one copy, the last norm in float32, on several GPUs where one is small."""

import numpy as np
import pytest
import torch
import transformers as hf
from model_samples import change, refusal, tiny
from safetensors.torch import load_file

from lcutils.features import loading, models
from lcutils.features.evaluation import evaluate_model
from lcutils.features.fit import check_fit
from lcutils.features.models import FeatureModel, load_feature_model
from lcutils.features.stored_weights import stored_weights


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
    elif form == "mixed":  # most tensors in fp32, most numbers in bf16
        change(
            tmp_path,
            None,
            lambda state: state.update({k: v.float() for k, v in state.items() if v.numel() <= 32 * 32}),
        )
    assert (form == "sharded") == (len(list(tmp_path.glob("*.safetensors"))) > 2)
    assert load_feature_model(tmp_path).precision == "bf16"
    numbers = sum(parameter.numel() for parameter in model.parameters())
    if form != "mixed":
        assert stored_weights(str(tmp_path), None).bytes == pytest.approx(2 * numbers, rel=0.2)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
def test_a_precision_that_is_asked_for_is_that_of_the_weights(tmp_path, loaded, precision):
    tiny(dtype=torch.bfloat16).save_pretrained(tmp_path)
    model = load_feature_model(tmp_path, precision=precision)
    wanted = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
    assert {parameter.dtype for parameter in loaded[0].parameters()} == {wanted}
    assert model.precision == precision


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpt_neo_keeps_fp32_weights(tmp_path, tokens, dtype):
    """On a CPU it is computed in float32 too."""
    config = hf.GPTNeoConfig(
        vocab_size=60, hidden_size=32, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]]
    )
    hf.GPTNeoForCausalLM(config).to(dtype).save_pretrained(tmp_path)
    model = load_feature_model(tmp_path)
    assert model.logits is None  # ours
    assert (model.precision, model.classifier.dtype) == ("fp32", torch.float32)
    assert torch.equal(model.features(tokens), load_feature_model(tmp_path, precision="fp32").features(tokens))


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
        features = model.features(tokens)  # never runs the norm itself
        assert given == []
        trunk(input_ids=tokens)
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


def test_a_model_of_ours_is_said_to_be_one():
    model = FeatureModel(lambda tokens: tokens.float(), torch.eye(3))
    assert (model.family, model.commit, model.scale, model.bias, model.soft_cap) == ("gpt_neo", None, 1.0, None, None)
