"""The charts of notebooks 01 to 04: what they draw is what they are given, and they can be drawn."""

import numpy as np
import pandas as pd
import pytest

from lcutils.charts.stages import (
    agreement_by_count,
    classes_by_count,
    spread_by_count,
    token_frequencies,
    training_curve,
)

RNG = np.random.default_rng(0)
COUNTS = np.concatenate([[0, 0], np.sort(RNG.zipf(1.5, 300).clip(max=50_000))])  # (302,) two classes never seen


def rows(figure) -> pd.DataFrame:
    """All rows that a figure's specification carries, whatever layer they are for."""
    return pd.concat([pd.DataFrame(values) for values in figure.chart.to_dict()["datasets"].values()])


@pytest.mark.parametrize(
    "figure",
    [
        token_frequencies(np.stack([COUNTS, COUNTS // 2])),
        classes_by_count(COUNTS, 2),
        training_curve(
            pd.DataFrame({"step": [8, 16], "loss": [5.0, 4.0]}), [{"steps": 16, "val_loss": 4.1, "checkpoint": 0}], 6.0
        ),
        spread_by_count(COUNTS, COUNTS**0.5, ["a"] * len(COUNTS)),
        agreement_by_count(COUNTS, COUNTS // 3, COUNTS),
    ],
    ids=lambda figure: figure.name,
)
def test_a_figure_is_drawn(figure):
    assert figure.png().startswith(b"\x89PNG")
    shown = figure._repr_mimebundle_()
    assert "image/png" in shown
    assert any("vegalite" in kind for kind in shown)


def test_frequencies_fall_with_rank_and_leave_out_what_never_occurs():
    drawn = rows(token_frequencies(np.stack([COUNTS, COUNTS])))
    train = drawn[drawn["split"] == "train"].sort_values("rank")
    assert train["count"].is_monotonic_decreasing
    assert train["count"].iloc[0] == COUNTS.max()
    assert train["rank"].iloc[-1] == (COUNTS > 0).sum()


def test_classes_kept_are_counted():
    drawn = rows(classes_by_count(COUNTS, 5)).dropna(subset=["classes"])
    for least, classes in zip(drawn["n"], drawn["classes"], strict=True):
        assert classes == sum(count >= least for count in COUNTS)


def test_agreement_is_a_share_of_tokens_not_of_classes():
    counts, hits, totals = np.array([1, 2, 500]), np.array([0, 3, 10]), np.array([1, 5, 40])
    drawn = rows(agreement_by_count(counts, hits, totals))
    assert drawn.set_index("samples")["agreement"].to_dict() == {"≥ 1": 0.5, "≥ 100": 0.25}


def test_classes_with_one_sample_are_not_drawn_as_collapsed():
    drawn = rows(spread_by_count(np.array([1, 2]), np.array([0.0, 3.0]), ["a", "b"]))
    assert drawn["text"].tolist() == ["b"]
    assert "one sample" in spread_by_count(np.array([1, 1]), np.array([0.0, 0.0]), ["a", "b"]).missing
