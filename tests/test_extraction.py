"""Extraction against plain loops over the features, over many kinds of model, and under kill signals."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import naive_collapse as naive
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lcutils.collapse.agreement import AgreementCounter, classifier_agreement
from lcutils.documents import Documents
from lcutils.errors import NotFiniteError, UserError
from lcutils.features import extraction
from lcutils.features.evaluation import evaluate_model
from lcutils.features.extraction import extract_agreement, extract_mean, extract_statistics
from lcutils.features.models import FeatureModel, load_feature_model
from lcutils.features.statistics import ClassStatistics
from lcutils.gptneo.checkpoint import write_checkpoint
from lcutils.gptneo.model import GPTNeo
from lcutils.runs import Architecture

VOCABULARY, LENGTH = 60, 16


@pytest.fixture(scope="module")
def blocks():
    return np.random.default_rng(0).integers(0, VOCABULARY - 5, (23, LENGTH)).astype(np.uint16)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("neo") / "checkpoint-0"
    write_checkpoint(GPTNeo(Architecture(2, 32, VOCABULARY, window=4), 0), folder)
    return folder


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_feature_model(checkpoint)


def features_and_labels(model, blocks):
    tokens = torch.from_numpy(blocks.astype(np.int64))
    with torch.no_grad():
        features = model.features(tokens)
    return features[:, :-1].reshape(-1, features.shape[2]), tokens[:, 1:].flatten()


@pytest.mark.parametrize("batch_size", [1, 4, 23, 100])
def test_statistics_are_those_of_all_features_but_the_last_of_each_block(model, blocks, batch_size):
    stats = extract_statistics(model, blocks, batch_size=batch_size)
    features, labels = features_and_labels(model, blocks)
    counts, means, variances, covariance = naive.class_statistics(features.numpy(), labels.numpy(), VOCABULARY)
    assert stats.counts.tolist() == counts.tolist()
    assert counts.sum() == 23 * (LENGTH - 1)
    np.testing.assert_allclose(stats.means.numpy(), means, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stats.variances.numpy(), variances, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stats.covariance.numpy(), covariance, rtol=1e-4, atol=1e-5)


def test_agreement_is_that_of_the_same_features(model, blocks):
    stats = extract_statistics(model, blocks, batch_size=8, covariance=False)
    assert stats.covariance is None
    keep = stats.counts > 3
    hits, totals = extract_agreement(
        model, blocks[:9], AgreementCounter(model.classifier, stats.means, keep), batch_size=4
    )
    features, labels = features_and_labels(model, blocks[:9])
    expected = classifier_agreement(features, labels, model.classifier, stats.means, keep)
    assert torch.equal(hits, expected[0])
    assert torch.equal(totals, expected[1])
    assert 0 < totals.sum() < len(labels)


def test_mean_feature_is_over_every_position(model, blocks):
    with torch.no_grad():
        expected = model.features(torch.from_numpy(blocks.astype(np.int64))).double().mean((0, 1))
    torch.testing.assert_close(extract_mean(model, blocks, batch_size=7), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="no text"):
        extract_mean(model, blocks[:0], batch_size=7)


def test_documents_count_no_token_behind_their_end(model, blocks):
    """Statistics and mean feature of rows of different length are those of each row alone."""
    lengths = np.array([2 + (7 * row) % (LENGTH - 1) for row in range(len(blocks))], dtype=np.int32)
    rows = [block[:length] for block, length in zip(blocks, lengths, strict=True)]
    assert len(set(lengths)) > 5
    documents = Documents(np.concatenate(rows), lengths, 0, LENGTH)
    with torch.no_grad():
        each = [model.features(torch.from_numpy(row[None].astype(np.int64)))[0].double() for row in rows]
    expected = torch.cat(each).mean(0)
    torch.testing.assert_close(extract_mean(model, documents, batch_size=3), expected, rtol=1e-5, atol=1e-6)
    stats = extract_statistics(model, documents, batch_size=3)
    features = torch.cat([part[:-1] for part in each]).numpy()
    labels = np.concatenate([row[1:] for row in rows]).astype(np.int64)
    counts, means, variances, _ = naive.class_statistics(features, labels, VOCABULARY)
    assert stats.counts.tolist() == counts.tolist()
    np.testing.assert_allclose(stats.means.numpy(), means, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stats.variances.numpy(), variances, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_overflow_are_reported(model, blocks, tmp_path, monkeypatch, value):
    def features(tokens):
        made = model.features(tokens)
        made[tokens == 7] = value
        return made

    broken = FeatureModel(features, model.classifier, model.identity)
    stats = extract_statistics(model, blocks, batch_size=4)
    with pytest.raises(NotFiniteError, match="classes are not finite"):
        extract_statistics(broken, blocks, batch_size=4)
    with pytest.raises(NotFiniteError, match="features are not finite"):
        extract_agreement(
            broken, blocks, AgreementCounter(model.classifier, stats.means, stats.counts > 0), batch_size=4
        )
    with pytest.raises(NotFiniteError, match="mean feature is not finite"):
        extract_mean(broken, blocks, batch_size=4)
    monkeypatch.setattr(extraction, "SECONDS_BETWEEN_STATES", 0.0)
    with pytest.raises(NotFiniteError):
        extract_statistics(broken, blocks, batch_size=4, resume=tmp_path)
    assert not list(tmp_path.glob(f"*-{len(blocks):012d}.safetensors"))  # no sum of nan is kept to be continued


# -------------------------------------------------------------------------------------------------- loading models


def test_gpt_neo_gives_transformers_features(checkpoint, model, blocks):
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    tokens = torch.from_numpy(blocks[:3].astype(np.int64))
    with torch.no_grad():
        hidden = theirs(tokens, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(model.features(tokens), hidden, rtol=1e-4, atol=1e-5)
    assert torch.equal(model.classifier, theirs.get_output_embeddings().weight)


def tiny(kind):
    import transformers as hf

    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": None}
    if kind == "gpt2":
        return hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, **sizes))
    if kind == "llama":
        config = hf.LlamaConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=32, tie_word_embeddings=False, **sizes,
        )  # fmt: skip
        return hf.LlamaForCausalLM(config)
    if kind.startswith("neo"):  # some with two local layers, or a head of their own, which `GPTNeo` does not compute
        config = hf.GPTNeoConfig(
            hidden_size=16, num_layers=2, num_heads=2, window_size=3, max_position_embeddings=32,
            attention_types=[[["local"], 2] if kind == "neo-other-layout" else [["global", "local"], 1]],
            tie_word_embeddings=kind != "neo-untied", **sizes,
        )  # fmt: skip
        return hf.GPTNeoForCausalLM(config)
    config = hf.GPTJConfig(n_embd=16, n_layer=1, n_head=2, n_positions=32, rotary_dim=4, **sizes)
    return hf.GPTJForCausalLM(config)  # its head has a bias


@pytest.mark.filterwarnings("ignore:.*transformers computes this GPT-Neo")
@pytest.mark.parametrize("kind", ["gpt2", "llama", "neo-other-layout", "neo-untied"])
def test_any_causal_model_features_are_what_its_head_multiplies(kind, tmp_path, blocks):
    theirs = tiny(kind).eval()
    theirs.save_pretrained(tmp_path)
    loaded = load_feature_model(str(tmp_path))
    tokens = torch.from_numpy(blocks[:4].astype(np.int32))
    with torch.no_grad():
        features = loaded.features(tokens)
        logits = theirs(tokens.long()).logits
    assert features.dtype == torch.float32
    assert features.shape == (4, LENGTH, 16)
    torch.testing.assert_close(features @ loaded.classifier.T, logits, rtol=1e-4, atol=1e-5)
    stats = extract_statistics(loaded, blocks, batch_size=5)
    assert stats.counts.sum() == 23 * (LENGTH - 1)


def test_a_gpt_neo_left_to_transformers_is_named(tmp_path):
    tiny("neo-other-layout").save_pretrained(tmp_path)
    with pytest.warns(
        UserWarning, match=r"transformers computes this GPT-Neo.*its attention_layers is \['local', 'local'\]"
    ):
        load_feature_model(str(tmp_path))


def change_weights(folder, change):
    """Load a checkpoint's weights, change the dictionary in place, and save it."""
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def change_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def assert_as_transformers(folder, blocks, *, by_ours):
    """Features, head, loss and size are those of the model that transformers loads."""
    from transformers import AutoModelForCausalLM

    tokens = torch.from_numpy(blocks[:4].astype(np.int64))
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    loaded = load_feature_model(folder)
    assert (loaded.logits is None) == by_ours
    assert loaded.n_params == theirs.num_parameters()
    with torch.no_grad():
        loss, logits = theirs(tokens, labels=tokens)[:2]
        torch.testing.assert_close(loaded.features(tokens) @ loaded.classifier.T, logits, rtol=1e-4, atol=1e-5)
    scores = evaluate_model(loaded, blocks[:4], batch_size=3, device="cpu")
    assert scores["val_loss"] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*transformers computes this GPT-Neo, more slowly .its head is not")
