"""GPT-Neo against Hugging Face's eager model: logits, gradients, checkpoints both ways, counts."""

import os
import sys
from pathlib import Path

import pytest
import torch
from toy_training import logits
from transformers import AutoModelForCausalLM, GPTNeoConfig, GPTNeoForCausalLM

from lcutils.errors import UserError
from lcutils.gptneo.checkpoint import OtherLayoutError, from_transformers, read_checkpoint, write_checkpoint
from lcutils.gptneo.model import INITIAL_STD, GPTNeo
from lcutils.gptneo.trunk import compiled
from lcutils.runs import Architecture, count_parameters

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

from train import training_flops_per_token

VOCABULARY = 97


def stirred(architecture, seed=1):
    """A model none of whose parameters is at its initial value, with attention far from uniform."""
    model = GPTNeo(architecture, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.3 if parameter.ndim == 2 and "attn" in name else 0.1
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator) / max(1, parameter.ndim - 1))
    return model


def theirs(model, folder):
    write_checkpoint(model, folder)
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)


def tokens(length, batch=2, vocabulary=VOCABULARY):
    return torch.randint(0, vocabulary, (batch, length), generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_a_checkpoint_says_what_transformers_would_say(tmp_path, depth):
    a = Architecture(depth, 32, VOCABULARY, heads=4, positions=64, window=16)
    model = stirred(a)
    write_checkpoint(model, tmp_path / "ours")
    read = GPTNeoConfig.from_pretrained(tmp_path / "ours")
    kinds = [[["global", "local"], depth // 2], [["global"], depth % 2]]
    made = GPTNeoConfig(
        architectures=["GPTNeoForCausalLM"], dtype="float32", vocab_size=VOCABULARY, hidden_size=32, num_layers=depth,
        num_heads=4, max_position_embeddings=64, window_size=16, attention_types=[kind for kind in kinds if kind[1]],
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    assert read.to_dict() | {"transformers_version": ""} == made.to_dict() | {"transformers_version": ""}
    made.save_pretrained(tmp_path / "ours")  # as earlier versions of this package did
    again = read_checkpoint(tmp_path / "ours")
    assert again.architecture == a
    assert not any(parameter.requires_grad for parameter in again.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


@pytest.mark.parametrize("width", [64, 128, 256, 512, 768, 1024])
@pytest.mark.parametrize("depth", [1, 2])
def test_logits_of_every_width(tmp_path, depth, width):
    model = GPTNeo(Architecture(depth, width, VOCABULARY, positions=64, window=16), 3)
    rival, x = theirs(model, tmp_path / "model"), tokens(45)
    with torch.no_grad():
        torch.testing.assert_close(logits(model, x), rival(x).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 8, 12])
def test_logits_of_every_depth(tmp_path, depth):
    model = stirred(Architecture(depth, 32, VOCABULARY, heads=4, positions=64, window=7))
    rival, x = theirs(model, tmp_path / "model"), tokens(40)
    with torch.no_grad():
        torch.testing.assert_close(logits(model, x), rival(x).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 33, 64])
def test_lengths_around_the_window(tmp_path, length):
    model = stirred(Architecture(2, 32, VOCABULARY, heads=4, positions=64, window=8))
    rival, x = theirs(model, tmp_path / "model"), tokens(length)
    with torch.no_grad():
        torch.testing.assert_close(logits(model, x), rival(x).logits, atol=1e-4, rtol=0)


def test_the_papers_window_hides_keys(tmp_path):
    architecture = Architecture(2, 64, VOCABULARY, positions=512)
    model = stirred(architecture)
    rival, x = theirs(model, tmp_path / "model"), tokens(401, batch=1)
    with torch.no_grad():
        scores = logits(model, x)
        torch.testing.assert_close(scores, rival(x).logits, atol=1e-4, rtol=0)
        wide = GPTNeo(Architecture(2, 64, VOCABULARY, positions=512, window=512))
        wide.load_state_dict(model.state_dict())
        seen = (logits(wide, x) - scores).abs().amax(-1)[0]
    assert seen[:256].max() < 1e-5 < 1e-3 < seen[256:].max()


def test_gradients(tmp_path):
    model = stirred(Architecture(3, 32, VOCABULARY, heads=4, positions=64, window=8))
    rival, x = theirs(model, tmp_path / "model"), tokens(20)
    torch.nn.functional.cross_entropy(logits(model, x)[:, :-1].flatten(0, 1), x[:, 1:].flatten()).backward()
    rival(input_ids=x, labels=x).loss.backward()
    other = dict(rival.named_parameters())
    for name, parameter in model.named_parameters():
        expected = other[name].grad
        # Attention far from uniform amplifies fp32's rounding of 6e-8 to some 2e-5, depending on the processor. A
        # window that is one key too wide gives over 2e-2.
        assert (parameter.grad - expected).norm() < 2e-4 * expected.norm(), name


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_checkpoints_go_both_ways(tmp_path, depth):
    model = stirred(Architecture(depth, 32, VOCABULARY, heads=4, positions=64, window=8))
    rival = theirs(model, tmp_path / "ours")
    assert rival.lm_head.weight.data_ptr() == rival.transformer.wte.weight.data_ptr()
    for name, tensor in model.state_dict().items():
        assert torch.equal(rival.state_dict()[name], tensor), name
    rival.save_pretrained(tmp_path / "theirs")
    again = from_transformers(GPTNeoForCausalLM.from_pretrained(tmp_path / "theirs"))
    assert again.architecture == model.architecture
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True))
    assert not any(parameter.requires_grad for parameter in again.parameters())


def configuration(**changes):
    layers = {"num_layers": 3, "attention_types": [[["global", "local"], 1], [["global"], 1]]}
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_heads": 4, "max_position_embeddings": 48}
    ends = {"bos_token_id": None, "eos_token_id": None}
    return GPTNeoConfig(**sizes | layers | ends | {"window_size": 6} | changes)


def test_a_model_of_transformers():
    rival, x = GPTNeoForCausalLM(configuration()).eval(), tokens(31)
    model = from_transformers(rival)
    with torch.no_grad():
        torch.testing.assert_close(logits(model, x), rival(x).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"attention_types": [[["local"], 3]]}, r"its attention_layers is \['local', 'local', 'local'\]"),
        ({"activation_function": "relu"}, "its activation_function is 'relu', where ours is 'gelu_new'"),
        ({"layer_norm_epsilon": 1e-6}, "its layer_norm_epsilon is 1e-06"),
        ({"intermediate_size": 100}, "its intermediate_size is 100, where ours is 128"),
        ({"tie_word_embeddings": False}, "its head is not the token embedding"),
    ],
)
def test_models_of_transformers_that_ours_cannot_compute(change, reason):
    with pytest.raises(OtherLayoutError, match=reason):
        from_transformers(GPTNeoForCausalLM(configuration(**change)))


