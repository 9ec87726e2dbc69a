"""Kinds of token and their shares."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcutils.analysis.definitions import Missing
from lcutils.analysis.word_kinds import TOKEN_KINDS, kind_shares, token_kind, with_kinds


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (" once", "lowercase"),
        ("ing", "lowercase"),
        ("éclair", "lowercase"),
        (" iPad", "lowercase"),
        (" Once", "start-word or proper noun"),
        ("Lily", "start-word or proper noun"),
        (" USA", "start-word or proper noun"),
        ("!", "punctuation"),
        (' "', "punctuation"),
        ("...", "punctuation"),
        (" don't", "special"),
        ("42", "special"),
        ("_", "special"),
        ("a1", "special"),
        ("\n", "special"),
        ("", "special"),
        ("<|endoftext|>", "special"),
    ],
)
def test_kinds(text, kind):
    assert token_kind(text) == kind


@given(st.text())
def test_every_text_has_a_kind_and_space_around_it_does_not_matter(text):
    assert token_kind(text) in TOKEN_KINDS
    assert token_kind(f" {text}\n") == token_kind(text)


def test_shares():
    tokens = pd.DataFrame({"text": [" a", " b", "The", ".", "\n"], "count": [10, 30, 20, 40, 0]})
    table = kind_shares(tokens).set_index("kind")
    assert table.index.tolist() == list(TOKEN_KINDS)
    assert table["tokens"].tolist() == [2, 1, 1, 0]  # the newline does not occur
    assert table["token_share"].tolist() == [0.5, 0.25, 0.25, 0.0]
    assert table["occurrences"].tolist() == [40, 20, 40, 0]
    assert table["data_share"].tolist() == [0.4, 0.2, 0.4, 0.0]
    assert with_kinds(tokens)["kind"].tolist()[3] == "punctuation"
    assert "kind" not in tokens


def test_a_kind_without_tokens_has_share_zero():
    table = kind_shares(pd.DataFrame({"text": ["a"], "count": [3]})).set_index("kind")
    assert table["token_share"].tolist() == [1, 0, 0, 0]
    assert table["data_share"].tolist() == [1, 0, 0, 0]


def test_shares_that_cannot_be_had():
    assert isinstance(kind_shares(pd.DataFrame({"text": ["a"]})), Missing)
    assert "no token occurs" in str(kind_shares(pd.DataFrame({"text": ["a"], "count": [0]})))
