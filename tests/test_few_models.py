"""Few or pretrained models: families stay apart, base beside fine-tuned, and the words and tables of their report."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import scipy
from analysis_samples import CLASSES, made_models, made_results, made_sensitivity, made_tokens
from markupsafe import escape

from lcutils import analysis
from lcutils.analysis import MEASUREMENTS, Missing
from lcutils.analysis.definitions import towards_words
from lcutils.analysis.few import GRID, last_checkpoints, point_names, short_names, training_axis
from lcutils.charts import FIGURE_1
from lcutils.report import compute, write_analysis
from lcutils.report.sections import OF_FEW, OF_GRID

GRID_RESULTS = made_results()
ONE = made_models(
    **{"small-llama": {"note": "validation loss 11.2 is above the unigram entropy 7.1: wrong tokenizer?"}}
)
SETTINGS = {
    "title": "Few",
    "corpus": {"source": "stories.txt", "validation": "held-out.txt", "validation_share": 0.05, "seed": 0,
               "tokenizer": "hub/small-llama", "block_size": 256},
    "architecture": {"window": 256, "heads": 16},
    "training": {"batch_size": "paper", "learning_rate": 5e-5},
    "extraction": {"precision": "bf16"},
    "measurement": {"min_count": 1, "riesz_s": 1.0},
    "grid": [],
    "pretrained": {"small-llama": {"source": "hub/small-llama", "revision": None}},
}  # fmt: skip
PAIR = made_models(base={}, tuned={"base": "base"})


def visible(page: str) -> str:
    """The page without its scripts and styles."""
    return re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)


def words_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", visible(page)))


def moved_copy(tokens: pd.DataFrame, seed: int = 5) -> pd.DataFrame:
    """The same tokens under a fine-tuned model: each CDNV moved, all of them halved."""
    factor = np.exp(np.random.default_rng(seed).normal(0, 0.4, len(tokens))) / 2
    return tokens.assign(cdnv=tokens["cdnv"] * factor, norm=tokens["norm"] * 1.1)


# ------------------------------------------------------------------------------------------------ what few models are


def test_few_are_fewer_than_eight_or_none_of_a_grid():
    assert analysis.few_models(GRID_RESULTS.head(7))
    assert not analysis.few_models(GRID_RESULTS.head(8))
    many = made_models(**{f"m{i}": {} for i in range(9)})
    assert analysis.few_models(many)
    assert not analysis.few_models(pd.concat([GRID_RESULTS.head(8), many]))


@pytest.mark.parametrize("nothing", [None, np.nan, ""])
def test_a_row_without_a_family_is_of_the_grid(nothing):
    rows = made_models(a={}, b={"family": nothing})
    assert analysis.few.with_families(rows)["family"].tolist() == ["llama", GRID]
    assert "family" not in analysis.few.with_families(GRID_RESULTS)


def test_models_of_several_tokenizers_are_compared_per_character():
    rows = made_models(a={}, b={})
    assert analysis.comparable_loss(rows) == "val_loss"
    rows.loc[1, "val_loss_per_character"] *= 1.25
    assert analysis.comparable_loss(rows) == "val_loss_per_character"
    assert analysis.comparable_loss(rows.assign(val_loss_per_character=[0.7, np.nan])) == "val_loss"
    assert analysis.comparable_loss(GRID_RESULTS) == "val_loss"


def test_points_are_named_by_model_and_revision():
    rows = made_models(a={"revisions": [("step1", 1), ("", 2)]}, b={"revisions": [("main", None)]})
    assert point_names(rows).tolist() == ["a step1", "a@1", "b"]
    assert last_checkpoints(rows)["checkpoint"].tolist() == [1, 0]
    long = ["x" * 40 + "1" + "y" * 40, "x" * 40 + "2" + "y" * 40]
    assert len(set(short_names(long, 20).values())) == 2
    assert short_names(["a", "b" * 30], 11) == {"a": "a", "b" * 30: "bbbbb…bbbbb"}


def test_the_axis_of_training_is_one_that_all_rows_have():
    rows = made_models(a={"revisions": [("s1", 1), ("s9", 9)]})
    assert training_axis(rows) == "steps"
    assert training_axis(rows.assign(tokens_seen=[10.0, 90.0])) == "tokens_seen"
    assert training_axis(rows.assign(tokens_seen=[10.0, np.nan])) == "steps"
    assert training_axis(rows.assign(steps=[None, 9])) == "checkpoint"


def test_the_catalogue_says_the_same_in_words_and_numbers():
    begins = {"0 at collapse": 0.0, "1 at collapse": 1.0, "minus infinity at collapse": -np.inf}
    for key, known in MEASUREMENTS.items():
        assert known.collapsed == next(
            (value for words, value in begins.items() if known.limit.startswith(words)), None
        ), key


def test_limits_of_one_model():
    limits = analysis.limits_at(128, 900).set_index(["measurement", "limit"])["value"]
    assert limits["nc2_cosine_mean", "collapse"] == -1 / 899
    assert limits["nc2_cosine_std", "uniform sphere"] == pytest.approx(128**-0.5)
    a = 127 / 2  # from science.md
    sphere = -np.log(2) - (scipy.special.psi(a) - scipy.special.psi(2 * a)) / 2
    assert limits["gnc2_log_mean", "uniform sphere"] == pytest.approx(sphere)
    assert limits["nc3_cosine_mean", "collapse"] == 1
    assert ("gnc2_log_mean", "collapse") not in limits


# ------------------------------------------------------------------------------------------------ families stay apart


def two_families() -> pd.DataFrame:
    """Rows of a grid, and those of Llamas with the same depths and widths, whose losses are far away."""
    others = GRID_RESULTS.assign(family="llama", model="llama-" + GRID_RESULTS["model"])
    others["val_loss"] += 5 * np.random.default_rng(1).uniform(size=len(others))
    return pd.concat([GRID_RESULTS.assign(family=None), others], ignore_index=True)


def test_families_of_one_size_are_two_architectures():
    both = two_families()
    table = analysis.within_architecture(both).query("measurement == 'nc4_agreement'").set_index("architecture")
    alone = analysis.within_architecture(GRID_RESULTS).query("measurement == 'nc4_agreement'").set_index("architecture")
    assert table.loc[f"{GRID} 02x0128", "r2"] == pytest.approx(alone.loc["02x0128", "r2"])
    assert table.loc["pooled", "groups"] == 2 * alone.loc["pooled", "groups"]
    keys = [both["family"].fillna(""), both["depth"], both["width"]]
    x, y = (both[key] - both.groupby(keys)[key].transform("mean") for key in ("nc4_agreement", "val_loss"))
    assert table.loc["pooled", "r2"] == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2)


def test_seeds_of_two_families_are_two_groups():
    groups = analysis.seed_groups(two_families())
    assert set(groups["family"]) == {GRID, "llama"}
    assert (
        analysis.seed_groups(GRID_RESULTS)["seeds"].max()
        == groups["seeds"].max()
        == len(analysis.seed_rows(two_families()))
    )


# --------------------------------------------------------------------------------------------- base beside fine-tuned


def test_differences_are_those_of_the_rows():
    table = analysis.base_differences(PAIR).set_index("measurement")
    base, tuned = PAIR.iloc[0], PAIR.iloc[1]
    assert set(MEASUREMENTS) | {"val_loss", "val_accuracy", "perplexity", "val_loss_per_character"} == set(table.index)
    for key, row in table.iterrows():
        assert (row["base_value"], row["value"]) == (base[key], tuned[key])
        assert row["difference"] == pytest.approx(tuned[key] - base[key])
        assert row["relative"] == pytest.approx(tuned[key] / base[key] - 1)
    nearer = {"nc3_cosine_mean": abs(1 - tuned["nc3_cosine_mean"]) < abs(1 - base["nc3_cosine_mean"])}
    nearer["nc1_cdnv"] = tuned["nc1_cdnv"] < base["nc1_cdnv"]
    nearer["nc1_cdnv_log"] = tuned["nc1_cdnv_log"] < base["nc1_cdnv_log"]
    a = 127 / 2
    even = -np.log(2) - (scipy.special.psi(a) - scipy.special.psi(2 * a)) / 2
    nearer["gnc2_log_mean"] = abs(tuned["gnc2_log_mean"] - even) < abs(base["gnc2_log_mean"] - even)
    assert {key: table.loc[key, "collapse"] == "towards" for key in nearer} == nearer
    assert table.loc["val_loss", "collapse"] == ""
    assert table.loc["gnc2_riesz_mean", "collapse"] == ""  # its exponent is not known


def test_what_is_not_known_makes_no_difference():
    rows = PAIR.astype(object).assign(val_accuracy=[None, 0.3], n_classes=[None, 900], nc5_ood_deviation=None)
    table = analysis.base_differences(rows)
    assert {"val_accuracy", "nc5_ood_deviation"}.isdisjoint(table["measurement"])
    assert set(table["collapse"]) == {""}
    assert analysis.comparable_loss(rows.assign(val_loss_per_character=None)) == "val_loss"


def test_the_last_checkpoint_of_a_base_counts_and_strangers_make_no_pair():
    rows = made_models(base={"revisions": [("s1", 1), ("s2", 2)]}, tuned={"base": "base"}, lost={"base": "elsewhere"})
    [(base, tuned)] = analysis.base_pairs(rows)
    assert (base["checkpoint"], tuned["model"]) == (1, "tuned")
    for other in (rows.drop(columns="base"), rows.assign(base=None), rows.assign(base=rows["model"])):
        assert isinstance(analysis.base_differences(other), Missing)
        assert isinstance(analysis.moved_tokens(other, {}), Missing)


def test_tokens_that_moved_most_are_those_of_an_independent_computation():
    base = made_tokens(300)
    tuned = moved_copy(base).sample(frac=1, random_state=0)  # rows need not be in the same order
    table = analysis.moved_tokens(PAIR, {"base@0": base, "tuned@0": tuned}, most=5)
    by_id = tuned.set_index("token_id")
    often = [i for i in base["token_id"] if base["count"][i] >= 20 and base["cdnv"][i] > 0]
    ratios = {i: by_id.loc[i, "cdnv"] / base["cdnv"][i] for i in often}
    middle = np.median(list(ratios.values()))
    order = sorted(ratios, key=lambda i: -abs(np.log(ratios[i] / middle)))
    assert table["token_id"].tolist() == order[:5]
    assert table["factor"].tolist() == pytest.approx([ratios[i] / middle for i in order[:5]])
    assert table["base_norm"].tolist() == base.loc[order[:5], "norm"].tolist()
    assert table["text"].tolist() == base.loc[order[:5], "text"].tolist()


def test_models_that_share_no_token_have_none_that_moved():
    base = made_tokens(100)
    found = analysis.moved_tokens(PAIR, {"base@0": base, "tuned@0": base.assign(text=base["text"] + "!")})
    assert "share no token" in str(found)
    assert "token tables" in str(analysis.moved_tokens(PAIR, {"base@0": base}))


# -------------------------------------------------------------------------------------------------------- the report


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The report of one Llama, and its page."""
    tokens = {"small-llama@0": made_tokens(100)}
    times = pd.DataFrame({"model": ["small-llama"], "train_seconds": [None], "extract_seconds": [4.5]})
    folder = tmp_path_factory.mktemp("one")
    report = write_analysis(
        ONE, folder, title="One", settings=SETTINGS, tokens=tokens, sensitivity=made_sensitivity(ONE), times=times
    )
    return report, report.paths["report.html"].read_text()


