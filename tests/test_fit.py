"""Models whose logits follow a rule of their own, and models that do not fit a text: refused before long work."""

import numpy as np
import pytest
import torch
import transformers as hf
from model_samples import refusal, tiny

from lcutils.features.fit import check_fit, two_texts
from lcutils.features.models import load_feature_model


@pytest.fixture(scope="module")
def blocks():
    return np.random.default_rng(0).integers(5, 60, (4, 32)).astype(np.uint16)


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
        (lambda z: z.no_such, "fails on a few tokens of text alone (AttributeError"),
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
def test_a_bias_after_the_head_is_found(tmp_path, monkeypatch, blocks, cap, scale):
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


# -------------------------------------------------------------------------------------------- the model and the text


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
        return made * (1 + 1e-2 * torch.rand(made.shape)) if dtype == torch.bfloat16 else made

    if reach == "none":
        fitted(tmp_path, blocks, features=seeing)
    else:
        message = refusal(fitted, tmp_path, blocks, features=seeing)
        assert message == "theirs: its features see the tokens that follow; use a causal language model"


def test_a_text_of_one_token_is_checked_too(tmp_path):
    tiny().save_pretrained(tmp_path)
    fitted(tmp_path, np.full((3, 8), 7, np.uint16))
    fitted(tmp_path, np.array([[7, 8]], np.uint16))


@pytest.mark.parametrize("shape", [(1, 2), (3, 7), (2, 300)])
def test_two_texts_differ_in_every_token_of_the_second_half(shape):
    blocks = [np.random.default_rng(0).integers(0, 9, shape).astype(np.uint16) for _ in range(2)]
    one, other = two_texts(blocks).tolist()
    half = len(one) // 2
    assert one[:half] == other[:half]
    assert all(a != b for a, b in zip(one[half:], other[half:], strict=True))
    assert len(one) == min(64, shape[1])
    assert set(one + other) <= set(np.concatenate(blocks, axis=None).tolist())


def test_a_row_that_ends_early_is_checked_up_to_its_end():
    rows = np.array([[4, -1, -1, -1], [5, 6, 7, -1]], dtype=np.int32)  # -1 stands behind the end
    texts = two_texts([rows])
    assert texts.shape == (2, 3)
    assert bool((texts >= 4).all())
    assert two_texts([rows[:1]]).shape == (2, 2)
