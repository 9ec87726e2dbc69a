"""A made-up study for the tests of charts and report: results, token tables and a sensitivity table."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lcutils.analysis import MEASUREMENTS

DEPTHS, WIDTHS = (1, 2, 4), (64, 128, 256)
CLASSES = 900


def made_results(seeds: int = 5) -> pd.DataFrame:
    """Results of 3 x 3 architectures with checkpoints 0 and 2 of 3 epochs, one more decay, and `seeds` more seeds."""
    rng = np.random.default_rng(7)
    rows = []
    names = [
        (f"{depth:02}x{width:04}_03{letter}", depth, width, decay, 42, k)
        for depth in DEPTHS
        for width in WIDTHS
        for letter, decay in (("d", 5e-4), ("L", 0.1))
        for k in (0, 2)
    ]
    names += [(f"02x0128_03d{seed:02}", 2, 128, 5e-4, seed, 2) for seed in range(seeds)]
    for name, depth, width, decay, seed, checkpoint in names:
        better = np.log2(width / 64) + np.log2(depth) + checkpoint / 2 + rng.normal(0, 0.15)
        loss = 3.6 - 0.25 * better
        row = {
            "model": name, "depth": depth, "width": width, "epochs": 3, "weight_decay": decay, "seed": seed,
            "checkpoint": checkpoint,
            "steps": 120 * (checkpoint + 1), "tokens_seen": 300_000 * (checkpoint + 1),
            "n_params": 4096 * width + 12 * depth * width**2,
            "val_loss": loss, "val_accuracy": 0.6 - 0.1 * loss, "perplexity": np.exp(loss), "n_classes": CLASSES,
        }  # fmt: skip
        for i, key in enumerate(MEASUREMENTS):
            noise = rng.normal(0, 0.05 + 0.02 * i)
            row[key] = np.exp(loss - 4 + noise) if MEASUREMENTS[key].log else 0.1 * loss + 0.1 * noise
        rows.append(row)
    return pd.DataFrame(rows)


def made_tokens(classes: int = CLASSES) -> pd.DataFrame:
    """A token table with a Zipf-like frequency curve, " Tim", " Anna", "." and a token that looks like markup."""
    rng = np.random.default_rng(3)
    letters = "".join(map(chr, range(ord("a"), ord("z") + 1)))
    words = [letters[i // 676 % 26] + letters[i // 26 % 26] + letters[i % 26] for i in range(classes)]
    text = [f" {word}" if i % 3 else word.title() for i, word in enumerate(words)]
    text[:5] = [".", " Tim", " Anna", "</script><b>", "<|endoftext|>"]
    text[6:8] = ["\ufffd", "\ufffd"]  # two halves of a character decode to the same text
    count = np.maximum(1, (40_000 / np.arange(1, classes + 1)).astype(int))
    variance = np.where(count > 1, np.exp(rng.normal(3, 0.5, classes)), 0.0)
    near = rng.integers(0, classes, (classes, 5))
    near[1, :3] = 4, 7, 0  # of " Tim"
    total = rng.integers(0, 30, classes)
    hits = rng.binomial(total, 0.4)
    return pd.DataFrame({
        "token_id": np.arange(classes), "text": text, "count": count, "variance": variance,
        "norm": rng.uniform(4, 9, classes),
        "cdnv": variance / 900, "interference": rng.normal(0.01, 0.05, classes),
        "head_cosine": rng.uniform(0, 0.6, classes),
        "hits": hits, "total": total, "agreement": np.where(total > 0, hits / np.maximum(total, 1), np.nan),
        "nearest_ids": list(near),
    })  # fmt: skip


def made_sensitivity(results: pd.DataFrame) -> pd.DataFrame:
    """A sensitivity table over min_count 1, 2, 10, 100 for every row of `results`."""
    parts = []
    for factor, least in ((1.0, 1), (0.98, 2), (0.9, 10), (0.7, 100)):
        part = results[["model", "checkpoint", "n_classes"]].assign(min_count=least)
        for key in MEASUREMENTS:
            if key in results.columns and not key.startswith("nc4"):
                part[key] = results[key] * factor
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def made_models(**models: dict) -> pd.DataFrame:
    """Results of pretrained models: name -> columns that differ; `revisions` are pairs of a name and its steps."""
    rng = np.random.default_rng(11)
    rows = []
    for name, given in models.items():
        for k, (revision, steps) in enumerate(given.get("revisions", [("", None)])):
            loss = 3.0 + rng.normal(0, 0.3)
            row = {
                "model": name, "depth": 2, "width": 128, "epochs": None, "weight_decay": None, "seed": None,
                "checkpoint": k, "steps": steps, "tokens_seen": None, "n_params": 656_000, "val_loss": loss,
                "val_accuracy": 0.6 - 0.1 * loss, "perplexity": np.exp(loss), "n_classes": CLASSES,
            }  # fmt: skip
            for key, known in MEASUREMENTS.items():
                row[key] = np.exp(rng.normal(-2, 0.5)) if known.log else rng.uniform(0.1, 0.9)
            row |= {"family": "llama", "source": f"hub/{name}", "revision": revision, "base": "", "note": ""}
            row |= {"val_loss_per_character": loss / 4, "unigram_entropy": 5.5, "layout": "stream"}
            rows.append(row | {key: value for key, value in given.items() if key != "revisions"})
    return pd.DataFrame(rows)


def few_columns(results: pd.DataFrame) -> pd.DataFrame:
    """The rows with four measurements, one of each kind: what a report of them costs is small."""
    return results[[*results.columns[:14], "nc1_cdnv", "gnc2_log_cov", "unc3_cosine_cov", "nc4_agreement"]]


def visible(page: str) -> str:
    """What a reader sees of a report, without the words for a browser that runs no scripts."""
    return page[page.index("<body>") : page.index("<noscript>")]
