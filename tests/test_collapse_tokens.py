"""The per-token table against loops over each class's partners."""

import math

import naive_collapse as naive
import numpy as np
import pytest
import torch

from lcutils.collapse.measure import measure_collapse
from lcutils.collapse.tokens import measure_tokens
from lcutils.features.statistics import ClassStatistics
from lcutils.stages import extract_point, measure_point, open_study, prepare_data, train_run


def make(dim=4, classes=20, number=120, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, number)
    labels[labels == 5] = 6  # class 5 is never seen
    features = random.normal(size=(classes, dim))[labels] + 0.5 * random.normal(size=(number, dim))
    return features, labels, random.normal(size=(classes, dim))


def measure(features, labels, head, **options):
    stats = ClassStatistics(*head.shape)
    stats.update(torch.from_numpy(features), torch.from_numpy(labels))
    return measure_tokens(stats, torch.from_numpy(head), **options), stats


@pytest.mark.parametrize("tile", [None, 3])
@pytest.mark.parametrize("dim", [1, 4, 30])
def test_every_column(dim, tile):
    features, labels, head = make(dim)
    table, _ = measure(features, labels, head, tile=tile)
    counts, means, variances, _ = naive.class_statistics(features, labels, len(head))
    ids = np.flatnonzero(counts)
    assert table["token_id"].tolist() == ids.tolist()
    assert 5 not in ids
    assert table["count"].tolist() == counts[ids].tolist()
    means, variances, head = means[ids], variances[ids], head[ids]
    centred = means - means.mean(0)
    norms = np.linalg.norm(centred, axis=1)
    np.testing.assert_allclose(table["variance"], variances, rtol=1e-12)
    np.testing.assert_allclose(table["norm"], norms, rtol=1e-12)
    np.testing.assert_allclose(
        table["head_cosine"], (centred * head).sum(1) / norms / np.linalg.norm(head, axis=1), rtol=1e-10
    )
    for i in range(len(ids)):
        others = [j for j in range(len(ids)) if j != i]
        distances = np.array([np.linalg.norm(means[i] - means[j]) for j in others])
        pairs = [(variances[i] + variances[j]) / 2 for j in others] / distances**4
        assert table["cdnv"][i] == pytest.approx(pairs.mean(), rel=1e-9)
        cosines = [centred[i] @ centred[j] / norms[i] / norms[j] for j in others]
        assert table["interference"][i] == pytest.approx(np.mean(cosines), rel=1e-9, abs=1e-12)
        nearest = ids[np.array(others)[np.argsort(distances)[:5]]]
        assert table["nearest"][i].tolist() == nearest.tolist()


def test_averages_over_classes_are_the_measurements():
    features, labels, head = make()
    table, stats = measure(features, labels, head)
    values = measure_collapse(stats, torch.from_numpy(head))
    assert table["cdnv"].mean() == pytest.approx(values["nc1_cdnv"], rel=1e-12)
    assert table["interference"].mean() == pytest.approx(values["nc2_cosine_mean"], rel=1e-10)
    assert table["head_cosine"].mean() == pytest.approx(values["nc3_cosine_mean"], rel=1e-12)


def test_equal_means_are_left_out_of_the_cdnv_and_nearest_to_each_other():
    features, labels, head = make()
    twin = features[labels == 2]
    features, labels = np.concatenate([features, twin]), np.concatenate([labels, np.full(len(twin), 5)])
    table, _ = measure(features, labels, head)
    assert np.isfinite(table["cdnv"]).all()
    rows = table["token_id"].tolist()
    assert table["nearest"][rows.index(2)][0] == 5
    assert table["nearest"][rows.index(5)][0] == 2
    assert table["cdnv"][rows.index(2)] == pytest.approx(table["cdnv"][rows.index(5)], rel=1e-9)


def test_fewer_partners_than_neighbours_and_a_central_mean():
    features = np.array([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    table, _ = measure(features, np.arange(3), np.eye(3, 2), neighbours=7)
    assert table["nearest"].shape == (3, 2)
    assert math.isnan(table["interference"][1])
    assert math.isnan(table["head_cosine"][1])
    assert table["interference"][0] == pytest.approx(-1)


def test_min_count():
    features, labels, head = make()
    table, _ = measure(features, labels, head, min_count=6)
    assert table["token_id"].tolist() == [c for c in range(20) if (labels == c).sum() >= 6]


def test_the_table_of_a_checkpoint_keeps_the_ids_of_the_nearest(tiny):
    work, model = open_study(tiny, tiny.parent), "01x0016_01d"
    prepare_data(work), train_run(work, model)
    statistics = extract_point(work, model, 0).statistics
    expected = measure_tokens(statistics, torch.zeros_like(statistics.means))
    table = measure_point(work, model, 0).tokens
    assert table["token_id"].tolist() == expected["token_id"].tolist()
    assert np.stack(table["nearest_ids"]).tolist() == expected["nearest"].tolist()
