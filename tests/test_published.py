"""The published tables: both formats from invented numbers, and the real files if they are on this machine."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lcutils.analysis.definitions import MEASUREMENTS
from lcutils.analysis.published import SQUARED_NORM, load_published, load_published_tables
from lcutils.errors import UserError
from lcutils.paper import BATCH_SIZES

PUBLISHED = Path(__file__).resolve().parents[2] / "shared" / "published"
NAMES = ["01x0064_01L@0", "02x0768_01d07@0", "12x1024_10d@5"]
COMMON = {
    "n_params": [10, 20, 30],
    "val_acc": [0.2, 0.4, 0.6],
    "val_loss": [3.0, 2.0, 1.0],
    "perplex": [20.0, 7.4, 2.7],
}


def may(**more):
    columns = {
        "model": NAMES,
        **COMMON,
        "cdnv_mean": [0.5, 0.25, 0.125],
        "norms_mean": [9.0, 16.0, 25.0],  # of squared norms: no CoV of norms can be had
        "norms_std": [1.0, 2.0, 3.0],
        "norms_log_mean": [4.0, 5.0, 8.0],
        "norms_log_std": [0.4, 0.6, 0.8],
        "interfere_mean": [0.01, 0.02, -0.04],
        "interfere_std": [0.5, 0.4, 0.2],
        "log_dist_mean": [-0.1, -0.2, -0.3],
        "log_dist_std": [0.3, 0.2, 0.1],
        "sims_mean": [0.1, 0.2, 0.4],
        "sims_std": [0.3, 0.3, 0.2],
        "matches": [10, 30, 75],
        "misses": [90, 70, 25],
    }
    return pd.DataFrame(columns | more)


def october(**more):
    columns = {
        "model": NAMES,
        **COMMON,
        "cdnv": [0.5, 0.25, 0.125],
        "norms_mean": [2.0, 4.0, 5.0],
        "norms_var": [1.0, 4.0, 4.0],
        "norms_log_mean": [2.0, 2.5, 4.0],
        "norms_log_var": [0.04, 0.09, 0.16],
        "etf_error": [1.4, 1.3, 1.2],
        "interfere_mean": [-0.1, -0.2, -0.3],  # un-normalised products: no cosines
        "interfere_var": [100.0, 200.0, 300.0],
        "log_kern_mean": [-0.3, -0.32, -0.34],
        "log_kern_var": [0.09, 0.04, 0.01],
        "dual_error": [1.41, 1.40, 1.39],
        "simcos_mean": [0.1, 0.2, 0.4],
        "simcos_var": [0.09, 0.09, 0.04],
        "hits": [10, 30, 75],
        "misses": [90, 70, 25],
    }
    return pd.DataFrame(columns | more)


def load(tmp_path, table, **options):
    path = tmp_path / "table.csv"
    table.to_csv(path, **options)
    return load_published(path)


@pytest.mark.parametrize("table", [may(), october()])
def test_names_become_runs(tmp_path, table):
    loaded = load(tmp_path, table, index=False)
    assert loaded["model"].tolist() == ["01x0064_01L", "02x0768_01d07", "12x1024_10d"]
    expected = {
        "depth": [1, 2, 12],
        "width": [64, 768, 1024],
        "epochs": [1, 1, 10],
        "weight_decay": [0.1, 5e-4, 5e-4],
        "seed": [42, 7, 42],
        "checkpoint": [0, 0, 5],
        # 229,367 blocks in batches of 16, 16 and 4, the last one partial
        "steps": [14_336, 14_336, 6 * 57_342],
        "tokens_seen": [229_367 * 2_048, 229_367 * 2_048, 6 * 229_367 * 2_048],
        "n_classes": [29_233] * 3,
        "n_params": [10, 20, 30],
        "val_loss": [3.0, 2.0, 1.0],
        "val_accuracy": [0.2, 0.4, 0.6],
        "perplexity": [20.0, 7.4, 2.7],
    }
    for column, values in expected.items():
        assert loaded[column].tolist() == values, column
    order = ["model", "depth", "width", "epochs", "weight_decay", "seed", "checkpoint", "steps", "tokens_seen"]
    order += ["n_params", "val_loss", "val_accuracy", "perplexity", "n_classes"]
    assert loaded.columns[: len(order)].tolist() == order
    assert set(loaded.columns[len(order) :]) <= {*MEASUREMENTS, SQUARED_NORM, "origin"}
    assert loaded[SQUARED_NORM].tolist() == ([9.0, 16.0, 25.0] if "cdnv_mean" in table else [5.0, 20.0, 29.0])


def test_may_measurements(tmp_path):
    loaded = load(tmp_path, may())  # with pandas' unnamed index column, as the file has it
    expected = {
        "nc1_cdnv": [0.5, 0.25, 0.125],
        "nc2_log_norm_cov": [0.1, 0.12, 0.1],
        "nc2_log_norm_std": [0.2, 0.3, 0.4],
        "nc2_cosine_mean": [0.01, 0.02, -0.04],
        "nc2_cosine_std": [0.5, 0.4, 0.2],
        "nc2_cosine_cov": [50.0, 20.0, -5.0],
        "gnc2_log_uncentred_mean": [-0.1, -0.2, -0.3],
        "gnc2_log_uncentred_std": [0.3, 0.2, 0.1],
        "gnc2_log_uncentred_cov": [-3.0, -1.0, -1 / 3],
        "nc3_cosine_mean": [0.1, 0.2, 0.4],
        "unc3_cosine_cov": [3.0, 1.5, 0.5],
        "nc4_agreement": [0.1, 0.3, 0.75],
    }
    for key, values in expected.items():
        np.testing.assert_allclose(loaded[key], values, rtol=1e-12, err_msg=key)
    assert set(loaded.columns) & set(MEASUREMENTS) == set(expected)


def test_october_measurements(tmp_path):
    loaded = load(tmp_path, october(), index=False)
    expected = {
        "nc1_cdnv": [0.5, 0.25, 0.125],
        "nc2_norm_cov": [0.5, 0.5, 0.4],
        "nc2_log_norm_cov": [0.1, 0.12, 0.1],
        "nc2_log_norm_std": [0.2, 0.3, 0.4],
        "nc2_etf_error": [1.4, 1.3, 1.2],
        "gnc2_log_mean": [-0.3, -0.32, -0.34],
        "gnc2_log_std": [0.3, 0.2, 0.1],
        "gnc2_log_cov": [-1.0, -0.625, -0.1 / 0.34],
        "nc3_cosine_mean": [0.1, 0.2, 0.4],
        "nc3_duality_error": [1.41, 1.40, 1.39],
        "unc3_cosine_cov": [3.0, 1.5, 0.5],
        "nc4_agreement": [0.1, 0.3, 0.75],
    }
    for key, values in expected.items():
        np.testing.assert_allclose(loaded[key], values, rtol=1e-12, err_msg=key)
    assert set(loaded.columns) & set(MEASUREMENTS) == set(expected)


def test_missing_columns_are_absent(tmp_path):
    loaded = load(tmp_path, may().drop(columns=["sims_std", "misses", "val_acc", "n_params"]), index=False)
    assert "nc3_cosine_mean" in loaded
    assert not {"unc3_cosine_cov", "nc4_agreement", "val_accuracy", "n_params"} & set(loaded.columns)
    assert loaded.columns.get_loc("n_classes") == loaded.columns.get_loc("perplexity") + 1


def test_other_architectures_have_no_steps(tmp_path):
    loaded = load(tmp_path, may(model=["03x0064_01d@0", *NAMES[1:]]), index=False)
    assert np.isnan(loaded["steps"][0])
    assert loaded["steps"][1] == 14_336


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "cdnv_mean"),
        ("a,b\n1,2\n", "log_kern_mean"),
        ("cdnv_mean,val_loss\n1,2\n", "needs the column model"),
        ("model,val_loss\n01x0064_01d@0,2\n", "October 2024"),
        ("model,cdnv,cdnv_mean\n01x0064_01d@0,1,2\n", "is not a published table"),
        ("model,cdnv\n01x0064_01d,1\n", "'01x0064_01d' is not a name such as"),
        ("model,cdnv\n01x0064_01q@0,1\n", "'01x0064_01q@0' is not a name such as"),
        ("model,cdnv\ngpt2@0,1\n", "'gpt2@0' is not a name such as"),
        ("model,cdnv\n01x0064_01d@0,much\n", "column cdnv holds text"),
        ("", "is not a CSV table"),
    ],
)
def test_mistakes_are_reported_in_one_line(tmp_path, text, words):
    path = tmp_path / "wrong.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(words)) as error:
        load_published(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_no_file_is_reported_in_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        load_published(tmp_path / "none.csv")


def test_binary_is_reported_in_one_line(tmp_path):
    path = tmp_path / "weights.csv"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(UserError) as error:
        load_published(path)
    assert "\n" not in str(error.value)


def test_rows_name_their_file_its_date_and_its_digest(tmp_path):
    path = tmp_path / "lc-2024_05_18.csv"
    may().to_csv(path, index=False)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    said = f"published by Wu and Papyan (lc-2024_05_18.csv of 2024-05-18, sha256 {digest})"
    assert set(load_published(path)["origin"]) == {said}
    later = tmp_path / "other-2024_99_99.csv"  # digits that are no date
    october().head(1).to_csv(later, index=False)
    whole = load_published_tables([path, later])
    assert whole["origin"].str.startswith(said).all()
    both = whole["origin"].str.contains(
        "completed from rows published by Wu and Papyan (other-2024_99_99.csv, ", regex=False
    )
    assert both.sum() == 1


def test_batch_sizes_of_all_architectures():
    assert len(BATCH_SIZES) == 30
    assert BATCH_SIZES[2, 768] == 16
    assert BATCH_SIZES[2, 1024] == 8
    assert BATCH_SIZES[8, 512] == 4


# ------------------------------------------------------------------------------------------------- the real files


def real(name):
    path = PUBLISHED / name
    if not path.is_file():
        pytest.skip(f"{name} is not in ../shared/published; the README says where the authors keep it")
    return load_published(path)


@pytest.mark.parametrize("name", ["lc-2024_05_18.csv", "lc-2024_10_24.csv"])
def test_the_230_models(name):
    table = real(name)
    assert len(table) == 230
    assert table.groupby(["depth", "width"]).ngroups == 30
    assert not table.duplicated(["model", "checkpoint"]).any()
    assert not table.isna().any().any()
    assert table["n_params"].min() == 3_397_440
    assert table["n_params"].max() == 204_680_192
    best = table.loc[table["val_loss"].idxmin()]
    assert (best["model"], best["checkpoint"]) == ("12x1024_10L", 9)
    assert best["val_loss"] == pytest.approx(1.0998, abs=5e-5)
    assert best["val_accuracy"] == pytest.approx(0.6943, abs=5e-5)
    assert best["nc4_agreement"] == pytest.approx(0.368, abs=5e-4)
    assert best["nc3_cosine_mean"] == pytest.approx(0.308, abs=5e-4)
    np.testing.assert_allclose(table["perplexity"], np.exp(table["val_loss"]), rtol=1e-6)


def test_both_files_hold_the_same_models():
    join = ["model", "checkpoint"]
    both = real("lc-2024_05_18.csv").merge(real("lc-2024_10_24.csv"), on=join, suffixes=("", " later"))
    assert len(both) == 230
    shared = ["val_loss", "nc1_cdnv", SQUARED_NORM, "nc2_log_norm_cov", "nc2_log_norm_std", "nc3_cosine_mean"]
    for key in [*shared, "unc3_cosine_cov", "nc4_agreement"]:
        np.testing.assert_allclose(both[key], both[f"{key} later"], rtol=5e-6, err_msg=key)