def test_a_gpt_neo_with_a_head_of_its_own_keeps_it(tmp_path, blocks):
    """Merging an adapter leaves such a checkpoint: its configuration still says that the head is tied."""
    tiny("neo").save_pretrained(tmp_path)
    change_weights(tmp_path, lambda state: state.update({"lm_head.weight": 2 * state["transformer.wte.weight"] + 1}))
    assert_as_transformers(tmp_path, blocks, by_ours=False)


def test_a_gpt_neo_whose_file_repeats_the_tied_head(tmp_path, blocks):
    tiny("neo").save_pretrained(tmp_path)
    change_weights(tmp_path, lambda state: state.update({"lm_head.weight": state["transformer.wte.weight"].clone()}))
    assert_as_transformers(tmp_path, blocks, by_ours=True)


def test_a_gpt_neo_saved_without_its_head(tmp_path, blocks):
    """`GPTNeoModel.save_pretrained` names the weights without `transformer.`; the head is the token embedding."""
    tiny("neo").transformer.save_pretrained(tmp_path)
    assert_as_transformers(tmp_path, blocks, by_ours=True)


def test_absent_keys_have_the_defaults_of_transformers(tmp_path, blocks):
    import transformers as hf

    layout = {"num_layers": 2, "attention_types": [[["global", "local"], 1]]}
    config = hf.GPTNeoConfig(vocab_size=VOCABULARY, hidden_size=16, bos_token_id=None, eos_token_id=None, **layout)
    hf.GPTNeoForCausalLM(config).save_pretrained(tmp_path)

    def only_sizes(config):
        for key in set(config) - {"architectures", "model_type", "vocab_size", "hidden_size", *layout}:
            del config[key]

    change_config(tmp_path, only_sizes)  # 16 heads, 2048 positions, a window of 256, a tied head
    assert_as_transformers(tmp_path, blocks, by_ours=True)
    assert load_feature_model(tmp_path).positions == 2048


