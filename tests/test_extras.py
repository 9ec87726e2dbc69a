"""Corrected measurements and spectra in a study: without a trace unless asked for, then in all that is written."""

import numpy as np
import pandas as pd
import pytest
from analysis_samples import made_results
from markupsafe import escape

from lcutils import analysis
from lcutils.analysis.rows import results_table
from lcutils.collapse.catalogue import COUNTS, MEASUREMENTS
from lcutils.collapse.disjoint import compare_parts
from lcutils.features.statistics import ClassStatistics
from lcutils.pipeline.jobs import measure_job
from lcutils.report import compute
from lcutils.report.captions import TABLES
from lcutils.stages import analyze_study, extract_point, measure_point, open_study, prepare_data, train_run

GROUPS = {
    group: [key for key, entry in (MEASUREMENTS | COUNTS).items() if entry.group == group]
    for group in ("paper", "corrected", "spectrum")
}
EXTRAS = [key for key, entry in (MEASUREMENTS | COUNTS).items() if entry.group != "paper"]
PLAIN = made_results().drop(columns=EXTRAS, errors="ignore")


def measured(work):
    for model, checkpoint in work.study.points:
        train_run(work, model)
        extract_point(work, model, checkpoint)
        yield measure_point(work, model, checkpoint)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_study_without_them_is_as_it_was_and_with_them_has_columns_behind(tiny, undrawn):
    work = open_study(tiny, tiny.parent)
    prepare_data(work)
    plain = list(measured(work))
    point = work.study.points[0]
    before = measure_job(work, *point).parameters
    assert not {"corrected", "spectrum"} & before.keys()
    analyze_study(work)
    results = pd.read_csv(work.results)
    assert not set(EXTRAS) & set(results.columns)

    tiny.write_text(tiny.read_text() + "\nmeasurement: {corrected: true, spectrum: true}\n")
    work = open_study(tiny, tiny.parent)
    assert measure_job(work, *point).parameters == before | {"corrected": True, "spectrum": True}
    assert "corrected" in measure_job(work, *point).out_of_date
    with_them = list(measured(work))
    for old, new in zip(plain, with_them, strict=True):
        assert {key: new.row[key] for key in old.row} == old.row
        pd.testing.assert_frame_equal(new.sensitivity[old.sensitivity.columns], old.sensitivity)
        assert set(EXTRAS) == new.row.keys() - old.row.keys() == set(new.sensitivity.columns) - set(old.sensitivity)
        assert isinstance(new.row["singleton_classes"], int)
    found = analyze_study(work)
    wide = pd.read_csv(work.results)
    pd.testing.assert_frame_equal(wide[results.columns], results)
    assert list(wide.columns) == [*results.columns, *EXTRAS]
    table = pd.read_csv(found.paths["tables/corrected.csv"])
    first = table[table["measurement"] == "nc1_quotient"].iloc[0]
    assert (first["plain"], first["corrected"]) == (wide["nc1_quotient"][0], wide["nc1_quotient_corrected"][0])
    report = found.paths["report.html"].read_text()
    for words in (TABLES["corrected"].caption, MEASUREMENTS["spectrum_rank_means"].definition):
        assert escape(words) in report


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_of_a_text_in_parts_the_noise_that_they_show_stands_beside(tiny):
    tiny.write_text(tiny.read_text() + "\nmeasurement: {corrected: true}\n")
    work = open_study(tiny, tiny.parent, "parts=true blocks_per_batch=1")
    prepare_data(work)
    train_run(work, "01x0016_01d")
    extracted = extract_point(work, "01x0016_01d", 0)
    row = measure_point(work, "01x0016_01d", 0).row
    compared = compare_parts([ClassStatistics.load(path) for path in extracted.parts])
    for key in ("noise_ratio", "nc1_quotient_crossed"):
        assert row[key] == pytest.approx(compared[key], rel=1e-12)
        assert np.isfinite(row[key])
    assert row["nc1_quotient_corrected_se"] > 0


def test_asking_for_one_of_them_leaves_the_other_out(tiny):
    tiny.write_text(tiny.read_text() + "\nmeasurement: {spectrum: true}\n")
    work = open_study(tiny, tiny.parent)
    parameters = measure_job(work, *work.study.points[0]).parameters
    assert parameters["spectrum"] is True
    assert "corrected" not in parameters


def test_columns_behind_all_others():
    rows = [
        {**row, "nc1_quotient_corrected": 1.0, "singleton_classes": 3, "family": "llama"}
        for row in PLAIN.to_dict("records")
    ]
    assert list(results_table(rows).columns)[-3:] == ["family", "nc1_quotient_corrected", "singleton_classes"]


def test_reports_name_only_what_the_table_has():
    assert analysis.definitions_table(analysis.known_to(PLAIN))["measurement"].tolist() == [
        k for k in GROUPS["paper"] if k in MEASUREMENTS
    ]
    wide = PLAIN.assign(spectrum_rank_means=np.linspace(2, 9, len(PLAIN)))
    assert analysis.definitions_table(analysis.known_to(wide))["measurement"].tolist()[-1] == "spectrum_rank_means"
    assert "corrected" not in compute(PLAIN.head(3), {}, {}, None, None).tables


def test_plain_beside_corrected():
    assert analysis.beside_corrected(PLAIN) is None
    rows = PLAIN.head(2).assign(nc1_quotient=[2.0, 0.0], nc1_quotient_corrected=[3.0, 0.0], nc1_cdnv_corrected=np.nan)
    rows = rows.assign(n_classes=12, singleton_classes=2, negative_pairs=9)
    table = analysis.beside_corrected(rows)
    assert table is not None
    assert table["measurement"].tolist() == ["nc1_cdnv", "nc1_quotient"] * 2
    assert table["model"].tolist() == [*rows["model"].iloc[[0, 0]], *rows["model"].iloc[[1, 1]]]
    assert table["change"].iloc[1] == 0.5
    assert table["change"].isna().tolist() == [True, False, True, True]
    assert table["singletons"].tolist() == pytest.approx([1 / 6] * 4)
    assert table["negative"].tolist() == pytest.approx([9 / 45] * 4)
