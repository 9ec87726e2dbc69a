"""Sums of sections beside those of the whole text: equal to plain sums, whatever is killed, shared or damaged."""

import json
from itertools import pairwise

import naive_collapse as naive
import numpy as np
import pandas as pd
import pytest
import torch
from test_ranks import documents, made_model
from test_statistics import draw

from lcutils.analysis.rows import Measured, load_parts, load_row, results_table
from lcutils.collapse.agreement import AgreementCounter
from lcutils.collapse.replicates import MeasuredSections, without_each
from lcutils.documents import Documents
from lcutils.errors import UserError
from lcutils.features import extraction, sections
from lcutils.features.batches import batches
from lcutils.features.evaluation import evaluate_model
from lcutils.features.extraction import extract_agreement, extract_statistics
from lcutils.features.models import FeatureModel
from lcutils.features.sections import PARTS, SECTIONS, cut, gather_sections, in_parts, part_edges
from lcutils.features.statistics import ClassStatistics
from lcutils.features.validation_parts import ByPart
from lcutils.pipeline.jobs import extract_job, measure_job
from lcutils.stages import analyze_study, extract_point, measure_point, open_study, prepare_data, train_run

SUMS = ("_counts", "_pivots", "_totals", "_squares", "_scatter")


def stream(number=37, length=9, seed=0):
    return np.random.default_rng(seed).integers(0, 30, (number, length)).astype(np.uint16)


TEXTS = {"stream": stream, "documents": lambda: documents(80)}


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def extract_in_parts(model, text, folder, batch_size=4, world=1, target="parts"):
    text, edges = in_parts(text, halve_first=True)
    words = {"batch_size": batch_size, "resume": folder / "resume", "world": world, "edges": edges}
    if world > 1:  # the first process claims the folder, and here misses the others
        with pytest.raises(UserError, match="is missing; extract again"):
            extract_statistics(model, text, rank=0, **words)
    for rank in reversed(range(world)):
        stats = extract_statistics(model, text, rank=rank, **words)
    gather_sections(folder / "resume", text, edges, world, folder / target)
    return stats, [ClassStatistics.load(path) for path in sorted((folder / target).iterdir())]


@pytest.mark.parametrize("number", [16, 17, 100, 1001])
def test_parts_are_contiguous_and_about_equal(number):
    edges = part_edges(np.zeros((number, 2)), halve_first=True)
    assert (edges[0], edges[-1], len(edges)) == (0, number, SECTIONS + 1)
    whole = [edges[0], *edges[2:]]
    sizes = [end - begin for begin, end in pairwise(whole)]
    assert whole == part_edges(np.zeros((number, 2)))
    assert max(sizes) - min(sizes) <= 1
    assert abs(edges[1] - number / 16) < 1


def test_documents_stand_part_by_part_in_the_order_of_the_text():
    rows = documents(200)
    ordered, edges = in_parts(rows, halve_first=True)
    starts = np.cumsum(rows.lengths) - rows.lengths
    for begin, end in pairwise(edges):
        inside = ordered[begin:end]
        texts = {tuple(row[row >= 0].tolist()) for row in inside}
        places = range(begin, end)  # rows of the text itself
        assert texts == {tuple(rows.tokens[starts[i] : starts[i] + rows.lengths[i]].tolist()) for i in places}
        assert (np.diff(ordered.lengths_in(begin, end)) >= 0).all()
    tokens = [ordered.tokens_in(begin, end) for begin, end in pairwise([0, *edges[2:]])]
    assert max(tokens) - min(tokens) <= 2 * 90
    ends = ordered.batch_ends(0, 500)
    assert set(edges[1:]) <= set(ends)  # no batch holds rows of two
    assert ordered.batch_ends(ends[4], 500) == ends[5:]


