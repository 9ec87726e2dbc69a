"""What develops with what, on grids with known answers, by pandas and plain loops."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lcutils.analysis.conditional import partial_correlations, within_architecture
from lcutils.analysis.findings import AWAY, HIGHER, LOWER, NONE, SCALED, TOWARDS, UNKNOWN, findings
from lcutils.analysis.inference import bootstrap_interval, holm, permutation_test
from lcutils.analysis.published import load_published_tables
from lcutils.analysis.questions import BOUND, FACTORS, QUESTIONS
from lcutils.analysis.relations import correlations

PUBLISHED = Path(__file__).resolve().parents[2] / "shared" / "published"
DEPTHS, WIDTHS = (1, 2, 4, 8), (64, 128, 256, 512)
STEPS = {1: 100, 2: 100, 4: 200, 8: 200}  # per epoch, by depth: as where batches shrink as models grow


def made(seed=0):
    """A grid where each measurement has one cause, named by what it would be; beside it noise of architectures."""
    random = np.random.default_rng(seed)
    rows = []
    runs = [
        (d, w, e, wd, 42) for d, w in itertools.product(DEPTHS, WIDTHS) for e, wd in ((1, 5e-4), (1, 0.1), (4, 5e-4))
    ]
    runs += [(2, 128, 1, 5e-4, seed) for seed in range(8)]
    own = {size: random.normal(size=4) for size in itertools.product(DEPTHS, WIDTHS)}
    for depth, width, epochs, decay, number in runs:
        for checkpoint in (1, 3) if epochs == 4 else (0,):
            done, noise = checkpoint + 1, own[depth, width] * 0.1 + 0.05 * random.normal(size=4)
            loss = 4 - 0.3 * np.log2(width / 64) - 0.2 * np.log2(depth) - 0.1 * np.log2(done) + noise[0]
            letter, end = "d" if decay < 0.01 else "L", "" if number == 42 else f"{number:02}"
            rows.append({
                "model": f"{depth:02}x{width:04}_{epochs:02}{letter}{end}",
                "depth": depth, "width": width, "epochs": epochs, "weight_decay": decay, "seed": number,
                "checkpoint": checkpoint, "steps": done * STEPS[depth], "n_params": depth * width**2 * 12 + 5e4 * width,
                "val_loss": loss,
                "nc1_cdnv": np.exp(-0.5 * np.log2(width) + 0.1 * noise[1]),  # falls with width
                "nc2_norm_cov": 0.3 + 0.05 * np.log2(done) + 0.05 * noise[2],  # rises with training
                "gnc2_log_cov": -1 + 0.2 * np.log2(STEPS[depth]) / 8 + 0.02 * noise[3],  # its size falls with steps
                "unc3_cosine_cov": noise[1] * 5,  # of both signs
                "nc3_cosine_mean": 0.3 + 0.1 * (decay > 0.01) + 0.1 * noise[2],  # rises with decay
                "nc4_agreement": 0.5 - 0.1 * loss + 0.002 * noise[3],  # follows the loss
            })  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def grid():
    return made()


@pytest.fixture(scope="module")
def found(grid):
    return findings(grid, trials=500, resamples=300).set_index(["question", "measurement"])


def test_causes_are_found_and_nothing_else(found):
    verdicts = found["verdict"]
    assert verdicts["width", "nc1_cdnv"] == TOWARDS
    assert verdicts["epochs", "nc2_norm_cov"] == verdicts["checkpoints", "nc2_norm_cov"] == AWAY
    assert verdicts["weight decay", "nc3_cosine_mean"] == TOWARDS
    assert verdicts["loss", "nc4_agreement"] == verdicts["loss within architectures", "nc4_agreement"] == TOWARDS
    assert (
        verdicts["loss given size and recipe", "nc4_agreement"]
        == verdicts["loss over seeds", "nc4_agreement"]
        == TOWARDS
    )
    assert verdicts["width", "val_loss"] == LOWER
    for key in ("nc2_norm_cov", "nc3_cosine_mean"):
        assert verdicts["width", key] == NONE
        assert verdicts["depth", key] == NONE
    assert verdicts["epochs", "nc1_cdnv"] == verdicts["weight decay", "nc1_cdnv"] == NONE
    signs = found["sign"].xs("unc3_cosine_cov", level="measurement").drop("loss over seeds")  # seeds are of one sign
    assert (signs == 0).all()
    assert verdicts["width", "unc3_cosine_cov"] == UNKNOWN
    assert "its pole" in found.loc[("width", "unc3_cosine_cov"), "note"]


def test_steps_are_not_taken_for_depth(found):
    """GNC2 follows the number of steps, which follows depth: among models of equal steps there is nothing."""
    assert found.loc[("depth, batches as they are", "gnc2_log_cov"), "verdict"] == TOWARDS
    assert found.loc[("depth", "gnc2_log_cov"), "verdict"] == NONE


def test_a_verdict_needs_interval_and_holm(found):
    """Holm is over a question's rows of the paper's table, and over its others; no verdict without both."""
    for _, group in found.groupby(["question", "holm_group"]):
        np.testing.assert_array_equal(group["p_holm"], holm(group["p"].to_numpy()))
    clear = (found["p_holm"] < 0.05) & (found["low"] * found["high"] > 0) & (found["sign"] != 0)
    assert found["verdict"].isin([TOWARDS, AWAY, LOWER, HIGHER]).equals(clear)
    towards = found["sign"] * found["r"] > 0
    assert (found["verdict"].isin([TOWARDS, LOWER]) == (clear & towards)).all()


def naive_pairs(grid, factor, same):
    """All pairs that agree in `same` and differ in the factor."""
    pairs = [
        (one, other)
        for (_, one), (_, other) in itertools.combinations(grid.iterrows(), 2)
        if one[factor] < other[factor] and all(one[column] == other[column] for column in same)
    ]
    return pairs + [
        (other, one)
        for (_, one), (_, other) in itertools.combinations(grid.iterrows(), 2)
        if one[factor] > other[factor] and all(one[column] == other[column] for column in same)
    ]


def test_weight_decay_is_the_mean_of_paired_differences(grid, found):
    pairs = naive_pairs(grid, "weight_decay", ["depth", "width", "epochs", "seed", "checkpoint"])
    assert len(pairs) == 16
    for key in ("nc3_cosine_mean", "nc2_norm_cov", "nc4_agreement", "val_loss"):
        row, d = found.loc[("weight decay", key)], np.array([other[key] - one[key] for one, other in pairs])
        assert (row["n"], row["architectures"]) == (32, 16)
        assert row["change"] == pytest.approx(d.mean())
        assert row["r"] == pytest.approx(d.sum() / np.sqrt(len(d) * (d**2).sum()))
        t = stats.ttest_1samp(d, 0)  # one pair an architecture: the jackknife of a mean is its t interval
        assert (row["change_low"], row["change_high"]) == pytest.approx(tuple(t.confidence_interval(0.95)))
    d = np.log([other["nc1_cdnv"] / one["nc1_cdnv"] for one, other in pairs])
    assert found.loc[("weight decay", "nc1_cdnv"), "change"] == pytest.approx(np.exp(d.mean()))  # a factor


def test_training_compares_one_model_with_itself(grid, found):
    ends = grid[grid["checkpoint"] == grid["epochs"] - 1]
    pairs = naive_pairs(ends, "epochs", ["depth", "width", "weight_decay", "seed"])
    row, d = (
        found.loc[("epochs", "nc2_norm_cov")],
        [other["nc2_norm_cov"] - one["nc2_norm_cov"] for one, other in pairs],
    )
    assert (row["n"], row["change"]) == (32, pytest.approx(np.mean(d) / 2))  # from 1 to 4 epochs are two doublings
    pairs = naive_pairs(grid, "checkpoint", ["model"])
    row, d = (
        found.loc[("checkpoints", "nc2_norm_cov")],
        [other["nc2_norm_cov"] - one["nc2_norm_cov"] for one, other in pairs],
    )
    assert (row["n"], row["change"]) == (32, pytest.approx(np.mean(d)))


@pytest.mark.parametrize(("name", "points"), [("width", 64), ("width, batches as they are", 64), ("depth", 64)])
def test_sizes_are_compared_within_a_recipe(grid, found, name, points):
    """Deviations from the mean of each recipe, by pandas; a model's other seeds have no partner."""
    question, rows = FACTORS[name], grid[grid["seed"] == 42]
    x, y = np.log2(rows[question.factor]), np.log(rows["nc1_cdnv"])
    by = [rows[column] for column in question.same]
    dx, dy = x - x.groupby(by).transform("mean"), y - y.groupby(by).transform("mean")
    row = found.loc[(name, "nc1_cdnv")]
    assert (row["n"], row["architectures"], row["scale"]) == (points, 16, "log")
    assert row["r"] == pytest.approx((dx * dy).sum() / np.sqrt((dx**2).sum() * (dy**2).sum()))
    assert row["change"] == pytest.approx(np.exp((dx * dy).sum() / (dx**2).sum()))


