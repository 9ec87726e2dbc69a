"""The findings of `outputs/README.md`: every number again, from the committed tables; the published ones if here."""

import re

import numpy as np
import pandas as pd
import pytest

from lcutils.analysis.findings import findings
from lcutils.analysis.questions import GIVEN, NC1_BELOW, QUESTIONS, SEEDS
from lcutils.analysis.side_by_side import TABLE, agreement, open_results
from lcutils.paper import BATCH_SIZES, CLASSES, TRAIN_BLOCKS
from lcutils.parameters import ROOT, load_study
from lcutils.report.findings import BEGIN, END, facts_line, findings_section, numbers, overview, question_words
from lcutils.text import read_csv

OUTPUTS = ROOT / "outputs"
OURS, THEIRS = "tinystories-sample", "published"
PUBLISHED = ROOT.parent / "shared" / "published"
WITHIN, SPREAD = "loss within architectures", "gnc2_log_uncentred_std"
# What the hand-written part says with an interval: (table, question, measurement).
SAID = [
    *((table, question, "nc1_cdnv") for table in (OURS, THEIRS) for question in ("epochs", "loss", WITHIN, "width")),
    *((table, question, SPREAD) for table in (OURS, THEIRS) for question in ("epochs", "loss")),
    *((table, SEEDS, "gnc2_log_uncentred_cov") for table in (OURS, THEIRS)),
    (OURS, SEEDS, SPREAD),
    *((table, "weight decay", "nc3_cosine_mean") for table in (OURS, THEIRS)),
    *((table, "width", "val_loss") for table in (OURS, THEIRS)),
    *((table, "loss", "nc4_agreement") for table in (OURS, THEIRS)),
    *((table, "loss", "nc2_norm_cov") for table in (OURS, THEIRS)),
    (THEIRS, "depth", "nc3_cosine_mean"),
    (THEIRS, "depth, batches as they are", "nc3_cosine_mean"),
    (OURS, "epochs", "nc2_norm_cov"),
    (OURS, "epochs", "nc2_norm_cov_corrected"),
    *((OURS, NC1_BELOW, key) for key in ("nc1_cdnv", "nc1_cdnv_galanti", "nc1_cdnv_log", "nc1_quotient")),
    (THEIRS, NC1_BELOW, "nc1_cdnv_scaled"),
    (OURS, "epochs", "nc1_quotient"),
    (OURS, "epochs", "nc1_cdnv_log"),
    *((table, "loss", key) for table in (OURS, THEIRS) for key in ("nc2_cosine_cov", "nc2_cosine_std")),
]


@pytest.fixture(scope="module")
def committed():
    return read_csv(OUTPUTS / "findings.csv")


