"""Decisions of the head and of the nearest mean, each as a loop in float64 makes it."""

import naive_collapse as naive
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lcutils.collapse import agreement, scores
from lcutils.collapse.agreement import AgreementCounter, classifier_agreement
from lcutils.errors import NotFiniteError


def draw(number, dim, classes, seed=0, offset=0.0):
    random = np.random.default_rng(seed)
    means = offset + random.normal(size=(classes, dim))
    head = means - offset + 0.3 * random.normal(size=(classes, dim))
    labels = random.integers(-1, classes, number)
    features = means[labels] + random.normal(size=(number, dim))
    return features, labels, head, means, random.random(classes) < 0.7


def check(features, labels, head, means, keep, dtype=torch.float64, bias=None, scale=1.0):
    features = torch.as_tensor(np.asarray(features)).to(dtype)
    given = None if bias is None else torch.as_tensor(bias)
    hits, totals = classifier_agreement(
        features, torch.as_tensor(labels), torch.as_tensor(head), torch.as_tensor(means), torch.as_tensor(keep),
        given, scale,
    )  # fmt: skip
    expected = naive.agreement(features.double().numpy(), labels, head, means, keep, bias, scale)
    assert hits.dtype == totals.dtype == torch.int64
    assert hits.tolist() == expected[0].tolist()
    assert totals.tolist() == expected[1].tolist()
    return int(hits.sum()), int(totals.sum())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_hits_and_totals_by_class(dtype, offset):
    hits, totals = check(*draw(600, 8, 50, offset=offset), dtype=dtype)
    assert 0 < hits < totals < 600


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(2, 40))
def test_any_shape(seed, dim, classes):
    features, labels, head, means, keep = draw(60, dim, classes, seed=seed)
    keep[0] = True
    check(features, labels, head, means, keep)


def test_classes_not_kept_neither_win_nor_count():
    # Class 2 is the nearest to everything and has the largest score, but is not kept.
    means = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.6]])
    features = np.array([[0.7, 0.5], [0.5, 0.7], [0.6, 0.6]])
    keep = np.array([True, True, False])
    assert check(features, np.array([0, 1, 2]), np.array([[1.0, 0], [0, 1.0], [9, 9]]), means, keep) == (2, 2)


def test_an_empty_class_with_mean_zero_does_not_win():
    means = np.array([[5.0, 0.0], [0.0, 5.0], [0.0, 0.0]])
    features = np.array([[0.2, 0.1], [0.1, 0.2]])
    assert check(features, np.array([0, 1]), means, means, np.array([True, True, False])) == (2, 2)


@pytest.mark.parametrize("gap", [1e-5, 1e-8, 1e-12])
def test_near_ties_are_decided_as_float64_does(gap):
    """Every feature lies between two means, `gap` nearer to one: float32 cannot tell."""
    random = np.random.default_rng(4)
    means = random.normal(size=(40, 16))
    first, second = random.integers(0, 40, 300), random.integers(0, 40, 300)
    side = random.choice([-1, 1], 300)[:, None] * gap
    features = (means[first] + means[second]) / 2 + side * (means[first] - means[second])
    labels = random.integers(0, 40, 300)
    check(features, labels, means, means, np.ones(40, dtype=bool))


def test_rounding_alone_would_decide_otherwise():
    """The case above is no straw man: float32 scores do give other decisions."""
    random = np.random.default_rng(4)
    means = torch.from_numpy(random.normal(size=(40, 16)))
    first, second = torch.from_numpy(random.integers(0, 40, (2, 300)))
    features = (means[first] + means[second]) / 2 + 1e-8 * (means[first] - means[second])
    exact = (features @ means.T - means.square().sum(1) / 2).argmax(1)
    narrow = (features.float() @ means.float().T - means.float().square().sum(1) / 2).argmax(1)
    assert (exact != narrow).any()


def test_equal_means_and_rows_the_first_class_wins():
    features, labels, head, means, keep = draw(200, 4, 30)
    keep[:] = True
    means[20], head[20] = means[3], head[3]
    check(features, labels, head, means, keep)
    means[:], head[:] = means[0], head[0]
    assert check(features, labels, head, means, keep)[0] == (labels >= 0).sum()


