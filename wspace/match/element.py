"""Elements of a symmetry group: a dict from group name to an array `[*over, size]`, so a pytree like any other.

A permutation p of shape [*over, size] says where each new coordinate comes from: new[i, f] = old[p_i[i], p[i, f]].
A scale has positive factors there, an orthogonal element matrices Q [*over, size, size]: new[i] = sum_j Q[i, j] old[j].
`act(compose(g, h))` is `act(g)` after `act(h)`.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from wspace.core.errors import ShapeError, SideTreeError, listed
from wspace.core.typing import Array
from wspace.match.rotate import check_orthogonal, haar_matrix, hadamard_matrix
from wspace.trace.groups import Group, Symmetries

Element: TypeAlias = Mapping[str, Array]


def identity(axes: Symmetries) -> dict[str, Array]:
    """The element that leaves everything as it is: int32 0, 1, ... (permutation) or f32 ones (scale) `[*over, size]` a
    group, or f32 identity matrices (orthogonal) `[*over, size, size]`."""

    def one(group: Group) -> np.ndarray:
        if axes.kind == "orthogonal":
            return np.eye(group.size, dtype=np.float32)
        return np.ones(group.size, np.float32) if axes.kind == "scale" else np.arange(group.size, dtype=np.int32)

    return {name: jnp.asarray(np.broadcast_to(one(g), shape_in(axes, g))) for name, g in axes.groups.items()}


def shape_in(axes: Symmetries, group: Group) -> tuple[int, ...]:
    """Shape of a group's entry in an element."""
    return (*group.shape, group.size) if axes.kind == "orthogonal" else group.shape


def random_element(axes: Symmetries, *, key: Array, hadamard: bool = False) -> dict[str, Array]:
    """A random permutation for each group and index, scales log-uniform between 1/2 and 2, or a random rotation.

    Permutations and orthogonal matrices (reflections too) are uniform (Haar).

    Each group's draw depends on the key and its own name alone.

    Args:
      axes: from `ws.trace.axes` or `ws.trace.by_hand`.
      key: typed, from `jax.random.key`.
      hadamard: for orthogonal groups, Hadamard matrices with random signs in place of uniform ones: they spread each
        coordinate evenly over all (over 2^k each, where the size is 2^k times an odd number).
    Returns:
      dict, int32 (permutation) or float32 (scale) `[*over, size]`, or float32 `[*over, size, size]` a group.
    Raises:
      SideTreeError: a raw key.
    Example:
      >>> import wspace as ws
      >>> axes = ws.trace.by_hand({"w": (None, "hidden")}, {"w": jnp.ones((3, 8))})
      >>> random_element(axes, key=jax.random.key(0))["hidden"].shape
      (8,)
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise SideTreeError(f"key is a raw {key.dtype} array; make it with jax.random.key(seed), not PRNGKey")

    def draw(name: str, group: Group) -> Array:
        own = jax.random.fold_in(key, zlib.crc32(name.encode()))
        if axes.kind == "scale":
            return jnp.exp2(jax.random.uniform(own, group.shape, minval=-1, maxval=1))
        if axes.kind == "orthogonal":
            return (hadamard_matrix if hadamard else haar_matrix)(own, group)
        rows = np.broadcast_to(np.arange(group.size, dtype=np.int32), group.shape)
        return jax.random.permutation(own, rows, axis=-1, independent=True)

    return {name: draw(name, group) for name, group in axes.groups.items()}


def compose(axes: Symmetries, g: Element, h: Element) -> dict[str, Array]:
    """The element gh: `act(act(tree, h), g) = act(tree, gh)`.

    Raises:
      ShapeError: g or h is no element of these groups.
    """
    check_element(axes, g)
    check_element(axes, h)
    if axes.kind == "scale":
        return {name: jnp.asarray(g[name]) * jnp.asarray(h[name]) for name in axes.groups}
    if axes.kind == "orthogonal":
        return {name: jnp.matmul(g[name], h[name], precision="highest") for name in axes.groups}
    g, h = on_host(g), on_host(h)
    traced = any(isinstance(p, jax.core.Tracer) for p in g.values())
    moves = {name: (*_sources(axes, group, g), g[name]) for name, group in axes.groups.items()}
    return {name: jnp.asarray((jnp.asarray(h[name]) if traced else h[name])[at]) for name, at in moves.items()}


def inverse(axes: Symmetries, g: Element) -> dict[str, Array]:
    """The element that undoes g.

    Raises:
      ShapeError: g is no element of these groups.
    """
    check_element(axes, g)
    if axes.kind == "scale":
        return {name: 1 / jnp.asarray(g[name]) for name in axes.groups}
    if axes.kind == "orthogonal":
        return {name: jnp.swapaxes(jnp.asarray(g[name]), -1, -2) for name in axes.groups}
    back: dict[str, Any] = {}
    for name, p in ((name, on_host(g)[name]) for name in axes.groups):  # those that others depend on come first
        turned = (jnp if isinstance(p, jax.core.Tracer) else np).argsort(p, axis=-1).astype(np.int32)
        at = tuple(x[..., 0] for x in _sources(axes, axes.groups[name], back))
        back[name] = (jnp.asarray(turned) if any(isinstance(x, jax.core.Tracer) for x in at) else turned)[at]
    return {name: jnp.asarray(p) for name, p in back.items()}


def _sources(axes: Symmetries, group: Group, g: Element) -> tuple[Array, ...]:
    """For each index of a group, where g takes its coordinate from: arrays that broadcast to the group's shape."""
    rank = len(group.shape)
    grid = {
        name: np.arange(n).reshape(tuple(-1 if j == k else 1 for j in range(rank)))
        for k, (name, n) in enumerate(zip(group.over, group.over_sizes, strict=True))
    }
    return tuple(moved(axes, name, grid, g) for name in group.over)


