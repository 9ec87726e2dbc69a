"""Pretrained models through the stages: what is measured of them, and what is refused in one line."""

from pathlib import Path

import pytest
import torch

from lcutils import stages
from lcutils.artifacts import read_manifest
from lcutils.errors import NotFiniteError, UserError
from lcutils.extraction import overflow_told
from lcutils.model import Architecture, GPTNeo, save_model
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
    save_model(model, folder)
    return model


def test_features_that_are_not_finite_leave_no_statistics(tmp_path):
    model = neo(tmp_path / "model")
    with torch.no_grad():
        model.transformer.ln_f.bias[3] = torch.inf
    save_model(model, tmp_path / "model")
    assert refusal(study_of(tmp_path, tmp_path / "model")) == (
        "extraction.precision: features of theirs are not finite in fp32; its weights are broken; "
        "give another checkpoint"
    )


def test_validation_features_that_overflow_leave_no_statistics(tmp_path, monkeypatch):
    """The train text gives features, the validation text infinities."""
    neo(tmp_path / "model")
    work = study_of(tmp_path, tmp_path / "model")
    load = stages.load_feature_model

    def overflowing(source, **options):
        model = load(source, **options)
        features, calls = model.features, iter(range(10**9))
        batches = -(-len(prepare_data(work).train) // 32)  # those of the train text
        model.features = lambda tokens: features(tokens) * (torch.inf if next(calls) >= batches else 1.0)
        return model

    monkeypatch.setattr(stages, "load_feature_model", overflowing)
    assert "features of theirs are not finite in fp32" in refusal(work)
    assert read_manifest(work.statistics("theirs", 0)) is None


def test_an_overflow_in_fp16_names_wider_types():
    with pytest.raises(UserError) as caught, overflow_told("theirs", "fp16"):
        raise NotFiniteError
    assert str(caught.value) == ("extraction.precision: features of theirs are not finite in fp16; use bf16 or fp32")