@pytest.mark.filterwarnings("ignore:.*transformers computes this GPT-Neo, more slowly .its attention_layers is")
def test_attention_types_alone_say_the_layers(tmp_path, blocks):
    tiny("neo-other-layout").save_pretrained(tmp_path)
    change_config(tmp_path, lambda config: config.pop("attention_layers"))
    assert_as_transformers(tmp_path, blocks, by_ours=False)


def test_layers_under_text_config(tmp_path, blocks):
    """A model of pictures and text: sizes are those of its text part."""
    import transformers as hf

    torch.manual_seed(0)
    text = {
        "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 8,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "sliding_window": 8,
        "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    picture = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    tokens = {"image_token_index": 59, "boi_token_index": 57, "eoi_token_index": 58}
    config = hf.Gemma3Config(text_config=text, vision_config=picture, mm_tokens_per_image=1, **tokens)
    hf.Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    loaded = load_feature_model(tmp_path)
    assert (loaded.depth, loaded.positions, loaded.classifier.shape) == (2, 64, (VOCABULARY, 16))
    assert_as_transformers(tmp_path, blocks, by_ours=False)


@pytest.mark.parametrize("name", ["transformer.h.1.mlp.c_fc.weight", "transformer.wpe.weight"])
def test_weights_that_a_gpt_neo_lacks_are_not_drawn_at_random(checkpoint, tmp_path, name):
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    change_weights(tmp_path, lambda state: state.pop(name))
    with pytest.raises(UserError, match=f"the checkpoint lacks {name}, which would be drawn at random") as caught:
        load_feature_model(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_weights_of_another_shape_are_named(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    change_weights(tmp_path, lambda state: state.update({"transformer.wpe.weight": torch.zeros(3, 32)}))
    with pytest.raises(UserError, match=r"transformer\.wpe\.weight has another shape than config\.json says"):
        load_feature_model(tmp_path)


def test_a_configuration_that_contradicts_itself_is_named(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    change_config(tmp_path, lambda config: config.update({"num_layers": 3}))
    with pytest.raises(UserError, match=r"no checkpoint can be loaded .*config\.num_layers = 3") as caught:
        load_feature_model(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_revision_reaches_transformers(checkpoint, monkeypatch):
    from transformers import AutoConfig, AutoModelForCausalLM

    asked = []

    def watch(kind):
        load = kind.from_pretrained

        def watched(name, **options):
            asked.append((kind.__name__, name, options["revision"]))
            return load(checkpoint, **options | {"revision": None})

        monkeypatch.setattr(kind, "from_pretrained", watched)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    watch(AutoConfig)
    watch(AutoModelForCausalLM)
    model = load_feature_model("someone/model", revision="step3000")
    assert ("AutoConfig", "someone/model", "step3000") in asked
    assert ("AutoModelForCausalLM", "someone/model", "step3000") in asked
    assert model.identity != load_feature_model("someone/model", revision="step4000").identity
    with pytest.raises(UserError, match="is a folder, which has no revisions; leave step3000 out"):
        load_feature_model(checkpoint, revision="step3000")


def test_a_head_with_a_bias_keeps_it(tmp_path, blocks):
    theirs = tiny("gptj").eval()
    torch.nn.init.normal_(theirs.lm_head.bias)
    theirs.save_pretrained(tmp_path)
    loaded = load_feature_model(str(tmp_path))
    assert torch.equal(loaded.bias, theirs.lm_head.bias)
    tokens = torch.from_numpy(blocks[:2].astype(np.int64))
    with torch.no_grad():
        logits = theirs(tokens).logits
        ours = loaded.features(tokens) @ loaded.classifier.T + loaded.bias
    torch.testing.assert_close(ours, logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["neo", "gpt2"])
def test_lower_precision_is_near_and_leaves_float32(kind, checkpoint, tmp_path, blocks):
    folder = checkpoint
    if kind == "gpt2":
        tiny("gpt2").save_pretrained(tmp_path)
        folder = tmp_path
    tokens = torch.from_numpy(blocks[:2].astype(np.int64))
    with torch.no_grad():
        full = load_feature_model(folder, precision="fp32").features(tokens)
        half = load_feature_model(folder, precision="bf16").features(tokens)
    assert half.dtype == torch.float32
    difference = ((half - full).norm() / full.norm()).item()
    assert 1e-6 < difference < 0.05


@pytest.mark.parametrize("name", ["./no/such/folder", "/no/such/folder", "empty", "no-such-model-anywhere"])
def test_what_is_no_checkpoint_is_reported_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = str(tmp_path) if name == "empty" else name
    with pytest.raises(UserError, match="no such folder|no checkpoint can be loaded") as caught:
        load_feature_model(folder)
    assert folder in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_precision_is_reported(checkpoint):
    with pytest.raises(UserError, match="precision: 'fp8' is unknown; choose one of auto, fp32"):
        load_feature_model(checkpoint, precision="fp8")


# -------------------------------------------------------------------------------------------------------- resuming


class Interrupted(Exception):  # noqa: N818 - stands for a power cut
    pass


def interrupted_after(model, batches):
    """The same model, cut off after some batches."""
    calls = iter(range(10**9))

    def features(tokens):
        if next(calls) >= batches:
            raise Interrupted
        return model.features(tokens)

    return FeatureModel(features, model.classifier, model.identity)


def assert_same(stats: ClassStatistics, whole: ClassStatistics, to_the_bit: bool) -> None:
    """Counts are equal; the sums too, but for rounding where batches were of another size."""
    error = 0.0 if to_the_bit else 1e-6
    assert torch.equal(stats.counts, whole.counts)
    for name in ("means", "variances", "covariance"):
        torch.testing.assert_close(getattr(stats, name), getattr(whole, name), rtol=error, atol=error, msg=name)


@pytest.mark.parametrize("second_batch", [4, 7])
def test_resumed_is_the_same(model, blocks, tmp_path, monkeypatch, second_batch):
    monkeypatch.setattr(extraction, "SECONDS_BETWEEN_STATES", 0.0)
    whole = extract_statistics(model, blocks, batch_size=4)
    with pytest.raises(Interrupted):
        extract_statistics(interrupted_after(model, 3), blocks, batch_size=4, resume=tmp_path)
    left = interrupted_after(model, 100)
    fed = []
    watched = FeatureModel(lambda t: fed.append(len(t)) or left.features(t), model.classifier, model.identity)
    again = extract_statistics(watched, blocks, batch_size=second_batch, resume=tmp_path)
    assert sum(fed) == 23 - 12  # the first three batches are not done again
    assert_same(again, whole, to_the_bit=second_batch == 4)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_a_state_of_something_else_is_not_continued(model, blocks, tmp_path, checkpoint):
    extract_statistics(model, blocks, batch_size=4, resume=tmp_path)
    other = FeatureModel(model.features, model.classifier + 1, model.identity)
    stats = extract_statistics(other, blocks, batch_size=4, resume=tmp_path)
    assert stats.counts.sum() == 23 * (LENGTH - 1)
    fewer = extract_statistics(model, blocks[:5], batch_size=4, resume=tmp_path)
    assert fewer.counts.sum() == 5 * (LENGTH - 1)


CHILD = """
import os, signal, sys, time
import numpy as np, torch
from lcutils.features import extraction, models
extraction.SECONDS_BETWEEN_STATES = 0.02
model = models.load_feature_model(sys.argv[1])
batches = 0
def slowly(tokens):  # one that is to be killed does not reach its end, however late that is
    global batches
    batches += 1
    if sys.argv[6] == "die" and batches == 70:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
    return model.features(tokens)
blocks = np.load(sys.argv[2])
slow = models.FeatureModel(slowly, model.classifier, model.identity)
from pathlib import Path
print("ready", flush=True)
stats = extraction.extract_statistics(slow, blocks, batch_size=int(sys.argv[5]), resume=Path(sys.argv[3]))
stats.save(sys.argv[4])
"""


@pytest.mark.parametrize("last_batch", [3, 5])
def test_killed_at_random_moments(model, checkpoint, tmp_path, last_batch):
    """SIGKILL while it works and saves, again and again; then the end, by the same or another batch size."""
    many = np.random.default_rng(1).integers(0, VOCABULARY, (240, LENGTH)).astype(np.uint16)
    np.save(tmp_path / "blocks.npy", many)
    resume, result = tmp_path / "resume", tmp_path / "result.safetensors"
    words = [sys.executable, "-c", CHILD, str(checkpoint), str(tmp_path / "blocks.npy"), str(resume), str(result)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(extraction.__file__).parents[2])}
    moments = random.Random(last_batch)
    kills = 0
    for _ in range(3):
        saved = set(resume.glob("statistics-*.safetensors"))
        child = subprocess.Popen(
            [*words, "3", "die"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        assert child.stdout.readline() == b"ready\n"
        while child.poll() is None and set(resume.glob("statistics-*.safetensors")) <= saved:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.25))
        child.send_signal(signal.SIGKILL)
        kills += child.wait() == -signal.SIGKILL
        child.stdout.close()
        if result.exists():
            break
    assert kills
    assert list(resume.glob("statistics-*.safetensors"))
    done = subprocess.run([*words, str(last_batch), ""], env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    killed, whole = ClassStatistics.load(result), extract_statistics(model, many, batch_size=3)
    assert_same(killed, whole, to_the_bit=last_batch == 3)
    assert len(list(resume.iterdir())) == 2  # beside job.json, no half-written state is left behind
