"""Inner layers through the stages: settings, files, tables, figures and the report; and nothing where they are off."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from model_samples import refusal, tiny
from test_measuring import SETTINGS, TALES
from test_ranks import torchrun

from lcutils import charts, extracting
from lcutils.__main__ import build_parser
from lcutils.analysis import Missing, law_of_prediction
from lcutils.analysis.layers import RESIDUALS, layer_keys
from lcutils.artifacts import file_digest
from lcutils.collapse.catalogue import COUNTS, MEASUREMENTS
from lcutils.corpus.tokenization import train_bpe
from lcutils.errors import UserError
from lcutils.features.models import load_trained
from lcutils.measuring import measure_models
from lcutils.pipeline.jobs import extract_job
from lcutils.settings import ExtractionSettings
from lcutils.stages import analyze_study, extract_point, measure_point, open_study, prepare_data, train_run

MODEL = "02x0016_01d"


pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two models of two and three blocks, trained once; each test measures them in outputs of its own."""
    from conftest import TINY

    path = tmp_path_factory.mktemp("layers") / "tiny.yaml"
    path.write_text(TINY.replace("depth: 1, width: [16, 32]", "depth: [2, 3], width: 16"))
    work = open_study(path, path.parent / "trained")
    prepare_data(work)
    for model in work.study.runs:
        train_run(work, model)
    return path


def opened(study, folder, *overrides):
    """The study with its data and runs, in a folder of its own."""
    for part in ("data", "runs"):
        (folder / "tiny").mkdir(parents=True, exist_ok=True)
        if not (folder / "tiny" / part).exists():
            (folder / "tiny" / part).symlink_to(study.parent / "trained" / "tiny" / part)
    return open_study(study, folder, list(overrides))


@pytest.fixture(scope="module")
def measured(study, tmp_path_factory):
    """The point without inner layers, and with all of them and their covariances: work and measurements of each."""
    found = {}
    for name, overrides in (("off", []), ("on", ["layers=all", "layers_law=true"])):
        work = opened(study, tmp_path_factory.mktemp(name), *overrides)
        for model, checkpoint in work.study.points:
            extract_point(work, model, checkpoint)
            found[name] = work, measure_point(work, model, checkpoint)
    return found


def test_nothing_changes_where_no_layers_are_asked_for(measured):
    """The job is that of results from before there were such keys, which stay up to date."""
    work, _ = measured["off"]
    parameters = extract_job(work, MODEL, 0).parameters
    assert set(parameters) == {"precision", "blocks_per_batch", "covariance", "min_count", "threads"}
    names = {path.name for path in work.statistics(MODEL, 0).iterdir() if not path.name.startswith(".")}
    assert names == {
        "statistics.safetensors", "head.safetensors", "agreement.npz", "texts.json", "point.json", "manifest.json",
    }  # fmt: skip
    with np.load(work.statistics(MODEL, 0) / "agreement.npz") as arrays:
        assert set(arrays) == {"hits", "totals"}
    assert measure_point(work, MODEL, 0).layers is None
    assert not (work.measurements(MODEL, 0) / "layers.parquet").exists()


def test_ordinary_values_keep_their_bits_and_are_those_of_the_layer_final(measured):
    (off, _), (on, _) = measured["off"], measured["on"]
    for name in ("statistics.safetensors", "head.safetensors", "texts.json", "point.json"):
        assert file_digest(off.statistics(MODEL, 0) / name) == file_digest(on.statistics(MODEL, 0) / name)
    for name in ("row.json", "sensitivity.csv", "tokens.parquet"):
        assert file_digest(off.measurements(MODEL, 0) / name) == file_digest(on.measurements(MODEL, 0) / name)
    table = pd.read_parquet(on.measurements(MODEL, 0) / "layers.parquet")
    assert table["layer"].tolist() == ["0", "1", "2", "final"]
    assert table["relative_depth"].tolist() == [0.0, 0.5, 1.0, 1.0]
    row = json.loads((on.measurements(MODEL, 0) / "row.json").read_text())
    keys = [key for key in (*MEASUREMENTS, *COUNTS) if key in row]
    assert list(table.columns) == ["model", "checkpoint", "layer", "relative_depth", *keys, *RESIDUALS]
    final = table.iloc[-1]
    assert {key: final[key] for key in keys} == {key: row[key] for key in keys}  # to the bit
    assert table.drop(columns=list(RESIDUALS)).notna().all().all()