@pytest.fixture(scope="module")
def page():
    return (OUTPUTS / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def written(page):
    """The part that people wrote, as one line."""
    return " ".join(page[page.index("## Findings") : page.index(BEGIN)].split())


@pytest.fixture(scope="module")
def results():
    return open_results(OUTPUTS / OURS)


def same(found, table):
    """Whether findings are those that were committed, to rounding."""
    kept = table.drop(columns=[TABLE, "agreement"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(
        found.fillna({"note": ""}), kept.fillna({"note": "", "property": "", "scale": ""}), rtol=1e-6
    )


def test_ours_are_those_of_the_committed_rows(committed, results):
    same(findings(results), committed[committed[TABLE] == OURS])


def test_the_readme_says_no_more_than_they_do(committed):
    """Its three sentences, claim by claim."""
    said = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    verdicts = committed.set_index([TABLE, "question", "measurement"])["verdict"]
    paper = committed[committed["holm_group"] == "paper"]
    longer = paper[(paper["question"] == "epochs") & (paper["verdict"] == "towards collapse")]
    both = set.intersection(*(set(longer[longer[TABLE] == table]["property"]) for table in (OURS, THEIRS)))
    assert both == {"NC1", "NC3", "UNC3", "NC4"}
    assert "longer training goes towards collapse by NC1, NC3, UNC3 and NC4, as in the authors' table" in said
    for table in (OURS, THEIRS):
        falls = paper[
            (paper[TABLE] == table) & (paper["question"] == "loss") & (paper["verdict"] == "towards collapse")
        ]
        assert both <= set(falls["property"])
    assert "and so do lower losses" in said
    ours = paper[(paper[TABLE] == OURS) & (paper["verdict"] == "towards collapse")].groupby("question")["property"]
    assert set(ours.get_group("width")) == {"NC1", "UNC3"}
    assert "depth" not in ours.groups
    assert "Width goes with NC1 and UNC3 alone, and depth with nothing" in said
    assert {verdicts[OURS, question, "val_loss"] for question in ("width", "depth")} == {"no direction shown"}
    assert "on text so short that larger models are not better" in said
    assert verdicts[OURS, NC1_BELOW, "nc1_quotient"] == "away from collapse"
    assert "below 4.5 nats better models spread *more* within classes" in said


def test_the_published_are_those_of_the_published_tables(committed):
    if not PUBLISHED.is_dir():
        pytest.skip("the published tables are not beside the checkout")
    same(findings(open_results(PUBLISHED)), committed[committed[TABLE] == THEIRS])


def test_agreement_follows_from_the_verdicts(committed):
    for _, rows in committed.groupby(["question", "measurement"]):
        assert set(rows["agreement"]) == {agreement(dict(zip(rows[TABLE], rows["verdict"], strict=True)), 2)}


def test_the_page_says_what_the_table_of_findings_says(committed, page, results):
    assert overview(committed) in page
    assert facts_line(OURS, results) in page
    assert all(question_words(committed, name) in page for name in QUESTIONS)
    if not PUBLISHED.is_dir():
        pytest.skip("the published tables are not beside the checkout")
    tables, (begin, end) = {OURS: results, THEIRS: open_results(PUBLISHED)}, (page.index(BEGIN), page.index(END))
    command = re.search(r"^lcutils compare .*$", page[begin:end], re.MULTILINE)
    assert command
    assert page[begin:end] == f"{BEGIN}\n{findings_section(committed, tables, command[0])}\n"


def test_every_interval_that_people_wrote_is_a_finding(committed, written):
    rows = committed.set_index([TABLE, "question", "measurement"])
    known = {place: rows.loc[place].to_dict() for place in SAID}
    intervals = re.findall(r"−?\d\.\d\d†? \(−?\d\.\d\d to −?\d\.\d\d\)", written)
    assert sorted(set(intervals)) == sorted({numbers(row) for row in known.values()})
    counted = re.findall(r"(−?\d\.\d\d†?) \(−?\d\.\d\d to −?\d\.\d\d\)[^.:;]{0,40}?,? n = (\d+)", written)
    said = {(numbers(row).split(" ")[0], str(row["n"])) for row in known.values()}
    assert set(counted) <= said
    assert len(counted) >= 20


def verdicts(committed, table, question, verdict):
    """The paper's measurements of a verdict, by their key's first part."""
    chosen = committed[
        (committed[TABLE] == table) & (committed["question"] == question) & (committed["holm_group"] == "paper")
    ]
    return {key.partition("_")[0] for key in chosen.loc[chosen["verdict"] == verdict, "measurement"]}


def test_what_people_wrote_of_directions(committed):
    """Each claim of the text, by the verdicts: the sets that it names, no more and no fewer."""
    both = {
        question: verdicts(committed, OURS, question, "towards collapse")
        & verdicts(committed, THEIRS, question, "towards collapse")
        for question in QUESTIONS
    }
    four = {"nc1", "nc3", "unc3", "nc4"}
    assert all(both[question] == four for question in ("epochs", "loss", WITHIN, GIVEN))
    assert both[SEEDS] == {"gnc2", "nc3"}
    assert both["weight decay"] == {"nc3"}
    assert both["width"] == verdicts(committed, OURS, "width", "towards collapse") == {"nc1", "unc3"}
    assert not verdicts(committed, OURS, "depth", "towards collapse")
    paper = committed[(committed["holm_group"] == "paper") & (committed[TABLE] == THEIRS)].set_index("measurement")
    width, depth = (paper[paper["question"] == question]["verdict"] for question in ("width", "depth"))
    assert (width.drop("nc2_cosine_cov") == "towards collapse").all()
    assert width["nc2_cosine_cov"] == "away from collapse"
    assert ((depth == "towards collapse").sum(), len(depth)) == (5, 7)
    decay = committed.query("question == 'weight decay' and holm_group == 'paper' and verdict == 'towards collapse'")
    assert decay.groupby(TABLE).size().to_dict() == {OURS: 1, THEIRS: 6}
    told = committed.set_index([TABLE, "question", "measurement"])["verdict"]
    assert told[THEIRS, "width", "val_loss"] == "lower loss"
    assert told[OURS, "width", "val_loss"] == "no direction shown"
    assert {told[OURS, question, "nc2_log_norm_cov"] for question in ("epochs", "loss")} == {"cannot be told"}
    assert told[OURS, "loss", "gnc2_log_uncentred_cov"] == "cannot be told"
    assert {told[table, "epochs", SPREAD] for table in (OURS, THEIRS)} == {"towards collapse"}
    assert told[OURS, "epochs", "nc2_norm_cov_corrected"] == "towards collapse"
    assert told[OURS, "epochs", "nc2_norm_cov"] == told[OURS, "epochs", "nc1_cdnv_log"] == "no direction shown"
    below = {key: told[OURS, NC1_BELOW, f"nc1_{key}"] for key in ("cdnv", "cdnv_galanti", "cdnv_log", "quotient")}
    assert list(below.values()) == ["towards collapse"] * 2 + ["away from collapse"] * 2
    assert told[OURS, "epochs", "nc1_quotient"] == "away from collapse"


def test_what_people_wrote_of_text_losses_and_decay(written, results):
    assert len(results) == 230
    ends = results.query("depth == 12 and epochs == 10 and checkpoint == 9 and weight_decay < 0.01")
    ends = ends.set_index("width")["val_loss"].sort_index().round(2)
    assert ends.tolist() == [3.19, 2.72, 3.22, 3.85, 4.17, 4.48]
    assert "ten epochs of 12 layers, with the smaller decay, end at" in written
    assert "3.19 nats at width 64, 2.72 at 128, and at 3.22, 3.85, 4.17 and 4.48 at 256 to 1024" in written
    tried = (
        pd.read_csv(OUTPUTS / OURS / "learning_rates.csv").set_index(["run", "checkpoint", "learning_rate"]).round(2)
    )
    losses = tried["val_loss"]
    assert (losses["12x1024_01d", 0, 1e-3], losses["12x1024_01d", 0, 5e-4]) == (4.18, 4.07)
    assert "12x1024 after one epoch is at 4.18 nats, and at 4.07 with half of it" in written
    both = tried[["train_loss", "val_loss"]]
    assert both.loc[("02x0768_03d", 2, 1e-3)].tolist() == [3.67, 3.87]
    assert both.loc[("04x0256_03d", 2, 1e-3)].tolist() == [3.72, 3.87]
    assert "2x768 is at 3.67 nats on its training text and 3.87 on validation text, 4x256 at 3.72 and 3.87" in written
    assert (losses["02x0064_01d", 0, 1e-3], losses["02x0064_01d", 0, 4e-3]) == (6.92, 5.52)
    assert "2x64 after one epoch is at 6.92 nats, and at 5.52 with four times the rate" in written
    long = results[results["epochs"] == 10].pivot_table(index="model", columns="checkpoint", values="val_loss")
    assert (len(long), (long[9] > long[5]).sum()) == (60, 6)
    assert "in six of our 60 long trainings the loss rises from epoch 6 to epoch 10" in written
    one = results.query("depth == 1 and width == 1024 and weight_decay < 0.01").set_index(["epochs", "checkpoint"])
    assert one["val_loss"].round(2)[[(3, 2), (10, 9)]].tolist() == [3.91, 4.19]
    assert "1x1024 falls to 3.91 nats in three epochs and ends ten at 4.19" in written
    decayed = results[results["weight_decay"] == 0.1]["steps"].max()
    theirs = 10 * -(-TRAIN_BLOCKS // min(BATCH_SIZES.values()))
    rate = load_study("tinystories").training.learning_rate
    shrunk = [np.exp(-one * 0.1 * steps / 2) for one, steps in ((rate, decayed), (5e-5, theirs))]
    assert f"to {100 * shrunk[0]:.0f} % at most here ({decayed:,} steps), to {100 * shrunk[1]:.0f} % there" in written
    assert f"({theirs:,})" in written
    below = results[results["val_loss"] < 4.5]
    assert round(np.corrcoef(below["nc4_agreement"], below["val_loss"])[0, 1], 2) == -0.88
    assert results.loc[results["val_loss"] >= 4.5, "nc4_agreement"].max() < 0.03
    assert "below it r is −0.88" in written
    classes, single = results["n_classes"].median(), (results["singleton_classes"] / results["n_classes"]).median()
    assert f"Ours are {classes:,.0f} classes, a fifth of them with one sample, the paper's {CLASSES:,}" in written
    assert round(single, 1) == 0.2
    assert f"instead of {TRAIN_BLOCKS:,}" in written
