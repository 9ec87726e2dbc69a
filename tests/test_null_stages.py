"""Nulls through the stages: off by default, asked for, beside the rows, of untrained networks, in charts and report."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace

import naive_collapse as naive
import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from analysis_samples import made_models, made_results
from markupsafe import escape
from model_samples import KINDS, tiny
from test_pretrained import study_of
from transformers import AutoModelForCausalLM

from lcutils import analysis, charts
from lcutils.analysis.nulls import CLOSED, COLUMNS, DRAWN, UNTRAINED, NullValue, null_columns, null_table
from lcutils.collapse.catalogue import MEASUREMENTS
from lcutils.collapse.nulls import drawn_nulls
from lcutils.errors import UserError
from lcutils.features.extracted import Extracted
from lcutils.features.models import load_feature_model
from lcutils.gptneo.checkpoint import write_checkpoint
from lcutils.gptneo.model import GPTNeo
from lcutils.nulls import Untrained, measure_nulls
from lcutils.parameters import ROOT
from lcutils.pipeline.jobs import extract_job, measure_job
from lcutils.report import write_analysis
from lcutils.report.captions import NULL_TABLES
from lcutils.stages import analyze_study, extract_point, measure_point, open_study, prepare_data, train_run

MODEL = "01x0016_01d"
NULLS = "nulls=20"
ALL = f"{NULLS} decisions=true random_network=true"


def computed(path, overrides=None, model=MODEL):
    """A study with one point taken through the stages, and its measurements."""
    work = open_study(path, path.parent, overrides)
    prepare_data(work), train_run(work, model), extract_point(work, model, 0)
    return work, measure_point(work, model, 0)


# --------------------------------------------------------------------------------------------------------------- keys


def test_jobs_of_a_study_without_nulls_are_those_of_before_there_were_any(request, tmp_path):
    path = request.getfixturevalue("tiny")
    work = open_study(path, path.parent)
    assert extract_job(work, MODEL, 0).parameters.keys() == {
        "precision", "blocks_per_batch", "covariance", "min_count", "threads",
    }  # fmt: skip
    assert measure_job(work, MODEL, 0).parameters.keys() == {
        "min_count", "riesz_s", "sensitivity", "neighbours", "threads",
    }  # fmt: skip
    asked = open_study(path, path.parent, ALL)
    assert extract_job(asked, MODEL, 0).parameters.items() >= {("decisions", True), ("random_network", True)}
    assert measure_job(asked, MODEL, 0).parameters["nulls"] == 20


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("nulls=19", "measurement.nulls: 19 draws are too few; give 20 or more, or 0 for none"),
        ("nulls=1", "measurement.nulls: 1 draws are too few"),
        ("nulls=-1", "measurement.nulls: "),
        ("nulls=many", "measurement.nulls: "),
        ("decisions=true", "extraction.decisions: is for nulls, which are off; add measurement.nulls: 20"),
        ("random_network=true", "extraction.random_network: is for nulls, which are off; add measurement.nulls: 20"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(request, overrides, message):
    path = request.getfixturevalue("tiny")
    with pytest.raises(UserError) as caught:
        open_study(path, path.parent, overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------------- stages


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The tiny study twice, without nulls and with all of them: (work, measured) each."""
    from conftest import TINY

    found = []
    for name, overrides in (("without", None), ("with", ALL)):
        path = tmp_path_factory.mktemp(name) / "tiny.yaml"
        path.write_text(TINY)
        found.append(computed(path, overrides))
    return found


def test_rows_keep_their_bits_and_nulls_stand_behind(study):
    (plain, without), (_, asked) = study
    assert without.nulls is None
    assert not (plain.measurements(MODEL, 0) / "nulls.csv").exists()
    assert list(asked.row)[: len(without.row)] == list(without.row)
    assert {key: asked.row[key] for key in without.row} == without.row
    added = list(asked.row)[len(without.row) :]
    drawn = asked.nulls[asked.nulls["sd"].notna()]["measurement"].unique()
    assert added == [f"{key}{end}" for key in drawn for end in ("_null", "_null_sd")]
    assert {"nc1_cdnv", "unc3_cosine_cov", "nc4_agreement"} <= set(drawn)
    pd.testing.assert_frame_equal(without.tokens, asked.tokens)
    pd.testing.assert_frame_equal(without.sensitivity, asked.sensitivity)


