"""The report and the files beside it: complete, sound, self-contained; odd tables give sentences, never a traceback."""

from __future__ import annotations

import base64
import gc
import gzip
import io
import json
import re
import weakref
import xml.etree.ElementTree as ET
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from analysis_samples import few_columns, made_results, made_sensitivity, made_tokens, visible
from markupsafe import escape

from lcutils import analysis
from lcutils.analysis.definitions import towards_words
from lcutils.analysis.findings import findings
from lcutils.analysis.origin import origin_words
from lcutils.charts import FIGURE_1
from lcutils.report import FEW_FINDINGS, NO_FINDINGS, best_first, body, compute, write_analysis
from lcutils.report.captions import TABLES
from lcutils.report.mathml import mathml
from lcutils.report.pictures import DRAWN
from lcutils.report.sections import OF_GRID
from lcutils.report.words import describe_models

RESULTS = made_results()
FEW = few_columns(RESULTS)
SETTINGS = {
    "title": "A <study> & more",
    "corpus": {"source": "built-in"},
    "grid": [{"depth": 1}],
    "analysis": {"permutations": 99, "names": ["Tim", "Anna", "Zed"]},
}
FIGURES = [
    "figure_1", "figure_2", "figure_3", "seeds", "correlations", "sensitivity", "trajectories", "losses",
    "against_loss",
    "free_scatter",
    "overlaid", "beside_published", "token_kinds", "token_explorer",
]  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    tokens = {"01x0064_03d@0": made_tokens(100), "04x0256_03d@2": made_tokens(300)}
    folder = tmp_path_factory.mktemp("written")
    return write_analysis(
        FEW,
        folder,
        title=SETTINGS["title"],
        settings=SETTINGS,
        tokens=tokens,
        sensitivity=made_sensitivity(FEW),
        published=FEW,
        times=pd.DataFrame({"model": ["01x0064_03d"], "train_seconds": [12.5], "compile_seconds": [30.25]}),
    )


@pytest.fixture(scope="module")
def written(report):
    return report.paths


@pytest.fixture(scope="module")
def text(written):
    return written["report.html"].read_text()


def test_every_figure_is_there_in_three_forms(written):
    for name in FIGURES:
        assert ET.fromstring(written[f"figures/{name}.svg"].read_text()).tag.endswith("svg")
        assert written[f"figures/{name}.png"].read_bytes()[:4] == b"\x89PNG"
        assert f'data-name="{name}"' in written[f"figures/{name}.html"].read_text()
    for key in ("nc1_cdnv", "gnc2_log_cov", "nc4_agreement"):
        assert written[f"figures/by_width_{key}.svg"].is_file()
        assert f'id="spec-by_width_{key}"' in written["figures/by_width.html"].read_text()


def test_figures_and_tables_are_handed_back_by_name(report):
    keys = [key for key in FEW.columns if key in analysis.MEASUREMENTS]
    assert list(report.figures) == [*FIGURES, *(f"by_width_{key}" for key in keys)]
    assert report.figures["figure_1"].chart is not None
    again = pd.read_csv(report.paths["tables/table_1.csv"])
    assert report.tables["table_1"]["r2"].to_list() == pytest.approx(again["r2"].to_list(), nan_ok=True)
    assert {
        f"tables/{name}.csv" for name, table in report.tables.items() if not isinstance(table, analysis.Missing)
    } == {place for place in report.paths if place.startswith("tables/")}


def test_every_table_of_the_report_has_its_caption(report, text):
    optional = {"models", "corrected", "errors", "settling", "convergence", "null_distances", "nulls", "layers", "law"}
    assert set(report.tables) == set(TABLES) - optional  # which not all have
    for name in report.tables:
        assert escape(TABLES[name].caption) in text


def test_no_half_written_file_is_left(written):
    folder = written["report.html"].parent
    files = {path for path in folder.rglob("*") if path.is_file()}
    assert files - {folder / "figures" / DRAWN} == set(written.values())