def test_agreement_of_inner_layers_is_that_of_the_logit_lens(measured):
    """The head behind the final norm against the nearest mean there, by loops over float64 scores."""
    work, _ = measured["on"]
    data = prepare_data(work)
    model = load_trained(work.checkpoint(MODEL, 0), precision="fp32", device=torch.device("cpu"), tokens=0)
    inner, table = model.inner_layers(), measure_point(work, MODEL, 0).layers.set_index("layer")
    blocks = {"train": data.train, "validation": data.validation}
    streams = {layer: {} for layer in range(inner.depth + 1)}
    for split, rows in blocks.items():
        for begin in range(0, len(rows), 32):  # as the extraction has it
            tokens = torch.from_numpy(rows[begin : begin + 32].astype(np.int64))

            def keep(layer, stream, split=split):
                streams[layer].setdefault(split, []).append(inner.norm(stream)[:, :-1].flatten(0, 1).double())

            with torch.no_grad():
                inner.features(tokens, keep, streams)
    labels = {split: torch.from_numpy(rows[:, 1:].astype(np.int64)).flatten() for split, rows in blocks.items()}
    kept = labels["train"].unique()
    head = model.classifier[kept].double()
    for layer, parts in streams.items():
        train, validation = torch.cat(parts["train"]), torch.cat(parts["validation"])
        means = torch.stack([train[labels["train"] == c].mean(0) for c in kept])
        counted = torch.isin(labels["validation"], kept)
        nearest = torch.cdist(validation[counted], means).argmin(1)
        hits = ((validation[counted] @ head.T).argmax(1) == nearest).double().mean()
        assert table.loc[str(layer), "nc4_agreement"] == pytest.approx(float(hits), abs=1e-12)
    assert table.loc["2", "nc4_agreement"] == table.loc["final", "nc4_agreement"]
    assert table.loc["0", "nc4_agreement"] != table.loc["1", "nc4_agreement"]


def test_tables_figures_and_report_have_the_layers(measured):
    work, _ = measured["on"]
    analysis = analyze_study(work)
    law, names = analysis.tables["law"], {name for name in analysis.figures if "layer" in name}
    assert law["model"].unique().tolist() == ["03x0016_01d"]  # the other has two blocks, too few for a line
    layers = pd.read_csv(analysis.paths["tables/layers.csv"])
    assert len(layers) == 4 + 5
    assert names == {f"by_layer_{key}" for key in layer_keys(layers)}
    assert {"by_layer_nc1_cdnv", "by_layer_nc1_pinv", "by_layer_nc4_agreement", "by_layer_prediction_residual"} <= names
    report = analysis.paths["report.html"].read_text()
    assert 'id="layers"' in report
    assert "logit lens" in report
    for figure in (analysis.figures["law"], *(analysis.figures[name] for name in names)):
        figure.chart.to_dict(validate=True)
    assert "figures/by_layer.html" in analysis.paths
    assert "logit lens" in analysis.figures["by_layer_nc4_agreement"].caption
    assert "logit lens" not in analysis.figures["by_layer_nc1_cdnv"].caption


def test_without_layers_no_table_figure_or_section_speaks_of_them(measured):
    analysis = analyze_study(measured["off"][0])
    assert not {name for name in (*analysis.figures, *analysis.tables, *analysis.paths) if "layer" in name}
    report = analysis.paths["report.html"].read_text()
    assert 'id="layers"' not in report
    assert "logit lens" not in report


def test_chosen_layers_through_the_norm(study, tmp_path):
    work = opened(study, tmp_path, "layers=[2,0]", "layers_norm=true")
    extract_point(work, MODEL, 0)
    table = measure_point(work, MODEL, 0).layers
    assert table["layer"].tolist() == ["0", "2", "final"]
    assert not set(RESIDUALS) <= set(table.columns[table.iloc[:2].notna().any()])
    last, final = (table.iloc[place].drop(["layer", "relative_depth", "nc1_pinv"]) for place in (1, 2))
    numbers = [key for key in (*MEASUREMENTS, *COUNTS) if key in last]
    assert last[numbers].astype(float).tolist() == pytest.approx(final[numbers].astype(float).tolist(), rel=1e-6)
    assert np.isnan(table["nc1_pinv"].iloc[0])  # without covariances


RANK = """
import sys
from lcutils.stages import extract_point, open_study
extract_point(open_study(sys.argv[1], sys.argv[2], ["layers=all", "layers_law=true"]), "02x0016_01d", 0)
"""


