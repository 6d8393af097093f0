"""The group's action on parameters: every member of a group is moved alike, so the function stays what it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wspace.core.axes import Axes
from wspace.core.containers import as_params, show
from wspace.core.errors import ShapeError, TreeMismatch, listed
from wspace.core.implicit import Implicit
from wspace.core.typing import Array, Path, Tree
from wspace.match.element import Element, check_element, moved, on_host
from wspace.match.rotate import turned
from wspace.stats.sharding import alike, gathered
from wspace.trace.by_hand import Rules, by_hand
from wspace.trace.groups import Group, Member, Strip, Symmetries

LeafAxes = Sequence[tuple[Strip, ...]]


def act(tree: Tree, axes: Symmetries | Rules | Axes, g: Element) -> Tree:
    """Apply a group element to parameters, or to any tree aligned with them (gradients, moments of an optimizer).

        new[..., k, ...] = old[..., p[k], ...]           permutation, on every axis that the group has
        new[..., k, ...] = old[..., k, ...] * s[k] ** e    scale, e the member's exponent
        new[..., i, ...] = sum_j Q[i, j] old[..., j, ...]  orthogonal; its contragredient is Q too

    Leaves without a group come out as they are. Pure; works under jit and vmap over g. Traces one gather an axis.
    Before any output g is checked: every permutation a bijection of its group's size, every scale positive, every
    matrix orthogonal. Under jit g has no values to check; save what `act_checked` gives, which runs the model too.

    Args:
      tree: the container `axes` was made from, with arrays (or ShapeDtypeStructs under `jax.eval_shape`).
      axes: from `ws.trace.axes`, or rules by hand as for `ws.trace.by_hand`.
      g: group name -> permutation, int `[*over, size]` (or scales, positive floats; or orthogonal matrices, floats
        `[*over, size, size]`, in float32 or wider), as `random_element` makes.
    Returns:
      the same container; shapes and dtypes are kept.
    Raises:
      ShapeError: g is no element of these groups, or a leaf has another shape than was traced.
      TreeMismatch: a leaf that a group acts on is missing. TypeError of Implicit leaves: materialize first.
    Reference: Ainsworth, Hayase, Srinivasa, 2023, "Git Re-Basin". Differs from the paper: groups within an axis, and
    groups with one permutation for each coordinate of another.
    Example:
      >>> p = {"w1": jnp.array([[1.0, 2.0, 3.0]]), "w2": jnp.array([[4.0], [5.0], [6.0]])}
      >>> out = act(p, {"w1": (None, "h"), "w2": ("h", None)}, {"h": jnp.array([2, 0, 1])})
      >>> out["w1"], out["w2"].ravel()
      (Array([[3., 1., 2.]], dtype=float32), Array([6., 4., 5.], dtype=float32))
    """
    groups = axes if isinstance(axes, Symmetries) else by_hand(axes, tree)
    check_element(groups, g)
    taken = as_params(tree)
    if missing := [show(p) for p in groups.covered if p not in taken.leaves]:
        raise TreeMismatch(f"act: the tree lacks {listed(missing)}; give it the container that axes was traced with")
    for path in groups.covered:
        _check(path, taken.leaves[path], groups)
    hit, known = set(groups.covered), on_host(g)
    move = {"permutation": _permuted, "scale": scaled, "orthogonal": turned}[groups.kind]
    out = {
        p: jnp.asarray(move(x if isinstance(x, np.ndarray) else jnp.asarray(x), p, groups, known)) if p in hit else x
        for p, x in taken.leaves.items()
    }
    return taken.rebuild(out)


def _check(path: Path, leaf: Any, groups: Symmetries) -> None:
    want = tuple(_length(axis) for axis in groups.layout[path])
    if isinstance(leaf, Implicit):
        raise ShapeError(f"act: {show(path)} is a {type(leaf).__name__}; act on ws.materialize(tree)")
    if tuple(np.shape(leaf)) != want:
        raise ShapeError(f"act: {show(path)} has shape {np.shape(leaf)}, but axes were traced with {want}")


def _permuted(x: Any, path: Path, groups: Symmetries, g: Element) -> Any:
    """Groups that depend on nothing first: then the coordinates that others depend on are the new ones already."""
    layout = groups.layout[path]
    names = {f.name for axis in layout for s in axis for f in s.factors}
    depths = {name: len(group.over) for name, group in groups.groups.items() if name in names}
    for depth in sorted(set(depths.values())):
        now = {name for name, d in depths.items() if d == depth}
        for k in range(x.ndim):
            if any(f.name in now for s in layout[k] for f in s.factors):
                x = _take(x, _along(layout, k, partial(_old, groups, g, now)), k)
    return x


def _old(
    groups: Symmetries, g: Element, now: set[str], strip: Strip, grid: Mapping[str, Any], own: Sequence[Any]
) -> Any:
    """Where a strip's positions come from, as far as the groups in `now` move them."""
    olds = (moved(groups, f.name, grid, g) if f.name in now else c for f, c in zip(strip.factors, own, strict=True))
    return sum((np.int32(f.stride) * c for f, c in zip(strip.factors, olds, strict=True)), np.int32(strip.offset))