@pytest.mark.usefixtures("undrawn")
def test_statistics_keep_their_bits_and_the_table_of_results_its_columns(study):
    (plain, _), (asked, _) = study
    for name in ("statistics.safetensors", "head.safetensors", "texts.json"):
        one, other = (work.statistics(MODEL, 0) / name for work in (plain, asked))
        assert one.read_bytes() == other.read_bytes()
    with np.load(plain.statistics(MODEL, 0) / "agreement.npz") as one:
        assert set(one) == {"hits", "totals"}
    tables = [analyze_study(work).results for work in (plain, asked)]
    columns = list(tables[0].columns)
    assert not any("null" in column for column in columns)
    assert list(tables[1].columns)[: len(columns)] == columns
    pd.testing.assert_frame_equal(tables[0], tables[1][columns])
    assert all("_null" in column for column in tables[1].columns[len(columns) :])


def test_the_table_of_nulls_is_what_it_says(study):
    work, measured = study[1]
    nulls, extracted = measured.nulls, Extracted.load(work.statistics(MODEL, 0))
    assert list(nulls.columns) == COLUMNS
    assert not nulls.duplicated(["measurement", "kind"]).any()
    assert set(nulls["kind"]) == {DRAWN, CLOSED, UNTRAINED}
    assert set(nulls["measurement"]) == {key for key in MEASUREMENTS if key in measured.row}
    assert (nulls["value"] == nulls["measurement"].map(measured.row)).all()
    known = nulls.dropna(subset="sd")
    assert known["distance"].to_numpy() == pytest.approx(((known["value"] - known["mean"]) / known["sd"]).to_numpy())
    assert nulls[nulls["sd"].isna()]["distance"].isna().all()
    drawn = nulls[nulls["kind"] == DRAWN].set_index("measurement")
    again = drawn_nulls(extracted.statistics, extracted.head, 20)
    assert drawn["mean"].to_dict() == pytest.approx({key: null.mean for key, null in again.items()}, rel=1e-12)
    assert set(drawn["draws"]) == {20}
    sphere = nulls[nulls["basis"] == "directions even over a sphere"].set_index("measurement")["mean"]
    limits = analysis.limits_of_theory(16, 50, riesz_s=1.0).query("limit == 'uniform sphere'")
    assert sphere["gnc2_log_mean"] == limits.set_index("measurement")["value"]["gnc2_log_mean"]


def test_the_null_of_nc4_is_that_of_the_decisions(study):
    """Both sides decide again here, naively, from the checkpoint as transformers computes it."""
    work, measured = study[1]
    head, features, labels = naive_features(work, work.checkpoint(MODEL, 0), "validation")
    extracted = Extracted.load(work.statistics(MODEL, 0))
    statistics = extracted.statistics
    keep = (statistics.counts > 0).numpy()
    linear, nearest = naive.decisions(features, head, statistics.means.numpy(), keep)
    counted = keep[labels]
    share = (np.bincount(linear[counted], minlength=300) * np.bincount(nearest[counted], minlength=300)).sum()
    null = measured.nulls.query("measurement == 'nc4_agreement' and kind == @CLOSED").iloc[0]
    assert null["mean"] == pytest.approx(share / counted.sum() ** 2, rel=0.02)  # a tie or two fall otherwise
    assert extracted.agreement["decisions_head"].sum() == extracted.agreement["totals"].sum()
    assert 0 < null["sd"] < null["mean"]


