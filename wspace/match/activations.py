"""Activation matching: pair the units that fire alike on the same data."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from wspace.core.errors import ShapeError, SideTreeError, listed
from wspace.core.typing import Array
from wspace.match.assignment import solve
from wspace.trace.groups import Symmetries


def activations(axes: Symmetries, similarity: Mapping[str, Array]) -> dict[str, Array]:
    """The element that makes the units' summed similarity largest, each group by itself: exact, no order, no key.

    With `similarity` the matrices of `gram` this minimizes the squared distance of the two models' activations (Git
    Re-Basin, section 3.1); with those of `correlation` it pairs units by Pearson correlation (Li et al., Tatro et al.).

    Args:
      axes: from `ws.trace.axes` or `ws.trace.by_hand`.
      similarity: group name -> float `[*over, size, size]`, row: unit of a, column: unit of b. For a group that depends
        on others (head_dim for each head) row and column belong to the same index: match the outer group first.
        Groups without an entry stay as they are.
    Returns:
      dict, int32 `[*over, size]` a group: g of `act(b, axes, g)`.
    Raises:
      SideTreeError: a name that is no group, or no entry at all. ShapeError: a matrix of another shape.
      NonFinite: NaN or infinity; a unit that never fires has no correlation, see `correlation`.
    Example:
      >>> from wspace.trace import by_hand
      >>> axes = by_hand({"w": (None, "h")}, {"w": jnp.ones((3, 2))})
      >>> activations(axes, {"h": jnp.array([[0.1, 0.9], [0.8, 0.2]])})
      {'h': Array([1, 0], dtype=int32)}

    Reference: Ainsworth, Hayase, Srinivasa, 2023, "Git Re-Basin"; Li, Yosinski, Clune, Lipson, Hopcroft, 2015,
    "Convergent Learning". Differs from the paper: none.
    """
    if unknown := sorted(similarity.keys() - axes.groups.keys()):
        raise SideTreeError(f"similarity has {listed(unknown)}, but the groups are {listed(axes.groups)}")
    if not similarity:
        raise SideTreeError(f"similarity is empty; give matrices for some of {listed(axes.groups)}")
    out = {}
    for name, group in axes.groups.items():
        want = (*group.shape, group.size)
        if name not in similarity:
            out[name] = jnp.broadcast_to(jnp.arange(group.size, dtype=jnp.int32), group.shape)
        elif tuple(np.shape(similarity[name])) != want:
            raise ShapeError(f"similarity of {name!r} has shape {np.shape(similarity[name])}, wanted {want}")
        else:
            out[name] = jnp.asarray(solve(similarity[name], name=name))
    return out


@jax.jit
def correlation(cross: Array, mean_a: Array, mean_b: Array, var_a: Array, var_b: Array) -> Array:
    """Pearson correlation of every pair of units, 0 for a unit that never varies.

        (E[x_a x_b] - E[x_a] E[x_b]) / sqrt(var_a var_b)

    Args:
      cross: f32 [n, m], mean of x_a x_b over the data; the other four f32 [n] or [m], of a's and b's units.
    Returns:
      f32 [n, m], in -1..1 up to rounding.
    Example:
      >>> correlation(jnp.eye(2), jnp.zeros(2), jnp.zeros(2), jnp.ones(2), jnp.array([1.0, 0.0]))
      Array([[1., 0.],
             [0., 0.]], dtype=float32)
    """
    scale = jnp.sqrt(var_a)[:, None] * jnp.sqrt(var_b)[None, :]
    centred = cross - mean_a[:, None] * mean_b[None, :]
    return jnp.where(scale > 0, centred / jnp.where(scale > 0, scale, 1.0), 0.0)


@jax.jit
def cross_of(x_a: Array, x_b: Array) -> dict[str, Array]:
    """All that `correlation` takes, from activations of the same examples: f32 [examples, n] and [examples, m].

    `cross_of(...)["cross"]` is the gram similarity.
    """
    mean_a, mean_b = x_a.mean(0), x_b.mean(0)
    cross = jnp.matmul(x_a.T, x_b, precision=jax.lax.Precision.HIGHEST) / x_a.shape[0]
    return {"cross": cross, "mean_a": mean_a, "mean_b": mean_b, "var_a": x_a.var(0), "var_b": x_b.var(0)}