@pytest.mark.parametrize(("blocks", "halve", "words"), [
    (np.zeros((15, 4)), True, "train text of 15 blocks cannot be cut into 16 parts"),
    (np.zeros((7, 4)), False, "validation text of 7 blocks cannot be cut into 8 parts"),
    (documents(7), False, "validation text of 7 rows"),
    (Documents(np.zeros(90, np.uint16), np.array([80, *[1] * 10], np.int32), 0, 80), False, "of 11 rows"),
])  # fmt: skip
def test_too_little_text_is_one_line(blocks, halve, words):
    with pytest.raises(UserError, match=words) as caught:
        part_edges(blocks, halve)
    assert "\n" not in str(caught.value)
    assert "extraction.parts" in str(caught.value)


def test_a_batch_is_cut_at_the_borders_it_crosses():
    assert list(cut([0, 2, 3, 10], 1, 4, 5)) == [(0, slice(0, 5)), (1, slice(5, 10)), (2, slice(10, 20))]
    assert list(cut([0, 2, 3, 10], 3, 2, 5)) == [(2, slice(0, 10))]


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("kind", TEXTS)
def test_sections_hold_their_own_samples_and_the_whole_keeps_its_bits(tmp_path, kind, batch_size):
    model, text = made_model(), TEXTS[kind]()
    stats, parts = extract_in_parts(model, text, tmp_path, batch_size)
    ordered, edges = in_parts(text, halve_first=True)
    without = extract_statistics(model, ordered, batch_size=batch_size)
    for name in SUMS:
        assert torch.equal(getattr(stats, name), getattr(without, name)), name
    assert len(parts) == SECTIONS
    for part, (begin, end) in zip(parts, pairwise(edges), strict=True):
        rows = [row[row >= 0] for row in ordered[begin:end].astype(np.int64)]
        skip = max(text.beginning - 1, 0) if kind == "documents" else 0
        labels = np.concatenate([row[1 + skip :] for row in rows])
        inputs = np.concatenate([row[skip:-1] for row in rows])
        features = model.features(torch.from_numpy(inputs)).double().numpy()
        counts, means, variances, covariance = naive.class_statistics(features, labels, 30)
        assert part.counts.tolist() == counts.tolist()
        np.testing.assert_allclose(part.means.numpy(), means, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(part.variances.numpy(), variances, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(part.covariance.numpy(), covariance, rtol=1e-10, atol=1e-13)
    merged = stats.empty()
    for part in parts:
        merged.merge(part)
    for name in ("counts", "means", "variances", "covariance"):
        torch.testing.assert_close(getattr(merged, name), getattr(stats, name), rtol=1e-12, atol=1e-13)


def test_only_classes_that_occur_in_a_section_take_memory(tmp_path, monkeypatch):
    made, init = [], ClassStatistics.__init__

    def watched(self, *args, **kwargs):
        init(self, *args, **kwargs)
        made.append(len(self.classes))

    monkeypatch.setattr(ClassStatistics, "__init__", watched)
    text = np.repeat(np.arange(20, dtype=np.uint16)[:, None], 4, 1)  # each block has a token of its own
    edges = part_edges(text, halve_first=True)
    extract_statistics(made_model(), text, batch_size=3, resume=tmp_path, edges=edges)
    assert made == [30, *[end - begin for begin, end in pairwise(edges)]]


def test_sums_of_sections_need_a_folder():
    with pytest.raises(ValueError, match="need a folder"):
        extract_statistics(made_model(), stream(), batch_size=3, edges=[0, 37])


class KilledError(BaseException):
    """Stands for a kill signal."""


@pytest.mark.parametrize("kind", TEXTS)
def test_killed_at_every_write_and_removal(tmp_path, monkeypatch, kind):
    """A state after each batch; the n-th write or removal of a file is the last thing that happens, for every n."""
    model, text = made_model(), TEXTS[kind]()
    monkeypatch.setattr(extraction, "SECONDS_BETWEEN_STATES", 0.0)
    extract_in_parts(model, text, tmp_path / "plain", 5)
    expected = files_of(tmp_path / "plain" / "parts")
    whole = next((tmp_path / "plain" / "resume").glob("statistics-*")).read_bytes()
    left = [0]

    def dying(function):
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                raise KilledError
            return function(*args, **kwargs)

        return call

    for module, name in ((extraction, "write_sealed"), (sections, "write_sealed"), (sections, "remove")):
        monkeypatch.setattr(module, name, dying(getattr(module, name)))
    killed, resumed, batch = 0, 0, extraction.batches
    starts = []
    monkeypatch.setattr(extraction, "batches", lambda *args: (starts.append(args[3]), batch(*args))[1])
    for moment in range(1, 200, 2 if kind == "stream" else 5):
        folder, left[0] = tmp_path / str(moment), moment
        try:
            extract_in_parts(model, text, folder, 5)
        except KilledError:
            left[0] = 0
            extract_in_parts(model, text, folder, 5)
            killed += 1
            resumed += starts[-1] > 0
            assert files_of(folder / "parts") == expected
            assert next((folder / "resume").glob("statistics-*")).read_bytes() == whole
            assert len(list((folder / "resume").iterdir())) == 2 + SECTIONS  # and job.json
        else:
            break
    assert moment > 20
    assert killed > 5
    assert resumed > killed / 2  # it went on


def test_a_lost_or_damaged_section_is_made_again(tmp_path, monkeypatch, capsys):
    model, text = made_model(), stream()
    expected = extract_in_parts(model, text, tmp_path)[0]
    before = files_of(tmp_path / "parts")
    for number, spoil in enumerate((lambda path: path.unlink(), lambda path: path.write_bytes(b"x"))):
        spoil(sorted((tmp_path / "resume").glob("section-03-*"))[0])
        again, _ = extract_in_parts(model, text, tmp_path, target=f"parts-{number}")
        assert files_of(tmp_path / f"parts-{number}") == before
        assert torch.equal(again._totals, expected._totals)
    assert "is damaged, and removed" in capsys.readouterr().err
    sorted((tmp_path / "resume").glob("section-03-*"))[0].unlink()
    with pytest.raises(UserError, match="the sums of part 3 are missing; extract again"):
        gather_sections(tmp_path / "resume", text, part_edges(text, True), 1, tmp_path / "none")


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_sections(tmp_path, kind, world):
    model, text = made_model(), TEXTS[kind]()
    _, alone = extract_in_parts(model, text, tmp_path / "alone")
    _, shared = extract_in_parts(model, text, tmp_path / "shared", world=world)
    for one, other in zip(alone, shared, strict=True):
        assert one.counts.tolist() == other.counts.tolist()
        for name in ("means", "variances", "covariance"):
            torch.testing.assert_close(getattr(other, name), getattr(one, name), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", TEXTS)
def test_validation_is_counted_part_by_part(kind, bias):
    plain, text = made_model(), TEXTS[kind]()
    model = FeatureModel(plain.features, plain.classifier, "made", bias=torch.linspace(-2, 2, 30) if bias else None)
    means, keep = model.classifier.double() + 0.3 * torch.randn(30, 4).double(), torch.arange(30) % 7 > 0

    def counted(blocks, tally_edges=None, world=1):
        counter = AgreementCounter(model.classifier, means, keep, bias=model.bias)
        tally = tally_edges and ByPart(counter, model, tally_edges)
        for rank in range(world):
            extract_agreement(model, blocks, counter, batch_size=5, tally=tally, rank=rank, world=world)
        return counter, tally

    ordered, edges = in_parts(text)
    assert len(edges) == PARTS + 1
    usual, _ = counted(text)
    for world in (1, 3):
        counter, tally = counted(ordered, edges, world)
        assert torch.equal(counter.hits, usual.hits)
        assert torch.equal(counter.totals, usual.totals)
        assert ("hits_weights" in tally.sums) == bias
        for part, (begin, end) in enumerate(pairwise(edges)):
            alone = AgreementCounter(model.classifier, means, keep, bias=model.bias)
            loss = right = predictions = 0.0
            for _, tokens, labels in batches(ordered, 1, torch.device("cpu"), begin, end):
                features = model.features(tokens).flatten(0, 1)
                alone.update(features, labels)
                logits = features @ model.classifier.T + (0 if model.bias is None else model.bias)
                some = labels >= 0
                logs = torch.log_softmax(logits[some].double(), 1)
                loss -= float(logs.gather(1, labels[some].long()[:, None]).sum())
                right += float((logs.argmax(1) == labels[some]).sum())
                predictions += float(some.sum())
            assert tally.sums["hits"][part] == alone.hits.sum()
            assert tally.sums["totals"][part] == alone.totals.sum()
            assert float(tally.sums["loss"][part]) == pytest.approx(loss, rel=1e-5)
            assert tally.sums["right"][part] == right
            assert tally.sums["predictions"][part] == predictions
        scores = evaluate_model(model, text, batch_size=5, device="cpu")
        total = float(tally.sums["loss"].sum() / tally.sums["predictions"].sum())
        assert total == pytest.approx(scores["val_loss"], rel=1e-6)


# ------------------------------------------------------------------------------------------------------ measurements


def text_in_sections(min_count_classes=12, number=400, dim=5, seed=3):
    features, labels = draw(number, dim, min_count_classes, seed)
    labels[labels == 9] = 8
    labels[60] = 9  # a class that a single part has
    edges = [number * part // 16 for part in (0, 1, *range(2, 17, 2))]
    parts = []
    for begin, end in pairwise(edges):
        parts.append(ClassStatistics(min_count_classes, dim))
        parts[-1].update(features[begin:end], labels[begin:end])
    whole = ClassStatistics(min_count_classes, dim, classes=labels.unique())
    for part in parts:
        whole.merge(part)
    return features.numpy(), labels.numpy(), edges, parts, whole


def loads(parts):
    return [lambda part=part: part for part in parts]


@pytest.mark.parametrize("min_count", [1, 9])
def test_replicates_are_those_of_the_other_seven_parts(min_count):
    features, labels, edges, parts, whole = text_in_sections()
    head = torch.from_numpy(np.random.default_rng(1).normal(size=(12, 5)))
    ood = np.random.default_rng(2).normal(size=5)
    kept = np.bincount(labels, minlength=12) >= min_count
    assert 2 < kept.sum() < 12
    again = MeasuredSections(whole, head[whole.classes], loads(parts), min_count, ood_mean=ood).without_each()
    assert len(again) == PARTS
    borders = [0, *edges[2:]]
    absent = 0
    for values, (begin, end) in zip(again, pairwise(borders), strict=True):
        rest = np.r_[0:begin, end : len(labels)]
        counts, means, variances, covariance = naive.class_statistics(features[rest], labels[rest], 12)
        absent += int((kept & (counts == 0)).sum())
        counts_kept = np.where(kept, counts, 0)  # absent ones are left out
        expected = naive.measurements(counts_kept, means, variances, covariance, head.numpy())
        # S_W is pooled over all samples, those of classes that are not kept too.
        centred = means[counts_kept > 0] - means[counts_kept > 0].mean(0)
        between = np.square(centred).sum() / (counts_kept > 0).sum()
        expected["nc1_quotient"] = np.trace(covariance) / between
        for key, value in values.items():
            if key == "nc5_ood_deviation":
                some = means[counts_kept > 0]
                cosines = some @ ood / np.linalg.norm(some, axis=1) / np.linalg.norm(ood)
                assert value == pytest.approx(np.abs(cosines).mean(), rel=1e-9)
            else:
                assert value == pytest.approx(expected[key], rel=1e-9, abs=1e-12), key
    if min_count == 1:
        assert absent  # the case was tested


def test_growing_shares_are_those_of_the_first_tokens():
    features, labels, _, parts, whole = text_in_sections()
    head = torch.from_numpy(np.random.default_rng(1).normal(size=(12, 5)))
    rows = MeasuredSections(whole, head, loads(parts), min_count=2).growing()
    assert [row["share"] for row in rows] == [1 / 16, 1 / 8, 1 / 4, 1 / 2]
    for row in rows:
        end = int(row["share"] * len(labels))
        assert row["samples"] == end
        expected = naive.measurements(*naive.class_statistics(features[:end], labels[:end], 12), head.numpy(), 2)
        for key in expected:
            assert row[key] == pytest.approx(expected[key], rel=1e-9, abs=1e-12), key


def test_each_part_is_left_out_once():
    parts = [ClassStatistics(10, 2) for _ in range(PARTS)]
    for number, part in enumerate(parts):
        part.update(torch.full((number + 1, 2), 1.0 + number), torch.full((number + 1,), number))
    for number, rest in enumerate(without_each([[load] for load in loads(parts)], parts[0].empty())):
        assert rest.counts.tolist() == [0 if c == number else c + 1 for c in range(PARTS)] + [0, 0]


def test_a_share_with_a_single_class_is_left_out():
    _, _, _, parts, whole = text_in_sections()
    first = ClassStatistics(12, 5)
    first.update(torch.randn(3, 5), torch.zeros(3, dtype=torch.int64))
    rows = MeasuredSections(whole, torch.randn(12, 5), loads([first, *parts[1:]])).growing()
    assert [row["share"] for row in rows] == [1 / 8, 1 / 4, 1 / 2]


# ----------------------------------------------------------------------------------------------------- whole studies


def study_of(tiny, name, *words):
    work = open_study(tiny, tiny.parent / name, ["max_stories=90", "max_validation_stories=40", *words])
    prepare_data(work)
    for model, k in work.study.points:
        train_run(work, model)
        extract_point(work, model, k)
        measure_point(work, model, k)
    return work


def test_a_study_in_parts_has_the_same_columns_and_errors_behind_them(tiny, undrawn):
    plain, parts = study_of(tiny, "plain"), study_of(tiny, "parts", "parts=true")
    before = results_table([load_row(plain.measurements(*point)) for point in plain.study.points])
    after = analyze_study(parts)
    columns = list(before)
    pd.testing.assert_frame_equal(before, after.results[columns], check_exact=True)
    assert list(after.results)[: len(columns)] == columns
    more = list(after.results)[len(columns) :]
    assert all(name.endswith("_se") for name in more)
    assert {"nc1_cdnv_se", "nc1_pinv_se", "nc4_agreement_se", "val_loss_se", "val_accuracy_se"} <= set(more)
    assert after.results[more].gt(0).all(axis=None)
    for model, k in plain.study.points:
        one, two = ((work.statistics(model, k) / "statistics.safetensors").read_bytes() for work in (plain, parts))
        assert one == two
        assert load_parts(plain.measurements(model, k)) == (None, None)
        measured = Measured.load(parts.measurements(model, k))
        assert set(measured.replicates["part"]) == set(range(PARTS))
        course = measured.convergence
        assert course["share"].tolist() == [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]
        assert course["samples"].is_monotonic_increasing
        assert not [key for key in course if key.startswith("nc4")]
        for key in ("nc1_cdnv", "gnc2_log_cov", "n_classes"):
            assert course[key].iloc[-1] == measured.row[key]
    page = (parts.analysis / "report.html").read_text(encoding="utf-8")
    assert "At the last doubling of the text" in page
    assert len(pd.read_csv(parts.analysis / "tables" / "convergence.csv")) == 10
    assert set(after.tables["errors"]["measurement"]) >= {"nc1_cdnv", "nc4_agreement"}


def test_keys_left_at_their_defaults_make_nothing_stale(tiny):
    work = open_study(tiny, tiny.parent)
    point = work.study.points[0]
    assert "parts" not in extract_job(work, *point).parameters
    assert not {"settle", "tolerance"} & measure_job(work, *point).parameters.keys()
    chosen = open_study(tiny, tiny.parent, "parts=true settle=nc1_cdnv tolerance=0.5")
    assert extract_job(chosen, *point).parameters["parts"] is True
    assert measure_job(chosen, *point).parameters == measure_job(work, *point).parameters


def test_a_study_with_too_little_text_says_so_before_it_works(tiny):
    work = open_study(tiny, tiny.parent, "parts=true max_validation_stories=1 block_size=128")
    prepare_data(work)
    model, k = work.study.points[0]
    train_run(work, model)
    with pytest.raises(UserError, match="validation text of . blocks cannot be cut into 8 parts"):
        extract_point(work, model, k)
    log = work.log(f"{model}@{k}")
    assert not log.exists() or "extract" not in log.read_text()
    assert json.loads((work.data / "corpus.json").read_text())