def naive_features(work, folder, split):
    """The head of a checkpoint, and features and labels of a split, by transformers alone: (V, D), (N, D), (N,)."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    blocks = torch.from_numpy(np.asarray(prepare_data(work).blocks(split)).astype(np.int64))
    with torch.no_grad():
        features = model(blocks, output_hidden_states=True).hidden_states[-1][:, :-1].flatten(0, 1)
    return model.lm_head.weight.detach().double().numpy(), features.double().numpy(), blocks[:, 1:].flatten().numpy()


def test_the_random_network_is_the_run_before_its_first_step(study, tmp_path):
    work, measured = study[1]
    run = work.study.trained_run(MODEL)
    write_checkpoint(GPTNeo(run.architecture(300), run.recipe.init_seed), tmp_path / "first")
    head, features, labels = naive_features(work, tmp_path / "first", "train")
    expected = naive.measurements(*naive.class_statistics(features, labels, 300), head)
    values = measured.nulls[measured.nulls["kind"] == UNTRAINED].set_index("measurement")
    assert set(values["draws"]) == {1}
    for key in ("nc1_quotient", "nc1_cdnv_log", "nc2_norm_cov", "gnc2_log_mean", "nc2_cosine_std"):
        assert values["mean"][key] == pytest.approx(expected[key], rel=1e-3), key
    assert values["mean"]["nc3_cosine_mean"] == pytest.approx(expected["nc3_cosine_mean"], abs=1e-4)
    _, validation, wanted = naive_features(work, tmp_path / "first", "validation")
    untrained = Untrained.load(work.statistics(MODEL, 0), "cpu")
    keep = (untrained.statistics.counts > 0).numpy()
    hits, totals = naive.agreement(validation, wanted, head, untrained.statistics.means.numpy(), keep)
    assert values["mean"]["nc4_agreement"] == pytest.approx(hits.sum() / totals.sum(), abs=2e-3)


def test_nulls_alone_need_no_new_extraction_and_say_nothing_of_nc4(request):
    path = request.getfixturevalue("tiny")
    work, first = computed(path)
    made = (work.statistics(MODEL, 0) / "manifest.json").stat().st_mtime_ns
    asked, measured = computed(path, NULLS)
    assert (work.statistics(MODEL, 0) / "manifest.json").stat().st_mtime_ns == made
    assert "nc4_agreement" not in set(measured.nulls["measurement"])
    assert set(measured.nulls["kind"]) == {DRAWN, CLOSED}
    assert {key: measured.row[key] for key in first.row} == first.row
    text = (asked.measurements(MODEL, 0) / "nulls.csv").read_text()
    shutil.rmtree(asked.measurements(MODEL, 0))
    computed(path, NULLS)
    assert (asked.measurements(MODEL, 0) / "nulls.csv").read_text() == text  # as when a killed one is made again


def test_without_a_covariance_the_basis_says_so_and_ood_text_has_a_null(request):
    path = request.getfixturevalue("tiny")
    text = path.parent / "other.txt"
    text.write_text("The committee approved the annual budget of the ministry.\n<|endoftext|>\n" * 50)
    _, measured = computed(path, f"{ALL} covariance=false ood={text}")
    nulls = measured.nulls.set_index(["measurement", "kind"])
    assert nulls["basis"]["nc1_quotient", DRAWN] == "labels at random, isotropic: no covariance was kept"
    assert "nc1_pinv" not in measured.row
    for kind in (DRAWN, UNTRAINED):
        assert 0 < nulls["mean"]["nc5_ood_deviation", kind] < 1


def test_two_processes_leave_the_same_untrained_network(request):
    path = request.getfixturevalue("tiny")
    work, measured = computed(path, ALL)
    shared = open_study(path, path.parent / "shared", ALL)
    prepare_data(shared), train_run(shared, MODEL)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "lcutils"]
    command += ["extract", str(path), MODEL, "--outputs", str(path.parent / "shared"), "--set", *ALL.split()]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3000)
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    again = measure_point(shared, MODEL, 0)
    assert again.nulls["mean"].to_numpy() == pytest.approx(measured.nulls["mean"].to_numpy(), rel=1e-6)
    assert not list(shared.folder.glob("statistics/.*resume"))
    one, other = (Extracted.load(each.statistics(MODEL, 0)).agreement for each in (work, shared))
    for name in one:
        assert (one[name] == other[name]).all(), name


# ------------------------------------------------------------------------------------------------- pretrained models


@pytest.mark.parametrize("kind", KINDS)
def test_an_untrained_network_is_that_of_the_models_own_code(tmp_path, kind):
    trained = tiny(kind)
    trained.save_pretrained(tmp_path)
    state = torch.random.get_rng_state()
    one, same, other = (load_feature_model(tmp_path, untrained=seed) for seed in (3, 3, 4))
    assert torch.random.get_rng_state().equal(state)
    tokens = torch.arange(20)[None]
    assert one.features(tokens).equal(same.features(tokens))
    assert not one.features(tokens).allclose(other.features(tokens))
    assert not one.features(tokens).allclose(load_feature_model(tmp_path).features(tokens))
    torch.manual_seed(3)
    theirs = AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(tmp_path)).eval()
    assert one.classifier.equal(theirs.get_output_embeddings().weight[: len(one.classifier)])
    with torch.no_grad():
        expected = theirs(tokens).logits
    assert one.logits(tokens) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert one.identity != other.identity


@pytest.mark.usefixtures("undrawn")
def test_a_pretrained_model_has_its_untrained_twin_beside_it(tmp_path):
    tiny("cohere", vocab_size=300).save_pretrained(tmp_path / "model")
    work = study_of(tmp_path, tmp_path / "model", ALL)
    extract_point(work, "theirs", 0)
    measured = measure_point(work, "theirs", 0)
    values = measured.nulls[measured.nulls["kind"] == UNTRAINED].set_index("measurement")["mean"]
    assert values["nc1_quotient"] != measured.row["nc1_quotient"]
    assert "nc4_agreement" in values
    assert analyze_study(work).results["nc4_agreement_null"].notna().all()


# ------------------------------------------------------------------------------------------- tables, charts, report


SHOWN = ("nc1_cdnv", "nc2_cosine_std", "unc3_cosine_cov", "nc4_agreement")


def with_few_keys(results):
    """The same with four measurements: charts of all take a minute."""
    return results.drop(columns=[key for key in MEASUREMENTS if key not in SHOWN])


def made_nulls(results, keys=SHOWN):
    """Nulls of made-up results, above the values; the CoV's crosses 0."""
    tables = []
    for row in results.to_dict("records"):
        values = []
        for key in keys:
            sd = 0.02 if key != "unc3_cosine_cov" else 40.0
            kind = CLOSED if key == "nc4_agreement" else DRAWN
            values += [NullValue(key, kind, "made up", row[key] * 1.5, sd, 20), NullValue(key, UNTRAINED, "", 0.5)]
        tables.append(null_table(row, values, 16, 1.0))
    return pd.concat(tables, ignore_index=True)


