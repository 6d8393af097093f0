"""Evolutionary search of an allocation whose costs do not add up: EvoPress."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from wspace.core.errors import WspaceError
from wspace.core.typing import Array, Progress

MOVES = 3  # pairs of leaves that an offspring changes at most
TRIES = 100  # draws in a row of known offspring after which there is none that is new


class Evolution(NamedTuple):
    """choices: leaf -> choice. fitness: its last one. history: the parent's fitness after each generation."""

    choices: dict[str, Any]
    fitness: float
    history: tuple[float, ...]


def evolve(
    start: Mapping[str, Any],
    choices: Sequence[Any],
    fitness: Callable[[dict[str, Any], int], float],
    *,
    key: Array,
    sizes: Mapping[str, float] | None = None,
    generations: int = 50,
    offspring: int = 32,
    survivors: Sequence[int] = (8, 2, 1),
    progress: Progress | None = None,
) -> Evolution:
    """Search by pairs of moves: one leaf a level down, one of the same size a level up, so that the budget stays.

    Each generation has `offspring` changed copies of the parent, by r = min(u, v) pairs, u and v uniform in 1..3. All
    are scored on little data, the best are scored again on more, and so on; the parent takes part in the last stage,
    so that on the same data it never gets worse.

    Args:
      start: leaf -> choice, within the budget. choices: the levels in order, equal steps of the budget apart.
      fitness: (leaf -> choice, stage) -> a number, smaller is better, such as the KL divergence from the dense model on
        as much data as the stage (0, 1, ...) is worth.
      key: typed; same key, same search. sizes: leaf -> size; only leaves of one size trade levels. Default: all do.
      survivors: how many are left after each stage; the last is 1.
      progress: called as (generations done, all, fitness in words).
    Returns:
      Evolution.
    Raises:
      WspaceError: a start that is none of the choices; survivors that grow or do not end at 1.
    Example:
      >>> far = lambda c, stage: abs(c["a"] - 4) + abs(c["b"] - 2)
      >>> evolve({"a": 3, "b": 3}, (2, 3, 4), far, key=jax.random.key(0), generations=2, offspring=2).choices
      {'a': 4, 'b': 2}

    Reference: Sieberling, Kuznedelev, Kurtic, Alistarh, 2024, "EvoPress: Towards Optimal Dynamic Model Compression via
      Evolutionary Search".
    Differs from the paper: none known; its code also bounds how far levels may go in sum, and has a rule that trades
      between sizes.
    """
    order = {c: k for k, c in enumerate(choices)}
    if wrong := [leaf for leaf, c in start.items() if c not in order]:
        raise WspaceError(
            f"evolve: {wrong[0]} starts at {start[wrong[0]]}, which is none of the choices {tuple(choices)}"
        )
    if not survivors or survivors[-1] != 1 or list(survivors) != sorted(survivors, reverse=True):
        raise WspaceError(f"evolve: survivors={tuple(survivors)} must fall to 1, as in (8, 2, 1)")
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
    leaves = list(start)
    groups: dict[float, list[int]] = {}
    for k, leaf in enumerate(leaves):
        groups.setdefault(1.0 if sizes is None else sizes[leaf], []).append(k)
    parent = tuple(order[c] for c in start.values())

    def named(levels: tuple[int, ...]) -> dict[str, Any]:
        return {leaf: choices[level] for leaf, level in zip(leaves, levels, strict=True)}

    best, history = fitness(named(parent), len(survivors) - 1), []
    for generation in range(generations):
        pool = _offspring(parent, list(groups.values()), len(choices), offspring, rng)
        for stage, left in enumerate(survivors):
            last = stage == len(survivors) - 1
            scored = [(fitness(named(levels), stage), k) for k, levels in enumerate(pool)]
            if last:
                scored.append((best, len(pool)))
                pool = [*pool, parent]
            kept = sorted(scored)[: min(left, len(scored))]
            pool, best = [pool[k] for _, k in kept], kept[0][0] if last else best
        parent = pool[0]
        history.append(best)
        if progress is not None:
            progress(generation + 1, generations, f"fitness {best:.4g}")
    return Evolution(named(parent), best, tuple(history))


def _offspring(
    parent: tuple[int, ...], groups: list[list[int]], levels: int, count: int, rng: np.random.Generator
) -> list[tuple[int, ...]]:
    """Changed copies of the parent, all different; fewer, if there are not as many."""
    made: dict[tuple[int, ...], None] = {}
    shares = np.array([len(g) for g in groups]) / sum(map(len, groups))
    misses = 0
    while len(made) < count and misses < TRIES:
        child = list(parent)
        for _ in range(min(rng.integers(1, MOVES + 1, 2))):
            group = groups[rng.choice(len(groups), p=shares)]
            downs, ups = [k for k in group if child[k] > 0], [k for k in group if child[k] < levels - 1]
            if downs and ups:
                child[downs[rng.integers(len(downs))]] -= 1
                child[ups[rng.integers(len(ups))]] += 1
        known = tuple(child) == parent or tuple(child) in made
        misses = misses + 1 if known else 0
        if not known:
            made[tuple(child)] = None
    return list(made)
