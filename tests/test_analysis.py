"""The analysis as a whole: one import, and a plain sentence wherever nothing can be computed."""

import doctest
import warnings

import numpy as np
import pandas as pd
import pytest

from lcutils import analysis
from lcutils.analysis import MEASUREMENTS, Missing, definitions, inference, word_kinds


def whole(rows=12):
    random = np.random.default_rng(3)
    loss = np.linspace(3, 1, rows) + 0.1 * random.normal(size=rows)
    runs = {
        "model": [f"{1 + n % 2:02}x0064_02d{n // 4:02}" for n in range(rows)],
        "depth": [1 + n % 2 for n in range(rows)],
        "width": 64,
        "epochs": 2,
        "weight_decay": 5e-4,
        "seed": [n // 4 for n in range(rows)],
        "checkpoint": [n // 2 % 2 for n in range(rows)],
        "steps": [100 * (1 + n // 2 % 2) for n in range(rows)],
        "tokens_seen": [1_000 * (1 + n // 2 % 2) for n in range(rows)],
        "n_params": [10_000 * (1 + n % 2) for n in range(rows)],
        "val_loss": loss,
        "n_classes": 50,
    }
    return pd.DataFrame(runs | {key: loss + random.normal(size=rows) for key in MEASUREMENTS})


FUNCTIONS = {
    "correlations": lambda t: analysis.correlations(t, trials=100, resamples=50),
    "table_1": lambda t: analysis.table_1(t, trials=100),
    "seed_groups": analysis.seed_groups,
    "seed_rows": analysis.seed_rows,
    "partial_correlations": analysis.partial_correlations,
    "influence": analysis.influence,
    "within_architecture": analysis.within_architecture,
    "trajectories": analysis.trajectories,
    "beside_published": lambda t: analysis.beside_published(t, whole()),
    "sensitivity": lambda t: analysis.sensitivity(t.assign(min_count=1)),
    "sensitivity_correlations": lambda t: analysis.sensitivity_correlations(t.assign(min_count=1), t),
}
TABLES = {
    "one row": whole().head(1),
    "no rows": whole().head(0),
    "no seeds": whole().head(2),
    "no measurements": whole().drop(columns=list(MEASUREMENTS)),
    "nan measurements": whole().assign(**dict.fromkeys(MEASUREMENTS, np.nan)),
    "nan loss": whole().assign(val_loss=np.nan),
    "no loss": whole().drop(columns="val_loss"),
    "one value": whole().assign(**dict.fromkeys(MEASUREMENTS, 0.5)),
    "one loss": whole().assign(val_loss=2.0),
    "one architecture": whole()[lambda t: t["depth"] == 1],
    "only names": whole()[["model", "checkpoint"]],
    "pretrained": whole(4).assign(**dict.fromkeys(["depth", "width", "epochs", "weight_decay", "seed", "n_params"])),
    "nan rows": whole().where(whole()["seed"] != 1).assign(model=whole()["model"], checkpoint=0),
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_whole_table_gives_a_table(function):
    outcome = FUNCTIONS[function](whole())
    if function == "sensitivity":  # one minimum count only
        assert isinstance(outcome, Missing)
    else:
        assert isinstance(outcome, pd.DataFrame)
        assert len(outcome) > 0


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("table", TABLES)
def test_what_cannot_be_computed_is_said_in_a_sentence(table, function):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outcome = FUNCTIONS[function](TABLES[table].copy())
    if isinstance(outcome, Missing):
        assert outcome.reason[0].isupper()
        assert outcome.reason.endswith(".")
        assert "\n" not in outcome.reason
    else:
        assert len(outcome) > 0


@pytest.mark.parametrize("table", ["one row", "no rows", "nan loss", "one loss", "only names"])
def test_no_relation_is_made_up(table):
    for function in ("correlations", "table_1", "partial_correlations", "influence", "within_architecture"):
        assert isinstance(FUNCTIONS[function](TABLES[table]), Missing), function


@pytest.mark.parametrize("module", [definitions, inference, word_kinds])
def test_examples_in_docstrings(module):
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0


@pytest.mark.parametrize("function", FUNCTIONS)
def test_row_labels_do_not_matter(function):
    joined = whole().set_index(pd.Index([0, 1, 2] * 4))  # as pd.concat leaves them
    expected, outcome = FUNCTIONS[function](whole()), FUNCTIONS[function](joined)
    if isinstance(expected, Missing):
        assert outcome == expected
    else:
        pd.testing.assert_frame_equal(outcome, expected)
