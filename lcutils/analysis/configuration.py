"""What a study without a grid measured, and how: its models, and the settings that apply to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lcutils.analysis.definitions import Missing
from lcutils.analysis.few import given, with_families
from lcutils.analysis.tables import flat_settings
from lcutils.text import storable

# Key of a study -> what a reader calls it. The sections of training and architecture say nothing of pretrained models.
WORDS = {
    "corpus.source": "text",
    "corpus.validation": "validation text",
    "corpus.tokenizer": "tokenizer",
    "corpus.layout": "layout of texts",
    "corpus.beginning_of_text": "beginning-of-text token",
    "corpus.end_of_text": "end-of-text token after each text",
    "corpus.block_size": "context length (tokens)",
    "corpus.packing": "packing",
    "extraction.precision": "precision of matrix products on a GPU",
    "measurement.min_count": "minimum class count",
}
OF_TRAINED_MODELS = ("architecture", "training", "grid")  # sections of a study


def applying(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a study that apply to pretrained models: none of training, architecture and grid."""
    return {key: value for key, value in settings.items() if key not in OF_TRAINED_MODELS}


def own_settings(settings: Mapping[str, Any]) -> pd.DataFrame:
    """The settings of a study without a grid: text, layout, precision, classes.

    Returns:
        Columns `setting` and `ours`, all text; settings without a value are left out.
    """
    sections = {name: settings[name] for name in ("corpus", "extraction", "measurement") if name in settings}
    flat = {key: value for key, value in flat_settings(sections).items() if value != "none"}
    if flat.get("corpus.source") != "built-in":
        flat.pop("corpus.seed", None)  # of the built-in stories
    if "corpus.validation" in flat:
        flat.pop("corpus.validation_share", None)  # of a text without validation
    known = [key for key in WORDS if key in flat]
    rest = [key for key in flat if key not in WORDS]
    rows = [(WORDS.get(key, key), flat[key]) for key in (*known, *rest)]
    return pd.DataFrame(rows, columns=["setting", "ours"])


def model_table(results: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame | Missing:
    """What each model is: family, size, tokenizer, where it comes from, and which of its checkpoints were measured.

    Returns:
        One row per model: `model, family, depth, width, n_params, n_classes, tokenizer, layout, beginning_of_text,
        source, revisions, base`, those of them that are known of any model.
    """
    if "model" not in results or "family" not in results:
        return Missing("All models are of the study's grid: its configuration says what they are.")
    pretrained = settings.get("pretrained") or {}
    corpus = settings.get("corpus") or {}
    rows = []
    for model, points in with_families(results).groupby("model", sort=False):
        row = points.iloc[-1].to_dict()
        study = pretrained.get(model) or {}
        shared = corpus.get("tokenizer")
        row.setdefault("tokenizer", study.get("tokenizer") or shared or "the model's own")
        row["source"] = row["source"] if given(points, "source").iloc[-1] else study.get("source")
        row["revisions"] = _revisions(points)
        rows.append(row)
    columns = ["model", "family", "depth", "width", "n_params", "n_classes", "tokenizer"]
    columns += ["layout", "beginning_of_text", "source", "revisions", "base"]
    table = pd.DataFrame(rows).reindex(columns=columns)
    words = [column for column in columns if not pd.api.types.is_numeric_dtype(table[column])]
    table = table.astype(dict.fromkeys(words, object)).replace("", None)
    return table.dropna(axis=1, how="all")


def _revisions(points: pd.DataFrame) -> str:
    """The measured revisions of one model in words; "" for the only one of a model that names none."""
    names = points["revision"].where(given(points, "revision")) if "revision" in points else pd.Series(dtype=object)
    known = [storable(str(name)) for name in names.dropna()]
    if not known:
        return f"{len(points)} checkpoints" if len(points) > 1 else ""
    return ", ".join(known) if len(known) <= 6 else f"{len(known)}: {', '.join(known[:3])}, …, {known[-1]}"
