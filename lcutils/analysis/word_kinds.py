"""Four kinds of token, and their shares of the tokens that occur and of the data (paper, Appendix)."""

from __future__ import annotations

import re

import pandas as pd

from lcutils.analysis.definitions import Missing

TOKEN_KINDS = ("lowercase", "start-word or proper noun", "punctuation", "special")
_NON_WORD = re.compile(r"\W+")


def token_kind(text: str) -> str:
    """The kind of a decoded token, one of `TOKEN_KINDS`.

    White space around it is ignored. Letters only: `lowercase` if the first one is lower-case, else `start-word or
    proper noun`. No letters, digits or underscores: `punctuation`. All else, such as white space alone: `special`.

    >>> [token_kind(text) for text in (" once", " Once", "!", "don't")]
    ['lowercase', 'start-word or proper noun', 'punctuation', 'special']
    """
    text = text.strip()
    if text.isalpha():
        return "lowercase" if text[0].islower() else "start-word or proper noun"
    return "punctuation" if _NON_WORD.fullmatch(text) else "special"


def with_kinds(tokens: pd.DataFrame) -> pd.DataFrame:
    """`tokens` with a new column `kind`, which follows from the column `text`."""
    kinds = tokens["text"].astype(str).map(token_kind)
    return tokens.assign(kind=pd.Categorical(kinds, categories=TOKEN_KINDS))


def kind_shares(tokens: pd.DataFrame) -> pd.DataFrame | Missing:
    """Shares of each kind in the tokens that occur (types) and in the data (occurrences).

    Args:
        tokens: one row per token type, columns `text` and `count`. Tokens of count 0 are left out: token tables hold
            measured classes only, and say nothing of the rest of the vocabulary.

    Returns:
        One row per kind: `kind`, `tokens` (types), `token_share`, `occurrences`, `data_share`; `Missing` if a column
        is missing or all counts are 0.
    """
    if not {"text", "count"} <= set(tokens.columns):
        return Missing("Kinds of token need a table of tokens with the columns text and count.")
    grouped = with_kinds(tokens[tokens["count"] > 0]).groupby("kind", observed=False)["count"]
    table = pd.DataFrame({"tokens": grouped.size(), "occurrences": grouped.sum()}).reindex(TOKEN_KINDS)
    if table["occurrences"].sum() == 0:
        return Missing("Kinds of token cannot be weighed: no token occurs in this table.")
    table["token_share"] = table["tokens"] / table["tokens"].sum()
    table["data_share"] = table["occurrences"] / table["occurrences"].sum()
    order = ["tokens", "token_share", "occurrences", "data_share"]
    return table[order].rename_axis("kind").reset_index()