def moved(axes: Symmetries, name: str, grid: Mapping[str, Any], g: Element) -> Any:
    """The old coordinates of one group or index, given the new coordinates of all it depends on. In numpy if g is."""
    if name not in axes.groups or name not in g:
        return grid[name]
    return g[name][tuple(grid[i] for i in (*axes.groups[name].over, name))]


def on_host(g: Element) -> dict[str, Any]:
    """The element in numpy, unless it is being traced: index arithmetic then costs nothing."""
    return {name: p if isinstance(p, jax.core.Tracer) else np.asarray(p) for name, p in g.items()}


def check_element(axes: Symmetries, g: Element) -> None:
    """Raise ShapeError if g is no element of these groups: names, shapes, and (where known) values."""
    missing, extra = axes.groups.keys() - g.keys(), g.keys() - axes.groups.keys()
    if missing or extra:
        raise ShapeError(
            f"element lacks {listed(sorted(missing)) or 'none'} and has also {listed(sorted(extra)) or 'none'}"
        )
    wanted = jnp.integer if axes.kind == "permutation" else jnp.floating
    for name, group in axes.groups.items():
        p = g[name]
        if tuple(p.shape) != shape_in(axes, group):
            raise ShapeError(f"element of {name!r} has shape {tuple(p.shape)}, wanted {shape_in(axes, group)}")
        if not jnp.issubdtype(p.dtype, wanted):
            raise ShapeError(f"element of {name!r} is {p.dtype}, wanted {wanted.__name__}: a {axes.kind}")
        if isinstance(p, jax.core.Tracer | jax.ShapeDtypeStruct):
            continue
        values = np.asarray(p)
        if axes.kind == "orthogonal":
            check_orthogonal(name, values)
        if axes.kind == "scale" and not ((values > 0) & np.isfinite(values)).all():
            raise ShapeError(f"element of {name!r} is not positive and finite everywhere, so no scale")
        if axes.kind == "permutation" and (np.sort(values, axis=-1) != np.arange(group.size)).any():
            raise ShapeError(f"element of {name!r} is no permutation of 0..{group.size - 1}")
