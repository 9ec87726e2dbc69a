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
OURS, THEIRS, EARLIER = "tinystories-sample", "published", "sample-h200"
PUBLISHED = ROOT.parent / "shared" / "published"
WITHIN = "loss within architectures"
# What the hand-written part says with an interval: (table, question, measurement).
SAID = [
    *((table, question, "nc1_cdnv") for table in (OURS, THEIRS) for question in ("epochs", "loss", WITHIN)),
    *((table, SEEDS, "gnc2_log_uncentred_cov") for table in (OURS, THEIRS)),
    (OURS, SEEDS, "gnc2_log_uncentred_std"),
    *((table, "weight decay", "nc3_cosine_mean") for table in (OURS, THEIRS)),
    *((table, "width", "val_loss") for table in (OURS, THEIRS)),
    *((table, "loss", "nc4_agreement") for table in (OURS, THEIRS)),
    (OURS, "width", "nc3_cosine_mean"),
    (THEIRS, "depth", "nc3_cosine_mean"),
    (THEIRS, "depth, batches as they are", "nc3_cosine_mean"),
    (OURS, "epochs", "nc2_norm_cov"),
    (OURS, "epochs", "nc2_norm_cov_corrected"),
    *((table, NC1_BELOW, key) for table in (OURS, EARLIER) for key in ("nc1_cdnv", "nc1_cdnv_galanti", "nc1_quotient")),
    (THEIRS, NC1_BELOW, "nc1_cdnv_scaled"),
    (OURS, "epochs", "nc1_cdnv_log"),
    (THEIRS, "loss", "nc2_cosine_cov"),
    (THEIRS, "loss", "nc2_cosine_std"),
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
    assert both == {"NC1", "GNC2", "NC3", "UNC3", "NC4"}
    assert "longer training goes towards collapse by NC1, GNC2, NC3, UNC3 and NC4, as in the authors' table" in said
    wider = paper[(paper[TABLE] == OURS) & (paper["question"] == "width")]
    assert len(wider)
    assert "towards collapse" not in set(wider["verdict"])
    assert verdicts[OURS, "width", "val_loss"] == "higher loss"
    assert "Wider models do not go there, which on so little text are worse, not better" in said
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
    earlier = findings(open_results(OUTPUTS / EARLIER), trials=50, resamples=50).assign(**{TABLE: EARLIER})
    rows = pd.concat([committed, earlier]).set_index([TABLE, "question", "measurement"])
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
    assert both["epochs"] == {"nc1", "gnc2", "nc3", "unc3", "nc4"}
    assert both["loss"] == both[WITHIN] == {"nc1", "nc3", "unc3"}
    assert both[GIVEN] == {"nc1", "nc2", "unc3"}
    assert both[SEEDS] == {"gnc2", "nc3"}
    assert both["weight decay"] == {"nc3"}
    assert verdicts(committed, OURS, "width", "away from collapse") == {"nc3"}
    assert not verdicts(committed, OURS, "width", "towards collapse")
    width = committed.query(f"table == '{THEIRS}' and question == 'width' and holm_group == 'paper'").set_index(
        "measurement"
    )
    assert (width["verdict"].drop("nc2_cosine_cov") == "towards collapse").all()
    assert width.loc["nc2_cosine_cov", "verdict"] == "away from collapse"
    decay = committed.query("question == 'weight decay' and holm_group == 'paper' and verdict == 'towards collapse'")
    assert decay.groupby(TABLE).size().to_dict() == {OURS: 1, THEIRS: 6}


def test_what_people_wrote_of_text_losses_and_decay(written, results):
    widths = results.groupby("width").size()
    assert len(results) == 88
    assert "88 of the paper's 230 points" in written
    assert (64 not in widths, widths[128], widths[256]) == (True, 6, 7)
    assert "no model of width 64, six points of width 128 and seven of 256" in written
    ends = results.query("depth == 12 and epochs == 10 and checkpoint == 9").groupby("width")["val_loss"].max().round(2)
    assert ends.tolist() == [2.72, 3.22, 3.85, 4.15, 4.48]
    assert "2.72 nats at width 128, and at 3.22, 3.85, 4.15 and 4.48 at 256 to 1024" in written
    tried = (
        pd.read_csv(OUTPUTS / OURS / "learning_rates.csv").set_index(["run", "checkpoint", "learning_rate"]).round(2)
    )
    losses = tried["val_loss"]
    assert (losses["12x1024_01d", 0, 1e-3], losses["12x1024_01d", 0, 5e-4]) == (4.18, 4.07)
    assert "12x1024 after one epoch is at 4.18 nats, and at 4.07 with half of it" in written
    both = tried[["train_loss", "val_loss"]]
    assert both.loc[("02x0768_03d", 2, 1e-3)].tolist() == [3.67, 3.87]
    assert both.loc[("04x0256_03d", 2, 1e-3)].tolist() == [3.72, 3.87]
    assert both.loc[("02x0064_10d", 9, 5e-4)].tolist() == [4.16, 4.34]
    assert "2x768 is at 3.67 nats on its training text and 3.87 on validation text, 4x256 at 3.72 and 3.87" in written
    assert "at half the rate and of 2x64: 4.16, and 4.34" in written
    one = results.query("depth == 1 and width == 1024 and weight_decay < 0.01").set_index(["epochs", "checkpoint"])
    assert one["val_loss"].round(2)[[(3, 2), (10, 9)]].tolist() == [3.91, 4.19]
    assert "1x1024 falls to 3.91 nats in three epochs and ends ten at 4.19" in written
    decayed = results[results["weight_decay"] == 0.1]["steps"].max()
    theirs = 10 * -(-TRAIN_BLOCKS // min(BATCH_SIZES.values()))
    rate = load_study("tinystories").training.learning_rate
    shrunk = [np.exp(-one * 0.1 * steps / 2) for one, steps in ((rate, decayed), (5e-5, theirs))]
    assert f"to {100 * shrunk[0]:.0f} % at most here ({decayed:,} steps), to {100 * shrunk[1]:.0f} % there" in written
    assert f"({theirs:,})" in written
    for size, r in (((12, 128), -0.69), ((1, 1024), -0.96)):
        rest = results[(results["depth"] != size[0]) | (results["width"] != size[1])]
        assert round(np.corrcoef(rest["nc4_agreement"], rest["val_loss"])[0, 1], 2) == r
    assert "it is −0.69 without 12x128, and −0.96 without 1x1024" in written
    classes, single = results["n_classes"].median(), (results["singleton_classes"] / results["n_classes"]).median()
    assert f"Ours are {classes:,.0f} classes, a fifth of them with one sample, the paper's {CLASSES:,}" in written
    assert round(single, 1) == 0.2
    assert f"instead of {TRAIN_BLOCKS:,}" in written
    earlier = pd.read_csv(OUTPUTS / EARLIER / "results.csv")["val_loss"]
    assert (len(earlier), (earlier < 4.5).sum()) == (40, 34)