def test_the_page_of_a_llama_says_nothing_of_other_models(one):
    report, page = one
    words = words_of(page)
    for absent in ("R²", "GPT-Neo", "gpt_neo", "AdamW", "TinyStories", "as the paper", "training text", "Table 1",
                   "Table 3", "p value", "architecture.window", "training.batch_size", "95 %", "grid"):  # fmt: skip
        assert absent not in words, absent
    for place, path in report.paths.items():
        if place.endswith(".svg"):
            assert "R²" not in path.read_text(), place
    assert not [
        place for place in report.paths if "table_3" in place or "correlations" in place or "influence" in place
    ]


def test_a_section_without_content_is_not_there(one):
    page = one[1][: one[1].index("<noscript>")]
    headings = re.findall(r'<h2 id="([^"]+)">', page)
    described = ["results", "strips", "sensitive", "corrected", "tokens", "explore", "settings", "rows"]
    assert headings == [*described, "definitions", "origin"]
    assert re.findall(r'<li><a href="#([^"]+)">', page)[: len(headings)] == headings  # and the contents name the same
    for section in re.findall(r"<section>.*?</section>", visible(page), flags=re.DOTALL):
        assert re.search("<(figure|table|li|dl|article)", section.partition("</h2>")[2])
    assert page.count('class="notice"') == 1  # the warning
    assert "Not in this report, because it takes 8 models or more: correlations" in words_of(page)


