"""ClassStatistics against two plain passes over the features, whatever the batches."""

import doctest
from itertools import pairwise

import naive_collapse as naive
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lcutils.features.statistics
from lcutils.errors import UserError
from lcutils.features.statistics import ClassStatistics


def draw(number, dim, classes, seed=0, offset=0.0, spread=1.0):
    """Features and Zipf-distributed labels; the last class is never drawn."""
    random = np.random.default_rng(seed)
    weights = 1 / (np.arange(classes - 1) + 1.7)
    labels = random.choice(classes - 1, number, p=weights / weights.sum())
    features = offset + random.normal(size=(classes, dim))[labels] + spread * random.normal(size=(number, dim))
    return torch.from_numpy(features), torch.from_numpy(labels)


def collect(features, labels, classes, batch=None, covariance=True):
    stats = ClassStatistics(classes, features.shape[1], covariance=covariance)
    for x, y in zip(features.split(batch or len(labels)), labels.split(batch or len(labels)), strict=True):
        stats.update(x, y)
    return stats


def assert_like_naive(stats, features, labels, classes, rtol=1e-12):
    counts, means, variances, covariance = naive.class_statistics(features.double().numpy(), labels.numpy(), classes)
    assert stats.counts.tolist() == counts.tolist()
    np.testing.assert_allclose(stats.means.numpy(), means, rtol=rtol, atol=1e-14)
    np.testing.assert_allclose(stats.variances.numpy(), variances, rtol=rtol, atol=0)
    np.testing.assert_allclose(stats.covariance.numpy(), covariance, rtol=rtol, atol=rtol * covariance.max())


def test_docstring_examples():
    assert doctest.testmod(lcutils.features.statistics).failed == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_equals_two_plain_passes(dtype):
    features, labels = draw(3000, 7, 60)
    features = features.to(dtype)
    stats = collect(features, labels, 60, batch=257)
    assert_like_naive(stats, features, labels, 60)
    assert stats.counts[59] == 0
    assert stats.means[59].abs().sum() == 0


@pytest.mark.parametrize("offset", [1e3, 1e6])
@pytest.mark.parametrize("spread", [1e-3, 1e-6])
def test_narrow_classes_far_from_the_origin_keep_their_digits(offset, spread):
    features, labels = draw(500, 4, 6, offset=offset, spread=spread)
    # The features themselves are rounded to about 1e-16 of the offset, which is the naive passes' input too.
    assert_like_naive(collect(features, labels, 6, batch=50), features, labels, 6, rtol=1e-9)


def test_classes_far_apart_keep_the_digits_of_the_pooled_covariance():
    random = np.random.default_rng(1)
    labels = torch.from_numpy(random.integers(0, 5, 400))
    features = torch.from_numpy(1e6 * random.normal(size=(5, 3))[labels] + 1e-3 * random.normal(size=(400, 3)))
    assert_like_naive(collect(features, labels, 5, batch=64), features, labels, 5, rtol=1e-6)


def test_variance_is_exactly_zero_for_singletons_and_repeats():
    features = torch.tensor([[1e8, 0.1], [3.0, 0.3], [3.0, 0.3], [3.0, 0.3]], dtype=torch.float64)
    stats = collect(features, torch.tensor([0, 1, 1, 1]), 3)
    assert stats.variances.tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(stats.means[:2], features[:2], rtol=1e-15, atol=0)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 120), max_size=6), st.randoms())