@pytest.mark.parametrize("scale", [1.0, 0.0625, -1.0, -3.5])
@pytest.mark.parametrize("biased", [True, False])
def test_a_heads_bias_and_the_sign_of_its_scale_decide(biased, scale):
    features, labels, head, means, keep = draw(400, 6, 40, offset=2.0)
    bias = 3 * np.random.default_rng(1).normal(size=40) if biased else None
    check(features, labels, head, means, keep, bias=bias, scale=scale)
    given = None if bias is None else torch.as_tensor(bias)
    counter = AgreementCounter(*(torch.as_tensor(x) for x in (head, means, keep)), bias=given, scale=scale)
    for part in np.array_split(np.arange(400), 3):
        counter.update(torch.as_tensor(features[part]), torch.as_tensor(labels[part]))
    weights = classifier_agreement(*(torch.as_tensor(x) for x in (features, labels, head, means, keep)))[0]
    assert torch.equal(counter.hits_weights, weights)
    assert torch.equal(counter.hits, weights) == (not biased and scale > 0) == (counter.hits is counter.hits_weights)


def test_a_bias_decides_near_ties_exactly():
    """The bias makes up, to the last bits of float64, for what one class is ahead: float32 cannot tell."""
    random = np.random.default_rng(5)
    head, features = random.normal(size=(40, 16)), 50 * random.normal(size=(30, 16))
    scores = features @ head.T
    first = scores.argmax(1)
    for side in (-1e-9, 1e-9):
        for h, best in zip(features, first, strict=True):
            other = (best + 7) % 40
            bias = np.zeros(40)
            bias[other] = head[best] @ h - head[other] @ h + side
            hits = [
                check(h[None], np.zeros(1, dtype=int), head, means, np.ones(40, dtype=bool), bias=bias)[0]
                for means in (h + np.abs(np.arange(40) - other)[:, None], h + np.abs(np.arange(40) - best)[:, None])
            ]
            assert hits == [int(side > 0), int(side < 0)]


def test_a_bias_in_the_models_type_enters_as_it_is():
    features, labels, head, means, keep = draw(200, 6, 40)
    bias = torch.randn(40).bfloat16()
    check(features, labels, head, means, keep, bias=bias.double().numpy())
    given = (torch.as_tensor(x) for x in (features, labels, head, means, keep))
    counter = AgreementCounter(*list(given)[2:], bias=bias)
    counter.update(torch.as_tensor(features), torch.as_tensor(labels))
    assert (
        counter.hits.tolist() == naive.agreement(features, labels, head, means, keep, bias.double().numpy())[0].tolist()
    )


@pytest.mark.parametrize("numbers", [1, 100, 10**6])
@pytest.mark.parametrize("kind", ["plain", "bias", "equal", "near", "not finite"])
def test_rounded_rows_may_be_made_again_for_each_batch(monkeypatch, numbers, kind):
    """Chunks of 4, 16 and all classes; the decisions, and what they cannot be made for, are the same."""
    monkeypatch.setattr(scores, "FAST_NUMBERS", numbers)
    monkeypatch.setattr(scores, "CLASS_BLOCK", 4)
    monkeypatch.setattr(agreement, "CPU_SCORES", 900)
    features, labels, head, means, keep = draw(150, 5, 70, offset=5.0)
    bias = np.random.default_rng(1).normal(size=70) if kind == "bias" else None
    if kind == "equal":  # whole numbers, whose products are exact in any order
        means[:], head[:], features = means[0].round(), head[0].round(), features.round()
    if kind == "near":
        features = (means[labels] + means[labels - 3]) / 2 + 1e-9 * (means[labels] - means[labels - 3])
    if kind == "not finite":
        labels[[3, 77]], features[[3, 77], 2] = -1, [np.nan, np.inf]
        features[labels < 0] = np.where(np.isfinite(features[labels < 0]), features[labels < 0], np.nan)
        counter = AgreementCounter(*(torch.as_tensor(x) for x in (head, means, keep)))
        counter.update(torch.as_tensor(features), torch.as_tensor(labels))
        expected = naive.agreement(np.nan_to_num(features), labels, head, means, keep)
        assert [x.tolist() for x in counter.result()] == [x.tolist() for x in expected]
        return
    check(features, labels, head, means, keep, bias=bias, scale=-1.0 if kind == "bias" else 1.0)


