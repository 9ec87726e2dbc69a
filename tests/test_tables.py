"""Tables that describe: configuration, batch sizes, tokens, sensitivity, checkpoints, ours beside the paper's."""

import numpy as np
import pandas as pd
import pytest

from lcutils.analysis.definitions import Missing
from lcutils.analysis.tables import (
    CONFIGURATION,
    beside_published,
    nearest_texts,
    sensitivity,
    table_2,
    table_3,
    table_5,
    trajectories,
)


def test_table_2_alone():
    table = table_2().set_index("setting")["paper"]
    assert float(table["learning rate"]) == 5e-5
    assert table["context length (tokens)"] == "2048"
    assert table["attention heads"] == "16"
    assert "ours" not in table_2()


def test_table_2_beside_ours():
    ours = {
        "corpus": {"block_size": 128, "source": "built-in", "end_of_text": True},
        "training": {"decay": {"d": 0.5, "L": 1.0}, "learning_rate": 1e-3, "betas": [0.9, 0.95]},
        "grid": [{"depth": [1, 2], "width": [64]}, {"depth": [4], "width": [64]}],
        "device": "cpu",
        "train": {"stop": None, "texts": []},
    }
    table = table_2(ours).set_index("setting")
    assert table.loc["context length (tokens)", ["paper", "ours"]].tolist() == ["2048", "128"]
    assert table.loc["betas", ["paper", "ours"]].tolist() == ["0.9, 0.999", "0.9, 0.95"]
    assert table.loc["weight decay", "ours"] == "d 0.5, L 1.0"
    assert table.loc["optimizer", "ours"] == "as the paper"
    assert table.loc["epsilon", "ours"] == ""  # not said
    assert table.loc["end-of-text token between stories", ["paper", "ours"]].tolist() == ["no", "yes"]
    assert table.loc["device", ["paper", "ours"]].tolist() == ["", "cpu"]
    assert table.loc["grid", "ours"] == "depth 1, 2, width 64; depth 4, width 64"
    assert table.loc[["train.stop", "train.texts"], "ours"].tolist() == ["none", "none"]
    assert table.index.is_unique


def test_table_2_names_parameters_that_exist():
    parameters = pytest.importorskip("lcutils.parameters")
    known = set(parameters.leaf_keys())
    assert {key for *_, key in CONFIGURATION if key} <= known


def test_table_3():
    table = table_3()
    assert table.columns.tolist() == ["depth", "64", "128", "256", "512", "768", "1024"]
    assert table["depth"].tolist() == [1, 2, 4, 8, 12]
    assert table["1024"].tolist() == [16, 8, 8, 4, 4]
    assert table["256"].tolist() == [16, 16, 8, 8, 4]


def tokens():
    return pd.DataFrame(
        {
            "token_id": [5, 6, 7, 8],
            "text": [" Tim", "Tim", " dog", " Anna"],
            "count": [10, 40, 20, 30],
            "variance": 1.0,
            "cdnv": [1.0, 2.0, 3.0, 6.0],
            "interference": [0.1, 0.2, 0.3, 0.2],
        }
    )


def test_table_5():
    table = table_5(tokens(), ["Anna", "Tim", "Zoe"])
    assert table["token"].tolist() == ["average token", " Anna", "Tim", " Tim", "Zoe"]
    assert table["cdnv"].tolist()[:4] == [3.0, 6.0, 2.0, 1.0]
    assert table["cdnv_ratio"].tolist()[:4] == pytest.approx([1, 2, 2 / 3, 1 / 3])
    assert table["interference_ratio"].tolist()[:4] == pytest.approx([1, 1, 1, 0.5])
    assert table["token_id"].tolist() == [pd.NA, 8, 6, 5, pd.NA]
    assert table["count"][0] == 25
    assert table["note"].tolist() == ["of 4 tokens", "", "", "", "not one token, or not in the training text"]
    assert np.isnan(table["cdnv"][4])


def test_table_5_needs_its_columns():
    assert str(table_5(tokens().drop(columns=["cdnv", "text"]))) == (
        "Tokens cannot be compared: the table of tokens lacks cdnv, text."
    )


