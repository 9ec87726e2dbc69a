"""The catalogue of measurements against what is computed: functions, keys, naive twins, terms over pairs."""

import subprocess
import sys
from typing import get_args

import naive_collapse as naive
import numpy as np
import pytest
import torch

from lcutils.collapse.catalogue import COUNTS, KEYS, MEASUREMENTS, load_function
from lcutils.collapse.entries import Extra
from lcutils.collapse.inputs import MeasurementInputs
from lcutils.collapse.pairs import PairSweep
from lcutils.collapse.terms import TERMS
from lcutils.features.statistics import ClassStatistics
from lcutils.parameters import ROOT

CATALOGUE = MEASUREMENTS | COUNTS


@pytest.fixture(scope="module")
def inputs():
    random = np.random.default_rng(0)
    stats = ClassStatistics(9, 4)
    stats.update(torch.from_numpy(random.normal(size=(60, 4))), torch.from_numpy(random.integers(0, 9, 60)))
    return MeasurementInputs.of(stats, torch.randn(9, 4), min_count=1, riesz_s=1.0, tile=None)


def test_it_is_read_without_torch_and_tables():
    """Charts and reports read it, and so may a script that only lists what there is."""
    code = "import lcutils.collapse.catalogue, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "lcutils.collapse.catalogue" in loaded
    assert not {"torch", "pandas", "scipy", "numpy"} & set(loaded)


@pytest.mark.parametrize("source", ["classes", "pairs"])
def test_each_function_computes_the_entries_that_name_it(inputs, source):
    entries = {key: entry.function for key, entry in CATALOGUE.items() if entry.reads == source}
    for name in dict.fromkeys(entries.values()):
        values = load_function(name)(inputs)
        assert set(values) == {key for key, function in entries.items() if function == name}
        for value in values.values():  # a tensor is not read before all are; pairs are plain numbers by then
            assert isinstance(value, torch.Tensor) == (source == "classes")


def test_functions_without_pairs_do_not_wait_for_the_sweep(inputs, monkeypatch):
    monkeypatch.setattr(PairSweep, "finish", lambda self: pytest.fail("the sweep was waited for"))
    inputs.__dict__.pop("pairs", None)
    for entry in CATALOGUE.values():
        if entry.reads == "classes":
            load_function(entry.function)(inputs)


def test_every_entry_has_a_function_and_a_naive_twin():
    random = np.random.default_rng(1)
    features, labels, head = random.normal(size=(40, 3)), random.integers(0, 5, 40), random.normal(size=(5, 3))
    counts, means, variances, covariance = naive.class_statistics(features, labels, 5)
    twins = {
        "paper": naive.measurements(counts, means, variances, covariance, head).keys() | naive.OF_TEXT.keys(),
        "corrected": naive.corrected(counts, means, variances, covariance, head).keys(),
        "spectrum": naive.spectrum(features, labels).keys(),
    }
    assert twins.keys() == {"paper", *get_args(Extra)}
    for group, keys in twins.items():
        assert keys == {key for key, entry in CATALOGUE.items() if entry.group == group}
    assert naive.OF_TEXT.keys() == twins["paper"] - set(KEYS)
    for entry in CATALOGUE.values():
        assert callable(load_function(entry.function))


def test_every_term_is_summed_once_over_a_known_kind_of_pairs(inputs):
    pairs = inputs.pairs
    assert list(pairs.sums) == list(TERMS)
    assert pairs.numbers.keys() == set(TERMS.values())


def test_the_readme_says_what_the_catalogue_says():
    text = (ROOT / "lcutils" / "README.md").read_text()
    for key, entry in CATALOGUE.items():
        known, limit = getattr(entry, "property", ""), getattr(entry, "limit", "")
        cells = (known, f"`{key}`", entry.definition.replace("|", "&#124;"), limit)
        assert f"| {' | '.join(cells)} |".replace("|  |", "| |") in text, key
