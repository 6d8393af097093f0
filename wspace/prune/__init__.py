"""Pruning: what to set to zero, by which score, in which pattern, within which budget."""

from wspace.prune.magnitude import magnitude as magnitude
from wspace.prune.nm import nm as nm
from wspace.prune.wanda import wanda as wanda