def test_processes_of_torchrun_give_the_same_layers(study, tmp_path, measured):
    work = opened(study, tmp_path / "shared", "layers=all", "layers_law=true")
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    done = torchrun(script, study, tmp_path / "shared")
    assert done.returncode == 0, done.stderr[-3000:]
    ours, alone = measure_point(work, MODEL, 0).layers, measure_point(measured["on"][0], MODEL, 0).layers
    numbers = [key for key in alone.columns if key not in ("model", "layer")]
    np.testing.assert_allclose(ours[numbers].astype(float), alone[numbers].astype(float), rtol=1e-5, atol=1e-6)


# ----------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("given", "read"),
    [("all", "all"), (["all"], "all"), ([], ()), ([6, 0, 6], (0, 6)), (3, (3,)), ("3", (3,)), (["10", "9"], (9, 10))],
)
def test_layers_are_all_or_numbers(given, read):
    assert ExtractionSettings(layers=given).layers == read


@pytest.mark.parametrize("given", ["every", "-1", "[0, -1]", "1.5", "[true]", "[all, 1]", "{a: 1}", "[[1]]", "99999"])
def test_other_layers_are_one_line(given, study, tmp_path):
    line = refusal(open_study, study, tmp_path, [f"layers={given}"])
    assert "extraction.layers: should be all, or numbers of layers such as [0, 6, 12], not" in line


@pytest.mark.parametrize("key", ["layers_norm", "layers_law"])
def test_a_key_of_layers_without_layers_is_one_line(key, study, tmp_path):
    line = refusal(open_study, study, tmp_path, [f"{key}=true"])
    assert f"extraction.{key}: is for inner layers, and none are named; add layers: all" in line


def test_a_layer_past_the_last_block_is_refused_before_any_work(study, tmp_path):
    line = refusal(open_study, study, tmp_path, ["layers=[0,3]"])
    assert "extraction.layers: 3 is past the last of 2 blocks of grid[0]; leave it out, or write all" in line


# ---------------------------------------------------------------------------------------------- models of one's own


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shelf")
    (folder / "tales.txt").write_text("<|endoftext|>".join(TALES * 3), encoding="utf-8")
    for kind, depth in (("llama", 2), ("gpt_neox", 3)):
        tiny(kind, vocab_size=300, num_hidden_layers=depth).save_pretrained(folder / kind)
        train_bpe([TALES], 300).save_pretrained(folder / kind)
    return folder


def test_models_of_ones_own_have_their_layers(shelf, tmp_path):
    models = [shelf / "llama", shelf / "gpt_neox"]
    outcome = measure_models(models, shelf / "tales.txt", layers="all", outputs=tmp_path, overrides=SETTINGS)
    layers = outcome.analysis.tables["layers"]
    assert layers.groupby("model", sort=False).size().to_dict() == {"llama": 4, "gpt_neox": 5}
    assert layers["nc4_agreement"].notna().all()
    assert isinstance(outcome.analysis.tables["law"], Missing)
    assert 'id="layers"' in outcome.page.read_text()


def test_a_model_that_lacks_a_layer_is_one_line_before_any_work(shelf, tmp_path, monkeypatch):
    monkeypatch.setattr("lcutils.measuring.prepare_data", lambda *_: pytest.fail("work has begun"))
    line = refusal(measure_models, shelf / "llama", shelf / "tales.txt", layers=[0, 3], outputs=tmp_path)
    assert line.startswith("extraction.layers: llama has 2 blocks, so layers 0 to 2, and no layer 3;")


def test_a_model_whose_blocks_cannot_be_found_is_measured_without_them(shelf, tmp_path, monkeypatch, capsys):
    def cannot(_model, name):
        raise UserError(f"{name}: the 2 blocks of X cannot be found, so its inner layers are not measured")

    monkeypatch.setattr(extracting, "find_inner_layers", cannot)
    outcome = measure_models(shelf / "llama", shelf / "tales.txt", layers="all", outputs=tmp_path, overrides=SETTINGS)
    assert outcome.failures == {}
    assert outcome.analysis.results["nc1_cdnv"].notna().all()
    assert "layers" not in outcome.analysis.tables
    lines = [line for line in capsys.readouterr().err.splitlines() if "cannot be found" in line]
    assert lines == ["llama: the 2 blocks of X cannot be found, so its inner layers are not measured"]


