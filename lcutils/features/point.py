"""What is said of a measured point beside its measurements: columns of `results.csv`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lcutils.runs import PretrainedRun


def describe_pretrained(
    run: PretrainedRun, checkpoint: int, summary: Mapping[str, Any], scores: Mapping[str, float]
) -> dict[str, Any]:
    """What a pretrained model is, what it was fed, and how well it predicts that.

    Args:
        run, checkpoint: the model, and which of its revisions.
        summary: of its prepared corpus.
        scores: val_loss (nats per token), val_accuracy, perplexity.

    Returns:
        The scores; `steps` and `tokens_seen` where the revision's name tells them; then source, revision, base,
        layout, beginning_of_text; `val_loss_per_character`, nats per character of the validation text, by which
        models with different tokenizers can be compared; `unigram_entropy`, nats per token; and `note`, a warning if
        the loss is above that entropy, as with a tokenizer that is not the model's own. An early revision may well
        predict that badly, and is not warned of.
    """
    validation, entropy = summary["validation"], summary["unigram_entropy"]
    loss = scores["val_loss"]
    note = None
    if loss > entropy and not run.several:
        note = (
            f"validation loss {loss:.2f} is above {entropy:.2f}, the entropy of single tokens: is the tokenizer the "
            "model's own, and the text in its language?"
        )
    return {
        **scores,
        **run.progress_of(checkpoint),
        "source": run.source,
        "revision": run.revisions[checkpoint],
        "base": run.base,
        "layout": summary["layout"],
        "beginning_of_text": bool(summary["beginning"]),
        "val_loss_per_character": loss * validation["tokens"] / validation["characters"],
        "unigram_entropy": entropy,
        "note": note,
    }
