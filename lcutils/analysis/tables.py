"""Tables that describe and do not test: configuration, tokens, sensitivity, checkpoints, ours beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lcutils.analysis.definitions import MEASUREMENTS, Missing, in_display_order, measurements_in
from lcutils.analysis.few import PER_CHARACTER
from lcutils.analysis.rows import OUTCOMES, SETTING
from lcutils.paper import BATCH_SIZES, FIRST_NAMES
from lcutils.text import storable

# (setting, the paper's value, our parameter), from the paper's Appendix and the released code
CONFIGURATION = (
    ("training text", "TinyStories (2,119,719 stories)", "corpus.source"),
    ("tokenizer", "GPT-2 byte-level BPE (50,257 tokens)", "corpus.tokenizer"),
    ("context length (tokens)", "2048", "corpus.block_size"),
    ("end-of-text token between stories", "no", "corpus.end_of_text"),
    ("packing", "batches of 1,000 stories, remainders dropped", "corpus.packing"),
    ("model", "GPT-Neo, head tied to the embedding", ""),
    ("attention heads", "16", "architecture.heads"),
    ("local attention window (tokens)", "256", "architecture.window"),
    ("positions", "2048", "architecture.positions"),
    ("optimizer", "AdamW", ""),
    ("learning rate", "5e-05", "training.learning_rate"),
    ("learning rate schedule", "linear to 0, no warm-up", ""),
    ("betas", "0.9, 0.999", "training.betas"),
    ("epsilon", "1e-08", "training.eps"),
    ("gradient clipping (norm)", "1.0", "training.clip_norm"),
    ("weight decay", "d 0.0005, L 0.1", "training.decay"),
    ("sequences per batch", "4 to 16, by architecture (Table 3)", "training.batch_size"),
    ("training precision", "bf16 autocast", "training.autocast"),
    ("minimum class count", "1", "measurement.min_count"),
)


def table_2(ours: Mapping[str, object] | None = None) -> pd.DataFrame:
    """Table 2: the paper's configuration, and ours beside it.

    Args:
        ours: parameters of a study, nested or with dotted keys. Those without a value in the paper come last.

    Returns:
        Columns `setting`, `paper` and, if `ours` is given, `ours`; all text.
    """
    theirs = pd.DataFrame([row[:2] for row in CONFIGURATION], columns=["setting", "paper"])
    if ours is None:
        return theirs
    flat = flat_settings(ours)
    known = [key for _, _, key in CONFIGURATION]
    rest = [key for key in flat if key not in known]
    more = pd.DataFrame({"setting": rest, "paper": ""})
    same = "as the paper" + (" (pretrained models: as they are)" if ours.get("pretrained") else "")
    values = [flat.get(key, same if not key else "") for key in known]
    return pd.concat([theirs, more], ignore_index=True).assign(ours=values + [flat[key] for key in rest])


def flat_settings(settings: Mapping[str, object]) -> dict[str, str]:
    """Settings of a study by dotted keys, each value as text: lists and mappings inside a section too."""
    flat: dict[str, str] = {}
    for name, section in settings.items():
        inner = section if isinstance(section, Mapping) else {"": section}
        flat |= {storable(f"{name}.{key}".rstrip(".")): storable(_in_words(value)) for key, value in inner.items()}
    return flat


def _in_words(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_in_words(part)}" for key, part in value.items()) or "none"
    if isinstance(value, list | tuple):
        between = "; " if value and isinstance(value[0], Mapping) else ", "
        return between.join(_in_words(part) for part in value) or "none"
    return str(value)


def table_3() -> pd.DataFrame:
    """Table 3: the paper's sequences per batch, one row per `depth` and one column per width, named by its number."""
    rows = [(*size, batch) for size, batch in BATCH_SIZES.items()]
    cells = pd.DataFrame(rows, columns=["depth", "width", "batch"])
    table = cells.pivot(index="depth", columns="width", values="batch").astype("Int64")
    table.columns = table.columns.astype(str)
    return table.rename_axis(columns=None).reset_index()


def table_5(
    tokens: pd.DataFrame, names: Sequence[str] = FIRST_NAMES, text: str = "training text"
) -> pd.DataFrame | Missing:
    """Table 5: CDNV and interference of single tokens beside the average token.

    Args:
        tokens: table with one row per token and columns `token_id, text, count, cdnv, interference`; the last two
            are averages over the token's pairs.
        names: words to look up; the token of a word may have white space around it. White space alone stands for
            itself.
        text: what a note calls the text of the statistics; pretrained models were not trained on it.

    Returns:
        Columns `token, token_id, count, cdnv, interference, cdnv_ratio, interference_ratio` (to the average token),
        `note`; first the average token, then the words in the given order.
    """
    if absent := {"token_id", "text", "count", "cdnv", "interference"} - set(tokens.columns):
        return Missing(f"Tokens cannot be compared: the table of tokens lacks {', '.join(sorted(absent))}.")
    average = {key: float(tokens[key].mean()) for key in ("count", "cdnv", "interference")}
    texts = tokens["text"].astype(str)
    stripped = texts.str.strip()
    note = f"of {len(tokens)} tokens"
    rows: list[dict[str, Any]] = [{"token": "average token", **average, "note": note}]
    for name in map(storable, names):
        same = stripped == name.strip() if name.strip() else texts == name  # a name of white space is no other's
        found = tokens[same].sort_values("count", ascending=False)
        if found.empty:
            rows.append({"token": name, "note": f"not one token, or not in the {text}"})
        known = found[["token_id", "count", "cdnv", "interference"]].assign(token=found["text"], note="")
        rows += [{str(key): value for key, value in row.items()} for row in known.to_dict("records")]
    table = pd.DataFrame(rows)
    for key in ("cdnv", "interference"):
        table[f"{key}_ratio"] = table[key] / average[key]
    columns = ["token", "token_id", "count", "cdnv", "interference"]
    columns += ["cdnv_ratio", "interference_ratio", "note"]
    return table.reindex(columns=columns).astype({"token_id": "Int64"})


