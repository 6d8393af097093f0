"""Evolutionary search: the numeric parameters of any Transform, by a score that needs no gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from wspace.core.errors import ShapeError, WspaceError
from wspace.core.learn import Make
from wspace.core.typing import Array, Progress, Tree

Vector = np.ndarray[Any, Any]


class Evolved(NamedTuple):
    """params: the best result found. values: the numeric parameters that made it. score: its score.

    scores: [generations, population], all that were tried.
    """

    params: Tree
    values: Tree
    score: float
    scores: Vector


def evolve(
    make: Make,
    start: Tree,
    score: Callable[[Tree], Array | float],
    trees: Sequence[Tree],
    *,
    key: Array,
    generations: int = 30,
    population: int | None = None,
    sigma: float = 0.2,
    progress: Progress | None = None,
    **sides: Any,
) -> Evolved:
    """Find the numeric parameters of a Transform by CMA-ES: draw, score, and move the normal distribution that draws.

        x_i = m + s y_i,   y_i ~ N(0, C);   m <- m + s sum_i w_i y_(i) over the better half
        C <- (1 - c_1 - c_mu) C + c_1 p p' + c_mu sum_i w_i y_(i) y_(i)';   s grows while steps keep their direction

    p is the path that m took, y_(i) the i-th best; all constants are Hansen's.

    Args:
      make: values -> Transform of the trees, such as `lambda v: ties(density=v["density"], lam=v["lam"])`; what is
        limited is clipped in it. start: values to begin with, a tree of up to a few hundred numbers of one scale.
      score: params -> a number, larger is better, such as accuracy; NaN counts as the worst.
      trees, sides: what the Transform is called with. A random one gets its key in `make`:
        `lambda v: functools.partial(dare(v), key=k)`.
      key: of the draws; the same key gives the same search. generations: how many. population: draws in each, default
        4 + 3 log(numbers). sigma: s to begin with, about a third of the range in which the best values are supposed.
      progress: called as (generations done, generations, the best score in words).
    Returns:
      Evolved; its score is never below that of `start`.
    Raises:
      WspaceError: sigma is not positive. ShapeError: no number to search, no generation, or a population below 2.
    Example:
      >>> import wspace as ws
      >>> a, b = {"w": jnp.array([0.0, 2.0])}, {"w": jnp.array([4.0, 0.0])}
      >>> score = lambda p: -abs(p["w"][0] - 1.0)  # least at a quarter of the way
      >>> found = evolve(ws.interpolate.lerp, 0.5, score, [a, b], key=jax.random.key(0))
      >>> f"{found.values:.3f}"
      '0.250'

    Reference: Hansen, 2016, "The CMA Evolution Strategy: A Tutorial"; on merges: Akiba, Shing, Tang, Sun, Ha, 2025,
      "Evolutionary optimization of model merging recipes".
    Differs from the paper: weights of the better half alone, none negative; coefficients only, where Akiba et al. also
      choose layers.
    """
    flat, rebuild = ravel_pytree(jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), start))
    n = flat.size
    drawn = 4 + int(3 * np.log(max(n, 1))) if population is None else population
    if n == 0 or generations < 1 or drawn < 2:
        raise ShapeError(f"evolve: {n} numbers, {generations} generations of {drawn}; all are at least 1, the last 2")
    if not sigma > 0:
        raise WspaceError(f"evolve: sigma is {sigma}; it has to be positive, such as a third of the range")

    def result(x: Vector) -> Tree:
        return make(rebuild(jnp.asarray(x, jnp.float32)))(*trees, **sides)

    def rate(x: Vector) -> float:
        value = float(score(result(x)))
        return -np.inf if np.isnan(value) else value

    best = np.asarray(flat, np.float64)
    found = rate(best)
    search, table = _Search.begin(best, sigma, drawn), np.empty((generations, drawn))
    for g in range(generations):
        draws = np.asarray(jax.random.normal(jax.random.fold_in(key, g), (drawn, n)), np.float64)
        tried = search.candidates(draws)
        table[g] = [rate(x) for x in tried]
        order = np.argsort(-table[g], kind="stable")
        if table[g, order[0]] > found:
            best, found = tried[order[0]], float(table[g, order[0]])
        search = search.moved(tried[order], g)
        if progress is not None:
            progress(g + 1, generations, f"best {found:.4g}")
    return Evolved(result(best), rebuild(jnp.asarray(best, jnp.float32)), found, table)


@dataclass(frozen=True)
class _Search:
    """The normal distribution that draws, N(mean, (scale root)^2), and the paths that adapt it.

    mean: m, [n]. scale: s. root: C^(1/2), [n, n]. along, across: p_c and p_s, [n]. weights: w, of the better half.
    """

    mean: Vector
    scale: float
    root: Vector
    along: Vector
    across: Vector
    weights: Vector

    @classmethod
    def begin(cls, mean: Vector, scale: float, population: int) -> _Search:
        half = population // 2
        raw = np.log((population + 1) / 2) - np.log(np.arange(1, half + 1))
        return cls(mean, scale, np.eye(mean.size), 0 * mean, 0 * mean, raw / raw.sum())

    def candidates(self, draws: Vector) -> Vector:
        """draws: [population, n], standard normal."""
        return self.mean + self.scale * draws @ self.root

    def moved(self, ranked: Vector, generation: int) -> _Search:
        """After a generation; ranked: its candidates, best first. Numbers in brackets are equations of the tutorial."""
        n, w = self.mean.size, self.weights
        mass = 1 / np.sum(w**2)  # mu_eff
        c_across = (mass + 2) / (n + mass + 5)
        damp = 1 + 2 * max(0.0, np.sqrt((mass - 1) / (n + 1)) - 1) + c_across
        c_along = (4 + mass / n) / (n + 4 + 2 * mass / n)
        c_one = 2 / ((n + 1.3) ** 2 + mass)
        c_rank = min(1 - c_one, 2 * (mass - 2 + 1 / mass) / ((n + 2) ** 2 + mass))
        typical = np.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))  # length of a standard normal vector

        steps = (ranked[: w.size] - self.mean) / self.scale
        step = w @ steps  # (41)
        whitened = np.linalg.solve(self.root, step)
        across = (1 - c_across) * self.across + np.sqrt(c_across * (2 - c_across) * mass) * whitened  # (43)
        scale = self.scale * np.exp(c_across / damp * (np.linalg.norm(across) / typical - 1))  # (44)
        begun = np.sqrt(1 - (1 - c_across) ** (2 * generation + 2))
        calm = float(np.linalg.norm(across) / begun < (1.4 + 2 / (n + 1)) * typical)  # h_sigma
        along = (1 - c_along) * self.along + calm * np.sqrt(c_along * (2 - c_along) * mass) * step  # (45)
        lost = (1 - calm) * c_along * (2 - c_along)
        spread = (1 - c_one - c_rank + c_one * lost) * (self.root @ self.root)  # (47)
        spread = spread + c_one * np.outer(along, along) + c_rank * (steps.T * w) @ steps
        values, axes = np.linalg.eigh((spread + spread.T) / 2)
        root = (axes * np.sqrt(np.maximum(values, 1e-20 * values.max()))) @ axes.T
        return _Search(self.mean + self.scale * step, float(scale), root, along, across, w)
