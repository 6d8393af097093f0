"""DAREx with one q for the whole model, found without labels: the one with which the answers change least."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from wspace.core.compose import keep, on
from wspace.core.errors import WspaceError
from wspace.core.select import matrices
from wspace.core.typing import Array, Tree, Where
from wspace.merge.darex import darex


class QSearch(NamedTuple):
    """q: the one found. params: the pruned fine-tune with it. qs, changes: [tried], ascending in q."""

    q: float
    params: Tree
    qs: np.ndarray
    changes: np.ndarray


def search_q(
    change: Callable[[Tree], Array | float],
    base: Tree,
    tuned: Tree,
    density: float,
    *,
    key: Array,
    where: Where = matrices,
    points: int = 10,
    rounds: int = 2,
) -> QSearch:
    """Drop most of a task vector, and find what to divide the rest by, one number for all leaves.

        theta(q) = base + m d / q,   d = tuned - base,   m_i ~ Bernoulli(density)
        q = argmin of change(theta(q)) on a grid in density..1, then on finer ones around the best, one a round

    Args:
      change: params -> a number, smaller is better. Without labels it is the mean change of the last layer's outputs
        on calibration data, `lambda p: jnp.mean(jnp.abs(apply(p, x) - apply(tuned, x)))`; with labels an error rate.
      base, tuned: one structure, in memory. density: probability of an entry to stay, above 0, below 1; the paper's
        drop rate is p = 1 - density. key: of the masks, the same for every q.
      where: the leaves to drop from, by default all matrices; the others keep the fine-tune's values.
      points: of each grid, at least 3. rounds: 1 is the coarse grid alone.
    Returns:
      QSearch. q = density, which is DARE, and q = 1, which only drops, are among those tried.
    Raises:
      WspaceError: a density out of range, fewer points or rounds, or a change that is no number at every q.
      SelectionError: where takes no leaf.
    Example:
      >>> import jax, jax.numpy as jnp
      >>> base, tuned, x = {"w": jnp.zeros((4, 1))}, {"w": jnp.ones((4, 1))}, jnp.ones((1, 4))
      >>> change = lambda p: jnp.mean(jnp.abs(x @ p["w"] - x @ tuned["w"]))
      >>> found = search_q(change, base, tuned, 0.5, key=jax.random.key(3), rounds=3)  # 3 of 4 are kept
      >>> round(found.q, 2)
      0.75

    Reference: Deng et al., 2025, "DARE the Extreme: Revisiting Delta-Parameter Pruning For Fine-Tuned Models" (the
      global q, by validation score or by the change of the last layer).
    Differs from the paper: the numbers of its grids are not those here.
    """
    if not 0 < density < 1 or points < 3 or rounds < 1:
        raise WspaceError(
            f"search_q: density is {density}, points {points} and rounds {rounds}; "
            f"a density is between 0 and 1, with at least 3 points and 1 round"
        )

    def pruned(q: float) -> Tree:
        return on(where, darex(density, q), otherwise=keep())(tuned, base=base, key=key)

    tried: dict[float, float] = {}
    low, high = float(density), 1.0
    for _ in range(rounds):
        for q in np.linspace(low, high, points):
            tried.setdefault(float(q), float(change(pruned(float(q)))))
        qs = np.array(sorted(tried))
        changes = np.array([tried[q] for q in qs])
        if np.isnan(changes).all():
            raise WspaceError("search_q: the change is no number at every q; look at the inputs")
        best = int(np.nanargmin(changes))
        low, high = float(qs[max(best - 1, 0)]), float(qs[min(best + 1, len(qs) - 1)])
    return QSearch(float(qs[best]), pruned(float(qs[best])), qs, changes)
