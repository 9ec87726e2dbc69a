"""The study's figures, in Altair: each function takes a results table and returns a `Figure`."""

from lcutils.charts.along import trajectories
from lcutils.charts.comparison import beside_published, correlations_chart, overlaid
from lcutils.charts.convergence import convergence
from lcutils.charts.fine_tuned import moved_tokens
from lcutils.charts.free import free_scatter
from lcutils.charts.grid import by_width, losses, sensitivity
from lcutils.charts.layers import BY_LAYER, by_layer, law
from lcutils.charts.nulls import beside_nulls
from lcutils.charts.paper import FIGURE_1, against_loss, figure_1, figure_2, figure_3, seeds_scatter
from lcutils.charts.strips import strips
from lcutils.charts.theme import Figure
from lcutils.charts.tokens import token_explorer, token_kinds
