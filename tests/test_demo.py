"""What `make demo` promises of its outputs."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
from conftest import lcutils_command

from lcutils.analysis import MEASUREMENTS
from lcutils.analysis.rows import POINT_COLUMNS

RESULT_COLUMNS = [*POINT_COLUMNS, "train_loss", "n_classes"]


def test_results_have_every_promised_column(demo):
    results = pd.read_csv(demo / "results.csv")
    assert results["model"].nunique() >= 6
    assert len(results) >= 12
    assert list(results.columns[: len(RESULT_COLUMNS)]) == RESULT_COLUMNS
    # The demo has no other text, and heads without a bias.
    paper = [key for key, known in MEASUREMENTS.items() if known.group == "paper"]
    wanted = [key for key in paper if key not in ("nc5_ood_deviation", "nc4_agreement_weights")]
    assert set(wanted) <= set(results.columns)
    assert results[RESULT_COLUMNS].notna().all().all()
    assert results[wanted].apply(np.isfinite).all().all()


def test_larger_models_do_better_and_all_use_context(demo):
    results = pd.read_csv(demo / "results.csv").sort_values("n_params")
    entropy = json.loads((demo / "data" / "corpus.json").read_text())["unigram_entropy"]
    best = results.groupby("model")["val_loss"].min()
    size = results.groupby("model")["n_params"].first()
    assert best[size == size.max()].min() < best[size == size.min()].min()
    assert results["val_loss"].min() < entropy - 1


def test_figures_and_report_are_there(demo):
    figures = demo / "analysis" / "figures"
    for number in (1, 2, 3):
        for ending in ("html", "svg", "png"):
            assert list(figures.glob(f"figure_{number}*.{ending}")), (number, ending)
    assert (demo / "analysis" / "report.html").stat().st_size < 5_000_000


def test_every_figure_fits_into_a_cell_of_jupyterlab(demo):
    """At a window of 1280 pixels, with the list of files open."""
    wide = {
        path.name: float(ET.parse(path).getroot().get("width", "inf")) for path in demo.glob("analysis/figures/*.svg")
    }
    assert wide
    assert {name: width for name, width in wide.items() if width > 842} == {}


def test_a_second_demo_does_nothing(demo):
    outcome = lcutils_command("sweep", "demo")
    assert outcome.returncode == 0
    assert "Nothing to be done" in outcome.stdout + outcome.stderr
    assert "outputs/demo/analysis/report.html" in outcome.stdout
