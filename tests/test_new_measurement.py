"""How a measurement is added: a function and one entry, and it is in the rows, tables, charts and the report."""

import pandas as pd
import pytest
import torch
from torch import Tensor

from lcutils.collapse.catalogue import COUNTS, MEASUREMENTS
from lcutils.collapse.entries import Measurement
from lcutils.collapse.inputs import MeasurementInputs
from lcutils.stages import analyze_study, extract_point, measure_point, open_study, prepare_data, train_run

KEY = "nc2_norm_ratio"


def norm_ratio(inputs: MeasurementInputs) -> dict[str, Tensor]:
    """Largest over mean ||mu_c - mu_bar||: 1 for equal norms."""
    norms = inputs.classes.norms  # (K,)
    return {KEY: norms.max() / norms.mean()}


ENTRY = Measurement(
    property="NC2",
    label="largest norm",
    axis="largest over mean centred class-mean norm",
    definition="Largest over mean ||mu_c - mu_bar|| over classes.",
    function=f"{__name__}:norm_ratio",
    reads="classes",
    limit="1 at collapse",
)


def test_a_function_and_an_entry_are_enough(tiny, monkeypatch):
    monkeypatch.setitem(MEASUREMENTS, KEY, ENTRY)
    epochs, four_epochs = "epochs: 1, decay: d, checkpoints: 0", "epochs: 4, decay: d, checkpoints: [0, 1, 2, 3]"
    tiny.write_text(tiny.read_text().replace(epochs, four_epochs))  # a report of relations needs eight rows
    work = open_study(tiny, tiny.parent)
    prepare_data(work)
    for model, checkpoint in work.study.points:
        train_run(work, model)
        statistics = extract_point(work, model, checkpoint).statistics
        means = statistics.means[statistics.counts > 0]
        norms = torch.linalg.vector_norm(means - means.mean(0), dim=1)
        measured = measure_point(work, model, checkpoint)
        assert measured.row[KEY] == pytest.approx(float(norms.max() / norms.mean()), rel=1e-9)
        assert measured.sensitivity[KEY].notna().all()
    analysis = analyze_study(work)
    figures, paths = analysis.figures, analysis.paths

    results = pd.read_csv(work.results)
    assert results[KEY].notna().tolist() == [True] * 8
    counts = [key for key, entry in COUNTS.items() if entry.group == "paper"]
    assert results.columns[-len(counts) :].tolist() == [KEY, *counts[1:]]  # measurements, then counts
    for table in ("correlations", "partial_correlations", "sensitivity_correlations"):
        row = pd.read_csv(paths[f"tables/{table}.csv"]).query("measurement == @KEY").iloc[0]
        assert row["label"] == ENTRY.label
    assert ENTRY.axis in figures[f"by_width_{KEY}"].svg
    assert f"NC2 {ENTRY.label}" in figures["correlations"].svg
    assert ENTRY.axis in figures["against_loss"].svg
    report = paths["report.html"].read_text()
    for words in (f">{KEY}<", ENTRY.definition, ENTRY.limit, f"by_width_{KEY}"):
        assert words in report