def test_tables_hold_what_was_computed(written):
    again = pd.read_csv(written["tables/results.csv"])
    assert set(again.pop("origin")) == {"measured here"}
    pd.testing.assert_frame_equal(again, FEW.reset_index(drop=True), check_dtype=False)
    table = pd.read_csv(written["tables/correlations.csv"]).set_index("measurement")
    r = np.corrcoef(FEW["nc4_agreement"], FEW["val_loss"])[0, 1]
    assert table.loc["nc4_agreement", "r2"] == pytest.approx(r * r)
    assert "Zed" in pd.read_csv(written["tables/table_5.csv"])["token"].to_list()  # the names are the study's
    changes = pd.read_csv(written["tables/influence.csv"])["change"].abs()
    assert changes.is_monotonic_decreasing


def test_the_table_of_all_rows_shows_what_a_reader_reads(tmp_path):
    """Errors, nulls, corrections and counts stand in the CSV alone; whatever else a point is said to be stays."""
    companions = [
        "nc1_cdnv_null", "nc1_cdnv_null_sd", "nc1_cdnv_corrected", "nc1_cdnv_se", "nc1_cdnv_corrected_se",
        "val_loss_se", "nc1_quotient_crossed", "noise_ratio", "negative_pairs", "nc1_zero_pairs",
    ]  # fmt: skip
    known = ["n_classes", "nc1_cdnv_log", "spectrum_rank_means", "val_loss_per_character", "note", "dataset"]
    results = FEW.assign(**dict.fromkeys(companions, 0.5), **dict.fromkeys(known, 7), model=FEW["model"])
    written = write_analysis(results, tmp_path, title="x", settings={}).paths
    table = re.search('<h2 id="rows">(.*?)</table>', written["report.html"].read_text(), re.DOTALL)[1]
    heads = {re.sub("<.*?>", "", head).replace(" ", "_") for head in re.findall("<th.*?>(.*?)</th>", table)}
    assert heads == set(FEW.columns) | set(known)
    assert "tables/results.csv has all columns." in table
    assert {*companions, *known} <= set(pd.read_csv(written["tables/results.csv"]).columns)


def test_limits_of_the_riesz_kernel_are_of_the_studys_exponent():
    results = FEW.assign(gnc2_riesz_mean=np.linspace(0.45, 0.75, len(FEW)))
    contents = compute(results, {"measurement": {"riesz_s": 2.0}}, {}, None, None)
    for name in ("against_loss", "by_width_gnc2_riesz_mean"):
        assert "0.50819" in json.dumps(contents.figures[name].spec)  # of a uniform sphere at width 64


def test_the_page_needs_no_network(text):
    head = text[: text.index("<style>")]
    assert "default-src 'none'" in head
    assert "connect-src 'none'" in head
    markup = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=[\"'](?!data:)", markup)
    assert not re.findall(r"<script[^>]+src", text)
    assert len(text) < 5_000_000


def test_every_link_within_the_page_has_its_target(text):
    visible = text[: text.index("<noscript>")]
    ids = re.findall(r'\bid="([^"]+)"', visible)
    assert len(ids) == len(set(ids))
    targets = set(re.findall(r'href="#([^"]+)"', visible))
    assert targets - set(ids) == set()
    for row in FEW.itertuples():
        assert f"row-{row.model}@{row.checkpoint}" in ids


def test_links_to_files_lead_to_files(written, text):
    places = set(re.findall(r'href="((?:tables|figures)/[^"]+)"', text))
    assert "tables/correlations.csv" in places
    assert places <= set(written)


def test_titles_and_tokens_cannot_break_the_page(text):
    assert "A <study>" not in text
    assert escape(SETTINGS["title"]) in text
    assert "</script><b>" not in text


def test_the_report_says_where_it_comes_from(text):
    for words in ("sha256", "arXiv:2405.17767", "corpus.source", "built-in", "statsmodels", "To cite this report"):
        assert words in text
    assert "<dt>analysis.names</dt><dd>Tim, Anna, Zed</dd>" in text  # as Table 2 says it
    for measurement in analysis.MEASUREMENTS.values():
        assert (escape(measurement.definition) in text) == (measurement.group == "paper")


def test_a_report_without_git_or_a_checkout_says_that_its_commit_is_not_known(monkeypatch, tmp_path, undrawn):
    monkeypatch.setattr(body, "git_commit", lambda: None)
    page = write_analysis(FEW.head(3), tmp_path, title="x", settings={}).paths["report.html"].read_text()
    assert "(commit not known)" in page
    assert "<dt>commit</dt><dd>not known</dd>" in page