def nearest_texts(tokens: pd.DataFrame) -> pd.Series:
    """The texts of each token's `nearest_ids`, joined by " | " (for reading only, since a token may contain "|").

    A class that is not in `tokens`, if the table was cut short, is named by its id.
    """
    texts = dict(zip(tokens["token_id"], tokens["text"], strict=True))
    return tokens["nearest_ids"].map(lambda ids: " | ".join(texts.get(i, f"id {i}") for i in ids))


def _long(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """One row per row and measurement: those of `columns` that exist, `measurement`, `value`; without empty cells."""
    known = [column for column in columns if column in table]
    keys = measurements_in(table)
    melted = table.melt(id_vars=known, value_vars=keys, var_name="measurement", value_name="value")
    return melted.dropna(subset="value").reset_index(drop=True)


def trajectories(results: pd.DataFrame) -> pd.DataFrame | Missing:
    """How measurements move over the checkpoints of one training run, in long form.

    Returns:
        Columns `model, depth, width, epochs, weight_decay, checkpoint, steps, tokens_seen, val_loss, measurement,
        value`, in order of checkpoint; only models with two checkpoints or more. `family`, `revision` and
        `val_loss_per_character` too where the table has them.
    """
    if not {"model", "checkpoint"} <= set(results.columns):
        return Missing("Trajectories need the columns model and checkpoint.")
    several = results[results.groupby("model")["checkpoint"].transform("nunique") >= 2]
    if several.empty or not measurements_in(several):
        return Missing("There are no trajectories: no model was measured at two checkpoints or more.")
    ordered = several.sort_values(["model", "checkpoint"], kind="stable")
    place = ["model", "family", *SETTING, "checkpoint", "revision", "steps", "tokens_seen", "val_loss", PER_CHARACTER]
    return _long(ordered, place)


def sensitivity(table: pd.DataFrame) -> pd.DataFrame | Missing:
    """How measurements depend on the minimum class count, in long form.

    Args:
        table: rows of `sensitivity.csv`: `model, checkpoint, min_count, n_classes`, measurement keys.

    Returns:
        Columns `model, checkpoint, min_count, n_classes, measurement, value, relative` (change from the value at the
        smallest `min_count`, divided by its absolute value).
    """
    if not {"model", "checkpoint", "min_count"} <= set(table.columns) or not measurements_in(table):
        return Missing("Sensitivity needs the columns model, checkpoint, min_count and a measurement.")
    if table["min_count"].nunique() < 2:
        return Missing("Sensitivity to the minimum class count needs two of them; the table has one.")
    run = ["model", "checkpoint", "measurement"]
    long = _long(table, ["model", "checkpoint", "min_count", "n_classes"])
    long = long.sort_values([*run, "min_count"], kind="stable")
    first = long.groupby(run, sort=False)["value"].transform("first")
    long["relative"] = (long["value"] - first) / first.abs().where(first != 0)
    return in_display_order(long)


def beside_published(ours: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame | Missing:
    """Our results beside the paper's where model and checkpoint have the same names, in long form.

    Returns:
        Columns `model, checkpoint, measurement` (validation loss, accuracy and perplexity too), `label, ours,
        published, difference` (ours - published), `relative` (difference / |published|).
    """
    join = ["model", "checkpoint"]
    if not set(join) <= set(ours.columns) & set(published.columns):
        return Missing("Ours and the published results cannot be joined: model or checkpoint is missing.")
    labels = OUTCOMES | {key: MEASUREMENTS[key].label for key in MEASUREMENTS}
    keys = [key for key in labels if key in ours and key in published]
    long = [
        table.melt(id_vars=join, value_vars=keys, var_name="measurement", value_name=name)
        for name, table in (("ours", ours), ("published", published))
    ]
    table = long[0].merge(long[1], on=[*join, "measurement"])
    if table.empty:
        return Missing("No row of these results has the name of a published one.")
    table.insert(3, "label", table["measurement"].map(labels))
    table = table.dropna(subset=["ours", "published"])
    table["difference"] = table["ours"] - table["published"]
    table["relative"] = table["difference"] / table["published"].abs().where(table["published"] != 0)
    return table.reset_index(drop=True)
