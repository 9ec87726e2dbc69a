"""ClassStatistics with rows for some classes only, and with narrow pivots: against all rows, and two plain passes."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import naive_collapse as naive
import numpy as np
import pytest
import torch
from test_statistics import assert_like_naive, draw

from lcutils.features.statistics import SPLIT, ClassStatistics
from lcutils.features.statistics_file import open_sums

READ = ("counts", "means", "variances", "covariance")


def collect(features, labels, num_classes, batch=70, **options):
    stats = ClassStatistics(num_classes, features.shape[1], **options)
    for x, y in zip(features.split(batch), labels.split(batch), strict=True):
        stats.update(x, y)
    return stats


def spread_out(number=900, dim=6, kinds=80, num_classes=3 * SPLIT + 100, seed=0):
    """Features of `kinds` classes, whose ids lie anywhere among many."""
    features, labels = draw(number, dim, kinds, seed=seed, offset=3.0)
    ids = torch.from_numpy(np.random.default_rng(seed).choice(num_classes, kinds, replace=False)).sort().values
    return features.float(), ids[labels], ids, num_classes


def test_some_rows_give_the_bits_of_all_rows(tmp_path):
    features, labels, ids, num_classes = spread_out()
    some = collect(features, labels, num_classes, classes=ids)
    every = collect(features, labels, num_classes)
    assert some._totals.shape == (80, 6)
    for name in READ:
        assert torch.equal(getattr(some, name), getattr(every, name)), name
    for name, stats in (("some", some), ("every", every)):
        stats.save(tmp_path / name)
    assert (tmp_path / "some").read_bytes() == (tmp_path / "every").read_bytes()
    chosen = torch.tensor([int(ids[3]), 0, int(ids[70]), num_classes - 1])
    assert torch.equal(some.means_of(chosen), every.means_of(chosen))


@pytest.mark.parametrize("stray", [0, 7, 8])
def test_a_label_without_a_row_is_an_error_when_results_are_read(stray):
    stats = ClassStatistics(9, 2, classes=torch.tensor([1, 4, 6]))
    stats.update(torch.ones(3, 2), torch.tensor([1, -1, 6]))
    assert stats.counts.tolist() == [0, 1, 0, 0, 0, 0, 1, 0, 0]
    stats.update(torch.ones(2, 2), torch.tensor([4, stray]))
    for name in READ:
        with pytest.raises(ValueError, match=f"label {stray} is not among the 3 classes of these statistics"):
            getattr(stats, name)
    stats.update(torch.ones(1, 2), torch.tensor([9]))
    with pytest.raises(ValueError, match="label 9 is out of range: there are 9 classes"):
        _ = stats.counts


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("turn", [False, True])
def test_parts_of_other_classes_merge(narrow, turn):
    features, labels, ids, num_classes = spread_out(num_classes=300)
    early = labels <= ids[40]
    parts = [
        collect(features[early], labels[early], num_classes, classes=ids[:41], narrow=narrow),
        collect(features[~early], labels[~early], num_classes, classes=ids[41:]),
        collect(features, labels, num_classes),  # rows for all, samples of some
    ]
    whole = ClassStatistics(num_classes, 6, classes=ids, narrow=narrow)
    for part in reversed(parts) if turn else parts:
        whole.merge(part)
    twice = torch.cat([features, features]), torch.cat([labels, labels])
    assert_like_naive(whole, *twice, num_classes, rtol=1e-10)
    stranger = int(ids[0])
    with pytest.raises(ValueError, match=f"class {stranger} of the other is not among the 39 here"):
        parts[1].merge(whole)


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("kind", ["all", "seen", "ids"])
def test_saved_and_loaded_goes_on_bit_for_bit(tmp_path, narrow, kind):
    features, labels, ids, num_classes = spread_out()
    stats = collect(features[:500], labels[:500], num_classes, classes=ids, narrow=narrow)
    stats.save(tmp_path / "stats")
    seen = stats.counts.nonzero()[:, 0]
    loaded = ClassStatistics.load(tmp_path / "stats", classes=ids if kind == "ids" else kind)
    assert loaded.narrow == narrow
    assert len(loaded.classes) == {"all": num_classes, "seen": len(seen), "ids": 80}[kind]
    rest = torch.isin(labels[500:], seen) if kind == "seen" else torch.ones(400, dtype=torch.bool)
    for each in (stats, loaded):
        each.update(features[500:][rest], labels[500:][rest])
    for name in READ:
        assert torch.equal(getattr(stats, name), getattr(loaded, name)), name
    with pytest.raises(ValueError, match=f"stats: class {int(seen[-1])} has samples, and is not one of the"):
        ClassStatistics.load(tmp_path / "stats", classes=seen[:-1])


def test_the_file_holds_narrow_pivots_and_no_class_without_samples(tmp_path):
    features, labels, ids, num_classes = spread_out(number=20)
    collect(features, labels, num_classes, classes=ids, narrow=True).save(tmp_path / "stats")
    opened = open_sums(tmp_path / "stats")
    assert opened.classes.tolist() == labels.unique().tolist()
    assert opened.narrow
    assert (tmp_path / "stats").stat().st_size < len(opened.classes) * (10 * 6 + 24) + 8 * 36 + 1000


@pytest.mark.parametrize("min_count", [1, 5])
@pytest.mark.parametrize("narrow", [False, True])
def test_sums_turn_into_means(min_count, narrow):
    features, labels, ids, num_classes = spread_out()
    stats = collect(features, labels, num_classes, classes=ids, narrow=narrow)
    kept = (stats.counts >= min_count).nonzero()[:, 0]
    expected, memory = stats.means_of(kept), stats._totals.data_ptr()
    assert 2 < len(kept) < 80
    found, means = stats.turn_into_means(min_count)
    assert torch.equal(found, kept)
    assert torch.equal(means, expected)
    assert means.data_ptr() == memory
    assert stats.counts.sum() == 0
    stats.update(features, labels)
    with pytest.raises(ValueError, match="is not among the 0 classes"):
        _ = stats.means


@pytest.mark.parametrize(
    "classes", [[3, 1], [1, 1], [-1, 2], [2, 9], [[1, 2]], [0.0, 1.0], [True, False]]
)  # fmt: skip
def test_ids_of_classes_ascend(classes):
    with pytest.raises(ValueError, match=r"^classes must (ascend from 0 or more to at most 8|be \(R,\) integer ids)"):
        ClassStatistics(9, 2, classes=torch.tensor(classes))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux, which says a process's peak of memory")
@pytest.mark.parametrize(("part", "most"), [("sums", 1.3), ("state", 1.3 + 1.25), ("agreement", 1.3)])
def test_memory_is_that_of_the_rows_that_occur(part, most):
    """In multiples of R D float64 numbers; a state's file, which is mapped into memory, counts beside the sums."""
    script, sizes = Path(__file__).with_name("memory.py"), map(str, (65_536, 20_000, 512))
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, script, part, "cpu", *sizes]
    outcome = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    assert 0.9 < float(outcome.stdout) < most