def scaled(x: Any, path: Path, groups: Symmetries, g: Element) -> Any:
    """A leaf times the factors of its groups, each to the power of its member's exponent."""
    layout = groups.layout[path]
    for name, group in groups.groups.items():
        for m in group.members:
            if m.path == path:
                x = x * _along(layout, m.axis, partial(_powers, group, g[name], m)).astype(x.dtype)
    return x


def _powers(group: Group, scale: Any, m: Member, strip: Strip, grid: Mapping[str, Any], own: Sequence[Any]) -> Any:
    """What a strip is multiplied by: 1 if the member does not lie in it."""
    if not any((f.name, f.start, f.stride) == (group.factor, m.offset, m.stride) for f in strip.factors):
        return np.float32(1)
    return scale[tuple(grid[name] for name in (*group.over, group.factor))] ** np.float32(m.exponent)


def _take(x: Any, source: Any, axis: int) -> Any:
    """Gather along an axis; `source` has the leaf's rank, and size 1 along axes that it does not depend on.

    What lies on the host is gathered there: nothing to compile, nothing to move.
    """
    if isinstance(x, np.ndarray) and isinstance(source, np.ndarray):
        return np.take_along_axis(x, source, axis)
    along = tuple(j for j in range(x.ndim) if j != axis and source.shape[j] != 1)
    rows = source.transpose((*along, axis, *(j for j in range(x.ndim) if j != axis and j not in along)))
    return _gather(jnp.asarray(x), jnp.asarray(rows.reshape(rows.shape[: len(along) + 1])), axis, along)


@partial(jax.jit, static_argnames=("axis", "along"))
def _gather(x: Array, rows: Array, axis: int, along: tuple[int, ...]) -> Array:
    """`x` gathered along `axis` by `rows[*along, axis]`; its sharding stays."""
    order = (*along, axis, *(j for j in range(x.ndim) if j != axis and j not in along))
    here = reduce(gathered, (axis, *along), x)
    take = partial(jnp.take, axis=0, mode="clip")  # all positions are inside
    for _ in along:
        take = jax.vmap(take)
    back = tuple(sorted(range(x.ndim), key=order.__getitem__))
    return alike(jnp.transpose(take(jnp.transpose(here, order), rows), back), x)


def _along(layout: LeafAxes, k: int, of: Callable[..., Any]) -> Any:
    """An array along an axis, with the leaf's rank: strip by strip `of(strip, coordinates by name, its own)`."""
    rank = len(layout)
    beside = {
        f.name: _lay(_coordinates(layout[j], f.name), j, rank)
        for j in range(rank)
        if j != k
        for s in layout[j]
        for f in s.factors
        if f.name
    }
    parts, where = [], []
    for strip in layout[k]:
        at, coordinates = _positions(strip)
        own = [_lay(c, k, rank) for c in coordinates]
        grid = beside | {f.name: c for f, c in zip(strip.factors, own, strict=True) if f.name}
        parts.append((of(strip, grid, own), len(at)))
        where.append(at)
    xp = jnp if any(isinstance(p, jax.core.Tracer) for p, _ in parts) else np
    full = [xp.reshape(p, (1,) * rank) if np.ndim(p) == 0 else p for p, _ in parts]
    shape = np.broadcast_shapes(*((*p.shape[:k], 1, *p.shape[k + 1 :]) for p in full))
    wide = [xp.broadcast_to(p, (*shape[:k], n, *shape[k + 1 :])) for p, (_, n) in zip(full, parts, strict=True)]
    return xp.take(xp.concatenate(wide, axis=k), np.argsort(np.concatenate(where)), axis=k)


def _coordinates(axis: tuple[Strip, ...], name: str) -> np.ndarray:
    """The coordinate of a factor at every position of an axis."""
    out = np.zeros(_length(axis), np.int64)
    for strip in axis:
        at, coordinates = _positions(strip)
        for f, c in zip(strip.factors, coordinates, strict=True):
            if f.name == name:
                out[at] = c
    return out


def _length(axis: tuple[Strip, ...]) -> int:
    return sum(math.prod(f.size for f in s.factors) for s in axis)


def _positions(strip: Strip) -> tuple[np.ndarray, list[np.ndarray]]:
    """The positions of a strip, and the coordinate of each factor there."""
    coordinates = [c.ravel() for c in np.indices([f.size for f in strip.factors])] if strip.factors else []
    at = np.array([strip.offset])
    return sum((f.stride * c for f, c in zip(strip.factors, coordinates, strict=True)), at), coordinates


def _lay(x: np.ndarray, axis: int, rank: int) -> np.ndarray:
    return x.astype(np.int32).reshape(tuple(-1 if j == axis else 1 for j in range(rank)))