def test_without_pictures_a_report_has_its_charts_and_links_to_no_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "lcutils.report.pictures.draw_all", lambda specs, *_: {name: pytest.fail(name) for name in specs}
    )
    settings = {"analysis": {"permutations": 50, "pictures": False}}
    written = write_analysis(FEW, tmp_path, title="x", settings=settings).paths
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".svg", ".png")]
    for place in ("report.html", "figures/figure_1.html", "figures/by_width.html"):
        page = written[place].read_text()
        assert 'class="drawing"' in page
        assert ".svg" not in re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
        assert "SVG and PNG" not in page


def test_every_figure_and_table_has_its_place_on_the_page(report):
    placed = {name for section in OF_GRID for name in (*section.figures, *section.tables)}
    elsewhere = {"token_explorer", "results", "measurements"}  # shown in a way of their own
    drawn = {name for name in report.figures if not name.startswith("by_width_")}
    assert drawn | set(report.tables) | {"nulls", "law", "corrected", "models", "errors"} <= placed | elsewhere


def test_a_column_without_a_value_is_not_shown(tmp_path):
    results = FEW.assign(nc5_ood_deviation=np.nan)
    page = write_analysis(results, tmp_path, title="x", settings={}).paths["report.html"].read_text()
    rows = page[page.index('<h2 id="rows">') : page.index('<h2 id="definitions">')]
    assert "nc4 agreement</a></th>" in rows
    assert "nc5 ood deviation" not in rows


def test_many_origins_are_counted_not_listed():
    dates = [f"measured here, 2026-11-{day:02} (commit abc)" for day in range(1, len(FEW) + 1)]
    words = origin_words(FEW.assign(origin=dates))
    assert words.startswith(f"{len(FEW)} rows measured here at {len(FEW)} times or commits")


def test_a_measurement_without_a_value_is_named_with_the_reason(text):
    said = re.search('<p id="no-value">.*?</ul>', visible(text), re.DOTALL)[0]
    lacking = {key for key, entry in analysis.MEASUREMENTS.items() if entry.group == "paper"} - set(FEW.columns)
    assert set(re.findall("<code>(.*?)</code>", said)) == lacking
    assert "no out-of-distribution text was measured" in said


def test_the_order_is_what_was_measured_results_figure_1_and_how_to_read_it(text):
    places = [text.index(f'id="{name}"') for name in ("measured", "results", "figure_1", "how-to-read", "figure_2")]
    assert places == sorted(places)


def test_formulas_are_mathml_and_every_name_leads_to_its_definition(text):
    for key, entry in analysis.MEASUREMENTS.items():
        formula = ET.fromstring(mathml(entry.formula).replace("&#160;", " "))
        assert formula.tag == "math"
        assert "\\" not in "".join(formula.itertext()), key
        if entry.group == "paper":
            assert f'id="definition-{key}"' in text
    reading = text[text.index('id="how-to-read"') : text.index('id="figure_2"')]
    drawn = [key for key in FIGURE_1 if key in FEW]
    assert re.findall('href="#definition-(.*?)"', reading) == drawn
    assert reading.count("<math ") == len(drawn)
    for key in drawn:
        assert towards_words(key) in reading
        assert escape(analysis.MEASUREMENTS[key].limit) in reading
    row = re.search(r'id="table-of-correlations".*?<tbody>(.*?)</tbody>', text, re.DOTALL)[1]
    assert set(re.findall('href="#definition-(.*?)"', row)) == set(pd.Index(analysis.measurements_in(FEW)))


def test_an_unknown_command_of_a_formula_is_named():
    with pytest.raises(ValueError, match=r"\\oint is not among"):
        mathml(r"\oint x")


def test_the_paragraph_of_results_follows_the_table_of_relations(report, text):
    table = report.tables["correlations"].set_index("measurement").loc[[key for key in FIGURE_1 if key in FEW]]
    said = re.search(r'<h2 id="results">.*?<p>(.*?)</p>', text, re.DOTALL)[1]
    logged = [analysis.MEASUREMENTS[key].log and pd.notna(table.loc[key, "r2_log"]) for key in table.index]
    ways = [row["collapse_log" if log else "collapse"] for log, (_, row) in zip(logged, table.iterrows(), strict=True)]
    ways = [
        way if row.p_holm < 0.05 or not way else "unclear" for way, row in zip(ways, table.itertuples(), strict=True)
    ]
    for way, words in body.WAYS.items():
        if way and way in ways:
            names = "; ".join(f"{row['property']} {row['label']}"
                              for own, (_, row) in zip(ways, table.iterrows(), strict=True) if own == way)  # fmt: skip
            assert f"By {ways.count(way)} of {len(ways)} measurements of Figure 1 {words}: {names}." in said
        elif way:
            assert f"{words}:" not in said
    best = FEW.loc[FEW["val_loss"].idxmin()]
    assert f"{best['model']}@{best['checkpoint']}</a> with {best['val_loss']:.4f}" in said