def test_the_page_says_how_to_read_the_measurements(one):
    page = one[1]
    places = [page.index(f'id="{name}"') for name in ("results", "how-to-read", "strips")]
    assert places == sorted(places)
    reading = page[places[1] : places[2]]
    keys = re.findall('href="#definition-(.*?)"', reading)
    assert keys == FIGURE_1
    assert reading.count("<math ") == len(keys) > 0
    for key in keys:
        assert towards_words(key) in reading
        assert escape(analysis.MEASUREMENTS[key].limit) in reading


def test_no_figure_has_one_dot(one):
    report, _ = one
    # A strip has the limits of theory beside the model; the others draw counts or tokens.
    drawn = {name for name, figure in report.figures.items() if figure.chart is not None}
    assert drawn == {"strips", "sensitivity", "token_kinds", "token_explorer"}


def test_values_come_first_in_words(one):
    _, page = one
    row, words = ONE.iloc[0], words_of(page)
    assert f"Validation loss {row['val_loss']:.4f} nats per token (perplexity {row['perplexity']:.4g})" in words
    assert f"on {100 * row['nc4_agreement']:.1f} % of the validation tokens; without the head" in words
    assert f"bias {100 * row['nc4_agreement_weights']:.1f} % (100 % at full collapse" in words
    assert f"their cosines are {row['nc3_cosine_mean']:.3g} on average (1 at full collapse: higher is nearer)" in words
    assert f"the mean CDNV of two classes is {row['nc1_cdnv']:.3g} (0 at full collapse: lower is nearer" in words
    assert f"all would be −{1 / (CLASSES - 1):.3g}" in words
    assert "nats per character" not in words  # nothing to compare with
    assert row["note"] in page
    assert words.index("NC4, the head decides") < words.index("Each measurement on its own scale", 900)