# -------------------------------------------------------------------------------------------------- narrow pivots


@pytest.mark.parametrize(("offset", "spread"), itertools.product([0.0, 1.0, 1e3], [1.0, 1e-2, 1e-4]))
def test_narrow_pivots_lose_few_digits(offset, spread):
    """Float32 features, as models give them; classes narrower than 1e-7 of it have their rounding."""
    features, labels = draw(2000, 8, 12, offset=offset, spread=spread)
    features = features.float()
    stats = collect(features, labels, 12, narrow=True)
    ratio = (features.abs().max() / max(spread, 1e-6 * offset)).item()
    assert_like_naive(stats, features, labels, 12, rtol=1e-13 * max(1.0, (2**-7 * ratio) ** 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("number", [2, 3, 1000, 9001])
def test_equal_samples_have_no_variance_at_all(dtype, number):
    """Whatever their number, batches, values and parts."""
    random = np.random.default_rng(2)
    one = torch.from_numpy(random.normal(size=(4, 33)) * 10.0 ** random.integers(-4, 4, size=(4, 33))).to(dtype)
    features, labels = one.repeat(number, 1), torch.arange(4).repeat(number)
    stats = collect(features, labels, 5, batch=257, narrow=True)
    assert bool(stats._squares.any()) is (dtype != torch.bfloat16)  # it takes more than sums of zeros
    stats.merge(collect(features, labels, 5, batch=1000, narrow=True))
    assert stats.variances.tolist() == [0.0] * 5
    np.testing.assert_allclose(stats.means[:4], one.double(), rtol=1e-15, atol=0)


@pytest.mark.parametrize("number", [2, 100, 9001])
def test_one_sample_of_many_that_differs_in_its_last_bit_gives_a_variance(number):
    features = torch.from_numpy(np.random.default_rng(number).normal(size=(1, 33))).float().repeat(number, 1)
    largest = features[0].abs().argmax()
    features[number // 2, largest] = torch.nextafter(features[0, largest], torch.tensor(torch.inf))
    labels = torch.zeros(number, dtype=torch.long)
    expected = naive.class_statistics(features.numpy(), labels.numpy(), 1)[2]
    assert collect(features, labels, 1, narrow=True).variances.numpy() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("large", [3.4e38, -3.4e38, 1e300])
def test_numbers_beyond_bfloat16_are_counted_right(large):
    features = torch.tensor([[large, 1.0], [large, 2.0], [1.0, 2.0]], dtype=torch.float64)
    if abs(large) < 1e39:
        features = features.float()
    stats = collect(features, torch.tensor([0, 0, 1]), 2, covariance=False, narrow=True)
    np.testing.assert_allclose(stats.means[0], [features[0, 0].double(), 1.5], rtol=1e-15)
    if abs(large) < 1e39:
        stats.check_finite()


def test_features_that_are_not_finite_are_found():
    for value in (torch.nan, torch.inf):
        stats = collect(torch.tensor([[1.0, value], [1.0, 2.0]]), torch.tensor([2, 3]), 5, narrow=True)
        with pytest.raises(ValueError, match="features of 1 classes are not finite, class 2 first"):
            stats.check_finite()
