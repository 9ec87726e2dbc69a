"""Counts beside the measurements: how many classes are kept, and how many classes and pairs have no value."""

from __future__ import annotations

from torch import Tensor

from lcutils.collapse.inputs import MeasurementInputs


def class_counts(inputs: MeasurementInputs) -> dict[str, Tensor]:
    """K, and how many of the means equal mu_bar."""
    classes = inputs.classes
    return {"n_classes": classes.counts.new_tensor(classes.number), "central_classes": classes.central.sum()}


def pair_counts(inputs: MeasurementInputs) -> dict[str, float]:
    """How many pairs have no variance, and how many have equal means."""
    pairs = inputs.pairs
    return {"nc1_zero_pairs": float(pairs.zero_variances), "coincident_pairs": float(pairs.coincident)}
