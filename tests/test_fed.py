"""What a pretrained model is fed: its own tokenizer, what stands in front of the text, and how the text is laid out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lcutils.corpus.readers import END_OF_TEXT
from lcutils.stages import extract_point, measure_point, open_study, prepare_data

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
LLAMA = SHARED / "models" / "tinystories-656k"
needs_the_llama = pytest.mark.skipif(not LLAMA.is_dir(), reason="needs the shared pretrained model")


def row_of(tmp_path: Path, **corpus: object) -> dict:
    """The row of the shared Llama: statistics of the first 1,500 stories, loss and agreement of the last 211.

    The shared values were measured with the tokenizer that transformers 5 makes of the folder, whose ids differ from
    those of its tokenizer.json in a few stories. Saved, it is a tokenizer.json too.
    """
    AutoTokenizer.from_pretrained(LLAMA).save_pretrained(tmp_path / "tokenizer")
    settings = {"source": str(SHARED / "tinystories" / "valid.txt"), "max_stories": 1500, "block_size": 256}
    study = {
        "corpus": settings | {"packing": "lossless"} | corpus,
        "pretrained": {"llama": {"source": str(LLAMA), "tokenizer": str(tmp_path / "tokenizer")}},
        "extraction": {"precision": "fp32"},
        "device": "cpu",
        "threads": 2,
    }
    (tmp_path / "llama.yaml").write_text(json.dumps(study))
    work = open_study(tmp_path / "llama.yaml", tmp_path)
    prepare_data(work, "llama")
    extract_point(work, "llama", 0)
    return measure_point(work, "llama", 0).row


@needs_the_llama
def test_a_real_model_without_a_beginning_of_text(tmp_path):
    """Values measured independently: `README.md` of the shared models."""
    row = row_of(tmp_path, beginning_of_text=False)
    right = {
        "val_loss": 3.4863768, "nc1_cdnv": 0.22772060600, "nc1_cdnv_log": -2.64792955447,
        "gnc2_log_cov": -0.63355998715, "gnc2_log_uncentred_cov": -1.43662735444, "nc3_cosine_mean": 0.56007164902,
        "unc3_cosine_cov": 0.17230780246, "nc4_agreement": 0.18952493749, "nc1_pinv": 0.38525950215,
    }  # fmt: skip
    assert {key: row[key] for key in right} == pytest.approx(right, rel=2e-6)
    assert (row["n_classes"], row["note"], row["beginning_of_text"]) == (2001, None, False)


@needs_the_llama
def test_a_real_model_with_its_beginning_of_text_in_every_block(tmp_path):
    row = row_of(tmp_path)
    assert row["val_loss"] == pytest.approx(3.428, abs=5e-4)
    assert row["nc1_cdnv_log"] == pytest.approx(-2.768, abs=5e-4)
    assert row["nc4_agreement"] == pytest.approx(0.196, abs=5e-4)
    assert row["beginning_of_text"]


@needs_the_llama
def test_a_real_model_with_each_story_alone(tmp_path):
    row = row_of(tmp_path, layout="documents", end_of_text=True, block_size=512)
    assert row["val_loss"] == pytest.approx(3.000, abs=0.01)  # the shared value leaves out the end of two long stories
    assert row["val_loss"] == pytest.approx(loss_of_rows(tmp_path), rel=1e-6)
    assert row["layout"] == "documents"


@torch.no_grad()
def loss_of_rows(tmp_path: Path) -> float:
    """By transformers, story by story: its beginning, its tokens and its end, in parts that fit."""
    model = AutoModelForCausalLM.from_pretrained(LLAMA).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    text = (SHARED / "tinystories" / "valid.txt").read_text(encoding="utf-8")
    stories = [story.strip() for story in text.split(END_OF_TEXT) if story.strip()][-211:]
    total, number = 0.0, 0
    for story in stories:
        ids = [*tokenizer(story, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        for start in range(0, len(ids), 511):
            row = torch.tensor([[tokenizer.bos_token_id, *ids[start : start + 511]]])
            logits = model(row).logits[0, :-1].double()
            total += torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum").item()
            number += row.shape[1] - 1
    return total / number
