"""Whether a model and a text fit each other, found on a few tokens of that text, before long work."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from lcutils.documents import Blocks
from lcutils.errors import NotFiniteError, UserError, first_line
from lcutils.features.extraction import explain_overflow
from lcutils.features.models import FeatureModel

CHECKED_TOKENS = 64
CHUNK = 2**24  # numbers of the head, or tokens of the text, that are looked at together
# How far features may be apart, relative to their spread, where no token that they may see differs: at most positions,
# and at any. Experts of a mixture may be chosen otherwise by a rounding in 16 bits, so one position says less there.
APART = {"fp32": (1e-3, 1e-3), "tf32": (1e-3, 5e-2), "fp16": (1e-3, 0.2), "bf16": (1e-3, 0.2)}
# How far the model's own logits may be from ours, relative to their size: 16-bit models round theirs.
LOGITS_APART = {"fp32": 1e-3, "tf32": 1e-2, "fp16": 2e-2, "bf16": 5e-2}


def check_fit(
    model: FeatureModel, name: str, blocks: Sequence[Blocks], vocab_size: int, label: Callable[[int], str]
) -> None:
    """Raise a `UserError` if model and text do not fit each other.

    That is, if blocks have more positions or larger token ids than the model was made for; rows of the head that the
    text needs are nan or infinite; a feature depends on the tokens after it, so that it could see its own label; or
    the logits are not what features, head, bias, scale and soft cap give.

    Args:
        model: on its device.
        name: of the model.
        blocks: (n_blocks, S) token ids of each split.
        vocab_size: the largest id of the tokenizer + 1; one that the model lacks does no harm where it never occurs.
        label: what a message calls a token.
    """
    block_size, rows = blocks[0].shape[1], len(model.classifier)
    if model.positions is not None and 0 < model.positions < block_size:
        raise UserError(
            f"corpus.block_size: {block_size} tokens exceed the {model.positions} positions of {name}; "
            f"use at most {model.positions}"
        )
    if vocab_size > rows and (largest := max(int(split.max()) for split in blocks)) >= rows:
        raise UserError(
            f"corpus.tokenizer: {label(largest)[:50]!r}, token {largest}, occurs in the text, but {name} has only "
            f"{rows} tokens; name the tokenizer that it was trained with, take that token out of the text "
            "(end_of_text: false, if it is the end), or give the model more rows (resize_token_embeddings)"
        )
    _check_head(model, name, blocks, label)
    if model.logits is None:  # our own GPT-Neo is causal, and its logits are products
        return
    texts = two_texts(blocks).to(model.classifier.device)
    try:
        with torch.no_grad():
            features, logits = model.features(texts), model.logits(texts)
            again = model.features(torch.stack([texts[1].flip(0), texts[0]]))[1]  # beside another text: rounding alone
    except UserError:
        raise
    except Exception as error:  # the model's own code fails in any way
        raise UserError(
            f"{name}: fails on tokens of the text ({type(error).__name__}: {first_line(error)}); "
            "use a causal language model of text"
        ) from error
    if not bool(features.isfinite().all()):
        with explain_overflow(name, model.precision):
            raise NotFiniteError
    if _sees_what_follows(features, again, APART[model.precision]):
        raise UserError(f"{name}: its features see the tokens that follow; use a causal language model")
    apart = _apart(model, features, logits)
    if not apart <= LOGITS_APART[model.precision]:
        raise UserError(
            f"{name}: its logits are not a scaled product of its features and its head: they are {apart:.0%} apart on "
            "tokens of the text; no measurement of weights and features says how it decides"
        )


def two_texts(blocks: Sequence[Blocks]) -> Tensor:
    """(2, S) tokens of the text, the longest row's first, and the same with others of the text in the second half."""
    rows = np.concatenate([split[-2:].ravel() for split in blocks]).astype(np.int64)
    kinds = np.unique(rows[rows >= 0])  # -1 stands behind the end of a row
    if len(kinds) == 1:
        kinds = np.array([kinds[0], 0 if kinds[0] else 1])
    row = blocks[0][-1:].ravel().astype(np.int64)  # where rows differ in length, the last is the longest
    first = row[row >= 0][:CHECKED_TOKENS]
    if len(first) < 2:
        first = kinds[:2]
    other = first.copy()
    half = len(first) // 2
    place = np.searchsorted(kinds, first[half:])
    other[half:] = kinds[(place + 1 + np.arange(len(place)) % (len(kinds) - 1)) % len(kinds)]  # never the same token
    return torch.from_numpy(np.stack([first, other]))


def _check_head(model: FeatureModel, name: str, blocks: Sequence[Blocks], label: Callable[[int], str]) -> None:
    """Refuse rows of the head, or numbers of its bias, that are nan or infinite and belong to tokens of the text."""
    step = max(1, CHUNK // model.classifier.shape[1])
    finite = torch.cat([part.isfinite().all(1) for part in model.classifier.split(step)])
    if model.bias is not None:
        finite &= model.bias.isfinite()
    if bool(finite.all()):
        return
    broken = (~finite).nonzero()[:, 0].cpu().numpy()
    occurring: set[int] = set()
    for split in blocks:
        together = max(1, CHUNK // split.shape[1])
        for begin in range(0, len(split), together):
            occurring.update(np.intersect1d(split[begin : begin + together], broken).tolist())
    if occurring:
        shown = ", ".join(f"{token} ({label(token)[:20]!r})" for token in sorted(occurring)[:5])
        raise UserError(
            f"{name}: the head's rows of {len(occurring)} tokens of the text are not finite, such as {shown}; its "
            "weights are broken; give another checkpoint"
        )


def _sees_what_follows(features: Tensor, again: Tensor, limits: tuple[float, float]) -> bool:
    """Whether the first half of two texts' features (2, S, D) differs, which only the second half's tokens can cause.

    `again` (S, D) is the first text, computed beside another one: so far apart are features by rounding alone.
    """
    half = features.shape[1] // 2
    flat = features.double().flatten(0, 1)
    spread = (flat - flat.mean(0)).square().sum(1).mean().sqrt().clamp_min(1e-300)
    apart = (features[0, :half].double() - features[1, :half].double()).norm(dim=1) / spread
    rounding = (features[0, :half].double() - again[:half].double()).norm(dim=1) / spread
    most = apart.median() > limits[0] + 5 * rounding.median()
    return bool(most) or bool(apart.max() > limits[1] + 5 * rounding.max())


def _apart(model: FeatureModel, features: Tensor, logits: Tensor) -> float:
    """How far the model's logits (2, S, V) are from what features and head give, relative to their size."""
    difference = torch.zeros((), dtype=torch.float64, device=features.device)
    size = difference.clone()
    flat, theirs = features.flatten(0, 1), logits.flatten(0, 1).to(features.device)  # (N, D), (N, V)
    step = max(1, CHUNK // flat.shape[1])
    for begin in range(0, len(model.classifier), step):
        part = slice(begin, begin + step)
        scores = flat @ model.classifier[part].float().T
        if model.bias is not None:
            scores = scores + model.bias[part]
        scores = model.scale * scores
        if model.soft_cap is not None:
            scores = model.soft_cap * torch.tanh(scores / model.soft_cap)
        ours, own = scores.double(), theirs[:, part].double()
        finite = model.classifier[part].isfinite().all(1) & own.isfinite().all(0)  # rows of no token are not looked at
        difference += (ours - own)[:, finite].square().sum()
        size += own[:, finite].square().sum()
    return float((difference / size).sqrt()) if float(size) else 0.0