def test_the_words_of_a_model_say_the_directions_of_the_catalogue():
    """What `report.words` says of a limit and of the nearer way is what the catalogue has measured."""
    keys = [*KEYS_IN_WORDS, "nc1_cdnv"]
    values = dict.fromkeys([*keys, "nc2_cosine_mean", "nc2_cosine_std"], 0.5)
    results = pd.DataFrame([{"model": "a", "checkpoint": 0, **values}])
    said = " ".join(describe_models(results)[0].sentences)
    for key, start in KEYS_IN_WORDS.items():
        sentence = said[said.index(start) :].partition("nearer")[0]
        entry = analysis.MEASUREMENTS[key]
        limit = f"{entry.collapsed * 100:.0f} %" if key == "nc4_agreement" else f"{entry.collapsed:.0f}"
        assert f"{limit} at full collapse" in sentence
        assert {"down": "lower", "zero": "lower", "up": "higher"}[entry.direction] in sentence
    cdnv = analysis.MEASUREMENTS["nc1_cdnv"]
    assert ("CDNV also falls when features merely grow" in said) == (cdnv.scale == "power" and cdnv.power < 0)


KEYS_IN_WORDS = {
    "nc1_quotient": "NC1, ", "nc2_norm_cov": "NC2, ", "nc3_cosine_mean": "NC3, ", "nc4_agreement": "NC4, ",
    "nc5_ood_deviation": "NC5, ",
}  # fmt: skip


def specification(page: str, name: str) -> dict:
    """The Vega-Lite specification that a page carries for a figure."""
    [packed] = re.findall(f'id="spec-{name}">([^<]+)<', page)
    text = gzip.decompress(base64.b64decode(packed)).decode()
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_figures_survive_the_page(report, text):
    for name in re.findall(r'id="spec-([^"]+)"', text):
        if name in report.figures:
            assert specification(text, name) == report.figures[name].spec


def test_the_explorer_carries_all_tokens_of_the_best_models_first(text):
    for name, label, classes in (("token_explorer", "04x0256_03d@2", 300), ("token_explorer_1", "01x0064_03d@0", 100)):
        spec, tokens = specification(text, name), made_tokens(classes)
        assert spec["title"]["text"] == f"Token explorer, {label}"
        carried = pd.read_csv(io.StringIO(spec["datasets"]["rows"]), keep_default_na=False)
        assert carried["text"].to_list() == tokens["text"].to_list()
        assert carried["nearest"].to_list() == [" ".join(map(str, ids)) for ids in tokens["nearest_ids"]]
        assert carried["cdnv"].to_list() == pytest.approx(tokens["cdnv"].to_list(), rel=1e-4)
        assert (carried["agreement"] == "").to_list() == tokens["agreement"].isna().to_list()


def test_the_explorer_leaves_out_what_is_too_much_and_says_so(monkeypatch, tmp_path, undrawn):
    tokens = {str(i): made_tokens(200) for i in range(5)}
    monkeypatch.setattr(body, "TOKEN_BUDGET", 50_000)
    written = write_analysis(FEW.head(3), tmp_path, title="x", settings={}, tokens=tokens).paths
    page = written["report.html"].read_text()
    kept = len(re.findall(r'id="spec-token_explorer', page))
    assert 1 <= kept < 5
    assert f"Carried in this page: {kept} of 5 token tables" in page


class Read(Mapping):
    """Forty token tables, each made when it is asked for: which were, and how many of them were held at once."""

    def __init__(self):
        self.asked, self.most, self.made = [], 0, []

    def __getitem__(self, name):
        gc.collect()
        self.asked.append(name)
        table = made_tokens(200)
        self.made.append(weakref.ref(table))
        self.most = max(self.most, sum(made() is not None for made in self.made))
        return table

    def __iter__(self):
        return map(str, range(40))

    def __len__(self):
        return 40