def test_null_table_leaves_out_what_has_no_value_and_what_is_not_known():
    row = {"model": "a", "checkpoint": 0, "nc1_cdnv": 2.0, "gnc2_log_mean": 0.0}
    values = [NullValue("nc1_cdnv", DRAWN, "x", 5.0, 0.5, 20), NullValue("nc1_pinv", DRAWN, "x", 1.0, 1.0, 20)]
    values += [NullValue("gnc2_log_mean", DRAWN, "x", math.nan, math.nan, 20), NullValue("nc1_cdnv", CLOSED, "y", 3.0)]
    table = null_table(row, values, 16, 1.0)
    assert table["measurement"].tolist() == ["nc1_cdnv", "nc1_cdnv", "gnc2_log_mean"]
    assert table["distance"].tolist()[0] == -6.0
    assert table["distance"].isna().tolist() == [False, True, True]
    assert table["mean"][2] == pytest.approx(-0.3294, abs=1e-4)  # the sphere's
    assert null_columns(table) == {"nc1_cdnv_null": 5.0, "nc1_cdnv_null_sd": 0.5}
    still = null_table(row, [NullValue("nc1_cdnv", DRAWN, "x", 2.0, 0.0, 20)], 1, 1.0)
    assert still["distance"].isna().all()  # no distance in units of 0; no sphere in one dimension


def test_distances_are_summed_up_by_measurement():
    results = made_results()
    nulls = made_nulls(results)
    table = analysis.null_distances(nulls).set_index("measurement")
    assert list(table.index) == ["nc1_cdnv", "nc2_cosine_std", "unc3_cosine_cov", "nc4_agreement"]
    assert set(table["n"]) == {len(results)}
    expected = (results["nc2_cosine_std"] - 1.5 * results["nc2_cosine_std"]) / 0.02
    assert table["distance"]["nc2_cosine_std"] == pytest.approx(expected.median())
    assert table["nearest"]["nc2_cosine_std"] == pytest.approx(expected.abs().min())
    assert table["beyond_3"]["unc3_cosine_cov"] == 0
    assert set(table["random_network"]) == {0.5}
    assert "no measurement has a null" in str(analysis.null_distances(nulls[nulls["kind"] == UNTRAINED])).lower()