def test_relations_with_the_loss_are_those_of_the_other_tables(grid, found):
    plain = correlations(grid, trials=100, resamples=100).set_index("measurement")
    given = partial_correlations(grid).query("given == 'all'").set_index("measurement")
    within = within_architecture(grid).query("architecture == 'pooled'").set_index("measurement")
    for key in ("nc1_cdnv", "nc2_norm_cov", "nc4_agreement"):
        log = "_log" if key == "nc1_cdnv" else ""
        assert found.loc[("loss", key), "r"] == pytest.approx(plain.loc[key, f"r{log}"])
        assert found.loc[("loss given size and recipe", key), "r"] == pytest.approx(given.loc[key, f"partial_r{log}"])
        assert found.loc[("loss within architectures", key), "r"] == pytest.approx(within.loc[key, f"r{log}"])
    low = grid[grid["val_loss"] < BOUND]
    row = found.loc[(f"NC1 below {BOUND} nats", "nc1_cdnv")]
    assert (row["n"], row["r"]) == (
        len(low),
        pytest.approx(np.corrcoef(np.log(low["nc1_cdnv"]), low["val_loss"])[0, 1]),
    )


def test_seeds_have_the_permutation_test_of_table_1(grid, found):
    seeds = grid.query("depth == 2 and width == 128 and epochs == 1 and weight_decay < 0.01")
    for key in ("nc1_cdnv", "nc4_agreement"):
        row, x, y = found.loc[("loss over seeds", key)], seeds[key], seeds["val_loss"]
        test = permutation_test(x, y, trials=500)
        assert (row["n"], row["p"], row["r"] ** 2) == (9, pytest.approx(test.p), pytest.approx(test.r2))
        low, high = bootstrap_interval(x, y, resamples=300)
        assert (row["low"], row["high"]) == pytest.approx((low, high), nan_ok=True)