def test_texts_of_the_nearest_are_found_by_id():
    table = tokens().assign(text=[" |", "a", "a", "b | c"], nearest_ids=[[8, 6], [5], [6, 5], []])
    assert nearest_texts(table).to_list() == ["b | c | a", " |", "a |  |", ""]
    assert nearest_texts(table.head(1)).to_list() == ["id 8 | id 6"]


def results():
    return pd.DataFrame(
        {
            "model": ["01x0064_10d", "01x0064_10d", "02x0064_01d"],
            "depth": [1, 1, 2],
            "width": 64,
            "epochs": [10, 10, 1],
            "weight_decay": 5e-4,
            "checkpoint": [9, 5, 0],
            "steps": [100, 60, 10],
            "tokens_seen": [1_000, 600, 100],
            "n_params": [7, 7, 9],
            "val_loss": [1.0, 2.0, 3.0],
            "nc4_agreement": [0.5, np.nan, 0.2],
            "nc1_cdnv": [0.1, 0.2, 0.3],
        }
    )


def test_trajectories_in_order_of_checkpoint():
    table = trajectories(results())
    assert table.query("measurement == 'nc1_cdnv'")["checkpoint"].tolist() == [5, 9]
    assert table.query("measurement == 'nc1_cdnv'")["steps"].tolist() == [60, 100]
    assert set(table["model"]) == {"01x0064_10d"}
    assert isinstance(trajectories(results().tail(2)), Missing)
    assert isinstance(trajectories(results().drop(columns="checkpoint")), Missing)


def test_sensitivity_is_relative_to_the_smallest_min_count():
    table = pd.DataFrame(
        {
            "model": "a",
            "checkpoint": [0, 0, 0, 1, 1],
            "min_count": [10, 1, 2, 2, 10],
            "n_classes": [5, 9, 7, 8, 4],
            "nc2_cosine_mean": [-0.3, -0.2, -0.1, 0.0, 0.1],
            "nc1_cdnv": [3.0, 2.0, 1.0, np.nan, 4.0],
        }
    )
    long = sensitivity(table)
    assert long["measurement"].tolist() == ["nc1_cdnv"] * 4 + ["nc2_cosine_mean"] * 5
    assert long["min_count"].tolist() == [1, 2, 10, 10, 1, 2, 10, 2, 10]
    expected = [0, -0.5, 0.5, 0, 0, 0.5, -0.5, np.nan, np.nan]  # the last start from 0
    np.testing.assert_allclose(long["relative"], expected, atol=1e-12)
    assert long["n_classes"].tolist()[:3] == [9, 7, 5]
    assert "needs two" in str(sensitivity(table[table["min_count"] == 1]))
    assert isinstance(sensitivity(table.drop(columns="min_count")), Missing)


def test_ours_beside_the_published():
    published = pd.DataFrame(
        {
            "model": ["02x0064_01d", "01x0064_10d", "12x1024_10L"],
            "checkpoint": [0, 5, 9],
            "val_loss": [4.0, 2.5, 1.1],
            "nc1_cdnv": [0.2, 0.4, 0.0],
            "nc4_agreement": [0.4, 0.1, 0.3],
            "nc2_etf_error": 1.0,
        }
    )
    table = beside_published(results(), published).set_index(["measurement", "model"])
    assert table.loc[("val_loss", "02x0064_01d"), ["ours", "published", "difference"]].tolist() == [3, 4, -1]
    assert table.loc[("val_loss", "02x0064_01d"), "relative"] == -0.25
    assert table.loc[("nc1_cdnv", "01x0064_10d"), "difference"] == pytest.approx(-0.2)
    assert ("nc4_agreement", "01x0064_10d") not in table.index  # nan in ours
    assert "nc2_etf_error" not in table.index.get_level_values("measurement")
    assert len(table) == 5
    assert "name of a published one" in str(beside_published(results(), published.tail(1)))
    names = published[["model", "checkpoint"]]  # the same models, but nothing measured of them
    assert "name of a published one" in str(beside_published(results(), names))
    assert "cannot be joined" in str(beside_published(results(), published.drop(columns="model")))