def test_only_the_token_tables_that_are_shown_are_read_and_none_is_kept(monkeypatch, tmp_path, undrawn):
    tokens = Read()
    monkeypatch.setattr(body, "TOKEN_BUDGET", 50_000)
    page = write_analysis(FEW.head(3), tmp_path, title="x", settings={}, tokens=tokens).paths["report.html"].read_text()
    kept = len(re.findall(r'id="spec-token_explorer', page))
    assert f"Carried in this page: {kept} of 40 token tables" in page
    # One for charts and Table 5, those that the page carries, and the one that was too much.
    assert tokens.asked == ["0", *map(str, range(kept + 1))]
    assert tokens.most <= 2
    gc.collect()
    assert not [made for made in tokens.made if made() is not None]


ODD = {
    "one row": FEW.head(1),
    "no seeds, one architecture": FEW[(FEW["depth"] == 1) & (FEW["width"] == 64)].drop(
        columns=["seed", "n_params", "steps"]
    ),
    "nothing measured": FEW[FEW.columns[:14]],
    "nan everywhere": FEW.assign(val_loss=np.nan, nc1_cdnv=np.nan),
    "names and a loss": FEW[["model", "checkpoint", "val_loss"]],
    "no rows": FEW.head(0),
}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_table_gives_a_report_with_plain_sentences(case, tmp_path):
    written = write_analysis(ODD[case], tmp_path, title=case, settings={}).paths
    text = written["report.html"].read_text()
    if len(ODD[case]) < analysis.FEW:  # few models: nothing is said of what is missing but one line at the end
        assert 'class="notice"' not in text[: text.index("<noscript>")]
        assert "Not in this report, because it takes 8 models or more" in text
        return
    lacking = text[text.index('<h2 id="lacking">') : text.index('<h2 id="origin">')]
    said = re.findall(r"<li>(.*?)</li>", lacking)
    assert said
    assert all(sentence.endswith(".") for sentence in said)
    assert any("token table" in sentence for sentence in said)


def test_tokens_and_sensitivity_may_be_empty(tmp_path):
    empty = made_tokens().head(0)
    sensitivity = made_sensitivity(FEW).head(0)
    written = write_analysis(FEW, tmp_path, title="x", settings={}, tokens={"a@0": empty}, sensitivity=sensitivity)
    assert "report.html" in written.paths


def test_best_first_orders_by_loss_and_keeps_strangers_last():
    order = best_first({"elsewhere@9": 0, "01x0064_03d@0": 1, "04x0256_03d@2": 2}, RESULTS)
    assert list(order) == ["04x0256_03d@2", "01x0064_03d@0", "elsewhere@9"]


def test_what_develops_with_what_stands_in_signs_and_in_numbers(report, text):
    """The paper's measurements alone, with the numbers that all findings of the table have for them."""
    found, signs = report.tables["findings"], report.tables["what_develops_with_what"].set_index("question")
    whole = findings(FEW, trials=99)
    kept = whole[whole["measurement"].isin(found["measurement"]) & whole["question"].isin(found["question"])]
    pd.testing.assert_frame_equal(found, kept.reset_index(drop=True))
    assert set(found["measurement"]) == {"unc3_cosine_cov", "nc1_cdnv", "nc4_agreement", "val_loss"}
    assert signs.columns.tolist() == ["NC1", "UNC3", "NC4", "validation loss"]
    assert signs.loc["loss", "NC1"] == "●"
    assert 'id="table-of-what_develops_with_what"' in text
    assert (
        text.index('id="table-of-what_develops_with_what"')
        < text.index('id="table-of-table_1"')
        < text.index('id="table-of-findings"')
    )


def test_a_table_whose_points_cannot_be_compared_says_so():
    bare = FEW[["model", "val_loss", "nc1_cdnv"]]
    tables = compute(bare, {}, {}, None, None).tables
    assert str(tables["what_develops_with_what"]) == str(tables["findings"]) == NO_FINDINGS


def test_four_architectures_are_too_few_to_say_what_develops():
    four = FEW[(FEW["depth"] < 4) & (FEW["width"] < 256)]
    tables = compute(four, {}, {}, None, None).tables
    assert str(tables["what_develops_with_what"]) == str(tables["findings"]) == FEW_FINDINGS
