"""Summaries and order statistics over leaves and data."""

from wspace.stats.correlation import correlation as correlation
from wspace.stats.correlation import correlation_array as correlation_array
from wspace.stats.curvature import hessian_trace as hessian_trace
from wspace.stats.fisher import Gradients as Gradients
from wspace.stats.fisher import fisher as fisher
from wspace.stats.fisher import grad as grad
from wspace.stats.gram import Diagonal as Diagonal
from wspace.stats.gram import cross as cross
from wspace.stats.gram import gram as gram
from wspace.stats.moments import abs_max as abs_max
from wspace.stats.moments import abs_mean as abs_mean
from wspace.stats.moments import mean as mean
from wspace.stats.moments import mean_square as mean_square
from wspace.stats.moments import variance as variance
from wspace.stats.quantile import keep_largest as keep_largest
from wspace.stats.quantile import kth_magnitude as kth_magnitude
from wspace.stats.quantile import largest_in_columns as largest_in_columns
from wspace.stats.quantile import largest_mask as largest_mask
from wspace.stats.ranking import ranking as ranking
from wspace.stats.ranking import stays as stays
from wspace.stats.seen import Lookup as Lookup
from wspace.stats.seen import Rows as Rows
from wspace.stats.seen import Seen as Seen
from wspace.stats.seen import outputs as outputs