def test_ids_and_their_means_are_a_mask_and_all_means():
    features, labels, head, means, keep = (torch.as_tensor(x) for x in draw(300, 6, 50))
    ids, bias = keep.nonzero()[:, 0], torch.randn(50)
    for options in ({}, {"bias": bias, "scale": -2.0}):
        masked = AgreementCounter(head, means, keep, **options)
        chosen = AgreementCounter(head.bfloat16().double(), means[ids], ids, **options)
        masked = AgreementCounter(head.bfloat16(), means, keep, **options)
        for counter in (masked, chosen):
            counter.update(features, labels)
        for one, other in zip(masked.result(), chosen.result(), strict=True):
            assert torch.equal(one, other)
        assert torch.equal(masked.hits_weights, chosen.hits_weights)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_head_that_is_not_finite_is_refused_by_name(value):
    features, labels, head, means, keep = (torch.as_tensor(x) for x in draw(20, 3, 6))
    keep[:], keep[1] = True, False
    bias = torch.zeros(6)
    for tensor, what in ((head, "the classifier's rows"), (bias, "the head's biases"), (means, "the class means")):
        tensor[1] = value  # not kept: nobody looks
        classifier_agreement(features, labels, head, means, keep, bias)
        before = tensor[4].clone()
        tensor[4] = value
        with pytest.raises(ValueError, match=f"{what} of 1 classes are not finite, class 4 first"):
            classifier_agreement(features, labels, head, means, keep, bias)
        tensor[4] = before


def test_large_tables_go_in_pieces(monkeypatch):
    monkeypatch.setattr(agreement, "CPU_SCORES", 100)
    monkeypatch.setattr(scores, "GATHERED_NUMBERS", 10)
    features, labels, head, means, keep = draw(150, 5, 30)
    means[:10] = means[0]
    check(features, labels, head, means, keep)


def test_a_counter_adds_batches_up():
    features, labels, head, means, keep = draw(300, 6, 25)
    counter = AgreementCounter(*(torch.as_tensor(x) for x in (head, means, keep)))
    for part in np.array_split(np.arange(300), 7):
        counter.update(torch.as_tensor(features[part]), torch.as_tensor(labels[part]))
    hits, totals = counter.result()
    expected = naive.agreement(features, labels, head, means, keep)
    assert (hits.tolist(), totals.tolist()) == (expected[0].tolist(), expected[1].tolist())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_feature_that_is_not_finite_is_no_hit(value):
    features, labels, head, means, keep = draw(50, 4, 9)
    keep[:] = True
    labels[:] = np.arange(50) % 9
    features[[7, 30], 2] = value
    with pytest.raises(NotFiniteError, match="2 of 50 features are not finite"):
        check(features, labels, head, means, keep)
    labels[[7, 30]] = -1  # what is left out is not looked at
    check(np.nan_to_num(features, posinf=0, neginf=0), labels, head, means, keep)
    counter = AgreementCounter(*(torch.as_tensor(x) for x in (head, means, keep)))
    counter.update(torch.as_tensor(features), torch.as_tensor(labels))
    assert counter.result()[1].sum() == 48


def test_wrong_input_is_an_error():
    features, labels, head, means, keep = (torch.as_tensor(x) for x in draw(20, 3, 6))
    keep[:] = True
    with pytest.raises(ValueError, match="no class is kept"):
        classifier_agreement(features, labels, head, means, torch.zeros_like(keep))
    with pytest.raises(ValueError, match="label 6 is out of range"):
        classifier_agreement(features, torch.full_like(labels, 6), head, means, keep)
    with pytest.raises(ValueError, match="features must be"):
        classifier_agreement(features[:, :2], labels, head, means, keep)
    for wrong in (
        (head[:5], means, keep),
        (head, means[:5], keep),
        (head, means, torch.arange(5)),
        (head[0], means, keep),
    ):
        with pytest.raises(ValueError, match="classifier and means must be"):
            classifier_agreement(features, labels, *wrong)
    for bias in (torch.zeros(5), torch.zeros(6, 1)):
        with pytest.raises(ValueError, match="bias must be"):
            classifier_agreement(features, labels, head, means, keep, bias)
    for scale in (0.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="scale must be a number other than 0"):
            classifier_agreement(features, labels, head, means, keep, scale=scale)
    with pytest.raises(ValueError, match="classes must ascend"):
        AgreementCounter(head, means[:2], torch.tensor([3, 1]))
