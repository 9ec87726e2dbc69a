"""All of the analysis under one import: relations, tables, kinds of token, definitions of the measurements.

Every function takes a results table (with the columns of `results.csv`, ours or `load_published`'s) or a table of
tokens. It returns a new DataFrame, or `Missing` with a sentence that says why it cannot be computed.
"""

from lcutils.analysis.conditional import influence, partial_correlations, sensitivity_correlations, within_architecture
from lcutils.analysis.definitions import (
    Missing,
    limits_of_theory,
    measurements_in,
    simplex_cosine,
    uniform_sphere_log_kernel,
)
from lcutils.analysis.inference import Permutation, permutation_test
from lcutils.analysis.relations import correlations, seed_groups, seed_rows, table_1
from lcutils.analysis.tables import (
    beside_published,
    nearest_texts,
    sensitivity,
    table_2,
    table_3,
    table_5,
    trajectories,
)
from lcutils.analysis.word_kinds import TOKEN_KINDS, kind_shares, token_kind, with_kinds
from lcutils.collapse.catalogue import MEASUREMENTS, Measurement

__all__ = [
    "MEASUREMENTS",
    "TOKEN_KINDS",
    "Measurement",
    "Missing",
    "Permutation",
    "beside_published",
    "correlations",
    "influence",
    "kind_shares",
    "limits_of_theory",
    "measurements_in",
    "nearest_texts",
    "partial_correlations",
    "permutation_test",
    "seed_groups",
    "seed_rows",
    "sensitivity",
    "sensitivity_correlations",
    "simplex_cosine",
    "table_1",
    "table_2",
    "table_3",
    "table_5",
    "token_kind",
    "trajectories",
    "uniform_sphere_log_kernel",
    "with_kinds",
    "within_architecture",
]