def test_batches_and_order_do_not_matter(seed, cuts, shuffler):
    features, labels = draw(120, 3, 9, seed=seed, offset=100.0)
    order = list(range(120))
    shuffler.shuffle(order)
    whole = collect(features, labels, 9)
    parts = ClassStatistics(9, 3)
    edges = [0, *sorted(cuts), 120]
    for start, stop in pairwise(edges):
        parts.update(features[order[start:stop]], labels[order[start:stop]])
    assert torch.equal(whole.counts, parts.counts)
    torch.testing.assert_close(whole.means, parts.means, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(whole.variances, parts.variances, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(whole.covariance, parts.covariance, rtol=1e-10, atol=1e-13)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.permutations(range(4)), st.booleans())
def test_merging_parts_in_any_order_is_one_pass(seed, order, nested):
    features, labels = draw(160, 3, 9, seed=seed, offset=1e4)
    workers = [collect(x, y, 9) for x, y in zip(features.split(40), labels.split(40), strict=True)]
    a, b, c, d = (workers[i] for i in order)
    if nested:  # (a + b) + (c + d), else ((a + b) + c) + d
        c.merge(d)
        a.merge(b)
        a.merge(c)
    else:
        for other in (b, c, d):
            a.merge(other)
    assert_like_naive(a, features, labels, 9, rtol=1e-8)


def test_merge_refuses_what_does_not_fit():
    stats = ClassStatistics(4, 3)
    with pytest.raises(ValueError, match="5 classes of dimension 3 into 4"):
        stats.merge(ClassStatistics(5, 3))
    with pytest.raises(ValueError, match="only one of the two keeps the covariance"):
        stats.merge(ClassStatistics(4, 3, covariance=False))


def test_negative_labels_are_skipped():
    features, labels = draw(200, 3, 5)
    marked = labels.clone()
    marked[::3] = -100
    assert_like_naive(collect(features, marked, 5), features[marked >= 0], labels[marked >= 0], 5)


def test_labels_out_of_range_are_an_error_when_results_are_read():
    stats = collect(torch.randn(3, 2), torch.tensor([0, 1, 2]), 3)
    stats.update(torch.randn(2, 2), torch.tensor([1, 7]))
    for read in ("counts", "means", "variances", "covariance"):
        with pytest.raises(ValueError, match="label 7 is out of range: there are 3 classes"):
            getattr(stats, read)
    merged = ClassStatistics(3, 2)
    merged.merge(stats)
    with pytest.raises(ValueError, match="label 7"):
        merged.save("never written")


@pytest.mark.parametrize(
    ("features", "labels"),
    [
        (torch.randn(4, 3), torch.zeros(4, dtype=torch.long)),
        (torch.randn(4, 2), torch.zeros(5, dtype=torch.long)),
        (torch.randn(2, 4, 2), torch.zeros(2, 4, dtype=torch.long)),
        (torch.randn(4, 2), torch.zeros(4)),
        (torch.zeros(4, 2, dtype=torch.long), torch.zeros(4, dtype=torch.long)),
    ],
)
def test_wrong_shapes_and_types_are_refused(features, labels):
    with pytest.raises(ValueError, match="must be"):
        ClassStatistics(3, 2).update(features, labels)


def test_empty_batches_and_no_batches():
    stats = ClassStatistics(3, 2)
    stats.update(torch.empty(0, 2), torch.empty(0, dtype=torch.long))
    assert stats.counts.tolist() == [0, 0, 0]
    assert stats.covariance.abs().sum() == 0
    with pytest.raises(ValueError, match="at least 1"):
        ClassStatistics(0, 2)


def test_without_covariance():
    features, labels = draw(50, 3, 4)
    assert collect(features, labels, 4, covariance=False).covariance is None


@pytest.mark.parametrize("covariance", [True, False])
def test_saved_and_loaded_goes_on_bit_for_bit(tmp_path, covariance):
    features, labels = draw(300, 5, 40)
    path = tmp_path / "stats.safetensors"
    stats = collect(features[:200], labels[:200], 40, covariance=covariance)
    stats.save(path)
    loaded = ClassStatistics.load(path)
    for each in (stats, loaded):
        each.update(features[200:], labels[200:])
    assert torch.equal(stats.counts, loaded.counts)
    assert torch.equal(stats.means, loaded.means)
    assert torch.equal(stats.variances, loaded.variances)
    if covariance:
        assert torch.equal(stats.covariance, loaded.covariance)
    else:
        assert loaded.covariance is None
    assert [file.name for file in tmp_path.iterdir()] == ["stats.safetensors"]


def test_a_missing_or_broken_file_is_a_users_error(tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    for path in (broken, tmp_path / "absent.safetensors"):
        with pytest.raises(UserError, match=path.name) as caught:
            ClassStatistics.load(path)
        assert "\n" not in str(caught.value)


def test_a_device_without_float64_is_refused_in_one_line(monkeypatch):
    def refuse(*args, **kwargs):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    monkeypatch.setattr(torch, "zeros", refuse)
    with pytest.raises(UserError, match="^device: cpu has no fp64, .* use cuda or cpu$"):
        ClassStatistics(3, 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="^device: cuda cannot be used here .*$"):
        ClassStatistics(3, 2, device="cuda")
    ClassStatistics(3, 2).save(tmp_path / "stats.safetensors")
    with pytest.raises(ValueError, match="^device: cuda:0 cannot be used here .*$"):
        ClassStatistics.load(tmp_path / "stats.safetensors", device=torch.device("cuda", 0))


@pytest.mark.parametrize(("num_classes", "dim"), [(10.0, 3), (3, "2"), (None, 2)])
def test_sizes_are_whole_numbers(num_classes, dim):
    with pytest.raises(ValueError, match=f"whole numbers, not {num_classes!r} and {dim!r}"):
        ClassStatistics(num_classes, dim)


def test_sizes_may_be_numpys():
    stats = ClassStatistics(np.int64(3), np.int32(2))
    assert stats.means.shape == (3, 2)


@pytest.mark.parametrize("make", [np.asarray, list])
def test_what_is_no_tensor_is_refused_by_name(make):
    features, labels = torch.randn(4, 2), torch.zeros(4, dtype=torch.long)
    kind = type(make(labels)).__name__
    with pytest.raises(ValueError, match=f"^features must be a torch tensor, not {kind}; use torch.as_tensor$"):
        ClassStatistics(3, 2).update(make(features), labels)
    with pytest.raises(ValueError, match=f"^labels must be a torch tensor, not {kind}; use torch.as_tensor$"):
        ClassStatistics(3, 2).update(features, make(labels))
