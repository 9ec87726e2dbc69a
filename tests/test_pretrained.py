"""Pretrained models through the stages: what is measured of them, and what is refused in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lcutils import extracting, stages
from lcutils.corpus.tokenization import token_labels, train_bpe
from lcutils.errors import NotFiniteError, UserError
from lcutils.features import evaluation
from lcutils.features.evaluation import evaluate_model
from lcutils.features.extraction import explain_overflow
from lcutils.features.models import load_feature_model
from lcutils.gptneo.checkpoint import write_checkpoint
from lcutils.gptneo.model import GPTNeo
from lcutils.manifests import read_manifest
from lcutils.runs import Architecture
from lcutils.stages import extract_point, open_study, prepare_data

TINY = """
corpus:
  {source: built-in, max_stories: 60, max_validation_stories: 20, tokenizer: "bpe:300", block_size: 32,
   packing: lossless}
extraction: {blocks_per_batch: 32}
device: cpu
"""
VOCABULARY = 300


def study_of(folder: Path, checkpoint: Path, overrides: object = None) -> stages.Workspace:
    """A study of one pretrained model, its data prepared."""
    path = folder / "pretrained.yaml"
    path.write_text(f"{TINY}\npretrained: {{theirs: {checkpoint}}}\n")
    work = open_study(path, folder, overrides)  # type: ignore[arg-type]
    prepare_data(work)
    return work


def refusal(work: stages.Workspace) -> str:
    with pytest.raises(UserError) as caught:
        extract_point(work, "theirs", 0)
    message = str(caught.value)
    assert "\n" not in message
    assert not (work.statistics("theirs", 0)).exists()
    return message


def neo(folder: Path, **sizes: int) -> GPTNeo:
    model = GPTNeo(Architecture(1, 16, VOCABULARY, **sizes), 0)
    write_checkpoint(model, folder)
    return model


def test_features_that_are_not_finite_leave_no_statistics(tmp_path):
    model = neo(tmp_path / "model")
    with torch.no_grad():
        model.transformer.ln_f.bias[3] = torch.inf
    write_checkpoint(model, tmp_path / "model")
    assert refusal(study_of(tmp_path, tmp_path / "model")) == (
        "extraction.precision: features of theirs are not finite in fp32; its weights are broken; "
        "give another checkpoint"
    )


def test_validation_features_that_overflow_leave_no_statistics(tmp_path, monkeypatch):
    """The train text gives features, the validation text infinities."""
    neo(tmp_path / "model")
    work = study_of(tmp_path, tmp_path / "model")
    load = extracting.load_feature_model

    def overflowing(source, **options):
        model = load(source, **options)
        features, calls = model.features, iter(range(10**9))
        batches = -(-len(prepare_data(work).train) // 32)  # those of the train text
        model.features = lambda tokens: features(tokens) * (torch.inf if next(calls) >= batches else 1.0)
        return model

    monkeypatch.setattr(extracting, "load_feature_model", overflowing)
    assert "features of theirs are not finite in fp32" in refusal(work)
    assert read_manifest(work.statistics("theirs", 0)) is None


def test_an_overflow_in_fp16_names_wider_types():
    with pytest.raises(UserError) as caught, explain_overflow("theirs", "fp16"):
        raise NotFiniteError
    assert str(caught.value) == ("extraction.precision: features of theirs are not finite in fp16; use bf16 or fp32")


def own_logits(kind: str) -> torch.nn.Module:
    """A model whose logits are not the products of features and head."""
    import transformers as hf

    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": None}
    llama = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2, "max_position_embeddings": 32, "pad_token_id": None, **sizes,
    }  # fmt: skip
    if kind == "granite":
        model = hf.GraniteForCausalLM(hf.GraniteConfig(logits_scaling=4.0, **llama))
    elif kind == "gemma2":
        model = hf.Gemma2ForCausalLM(hf.Gemma2Config(head_dim=8, final_logit_softcapping=0.5, **llama))
    else:
        model = hf.GPTJForCausalLM(hf.GPTJConfig(n_embd=16, n_layer=1, n_head=2, n_positions=32, rotary_dim=4, **sizes))
        torch.nn.init.normal_(model.lm_head.bias)
    torch.nn.init.normal_(model.get_output_embeddings().weight)
    return model.eval()


@pytest.mark.parametrize("kind", ["gptj", "granite", "gemma2"])
def test_the_loss_of_a_pretrained_model_is_its_own(kind, tmp_path, monkeypatch):
    theirs = own_logits(kind)
    theirs.save_pretrained(tmp_path / "model")
    work = study_of(tmp_path, tmp_path / "model")
    x = torch.from_numpy(prepare_data(work).validation.astype(np.int64))
    with torch.no_grad():
        loss, logits = theirs(x, labels=x)[:2]
        products = theirs.get_output_embeddings().weight @ load_feature_model(tmp_path / "model").features(x).mT
    plain = torch.nn.functional.cross_entropy(products[..., :-1], x[:, 1:])
    assert abs(plain - loss) > 0.1  # what features and head alone would say
    record = extract_point(work, "theirs", 0).record
    assert record["val_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert record["perplexity"] == pytest.approx(loss.exp().item(), rel=1e-4)
    scores = products.mT if kind == "gemma2" else logits  # beyond a cap so low, logits are equal by rounding
    right = (scores[:, :-1].argmax(-1) == x[:, 1:]).float().mean()
    assert record["val_accuracy"] == pytest.approx(right.item(), abs=1e-6)
    monkeypatch.setattr(evaluation, "CLASSES", 77)  # in four parts
    alone = evaluate_model(
        load_feature_model(tmp_path / "model"), x.numpy().astype(np.uint16), batch_size=9, device="cpu"
    )
    assert alone["val_loss"] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["gptj", "granite", "neo"])
def test_a_model_with_too_few_positions_is_refused(kind, tmp_path, monkeypatch):
    if kind == "neo":
        neo(tmp_path / "model", positions=32)
    else:
        own_logits(kind).save_pretrained(tmp_path / "model")
    monkeypatch.setattr(extracting, "extract_statistics", None)  # the refusal comes before the work
    assert refusal(study_of(tmp_path, tmp_path / "model", "block_size=48")) == (
        "corpus.block_size: 48 tokens exceed the 32 positions of theirs; use at most 32"
    )


def test_a_model_that_sees_what_follows_is_refused(tmp_path):
    import transformers as hf

    sizes = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "initializer_range": 0.2,
    }
    hf.BertForMaskedLM(hf.BertConfig(vocab_size=VOCABULARY, **sizes)).save_pretrained(tmp_path / "model")
    message = refusal(study_of(tmp_path, tmp_path / "model"))
    assert message == "theirs: its features see the tokens that follow; use a causal language model"


def test_a_model_of_pictures_and_text_goes_through_the_stages(tmp_path, capfd):
    """Given text only; what transformers says of the weights for pictures, which are left out, is not shown."""
    import transformers as hf

    torch.manual_seed(0)
    text = {
        "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "head_dim": 8,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "pad_token_id": None,
        "bos_token_id": None, "eos_token_id": None, "intermediate_size_mlp": 24, "num_local_experts": 2,
    }  # fmt: skip
    picture = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14, "vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16,
    }  # fmt: skip
    config = hf.Llama4Config(text_config=text, vision_config=picture)
    hf.Llama4ForConditionalGeneration(config).save_pretrained(tmp_path / "model")
    work = study_of(tmp_path, tmp_path / "model")
    record = extract_point(work, "theirs", 0).record
    assert (record["depth"], record["width"]) == (3, 16)
    assert stages.measure_point(work, "theirs", 0).row["n_classes"] > 100
    assert "UNEXPECTED" not in capfd.readouterr().err


def test_a_checkpoint_without_its_head_is_refused(tmp_path):
    own_logits("granite").model.save_pretrained(tmp_path / "model")
    assert "the checkpoint lacks lm_head.weight, which would be drawn at random" in refusal(
        study_of(tmp_path, tmp_path / "model")
    )
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "no checkpoint can be loaded" in refusal(study_of(tmp_path, tmp_path / "model"))


def test_a_token_beyond_the_vocabulary_is_refused_where_it_occurs(tmp_path, monkeypatch):
    neo(tmp_path / "model")
    monkeypatch.setattr(extracting, "extract_statistics", None)
    work = study_of(tmp_path, tmp_path / "model", "tokenizer=bpe:310")
    assert prepare_data(work).train.max() == 309
    label = token_labels(stages.load_tokenizer(work).backend_tokenizer, [309])[0]
    message = refusal(work)
    assert message.startswith(
        f"corpus.tokenizer: {label!r}, token 309, occurs in the text, but theirs has only 300 tokens; name the "
    )
    assert len(message) < 500


@pytest.mark.parametrize("split", ["train", "validation", "ood", None])
def test_a_token_beyond_the_vocabulary_does_no_harm_where_it_does_not_occur(tmp_path, split):
    """A tokenizer with a token more than its model has rows; of three kinds of text, at most one has that token."""
    model = own_logits("granite")
    model.save_pretrained(tmp_path / "model")
    tales = [f"Once there was a cat number {i}. It sat, and it sat!" for i in range(60)]
    tokenizer = train_bpe([tales], VOCABULARY)
    while len(tokenizer) <= VOCABULARY:
        tokenizer.add_special_tokens({"pad_token": f"<pad {len(tokenizer)}>"})
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    texts = {}
    for name in ("train", "validation", "ood"):
        texts[name] = tmp_path / f"{name}.jsonl"
        lines = [*tales, f"The cat {tokenizer.pad_token} sat."] if name == split else tales
        texts[name].write_text("\n".join(json.dumps({"text": line}) for line in lines * 2))
    path = tmp_path / "pretrained.yaml"
    path.write_text(
        f"corpus: {{source: {texts['train']}, validation: {texts['validation']}, ood: {texts['ood']}, block_size: 16, "
        f"packing: lossless, tokenizer: {tmp_path / 'tokenizer'}}}\n"
        f"pretrained: {{theirs: {tmp_path / 'model'}}}\ndevice: cpu\n"
    )
    work = open_study(path, tmp_path)
    assert prepare_data(work).summary["vocab_size"] == VOCABULARY + 1
    if split:
        assert refusal(work).startswith(f"corpus.tokenizer: '{tokenizer.pad_token}', token {VOCABULARY}, occurs")
    else:
        extracted = extract_point(work, "theirs", 0)
        assert len(extracted.statistics.counts) == VOCABULARY  # a class for each row of the head
        assert " cat" in extracted.texts


def test_a_min_count_that_no_two_classes_reach_is_refused(tmp_path, monkeypatch):
    neo(tmp_path / "model")
    monkeypatch.setattr(extracting, "load_feature_model", None)
    work = study_of(tmp_path, tmp_path / "model", "min_count=100000")
    second = np.sort(prepare_data(work).counts[0])[-2]
    assert refusal(work) == (
        "measurement.min_count: 0 token types have at least 100000 samples in the train text, two are needed; "
        f"use at most {second}"
    )
