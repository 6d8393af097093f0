"""The plane through three models: a loss surface that can be drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wspace.core.align import align
from wspace.core.compose import keep
from wspace.core.containers import Params, as_params
from wspace.core.errors import ShapeError
from wspace.core.transform import narrow, working
from wspace.core.typing import Array, Leaf, Path, Tree


class Plane(NamedTuple):
    """The plane through three models a, b, c; calling it at (x, y) gives the parameters there.

    a is at (0, 0), b at (|b - a|, 0), c at the last of `corners`: distances on the plane are distances of weights.
    corners: float64 [3, 2]. mix: float64 [2, 2], from (x, y) to the shares of b - a and c - a.
    """

    params: Params
    leaves: dict[Path, tuple[Leaf, Leaf, Leaf]]
    corners: np.ndarray
    mix: np.ndarray

    def __call__(self, x: Array | float, y: Array | float) -> Tree:
        """`a + s (b - a) + t (c - a)` in the first model's container and dtypes. Traceable in x and y."""
        s, t = (self.mix[k, 0] * jnp.asarray(x) + self.mix[k, 1] * jnp.asarray(y) for k in range(2))
        return self.params.rebuild({**self.params.leaves, **{p: _mixed(*abc, s, t) for p, abc in self.leaves.items()}})

    def at(self, model: Tree) -> tuple[float, float, float]:
        """Where the nearest point to another model lies on the plane, and how far the model is from the plane."""
        gram = sum((np.asarray(_products(abc, x), np.float64) for abc, x in self._with(model)), np.zeros((3, 3)))
        shares = np.linalg.solve(gram[:2, :2], gram[:2, 2])
        away = gram[2, 2] - shares @ gram[:2, 2]
        x, y = np.linalg.solve(self.mix, shares)
        return float(x), float(y), float(np.sqrt(max(away, 0.0)))

    def _with(self, model: Tree) -> list[tuple[tuple[Leaf, Leaf, Leaf], Leaf]]:
        other = align(keep(), [self.params.leaves, as_params(model).leaves], {}, None).sources[1]
        return [(abc, other[path]) for path, abc in self.leaves.items()]


def plane(a: Tree, b: Tree, c: Tree) -> Plane:
    """The plane through three models, with an orthonormal frame: x from a to b, y towards c.

        u = (b - a) / |b - a|,   v = (c - a) - <c - a, u> u, normalized,   w(x, y) = a + x u + y v

    Args:
      a, b, c: trees of one structure; the first gives container, dtypes and the leaves that are no weights.
    Raises:
      TreeMismatch: structures or shapes differ. ShapeError: the three lie on one line.
    Example:
      >>> a, b, c = ({"w": jnp.array(w)} for w in ([0.0, 0.0], [2.0, 0.0], [1.0, 3.0]))
      >>> found = plane(a, b, c)
      >>> found.corners.tolist(), found(1.0, 3.0)["w"].tolist(), found.at({"w": jnp.array([1.0, 1.0])})
      ([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0]], [1.0, 3.0], (1.0, 1.0, 0.0))

    Reference: Garipov, Izmailov, Podoprikhin, Vetrov, Wilson, 2018, "Loss Surfaces, Mode Connectivity, and Fast
      Ensembling of DNNs".
    Differs from the paper: none.
    """
    params = [as_params(tree) for tree in (a, b, c)]
    work = align(keep(), [p.leaves for p in params], {}, None)
    leaves = {path: (work.sources[0][path], work.sources[1][path], work.sources[2][path]) for path in work.specs}
    gram = sum((np.asarray(_products(abc, abc[0]), np.float64)[:2, :2] for abc in leaves.values()), np.zeros((2, 2)))
    length = np.sqrt(gram[0, 0])
    along = gram[0, 1] / length if length else 0.0
    height = np.sqrt(max(gram[1, 1] - along**2, 0.0))
    if height <= 1e-6 * np.sqrt(gram[1, 1]) or not length:
        raise ShapeError("plane: the three models lie on one line; take three that differ")
    mix = np.linalg.inv(np.array([[length, along], [0.0, height]]))
    return Plane(params[0], leaves, np.array([[0.0, 0.0], [length, 0.0], [along, height]]), mix)


class Surface(NamedTuple):
    """xs: [nx], ys: [ny] positions on a plane; values: [ny, nx] the loss there, float32."""

    xs: np.ndarray
    ys: np.ndarray
    values: np.ndarray


def surface(loss: Callable[[Tree], Any], on: Plane, steps: int = 21, margin: float = 0.25) -> Surface:
    """The loss on a grid over the three models of a plane and what surrounds them.

    Args:
      loss: parameters -> scalar, traceable; the grid is one program that evaluates a point at a time.
      on: from `plane`. steps: points along the longer side. margin: how far around the models, in parts of each side.
    Raises:
      ShapeError: fewer than two steps.
    Example:
      >>> a, b, c = ({"w": jnp.array(w)} for w in ([0.0, 0.0], [1.0, 0.0], [0.0, 1.0]))
      >>> surface(lambda p: jnp.sum(p["w"] ** 2), plane(a, b, c), steps=2, margin=0.0).values.tolist()
      [[0.0, 1.0], [1.0, 2.0]]
    """
    if steps < 2:
        raise ShapeError(f"surface: {steps} steps make no grid; take at least 2")
    low, high = on.corners.min(0), on.corners.max(0)
    side = high - low
    low, high = low - margin * side, high + margin * side
    counts = np.maximum(np.round(steps * side / side.max()), 2).astype(int)
    xs, ys = (np.linspace(low[k], high[k], counts[k]) for k in range(2))
    grid = jnp.asarray(np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2), jnp.float32)
    values = jax.jit(lambda points: jax.lax.map(lambda p: loss(on(p[0], p[1])), points))(grid)
    return Surface(xs, ys, np.asarray(values).reshape(len(ys), len(xs)))


def _mixed(a: Leaf, b: Leaf, c: Leaf, s: Array, t: Array) -> Array:
    start = working(a)
    moved = start + s.astype(start.dtype) * (working(b) - start) + t.astype(start.dtype) * (working(c) - start)
    return narrow(moved, a.dtype)


@jax.jit
def _products(abc: tuple[Leaf, Leaf, Leaf], x: Leaf) -> Array:
    """Inner products of b - a, c - a and x - a, [3, 3]."""
    a, *others = (working(leaf) for leaf in (*abc, x))
    deltas = [other - a for other in others]
    return jnp.stack([jnp.stack([jnp.sum(p * q) for q in deltas]) for p in deltas])
