"""Correlations, seed groups and Table 1 against naive computations and the published figures."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lcutils.analysis.definitions import MEASUREMENTS, Missing
from lcutils.analysis.inference import holm, permutation_test
from lcutils.analysis.published import load_published
from lcutils.analysis.relations import correlations, seed_groups, seed_rows, table_1

PUBLISHED = Path(__file__).resolve().parents[2] / "shared" / "published"


def invented(rows=24, seed=0):
    """Results of a few sizes, decays and seeds, from random numbers."""
    random = np.random.default_rng(seed)
    depth, width = random.choice([1, 2, 4], rows), random.choice([64, 128], rows)
    loss = 4 - 0.2 * depth - 0.005 * width + 0.2 * random.normal(size=rows)
    return pd.DataFrame(
        {
            "model": [f"{d:02}x{w:04}_01d{n:02}" for n, (d, w) in enumerate(zip(depth, width, strict=True))],
            "depth": depth,
            "width": width,
            "epochs": 1,
            "weight_decay": 5e-4,
            "seed": np.arange(rows),
            "checkpoint": 0,
            "val_loss": loss,
            "nc1_cdnv": np.exp(3 * loss + random.normal(size=rows)),
            "gnc2_log_cov": -loss + random.normal(size=rows),
            "nc4_agreement": np.round(1 / loss, 2),  # with ties
        }
    )


def ranks(values):
    return [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]


def naive_r(x, y):
    x, y = np.asarray(x, float), np.asarray(y, float)
    return ((x - x.mean()) * (y - y.mean())).sum() / np.sqrt(((x - x.mean()) ** 2).sum() * ((y - y.mean()) ** 2).sum())


def test_each_row_against_naive_computations():
    results = invented()
    table = correlations(results, trials=2_000, resamples=300, seed=4).set_index("measurement")
    assert table.index.tolist() == ["nc1_cdnv", "gnc2_log_cov", "nc4_agreement"]
    y = results["val_loss"]
    for key, row in table.iterrows():
        x = results[key]
        r = naive_r(x, y)
        assert row["n"] == 24
        assert row["r"] == pytest.approx(r, abs=1e-12)
        assert row["r2"] == pytest.approx(r * r, abs=1e-12)
        t = r * np.sqrt(22 / (1 - r * r))
        assert row["p_pearson"] == pytest.approx(2 * stats.t.sf(abs(t), 22), rel=1e-6)
        assert row["spearman"] == pytest.approx(naive_r(ranks(x), ranks(y)), abs=1e-12)
        assert row["p"] == permutation_test(x, y, 2_000, seed=4).p
        assert row["p_low"] <= row["p"] <= row["p_high"] + 1 / 2_001
        assert row["r_low"] < r < row["r_high"]
        assert row["r2_low"] <= r * r <= row["r2_high"]
        assert row["property"] == MEASUREMENTS[key].property
    np.testing.assert_allclose(table["p_holm"], holm(table["p"].to_numpy()))
    assert (table["note"] == "").all()


def test_log_scale_stands_beside():
    results = invented()
    table = correlations(results, trials=500, resamples=200).set_index("measurement")
    r = naive_r(np.log(results["nc1_cdnv"]), results["val_loss"])
    cdnv = table.loc["nc1_cdnv"]
    assert cdnv["r_log"] == pytest.approx(r, abs=1e-12)
    assert cdnv["r2_log"] == pytest.approx(r * r, abs=1e-12)
    assert cdnv["r2_log_low"] < r * r < cdnv["r2_log_high"]
    assert cdnv["p_log"] == permutation_test(np.log(results["nc1_cdnv"]), results["val_loss"], 500).p
    assert table.loc["gnc2_log_cov", ["r_log", "r2_log", "p_log"]].isna().all()  # negative values


def test_nan_rows_and_constant_columns_are_left_out_with_a_reason():
    results = invented()
    results.loc[[2, 5], "nc1_cdnv"] = np.nan
    results.loc[7, "nc1_cdnv"] = np.inf
    results["nc2_norm_cov"] = 0.1 + 0.2
    results["nc2_etf_error"] = np.nan
    results["nc3_cosine_mean"] = [0.5, 0.6, *[np.nan] * 22]
    table = correlations(results, trials=500, resamples=200).set_index("measurement")
    assert table.loc["nc1_cdnv", "n"] == 21
    assert table.loc["nc1_cdnv", "note"] == "3 rows without a value left out"
    kept = np.isfinite(results["nc1_cdnv"])
    assert table.loc["nc1_cdnv", "r"] == pytest.approx(
        naive_r(results["nc1_cdnv"][kept], results["val_loss"][kept]), abs=1e-12
    )
    assert table.loc["nc2_norm_cov", "note"] == "the same value in every row"
    assert table.loc["nc3_cosine_mean", "note"] == "only 2 rows have a value"
    assert table.loc[["nc2_norm_cov", "nc3_cosine_mean"], ["r", "p", "p_holm", "r_low"]].isna().all(axis=None)
    assert "nc2_etf_error" not in table.index
    shared = table["p"].notna()
    np.testing.assert_allclose(table.loc[shared, "p_holm"], holm(table.loc[shared, "p"].to_numpy()))


def test_rows_without_the_target_are_left_out():
    results = invented()
    results.loc[0, "val_loss"] = np.nan
    table = correlations(results, trials=200, resamples=100)
    assert set(table["n"]) == {23}


def test_another_target():
    results = invented().assign(val_accuracy=lambda t: 1 / t["val_loss"])
    table = correlations(results, "val_accuracy", trials=200, resamples=100).set_index("measurement")
    assert table.loc["nc1_cdnv", "r"] == pytest.approx(naive_r(results["nc1_cdnv"], results["val_accuracy"]))


def test_a_target_is_not_related_to_itself():
    table = correlations(invented(), "nc4_agreement", trials=200, resamples=100)
    assert "nc4_agreement" not in set(table["measurement"])


def test_correlations_repeat_and_leave_their_input_alone():
    results = invented()
    before = results.copy(deep=True)
    first = correlations(results, trials=300, resamples=100, seed=1)
    pd.testing.assert_frame_equal(first, correlations(results, trials=300, resamples=100, seed=1))
    pd.testing.assert_frame_equal(results, before)
    assert not first["p"].equals(correlations(results, trials=300, resamples=100, seed=2)["p"])


def test_three_rows_are_enough_and_two_are_not():
    table = correlations(invented(3), trials=100, resamples=100)
    assert table["r"].notna().all()
    assert table[["r_low", "r_high"]].isna().all(axis=None)
    assert "at least 3 rows" in str(correlations(invented(2)))


def test_seed_groups_are_kept_apart():
    results = invented(4).assign(depth=2, width=64)
    results["model"] = ["02x0064_01d", "02x0064_01d01", "02x0064_01d02", "02x0064_01L"]
    results["weight_decay"] = [5e-4, 5e-4, 5e-4, 0.1]
    results["seed"] = [42, 1, 2, 42]
    later = results.head(2).assign(checkpoint=1)
    everything = pd.concat([later, results], ignore_index=True)
    groups = seed_groups(everything)
    assert groups[["model", "checkpoint", "seeds"]].to_numpy().tolist() == [
        ["02x0064_01d", 0, 3],
        ["02x0064_01d", 1, 2],
    ]
    assert seed_rows(everything)["seed"].tolist() == [42, 1, 2]
    twice = pd.concat([everything, results.head(1).assign(model="02x0064_01d42")], ignore_index=True)
    assert seed_rows(twice)["seed"].tolist() == [42, 1, 2]  # one seed counts once, under either name
    assert isinstance(seed_groups(results.tail(2)), Missing)
    assert "at least 3 seeds" in str(seed_rows(later))


def test_pretrained_models_have_no_seeds():
    results = pd.DataFrame(
        {"model": ["gpt2", "other"], "depth": None, "width": None, "epochs": None, "weight_decay": None}
    ).assign(seed=None, checkpoint=0, val_loss=[3.0, 4.0], nc1_cdnv=[1.0, 2.0])
    assert "no model of this table" in str(seed_groups(results))


def test_table_1_of_invented_seeds():
    results = invented(12).assign(depth=2, width=64)
    results["model"] = [f"02x0064_01d{n:02}" for n in range(12)]
    results.loc[3, "nc4_agreement"] = np.nan
    table = table_1(results, trials=3_000, seed=2).set_index("measurement")
    assert table.loc["nc1_cdnv", "group"] == "02x0064_01d@0, 12 seeds"
    assert table.loc["nc1_cdnv", "p"] == permutation_test(results["nc1_cdnv"], results["val_loss"], 3_000, seed=2).p
    assert table.loc["nc4_agreement", "n"] == 11
    assert table.loc["nc3_cosine_mean", "note"] == "not in this table"
    assert np.isnan(table.loc["nc3_cosine_mean", "p"])
    assert not table.loc["gnc2_log_cov", "paper"]
    assert table["paper"].sum() == 7
    family = table[table["paper"] & table["p"].notna()]
    np.testing.assert_allclose(family["p_holm"], holm(family["p"].to_numpy()))


# ------------------------------------------------------------------------------------------------- the real files

PAPER = {  # R^2, p of a million permutations
    "nc1_cdnv": (0.192011, 0.0474),
    "nc2_log_norm_cov": (0.026174, 0.481),
    "nc2_cosine_cov": (0.218574, 0.0323),
    "gnc2_log_uncentred_cov": (0.487935, 0.0005),
    "nc3_cosine_mean": (0.322210, 0.0073),
    "unc3_cosine_cov": (0.000036, 0.979),
    "nc4_agreement": (0.490278, 0.00035),
}


def real(name):
    path = PUBLISHED / name
    if not path.is_file():
        pytest.skip(f"{name} is not in ../shared/published; the README says where the authors keep it")
    return load_published(path)


def test_table_1_of_the_paper():
    table = table_1(real("lc-2024_05_18.csv"), trials=1_000_000, seed=1)
    paper = table[table["paper"]].set_index("measurement")
    assert paper.index.tolist() == list(PAPER)
    assert (paper["group"] == "02x0768_01d@0, 21 seeds").all()
    for key, (r2, p) in PAPER.items():
        # Six digits of R^2 are given; p is itself a share of a million trials, given to two to four digits.
        assert paper.loc[key, "r2"] == pytest.approx(r2, abs=1e-6)
        noise = 3 * np.sqrt(2 * p * (1 - p) / 1_000_000)
        rounding = {0.0005: 5e-5, 0.00035: 2e-5}.get(p, 10.0 ** -(len(str(p)) - 2) / 2)
        assert abs(paper.loc[key, "p"] - p) < noise + rounding, key


def test_figure_1_of_the_paper():
    table = correlations(real("lc-2024_05_18.csv"), trials=200, resamples=200).set_index("measurement")
    assert (table["n"] == 230).all()
    assert table.loc["nc1_cdnv", "r2"] == pytest.approx(0.315, abs=5e-4)
    assert table.loc["nc1_cdnv", "r2_log"] == pytest.approx(0.916, abs=5e-4)
    assert table.loc["nc2_log_norm_cov", "r2"] == pytest.approx(0.865, abs=5e-4)


def test_october_has_what_it_can_have():
    table = table_1(real("lc-2024_10_24.csv"), trials=1_000).set_index("measurement")
    assert table.loc["nc4_agreement", "r2"] == pytest.approx(0.490278, abs=1e-6)
    assert table.loc["gnc2_log_cov", "p"] > 0
    assert table.loc["nc2_cosine_cov", "note"] == "not in this table"