def test_initial_weights():
    one, same, other = (GPTNeo(Architecture(2, 64, 999), seed) for seed in (5, 5, 6))
    assert torch.equal(one.head, same.head)
    assert not torch.equal(one.head, other.head)
    for name, parameter in one.state_dict().items():
        if parameter.ndim == 2:
            assert parameter.std() == pytest.approx(INITIAL_STD, rel=0.03), name
            assert abs(parameter.mean()) < 0.002, name
        else:
            wanted = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
            assert (parameter == wanted).all(), name


@pytest.mark.parametrize(("depth", "width", "count"), [(1, 64, 3_397_440), (12, 1024, 204_680_192)])
def test_counts_of_the_paper(depth, width, count):
    assert count_parameters(Architecture(depth, width, 50257)) == count


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_count_is_that_of_the_model(depth):
    architecture = Architecture(depth, 48, 101, heads=4, positions=30)
    assert count_parameters(architecture) == sum(p.numel() for p in GPTNeo(architecture).parameters())


@pytest.mark.parametrize("length", [5, 12, 40])
def test_operations_by_counting(length):
    a = Architecture(3, 32, 101, heads=4, window=12)
    products = 0
    for layer in range(a.depth):
        for query in range(length):
            keys = min(query + 1, a.window) if layer % 2 else query + 1
            products += 2 * keys * a.width  # a score and a weighted value for each key
        products += length * 12 * a.width**2
    products += length * a.width * a.vocab_size
    assert training_flops_per_token(a, length) == pytest.approx(3 * 2 * products / length)


@pytest.mark.parametrize(("precision", "error"), [("tf32", 0.0), ("fp16", 4e-3), ("bf16", 4e-2)])
def test_precisions(precision, error):
    model = GPTNeo(Architecture(3, 64, VOCABULARY), 2).requires_grad_(False)
    x = tokens(50)
    exact, features = model.features(x), model.features(x, precision)
    assert features.dtype == torch.float32
    difference = (features - exact).abs().max()
    assert difference <= error
    assert (difference > 0) == (error > 0)


def test_features_follow_the_weights_of_a_frozen_model():
    model = GPTNeo(Architecture(2, 32, VOCABULARY, heads=4), 2).requires_grad_(False)
    x = tokens(9)
    before = model.features(x, "bf16")
    assert torch.equal(model.features(x, "bf16"), before)
    model.transformer.h[1].mlp.c_fc.weight.mul_(2.0)
    assert not torch.equal(model.features(x, "bf16"), before)


def test_mistakes():
    with pytest.raises(UserError, match="width: 50"):
        Architecture(1, 50, VOCABULARY)
    with pytest.raises(UserError, match="depth: 0"):
        Architecture(0, 64, VOCABULARY)
    model = GPTNeo(Architecture(1, 32, VOCABULARY, heads=4, positions=8), 1)
    with pytest.raises(UserError, match="precision: 'fp8'"):
        model.features(tokens(4), "fp8")
    with pytest.raises(UserError, match="9 tokens exceed the model's 8 positions"):
        model.features(tokens(9))


def test_what_is_compiled_stays_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "mine"))
    compiled(lambda x: x)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "mine")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    compiled(lambda x: x)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "lcutils/torchinductor")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # where no folder can be made
    compiled(lambda x: x)
    assert not os.environ.get("TORCHINDUCTOR_CACHE_DIR", "").startswith(str(tmp_path))