@pytest.mark.parametrize(("words", "asked"), [([], False), (["--layers"], True)])
def test_the_command_line_asks_for_all_layers(words, asked, monkeypatch):
    from lcutils import __main__ as command

    seen = {}
    monkeypatch.setattr("lcutils.measuring.measure_models", lambda *_, **options: seen.update(options) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command._measure(build_parser().parse_args(["measure", "model", "--text", "built-in", *words]))
    assert seen["layers"] == ("all" if asked else ())


# -------------------------------------------------------------------------------------------------------- law, charts


def table_of(*residuals, model="m", checkpoint=0, key="prediction_residual"):
    """Layers 0 to n - 1 of a model with these residuals, and `final`."""
    names = [*map(str, range(len(residuals))), "final"]
    depth = [*np.linspace(0, 1, len(residuals)), 1.0]
    rows = {"model": model, "checkpoint": checkpoint, "layer": names, "relative_depth": depth}
    return pd.DataFrame(rows | {"nc1_quotient": 1.0 + np.arange(len(names)), key: [*residuals, residuals[-1]]})


def test_the_law_is_a_line_of_logarithms_without_the_embeddings():
    exact = table_of(0.9, *(0.8 * 0.97**k for k in range(1, 7)))
    fit = law_of_prediction(exact).iloc[0]
    assert fit["factor"] == pytest.approx(0.97, rel=1e-12)
    assert (fit["layers"], fit["r2"], fit["r"]) == (6, pytest.approx(1.0), pytest.approx(-1.0))
    assert 10 ** fit["intercept"] == pytest.approx(0.8, rel=1e-12)
    residuals = np.array([0.7, 0.66, 0.5, 0.48])
    fit = law_of_prediction(table_of(0.99, *residuals).sample(frac=1, random_state=0)).iloc[0]  # in any order
    logs, number = np.log10(residuals), np.arange(1, 5)
    assert fit["r2"] == pytest.approx(np.corrcoef(number, logs)[0, 1] ** 2, rel=1e-12)
    assert (fit["first"], fit["last"]) == (0.7, 0.48)


def test_a_law_that_cannot_be_fitted_says_why():
    assert "extraction.layers_law: true" in law_of_prediction(table_of(0.9).drop(columns="prediction_residual")).reason
    assert "3 blocks of one model" in law_of_prediction(table_of(0.9, 0.8, 0.7)).reason
    assert isinstance(law_of_prediction(table_of(0.9, 0.8, np.nan, 0.0)), Missing)


def results_of(layers, **columns):
    points = layers[["model", "checkpoint"]].drop_duplicates()
    return points.assign(family="llama", width=16, depth=3, val_loss=3.0, n_params=1000, **columns)


def test_columns_are_trainings_and_too_many_of_them_are_named():
    layers = pd.concat([table_of(0.9, 0.8, 0.7, 0.65, checkpoint=k) for k in range(9)], ignore_index=True)
    figure = charts.by_layer(layers, results_of(layers, steps=[10**k for k in range(9)]), "nc1_quotient")
    assert "Drawn: 6 of 9 trainings." in figure.caption
    assert figure.chart.to_dict(validate=True)
    assert {"1 steps", "100,000,000 steps"} <= set(figure.rows["schedule"])
    assert sorted(figure.rows["schedule_order"].unique()) == list(range(6))
    assert len(figure.rows) == 6 * 5
    law = charts.law(layers, results_of(layers))
    assert "over 9 points" in law.caption
    assert law.chart.to_dict(validate=True)


def test_a_figure_that_nothing_can_be_drawn_in_says_so():
    layers = table_of(0.9, 0.8, 0.7).assign(nc1_quotient=0.0)
    assert "No layer has a number" in charts.by_layer(layers, results_of(layers), "nc1_quotient").missing
    assert "3 blocks" in charts.law(layers, results_of(layers)).missing


@pytest.mark.parametrize(
    "overrides", [["layers=all"], ["layers=[1]", "layers_law=true"], ["layers=0", "layers_norm=true"]]
)
def test_the_plan_bounds_what_layers_take_on_the_disk(study, tmp_path, overrides):
    from lcutils.pipeline.plan import _statistics_bytes

    work = opened(study, tmp_path, *overrides)
    extract_point(work, MODEL, 0)
    folder = work.statistics(MODEL, 0)
    written = sum((folder / name).stat().st_size for name in ("statistics.safetensors", "layers.safetensors"))
    vocabulary = prepare_data(work).summary["vocab_size"]
    bound = _statistics_bytes(work.study.trained_run(MODEL), vocabulary, work.study)
    assert 0.2 * bound < written < bound + 8_000  # not all tokens occur; names and counts come on top
    plain = opened(study, tmp_path).study
    assert _statistics_bytes(work.study.trained_run(MODEL), vocabulary, plain) == 16 * vocabulary * 16 + 8 * 16**2