def test_the_configuration_is_of_what_was_measured(one):
    report, page = one
    settings = report.tables["table_2"].set_index("setting")["ours"]
    assert settings["text"] == "stories.txt"
    assert settings["precision of matrix products on a GPU"] == "bf16"
    assert settings["minimum class count"] == "1"
    assert not [name for name in settings.index if "validation_share" in name or "training" in name or "seed" in name]
    models = report.tables["models"].set_index("model").loc["small-llama"]
    assert (models["family"], models["source"], models["tokenizer"]) == ("llama", "hub/small-llama", "hub/small-llama")
    assert isinstance(report.tables["table_3"], Missing)
    assert "train seconds" not in page
    assert "extract seconds" in page


def test_failures_and_warnings_stand_near_the_top(tmp_path, undrawn):
    failures = {"a<b>@0": "cannot be loaded", "other@3": "is no\ncausal model"}
    for number, results in enumerate((made_models(a={}, b={"note": "<odd>"}), GRID_RESULTS.head(12))):
        folder = tmp_path / str(number)
        page = write_analysis(results, folder, title="x", settings={}, failures=failures).paths["report.html"]
        text = page.read_text()
        notice = text[text.index('id="not-measured"') : text.index("</div>", text.index('id="not-measured"'))]
        assert re.findall("<li>(.*?)</li>", notice) == [
            escape("a<b>@0: cannot be loaded"),
            "other@3: is no⏎causal model",
        ]
        assert text.index('id="not-measured"') < text.index("<figure")
    assert "b@0: &lt;odd&gt;" in (tmp_path / "0" / "report.html").read_text()
    assert (
        'id="not-measured"'
        not in write_analysis(ONE, tmp_path, title="x", settings={}).paths["report.html"].read_text()
    )


def test_base_and_fine_tuned_stand_beside_each_other(tmp_path):
    tokens = {"base@0": made_tokens(200), "tuned@0": moved_copy(made_tokens(200))}
    report = write_analysis(PAIR, tmp_path, title="x", settings=SETTINGS, tokens=tokens)
    page = report.paths["report.html"].read_text()
    assert '<h2 id="fine-tuned">' in page
    assert "tables/base_differences.csv" in report.paths
    pd.testing.assert_frame_equal(report.tables["moved_tokens"], analysis.moved_tokens(PAIR, tokens))
    assert 'id="drawing-moved_tokens"' in page


def test_relations_of_pretrained_models_rest_on_eight_points():
    many = made_models(**{f"m{i}": {"family": f"f{i % 3}"} for i in range(9)})
    many["val_loss_per_character"] *= np.linspace(1, 1.5, 9)  # so many tokenizers
    many.loc[:1, "nc3_cosine_mean"] = np.nan
    tables = compute(many, {"analysis": {"permutations": 99}}, {}, None, None).tables
    related = tables["correlations"].set_index("measurement")
    r = np.corrcoef(many["nc4_agreement"], many["val_loss_per_character"])[0, 1]
    assert related.loc["nc4_agreement", "r2"] == pytest.approx(r * r)
    assert "nc3_cosine_mean" not in related.index
    few = compute(many.head(7), {}, {}, made_sensitivity(many), None).tables
    names = ("correlations", "partial_correlations", "within_architecture", "influence", "table_1")
    assert all(isinstance(few[name], Missing) for name in (*names, "sensitivity_correlations"))


def test_pretrained_models_beside_a_grid_have_a_table_of_their_own(tmp_path, undrawn):
    both = pd.concat([GRID_RESULTS, ONE], ignore_index=True)
    report = write_analysis(both, tmp_path, title="x", settings=SETTINGS | {"grid": [{"depth": 1}]})
    models = report.tables["models"]
    assert models[models["model"] == "small-llama"]["family"].tolist() == ["llama"]
    page = report.paths["report.html"].read_text()
    assert "Table 1. R² of each measurement" in words_of(page)
    assert "tables/models.csv" in page
    assert "family" in page


@pytest.mark.parametrize("sections", [OF_FEW, OF_GRID])
def test_every_section_is_named_once(sections):
    assert len({section.anchor for section in sections}) == len(sections)
