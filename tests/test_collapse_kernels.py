"""The CUDA paths against the CPU paths: on a GPU, or without one through Triton's interpreter.

The interpreter runs the same kernels in NumPy, slowly, so sizes are small; `pip install triton` is enough for it.
"""

import inspect
import os
import re

import numpy as np
import pytest
import torch

CUDA = torch.cuda.is_available()
if not CUDA:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
pytest.importorskip("triton", reason="Triton is not installed: the kernels of the CUDA path cannot run")

import triton  # noqa: E402
import triton.language as tl  # noqa: E402
from triton_bounds import check_bounds  # noqa: E402

from lcutils.collapse import agreement, kernels, pairs, scores, terms  # noqa: E402
from lcutils.collapse.agreement import classifier_agreement  # noqa: E402
from lcutils.collapse.classes import keep_classes  # noqa: E402
from lcutils.collapse.measure import measure_collapse  # noqa: E402
from lcutils.features import statistics_kernels  # noqa: E402
from lcutils.features.statistics import ClassStatistics  # noqa: E402

DEVICE = "cuda" if CUDA else "cpu"


@triton.jit
def _shift(x, offset, BLOCK: tl.constexpr):
    at = x + tl.arange(0, BLOCK)
    tl.store(at, tl.load(at + offset))


@pytest.fixture(autouse=True)
def bounds(monkeypatch):
    if not CUDA:
        check_bounds(monkeypatch)


def test_the_check_of_bounds_can_fail():
    if CUDA:
        pytest.skip("it is the interpreter's")
    storage = torch.zeros(64)
    with pytest.raises(Exception, match="1 addresses outside"):
        _shift[(1,)](storage[:8], 1, 64)
    _shift[(1,)](storage[:8], 0, 64)


def zipf(number, classes, seed):
    weights = 1 / (np.arange(classes) + 1.7)
    return torch.from_numpy(np.random.default_rng(seed).choice(classes, number, p=weights / weights.sum()))


def add(stats, features, labels):
    """One update by the kernels, whatever the device."""
    sums = stats._counts, stats._pivots, stats._totals, stats._squares, stats._scatter
    statistics_kernels.add_batch(features.to(DEVICE), labels.to(DEVICE), stats._rows, stats._largest, *sums)