def test_a_chart_sets_values_beside_their_nulls():
    results = with_few_keys(made_results())
    figure = charts.beside_nulls(results, made_nulls(results))
    assert figure.missing == ""
    figure.chart.to_dict(validate=True)
    json.dumps(figure.spec, allow_nan=False)
    assert MEASUREMENTS["nc2_cosine_std"].axis.split()[0] in figure.svg
    assert {"nc2_cosine_std_low", "nc4_agreement_null"} <= set(figure.rows.columns)
    assert "unc3_cosine_cov_null" not in figure.rows  # its CoV crosses 0 in the draws
    rows = figure.rows
    assert (rows["nc2_cosine_std_null"] - rows["nc2_cosine_std_low"]).tolist() == pytest.approx([0.04] * len(rows))
    assert "NC4's bar" in figure.caption
    only = charts.beside_nulls(results, made_nulls(results, ("nc1_cdnv",)))
    assert "NC4's bar" not in only.caption
    for broken in (results.drop(columns="val_loss"), results.assign(val_loss=np.nan)):
        assert "has a null" in charts.beside_nulls(broken, made_nulls(results)).missing


def test_strips_of_few_models_have_bands():
    models = with_few_keys(made_models(a={}, b={}))
    bands = analysis.null_bands(made_nulls(models))
    figure = charts.strips(models, None, bands, 1.0)
    figure.chart.to_dict(validate=True)
    data = pd.concat([pd.DataFrame(rows) for name, rows in figure.spec["datasets"].items() if name != "rows"])
    bars = data.dropna(subset=["low", "high"])
    assert len(bars) == 2 * 3  # two models, three measurements whose null is drawn
    assert (bars["high"] > bars["low"]).all()
    assert "bars two standard deviations" in figure.caption
    assert "bars two standard deviations" not in charts.strips(models).caption


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("few", [False, True])
def test_the_report_shows_nulls_only_where_there_are_some(tmp_path, few):
    results = with_few_keys(made_models(a={}, b={}) if few else made_results())
    nulls = made_nulls(results)
    settings = {"measurement": {"riesz_s": 1.0}, "analysis": {"permutations": 50}}
    pages = []
    for name, given in (("with", nulls), ("without", None)):
        report = write_analysis(results, tmp_path / name, title="t", settings=settings, nulls=given)
        pages.append(report.paths["report.html"].read_text())
        assert ("tables/nulls.csv" in report.paths) == (given is not None)
        assert ("figures/nulls.svg" in report.paths) == (given is not None and not few)
    words = 'id="chance"'
    assert [words in page for page in pages] == [True, False]
    assert "Beside what chance alone gives" not in pages[1]
    assert 'id="table-of-null_distances"' in pages[0]
    for shown in NULL_TABLES.values():
        assert [str(escape(shown.caption)) in page for page in pages] == [True, False]
    written = pd.read_csv(tmp_path / "with" / "tables" / "nulls.csv")
    assert len(written) == len(nulls)


def test_nulls_of_another_point_are_those_of_its_own_counts(study):
    """`measure_nulls` reads nothing but what it is given."""
    work, measured = study[1]
    extracted = Extracted.load(work.statistics(MODEL, 0))
    bare = replace(extracted, agreement={key: extracted.agreement[key] for key in ("hits", "totals")})
    settings = work.study.measurement
    table = measure_nulls(measured, bare, None, settings)
    expected = measured.nulls[
        (measured.nulls["kind"] != UNTRAINED) & (measured.nulls["measurement"] != "nc4_agreement")
    ]
    assert table["mean"].to_numpy() == pytest.approx(expected["mean"].to_numpy(), rel=1e-12)
    pd.testing.assert_series_equal(table["kind"], expected["kind"].reset_index(drop=True))
