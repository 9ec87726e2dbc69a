"""Partial correlations, influence, relations within an architecture, sensitivity: against naive computations."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lcutils.analysis.conditional import (
    influence,
    partial_correlations,
    sensitivity_correlations,
    within_architecture,
)
from lcutils.analysis.definitions import MEASUREMENTS, Missing
from lcutils.analysis.inference import holm


def invented(rows=60, seed=0, link=0.0):
    """Loss and two measurements that both follow from size; `link` ties the first to loss beyond that."""
    random = np.random.default_rng(seed)
    depth, width = random.choice([1, 2, 4], rows), random.choice([64, 128, 256], rows)
    epochs = random.choice([1, 3, 10], rows)
    decay = random.choice([5e-4, 0.1], rows)
    own = random.normal(size=rows)
    loss = 4 - 0.3 * depth - 0.004 * width - 0.05 * epochs + 0.3 * own
    return pd.DataFrame(
        {
            "model": [f"{d:02}x{w:04}_{e:02}d" for d, w, e in zip(depth, width, epochs, strict=True)],
            "checkpoint": np.arange(rows),
            "depth": depth,
            "width": width,
            "epochs": epochs,
            "weight_decay": decay,
            "steps": epochs * 1000 + random.integers(0, 200, rows),
            "n_params": depth * width**2 * 12 + width * 1000,
            "val_loss": loss,
            "nc1_cdnv": np.exp(5 - depth - 0.01 * width + link * own + 0.3 * random.normal(size=rows)),
            "nc4_agreement": 0.5 - 0.1 * loss + 0.05 * random.normal(size=rows),
        }
    )


def r_of(x, y):
    return stats.pearsonr(x, y).statistic


def residual(values, controls):
    design = np.column_stack([np.ones(len(values)), controls])
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


def test_partial_correlations_are_those_of_residuals():
    results = invented(link=0.5)
    table = partial_correlations(results).set_index(["given", "measurement"])
    given = {
        "log parameters": np.log(results[["n_params"]]),
        "depth": results[["depth"]],
        "width": results[["width"]],
        "epochs": results[["epochs"]],
        "weight decay": results[["weight_decay"]],
        "steps": results[["steps"]],
    }
    given["all"] = pd.concat(given.values(), axis=1)
    assert table.index.get_level_values("given").unique().tolist() == list(given)
    for name, controls in given.items():
        for key in ("nc1_cdnv", "nc4_agreement"):
            row = table.loc[(name, key)]
            x, y = results[key], results["val_loss"]
            r = r_of(residual(x, controls), residual(y, controls))
            assert row["partial_r"] == pytest.approx(r, abs=1e-8)
            assert row["partial_r2"] == pytest.approx(r * r, abs=1e-8)
            assert row["r2"] == pytest.approx(r_of(x, y) ** 2)
            df = 60 - 2 - controls.shape[1]
            assert row["p"] == pytest.approx(2 * stats.t.sf(abs(r) * np.sqrt(df / (1 - r * r)), df), rel=1e-5)
            assert row["low"] < r < row["high"]
        log_r = r_of(residual(np.log(results["nc1_cdnv"]), controls), residual(results["val_loss"], controls))
        assert table.loc[(name, "nc1_cdnv"), "partial_r2_log"] == pytest.approx(log_r**2, abs=1e-8)
        np.testing.assert_allclose(table.loc[name, "p_holm"], holm(table.loc[name, "p"].to_numpy()))


def test_controls_that_say_nothing_new_are_dropped_and_named():
    results = invented().assign(weight_decay=0.1, steps=lambda t: t["epochs"] * 7)
    table = partial_correlations(results).set_index(["given", "measurement"])
    everything = table.loc[("all", "nc4_agreement")]
    assert everything["dropped"] == "weight decay, steps"
    assert np.isfinite(everything["partial_r"])
    alone = table.loc[("weight decay", "nc4_agreement")]
    assert alone["note"] == "no control varies"
    assert np.isnan(alone["partial_r"])


def test_rows_without_a_control_are_left_out_of_that_control_only():
    results = invented()
    results.loc[:4, "steps"] = np.nan
    results["depth"] = None  # as in a table of pretrained models
    table = partial_correlations(results).set_index(["given", "measurement"])
    assert table.loc[("steps", "nc1_cdnv"), "n"] == 55
    assert table.loc[("all", "nc1_cdnv"), "n"] == 55
    assert table.loc[("width", "nc1_cdnv"), "n"] == 60
    assert "depth" not in table.index.get_level_values("given")


def test_partial_correlations_say_why_they_cannot():
    results = invented()
    bare = results[["model", "val_loss", "nc1_cdnv"]]
    assert "neither size nor training" in str(partial_correlations(bare))
    same = results.assign(n_params=1, depth=1, width=64, epochs=1, weight_decay=0.1, steps=5)
    assert str(partial_correlations(same)) == "Partial correlations cannot be computed: no control varies."
    few = partial_correlations(results.head(6)).set_index(["given", "measurement"])
    assert "too few" in few.loc[("all", "nc1_cdnv"), "note"]


def test_influence_against_leaving_each_row_out():
    results = invented(15)
    results.loc[4, "nc4_agreement"] = np.nan
    table = influence(results)
    assert len(table) == 15 + 14
    assert table["change"].abs().is_monotonic_decreasing  # the largest changes first
    for key, rows in table.groupby("measurement"):
        known = results[results[key].notna()]
        rows = known[["model", "checkpoint"]].merge(rows, on=["model", "checkpoint"], validate="1:1")  # in their order
        assert len(rows) == len(known)
        x, y = known[key].to_numpy(), known["val_loss"].to_numpy()
        fit = np.poly1d(np.polyfit(x, y, 1))
        variance = ((y - fit(x)) ** 2).sum() / (len(x) - 2)
        for i, (_, row) in enumerate(rows.iterrows()):
            others = np.delete(np.arange(len(x)), i)
            without = r_of(x[others], y[others]) ** 2
            assert row["r2_without"] == pytest.approx(without, abs=1e-10)
            assert row["change"] == pytest.approx(without - r_of(x, y) ** 2, abs=1e-10)
            moved = fit(x) - np.poly1d(np.polyfit(x[others], y[others], 1))(x)
            assert row["cooks_distance"] == pytest.approx((moved**2).sum() / (2 * variance), rel=1e-5)


def test_influence_of_the_only_row_that_differs():
    results = invented(6).assign(nc4_agreement=[0.5] * 5 + [0.9])
    rows = influence(results).query("measurement == 'nc4_agreement'")
    assert np.isnan(rows["r2_without"].iloc[5])
    assert rows["r2_without"].iloc[:5].notna().all()
    assert "more than 3 rows" in str(influence(results.tail(3)))


def test_within_architecture_against_dummies():
    results = invented(link=1.0)
    table = within_architecture(results)
    sizes = pd.get_dummies(results["depth"] * 10_000 + results["width"], dtype=float).to_numpy()[:, 1:]
    pooled = table[table["architecture"] == "pooled"].set_index("measurement")
    for key in ("nc1_cdnv", "nc4_agreement"):
        # Centring by group is controlling for one dummy a group.
        r = r_of(residual(results[key], sizes), residual(results["val_loss"], sizes))
        row = pooled.loc[key]
        assert row["r"] == pytest.approx(r, abs=1e-10)
        df = 60 - 9 - 1
        assert (row["groups"], row["n"]) == (9, 60)
        assert row["p"] == pytest.approx(2 * stats.t.sf(abs(r) * np.sqrt(df / (1 - r * r)), df), rel=1e-8)
    log_r = r_of(residual(np.log(results["nc1_cdnv"]), sizes), residual(results["val_loss"], sizes))
    assert pooled.loc["nc1_cdnv", "r2_log"] == pytest.approx(log_r**2, abs=1e-10)
    np.testing.assert_allclose(pooled["p_holm"], holm(pooled["p"].to_numpy()))
    single = table[table["architecture"] == "02x0128"].set_index("measurement").loc["nc4_agreement"]
    rows = results[(results["depth"] == 2) & (results["width"] == 128)]
    theirs = stats.pearsonr(rows["nc4_agreement"], rows["val_loss"])
    assert single["r"] == pytest.approx(theirs.statistic, abs=1e-10)
    assert single["p"] == pytest.approx(theirs.pvalue, rel=1e-8)
    assert (single["depth"], single["width"]) == (2, 128)


def test_size_alone_makes_no_relation_within_architectures():
    ps, plain = [], []
    for seed in range(12):
        random = np.random.default_rng(seed)
        results = invented(30, seed=1_000 + seed)
        # All follow from size, none from what else moves loss: independent draws of the null, 27 a table.
        results = results.assign(**{key: -results["depth"] + 0.5 * random.normal(size=30) for key in MEASUREMENTS})
        table = within_architecture(results).query("architecture == 'pooled'")
        assert len(table) == len(MEASUREMENTS)
        ps += table["p"].tolist()
        plain += [stats.pearsonr(results[key], results["val_loss"]).pvalue for key in MEASUREMENTS]
    assert stats.kstest(ps, "uniform").pvalue > 0.02
    assert np.mean(np.array(plain) < 0.05) > 0.8  # size relates them all when it is left in


def test_within_architecture_at_the_edges():
    results = invented(40)
    results["nc1_cdnv"] = results["depth"] * 0.1 + results["width"]  # fixed by the size
    table = within_architecture(results).set_index(["measurement", "architecture"])
    assert table.loc[("nc1_cdnv", "pooled"), "note"] == "the same value in every row of an architecture"
    assert np.isnan(table.loc[("nc1_cdnv", "pooled"), "r"])
    one_each = results.drop_duplicates(["depth", "width"])
    assert "several rows of one size" in str(within_architecture(one_each))
    assert "depth and width" in str(within_architecture(results.drop(columns="width")))
    single = within_architecture(results[(results["depth"] == 1) & (results["width"] == 64)])
    assert set(single["architecture"]) == {"pooled", "01x0064"}


def sensitivity_table(results):
    tables = [
        results[["model", "checkpoint", "nc1_cdnv", "nc4_agreement"]].assign(
            min_count=count, nc1_cdnv=results["nc1_cdnv"] * factor
        )
        for count, factor in ((1, 1.0), (10, np.linspace(1, 2, len(results))))
    ]
    return pd.concat(tables, ignore_index=True)


def test_sensitivity_correlations_by_min_count():
    results = invented(20)
    table = sensitivity_correlations(sensitivity_table(results), results)
    assert table[["measurement", "min_count"]].to_numpy().tolist() == [
        ["nc1_cdnv", 1],
        ["nc1_cdnv", 10],
        ["nc4_agreement", 1],
        ["nc4_agreement", 10],
    ]
    x = results["nc1_cdnv"] * np.linspace(1, 2, 20)
    assert table["r"][1] == pytest.approx(r_of(x, results["val_loss"]))
    assert table["r2_log"][1] == pytest.approx(r_of(np.log(x), results["val_loss"]) ** 2)
    assert isinstance(sensitivity_correlations(sensitivity_table(results.head(2)), results), Missing)
    assert isinstance(sensitivity_correlations(pd.DataFrame({"model": []}), results), Missing)
