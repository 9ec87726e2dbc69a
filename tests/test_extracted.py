"""What stage 3 leaves: rows of classes that occur only, read as old folders are, and measured as all rows are."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lcutils import extracting, stages
from lcutils.analysis.rows import Measured
from lcutils.collapse.measure import measure_by_count, measure_collapse
from lcutils.collapse.tokens import measure_tokens
from lcutils.features.extracted import Extracted, save_rest, save_sums
from lcutils.features.statistics import ClassStatistics
from lcutils.stages import extract_point, measure_point, open_study, prepare_data, train_run

MODEL = "01x0016_01d"


def samples(num_classes=500, kinds=30, dim=5):
    random = np.random.default_rng(0)
    ids = torch.from_numpy(np.sort(random.choice(num_classes, kinds, replace=False)))
    labels = ids[torch.from_numpy(random.integers(0, kinds, 200))]
    centres = torch.from_numpy(random.normal(size=(num_classes, dim)))
    features = (centres[labels] + torch.from_numpy(random.normal(size=(200, dim)))).float()
    every, some = ClassStatistics(num_classes, dim), ClassStatistics(num_classes, dim, classes=ids)
    for stats in (every, some):
        stats.update(features, labels)
    return every, some, torch.randn(num_classes, dim).bfloat16()


def test_rows_of_some_classes_are_measured_as_all_rows():
    every, some, head = samples()
    few = head[some.classes]
    for min_count in (1, 6):
        expected = measure_collapse(every, head, min_count=min_count)
        assert measure_collapse(some, few, min_count=min_count) == expected
        assert measure_collapse(some, head, min_count=min_count) == expected
        one, other = (measure_tokens(*pair, min_count=min_count) for pair in ((every, head), (some, few)))
        for name in one:
            assert np.array_equal(one[name], other[name], equal_nan=True), name
    mean = np.random.default_rng(1).normal(size=5)
    by_count = [measure_by_count(s, h, min_counts=[1, 6], ood_mean=mean) for s, h in ((every, head), (some, few))]
    assert by_count[0] == by_count[1]
    several = r"\(500, 5\), one row per class, or \(30, 5\), one per class that may occur, not"
    with pytest.raises(ValueError, match=several):
        measure_collapse(some, head[:29])
    with pytest.raises(ValueError, match=r"must be \(500, 5\), one row per class, not \(30, 5\)"):
        measure_collapse(every, few)


def test_the_head_keeps_its_type_and_old_folders_are_read(tmp_path):
    every, _, head = samples()
    save_sums(tmp_path, every, head)
    save_rest(tmp_path, {"hits": np.zeros(500)}, ["a"], {"model": "x"})
    loaded = Extracted.load(tmp_path)
    assert torch.equal(loaded.statistics.classes, every.counts.nonzero()[:, 0])
    assert loaded.head.dtype == torch.bfloat16
    assert torch.equal(loaded.head, head[loaded.statistics.classes])
    assert loaded.statistics._totals.shape == (30, 5)
    before = {name: getattr(loaded.statistics, name) for name in ("counts", "means", "variances", "covariance")}
    # As folders were written before: by the library, the pivots in float32, the head too.
    save_file(load_file(tmp_path / "statistics.safetensors"), tmp_path / "statistics.safetensors")
    save_file({"rows": head[loaded.statistics.classes].float()}, tmp_path / "head.safetensors")
    again = Extracted.load(tmp_path)
    for name, values in before.items():
        assert torch.equal(getattr(again.statistics, name), values), name
    assert torch.equal(again.head, loaded.head.float())
    assert measure_collapse(again.statistics, again.head) == measure_collapse(every, head)


def test_agreement_of_the_weights_alone_stands_in_the_row_where_it_may_differ():
    every, _, head = samples()
    by_count, tokens = {1: measure_collapse(every, head)}, measure_tokens(every, head)
    texts = dict.fromkeys(tokens["token_id"].tolist(), "a")
    arrays = {"hits": np.full(500, 2), "totals": np.full(500, 8)}
    plain = Measured.of({}, by_count, 1, tokens, texts, arrays).row
    assert plain["nc4_agreement"] == 0.25
    assert "nc4_agreement_weights" not in plain
    both = Measured.of({}, by_count, 1, tokens, texts, arrays | {"hits_weights": np.full(500, 4)}).row
    assert (both["nc4_agreement"], both["nc4_agreement_weights"]) == (0.25, 0.5)


@pytest.mark.parametrize("head", ["none", "bias", "scale"])
def test_a_point_of_a_study(tiny, monkeypatch, head):
    """Compact rows, freed before the model is used again; a bias and a scale reach the decisions and the row."""
    work, load = open_study(tiny, tiny.parent), extracting.load_trained
    prepare_data(work), train_run(work, MODEL)
    options = {"none": {}, "bias": {"bias": 5 * torch.randn(4000)}, "scale": {"scale": -1.0}}[head]

    def altered(*args, **words):
        model = load(*args, **words)
        given = options | ({"bias": options["bias"][: len(model.classifier)]} if head == "bias" else {})
        return replace(model, **given)

    monkeypatch.setattr(extracting, "load_trained", altered)
    extracted = extract_point(work, MODEL, 0)
    counts = stages.open_data(work.data).counts[0]
    assert extracted.statistics.classes.tolist() == np.flatnonzero(counts).tolist()
    assert extracted.statistics.counts.tolist()[: len(counts)] == counts.tolist()
    assert extracted.statistics._pivots.dtype == torch.float64
    assert extracted.head.shape == extracted.statistics._totals.shape
    assert ("hits_weights" in extracted.agreement) == (head != "none")
    row = measure_point(work, MODEL, 0).row
    assert ("nc4_agreement_weights" in row) == (head != "none")
    if head != "none":  # by class: by chance the two may agree on as many tokens
        assert not np.array_equal(extracted.agreement["hits"], extracted.agreement["hits_weights"])