@pytest.mark.parametrize(
    ("number", "dim", "classes", "dtype"),
    [
        (200, 5, 40, torch.float64),
        (250, 64, 7, torch.float32),
        (33, 8, 3, torch.float16),
        (32, 8, 1, torch.float32),
        (5, 3, 9, torch.bfloat16),
    ],
)
def test_run_sums(number, dim, classes, dtype):
    torch.manual_seed(number)
    plain = ClassStatistics(classes, dim)
    fast, again = ClassStatistics(classes, dim, device=DEVICE), ClassStatistics(classes, dim, device=DEVICE)
    for seed in range(2):
        features = (3 * torch.randn(number, dim) + 20).to(dtype)
        labels = zipf(number, classes, seed)
        labels[torch.rand(number) < 0.05] = -1
        plain.update(features, labels)
        for stats in (fast, again):
            add(stats, features, labels)
    assert fast.counts.tolist() == plain.counts.tolist()
    torch.testing.assert_close(fast.means.cpu(), plain.means, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(fast.variances.cpu(), plain.variances, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(fast.covariance.cpu(), plain.covariance, rtol=1e-11, atol=1e-11)
    for name in ("_totals", "_squares", "_counts"):  # no atomics: the same bits again
        assert torch.equal(getattr(fast, name), getattr(again, name))


def test_a_run_over_many_chunks():
    plain, fast = ClassStatistics(4, 3), ClassStatistics(4, 3, device=DEVICE)
    labels = torch.randint(0, 4, (900,))
    labels[:700] = 2  # 22 chunks, more than are joined at once
    features = torch.randn(900, 3)
    plain.update(features, labels)
    add(fast, features, labels)
    assert fast.counts.tolist() == plain.counts.tolist()
    torch.testing.assert_close(fast.means.cpu(), plain.means, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_run_sums_of_some_classes_and_with_narrow_pivots(dtype):
    torch.manual_seed(3)
    num_classes, ids = 900, torch.randperm(900)[:40].sort().values
    every, some = ClassStatistics(num_classes, 5, device=DEVICE), ClassStatistics(num_classes, 5, True, DEVICE, ids)
    narrow, plain = (ClassStatistics(num_classes, 5, True, on, ids, narrow=True) for on in (DEVICE, "cpu"))
    one = (1e3 + torch.randn(5)).to(dtype)
    for seed in range(2):
        features = (3 * torch.randn(200, 5) + 20).to(dtype)
        labels = ids[zipf(200, 40, seed)]
        features[labels == ids[1]] = one
        labels[torch.rand(200) < 0.05] = -1
        plain.update(features, labels)
        for stats in (every, some, narrow):
            add(stats, features, labels)
    for name in ("counts", "means", "variances", "covariance"):
        assert torch.equal(getattr(some, name), getattr(every, name)), name
        torch.testing.assert_close(getattr(narrow, name).cpu(), getattr(plain, name), rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(getattr(narrow, name), getattr(every, name), rtol=1e-9, atol=1e-9)
    assert narrow.counts[ids[1]] > 20
    assert narrow.variances[ids[1]] == 0
    off = narrow._pivots.double() - every._pivots[ids.to(DEVICE)]
    assert (off.abs() <= 2**-7 * every._pivots[ids.to(DEVICE)].abs()).all()
    assert off.any() == (dtype != torch.bfloat16)


def test_a_pivot_that_bfloat16_cannot_hold_is_0():
    stats = ClassStatistics(3, 2, True, DEVICE, narrow=True)
    add(stats, torch.tensor([[3.4e38, 1.0], [torch.inf, 2.0], [torch.nan, -3.0]]), torch.arange(3))
    assert stats._pivots.cpu().tolist() == [[0.0, 1.0], [0.0, 2.0], [0.0, -3.0]]
    with pytest.raises(ValueError, match="features of 2 classes are not finite, class 1 first"):
        stats.check_finite()


@pytest.mark.parametrize("stray", [0, 5, 9, 2**40])
def test_a_label_without_a_row_is_found_and_not_written(stray):
    stats = ClassStatistics(9, 2, True, DEVICE, torch.tensor([1, 4, 8]))
    add(stats, torch.ones(4, 2), torch.tensor([1, -1, 8, stray]))
    assert stats._counts.tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match=f"label {stray} is (not among the 3|out of range: there are 9) classes"):
        _ = stats.means


def test_a_label_out_of_range_is_found_and_not_written():
    stats = ClassStatistics(3, 2, device=DEVICE)
    add(stats, torch.ones(4, 2), torch.tensor([0, 1, 3, 2**40]))
    assert stats._counts.tolist() == [1, 1, 0]
    with pytest.raises(ValueError, match=f"label {2**40} is out of range"):
        _ = stats.means


def statistics(classes, dim, seed, duplicates):
    torch.manual_seed(seed)
    stats = ClassStatistics(classes, dim, device=DEVICE)
    labels = torch.randint(0, classes, (3 * classes,))
    features = torch.randn(classes, dim)[labels] + 0.1 * torch.randn(3 * classes, dim)
    if duplicates:
        features[labels == 7] = features[0].clone()
        features[labels == 8] = features[0].clone()
    for each in (features[: 2 * classes], features[2 * classes :]):
        chosen = labels[: 2 * classes] if len(each) == 2 * classes else labels[2 * classes :]
        (stats.update if CUDA else lambda x, y: add(stats, x, y))(each.to(DEVICE), chosen.to(DEVICE))
    return stats


@pytest.mark.parametrize(
    ("classes", "dim", "tile", "riesz_s"), [(50, 4, 16, 1.0), (150, 8, 60, 2.3), (100, 1, 64, 1.0), (12, 30, 5, 1.0)]
)
def test_pair_sums(classes, dim, tile, riesz_s):
    kept = keep_classes(statistics(classes, dim, 0, duplicates=classes > 20))
    inputs = pairs.PairInputs.of(kept)
    sums, numbers = [], []
    for fast in (False, True):
        taken_off = dict.fromkeys(terms.TERMS.values(), 0)
        doubtful = pairs.DoubtfulPairs(kept, taken_off, riesz_s)
        if fast:
            sums.append(kernels.CudaPairSums(inputs, riesz_s, tile, pairs.TRUSTED).finish(doubtful.sum))
        else:
            sums.append(pairs.sum_tiles(inputs, riesz_s, 64, doubtful))
        numbers.append(taken_off)
    assert sums[0].all()  # so that no term is equal for want of a store
    torch.testing.assert_close(sums[0], sums[1], rtol=1e-10, atol=1e-10)
    assert numbers[0] == numbers[1]
    assert numbers[0]["apart"] == -(classes > 20)


def test_every_term_has_one_slot_of_the_kernel():
    slots = re.findall(r'tl\.store\(row_sums \+ _slot\(TERM_NAMES, "(\w+)"\)', inspect.getsource(kernels))
    assert sorted(slots) == sorted(terms.TERMS)
    assert [kernels._slot(kernels.TERM_NAMES, term) for term in terms.TERMS] == list(range(len(terms.TERMS)))


def test_too_many_doubtful_pairs_take_the_other_way(monkeypatch):
    monkeypatch.setattr(kernels, "LIST", 4)
    kept = keep_classes(statistics(30, 1, 1, duplicates=False))  # in one dimension half of all pairs are doubtful
    assert kernels.CudaPairSums(pairs.PairInputs.of(kept), 1.0, 32, pairs.TRUSTED).finish(lambda i, j: i) is None


@pytest.mark.parametrize(("number", "classes", "dim"), [(100, 70, 32), (130, 300, 40)])
def test_scores(number, classes, dim):
    torch.manual_seed(dim)
    padded = -(-classes // kernels.CLASS_BLOCK) * kernels.CLASS_BLOCK
    features = torch.randn(number, dim, device=DEVICE).half()
    rows, bias = torch.zeros(padded, dim, device=DEVICE).half(), torch.full((padded,), -torch.inf, device=DEVICE)
    rows[:classes], bias[:classes] = torch.randn(classes, dim).half().to(DEVICE), torch.randn(classes).to(DEVICE)
    rows[5], bias[5] = rows[3], bias[3]
    exact = 0.5 * (features.double() @ rows[:classes].double().T) + bias[:classes]
    best, which, second = kernels.best_two(features, rows, bias, 0.5)
    expected = exact.topk(2, 1).values
    torch.testing.assert_close(best.double(), expected[:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(second.double(), expected[:, 1], rtol=1e-5, atol=1e-5)
    assert (which.long() == exact.argmax(1)).all()
    cut = best - 0.7
    row, candidate = kernels.list_candidates(features, rows, bias, 0.5, cut, classes)
    found = set(zip(row.tolist(), candidate.tolist(), strict=True))
    sure, maybe = ((exact >= (cut + shift)[:, None]).nonzero().tolist() for shift in (1e-4, -1e-4))
    assert {tuple(pair) for pair in sure} <= found <= {tuple(pair) for pair in maybe}
    assert len(found) == len(row)


@pytest.fixture
def half(monkeypatch):
    """Agreement goes the CUDA way, float16 and kernels, whatever the device."""
    monkeypatch.setitem(agreement.LOW_PRECISION, "cpu", torch.float16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_near_ties_are_decided_as_float64_does(half, dtype):
    """Features between two of the means near 0, while g lies near 50: h - g is not what float32 can tell apart."""
    torch.manual_seed(0)
    means = torch.cat([1e-3 * torch.randn(40, 8), 100 + torch.randn(40, 8)]).double()
    first, second = torch.randint(0, 40, (2, 90))
    side = torch.where(torch.rand(90, 1) < 0.5, -1, 1) * 1e-4
    h = ((means[first] + means[second]) / 2 + side * (means[first] - means[second])).to(dtype)
    counter = agreement.AgreementCounter(means, means, torch.ones(80, dtype=torch.bool), DEVICE)
    x = scores.Features.of(h.to(DEVICE), counter.origin, torch.float16)
    exact = (h.double()[:, None] - means).square().sum(2).argmin(1)
    assert torch.equal(scores.decide(x, counter.nearest).cpu(), exact)
    g = counter.origin.cpu()
    rounded = (h.float() - g).double() + g.double()  # no straw man: float32 differences are decided otherwise
    assert ((rounded[:, None] - means).square().sum(2).argmin(1) != exact).any()


@pytest.mark.parametrize(("seed", "dim", "offset"), [(0, 8, 0.0), (1, 5, 30.0), (2, 40, 3.0)])
def test_agreement_in_half_precision_is_that_of_the_cpu(half, monkeypatch, seed, dim, offset):
    torch.manual_seed(seed)
    means = offset + torch.randn(50, dim)
    head, labels = means - offset + 0.3 * torch.randn(50, dim), torch.randint(-1, 50, (150,))
    features, keep = means[labels] + torch.randn(150, dim), torch.rand(50) < 0.8
    fast = classifier_agreement(features.to(DEVICE), labels.to(DEVICE), head, means.to(DEVICE), keep)
    monkeypatch.setitem(agreement.LOW_PRECISION, "cpu", torch.float32)
    plain = classifier_agreement(features, labels, head, means, keep)
    for a, b in zip(fast, plain, strict=True):
        assert torch.equal(a.cpu(), b)
    assert 0 < plain[0].sum() < plain[1].sum()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of what overflows
@pytest.mark.parametrize("numbers", [1, 10**6])
def test_chunks_of_classes_in_half_precision(half, monkeypatch, numbers):
    """Three chunks of 256 classes and one, with a bias and a scale, and features near ties and beyond float16."""
    monkeypatch.setattr(scores, "FAST_NUMBERS", numbers)
    torch.manual_seed(7)
    means = 3 + torch.randn(600, 6)
    head, bias, labels = means - 3 + 0.3 * torch.randn(600, 6), torch.randn(600), torch.randint(0, 600, (150,))
    features, keep = means[labels] + 0.5 * torch.randn(150, 6), torch.rand(600) < 0.9
    features[:40] = (means[labels[:40]] + means[labels[1:41]]) / 2
    features[7] = 1e6
    for options in ({}, {"bias": bias}, {"bias": bias, "scale": -0.5}):
        counters = []
        for lowest in (torch.float16, torch.float32):
            monkeypatch.setitem(agreement.LOW_PRECISION, "cpu", lowest)
            device = DEVICE if lowest == torch.float16 else "cpu"
            rows = -head if "scale" in options else head
            counters.append(agreement.AgreementCounter(rows, means, keep, device, **options))
            counters[-1].update(features, labels)
        fast, plain = counters
        assert len(list(fast.linear.chunks())) == (3 if numbers == 1 else 1)
        for a, b in zip((*fast.result(), fast.hits_weights), (*plain.result(), plain.hits_weights), strict=True):
            assert torch.equal(a.cpu(), b)
        assert 0 < plain.hits.sum() < plain.totals.sum()


def test_more_candidates_than_a_list_holds_are_decided_by_all_scores(half, monkeypatch):
    monkeypatch.setattr(scores, "FAST_NUMBERS", 1)
    monkeypatch.setattr(kernels, "LIST", 700)
    head, keep = torch.ones(600, 3, device=DEVICE), torch.ones(600, dtype=torch.bool, device=DEVICE)
    features, labels = torch.randn(20, 3, device=DEVICE), torch.randint(0, 600, (20,), device=DEVICE)
    hits, totals = classifier_agreement(features, labels, head, head, keep)  # all classes alike: the first one wins
    assert hits.sum() == totals.sum() == 20


@pytest.mark.skipif(not CUDA, reason="needs an NVIDIA GPU: the whole path, not its kernels alone")
@pytest.mark.parametrize(("classes", "dim"), [(2000, 64), (300, 256), (400, 1)])
def test_whole_measurements_on_the_gpu(tmp_path, classes, dim):
    stats = statistics(classes, dim, 3, duplicates=True)
    stats.save(tmp_path / "s.safetensors")
    head = torch.randn(classes, dim)
    for options in ({}, {"min_count": 3, "riesz_s": 2.5, "tile": 100}):
        fast = measure_collapse(stats, head.cuda(), **options)
        plain = measure_collapse(ClassStatistics.load(tmp_path / "s.safetensors"), head, **options)
        assert fast == pytest.approx(plain, rel=1e-8, abs=1e-7, nan_ok=True)
    features, labels = torch.randn(5000, dim), torch.randint(0, classes, (5000,))
    keep = stats.counts > 1
    fast = classifier_agreement(features.cuda(), labels.cuda(), head.cuda(), stats.means, keep)
    plain = classifier_agreement(features, labels, head, stats.means.cpu(), keep.cpu())
    for a, b in zip(fast, plain, strict=True):
        assert torch.equal(a.cpu(), b)
