"""Budgets: how many bits, zeros or ranks each leaf gets, when all together may have so many."""

from wspace.budget.allocate import allocate as allocate
from wspace.budget.allocate import assign as assign
from wspace.budget.allocate import by_threshold as by_threshold
from wspace.budget.bisect import bisect as bisect
from wspace.budget.evolve import Evolution as Evolution
from wspace.budget.evolve import evolve as evolve
from wspace.budget.pareto import Point as Point
from wspace.budget.pareto import pareto as pareto
from wspace.budget.relevance import by_rank as by_rank
from wspace.budget.relevance import relevance as relevance
from wspace.budget.table import Table as Table
from wspace.budget.table import augmented as augmented
from wspace.budget.table import by_curvature as by_curvature
from wspace.budget.table import measured as measured
