"""All of the analysis under one import: relations, tables, few models, kinds of token, definitions of the measurements.

Every function takes a results table (with the columns of `results.csv`, ours or `load_published`'s) or a table of
tokens. It returns a new DataFrame, or `Missing` with a sentence that says why it cannot be computed.
"""

from lcutils.analysis.conditional import influence, partial_correlations, sensitivity_correlations, within_architecture
from lcutils.analysis.configuration import applying, model_table, own_settings
from lcutils.analysis.convergence import settling, settling_words
from lcutils.analysis.corrected import beside_corrected
from lcutils.analysis.definitions import (
    Missing,
    definitions_table,
    known_to,
    limits_at,
    limits_of_theory,
    measurements_in,
)
from lcutils.analysis.errors import error_table, with_reliability
from lcutils.analysis.few import FEW, comparable_loss, few_models
from lcutils.analysis.fine_tuned import base_differences, base_pairs, moved_tokens
from lcutils.analysis.inference import permutation_test
from lcutils.analysis.layers import law_of_prediction, layer_keys
from lcutils.analysis.nulls import null_bands, null_distances
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
from lcutils.analysis.word_kinds import TOKEN_KINDS, kind_shares, with_kinds
from lcutils.collapse.catalogue import MEASUREMENTS