def test_what_a_table_does_not_hold_is_said(grid):
    bare = findings(grid[["model", "depth", "val_loss", "nc4_agreement"]], trials=50, resamples=50)
    assert (bare["verdict"] == UNKNOWN).all()
    notes = bare.set_index(["question", "measurement"])["note"]
    assert notes["width", "nc4_agreement"] == "the table lacks width, epochs, weight_decay, seed, checkpoint, steps"
    alone = findings(grid.query("seed == 42 and width == 64"), trials=50, resamples=50)
    notes = alone.set_index(["question", "measurement"])["note"]
    assert notes["width", "nc4_agreement"] == "no three points that differ in nothing else"
    assert "fewer than 5 architectures" in notes["weight decay", "nc4_agreement"]
    assert "Seeds cannot be compared" in notes["loss over seeds", "nc4_agreement"]
    assert set(alone["question"]) == set(QUESTIONS)


def test_families_are_not_compared(grid):
    """Two families of the same sizes: the numbers of one, not of their mixture."""
    other = grid.assign(family="llama", nc4_agreement=grid["nc4_agreement"] + 5, model="x" + grid["model"])
    both = findings(pd.concat([grid, other]), trials=50, resamples=50).set_index(["question", "measurement"])
    alone = findings(grid, trials=50, resamples=50).set_index(["question", "measurement"])
    for name in ("width", "weight decay", "loss within architectures"):
        assert both.loc[(name, "nc4_agreement"), "r"] == pytest.approx(alone.loc[(name, "nc4_agreement"), "r"])
        assert both.loc[(name, "nc4_agreement"), "architectures"] == 32


def test_the_published_tables():
    """What science says of them; CDNV times the mean squared norm stands for a scale-free NC1."""
    paths = sorted(PUBLISHED.glob("*.csv"))
    if not paths:
        pytest.skip("the published tables are not beside the checkout")
    table = findings(load_published_tables(paths), trials=100, resamples=100).set_index(["question", "measurement"])
    assert table.loc[("loss", "nc1_cdnv"), "r"] == pytest.approx(0.957, abs=5e-4)
    assert table.loc[("loss", SCALED), "r"] == pytest.approx(0.890, abs=5e-4)
    assert table.loc[("loss over seeds", "nc4_agreement"), "r"] ** 2 == pytest.approx(0.490278, abs=5e-7)
    counts = table["n"].xs("nc4_agreement", level="measurement")
    assert counts[["loss", "weight decay", "checkpoints", "epochs", "loss over seeds"]].tolist() == [
        230,
        180,
        120,
        150,
        21,
    ]
