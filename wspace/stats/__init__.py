"""Summaries and order statistics over leaves and data."""

from wspace.stats.quantile import keep_largest as keep_largest
from wspace.stats.quantile import kth_magnitude as kth_magnitude
from wspace.stats.quantile import largest_mask as largest_mask
