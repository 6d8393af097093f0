"""Leaves cut into blocks whose every axis is one factor: a group, an index that groups depend on, or nothing.

A fused query-key-value kernel `[embed, 3 * heads * head_dim]` is three blocks `[embed, heads, head_dim]`; a kernel
after a flatten `[height * width * channels, out]` is one block `[height * width, channels, out]`. On blocks a matcher
needs no case for any of these: a group's axis is an axis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wspace.core.containers import as_params, show
from wspace.core.errors import ShapeError, TreeMismatch, listed
from wspace.core.implicit import Implicit
from wspace.core.typing import Array, Path, Tree
from wspace.trace.groups import Strip, Symmetries


class Block(NamedTuple):
    """A part of a leaf. at: positions on each axis of the leaf; names, shape: of the block's own axes; axes: of which
    axis of the leaf each is a factor."""

    path: Path
    at: tuple[np.ndarray, ...]
    names: tuple[str | None, ...]
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    def take(self, leaf: Any) -> Any:
        """The block `[*shape]` of a leaf, numpy or jax."""
        for k, at in enumerate(self.at):
            leaf = _part(leaf, at, k)
        return leaf.reshape(self.shape)

    def put(self, leaf: Any, block: Any) -> Any:
        """The leaf with this block's values, numpy or jax."""
        if leaf.ndim == 0:
            return block.reshape(())
        if isinstance(leaf, np.ndarray) and not isinstance(block, jax.core.Tracer):
            out = leaf.copy()
            out[np.ix_(*self.at)] = np.asarray(block).reshape([len(at) for at in self.at])
            return out
        return leaf.at[np.ix_(*self.at)].set(block.reshape([len(at) for at in self.at]).astype(leaf.dtype))


def blocks(axes: Symmetries) -> list[Block]:
    """Every leaf on which a group acts, cut into blocks."""
    return [block for path in axes.covered for block in blocks_of(axes, path)]


def blocks_of(axes: Symmetries, path: Path) -> list[Block]:
    """One leaf cut into blocks, which together cover it."""
    found = []
    for strips in itertools.product(*axes.layout[path]):
        axis = [_factors(strip) for strip in strips]
        names = tuple(name for factors in axis for name, _ in factors)
        shape = tuple(size for factors in axis for _, size in factors)
        whose = tuple(k for k, factors in enumerate(axis) for _ in factors)
        found.append(Block(path, tuple(_positions(strip) for strip in strips), names, shape, whose))
    return found


def leaves_of(tree: Tree, axes: Symmetries, who: str) -> dict[Path, Array]:
    """The leaves on which groups act, as float32 (float64 stays).

    Raises:
      TreeMismatch, ShapeError: a leaf is missing, is an Implicit node or has another shape than was traced.
    """
    if axes.kind != "permutation":
        raise ShapeError(f"matching is by permutations, but axes are of kind {axes.kind!r}; trace kind='permutation'")
    leaves = as_params(tree).leaves
    if missing := [show(p) for p in axes.covered if p not in leaves]:
        raise TreeMismatch(f"{who} lacks {listed(missing)}; give it the container that axes was traced with")
    out = {}
    for path in axes.covered:
        want = tuple(sum(math.prod(f.size for f in s.factors) for s in axis) for axis in axes.layout[path])
        if isinstance(leaves[path], Implicit):
            raise ShapeError(f"{who}: {show(path)} is a {type(leaves[path]).__name__}; match ws.materialize(tree)")
        if tuple(np.shape(leaves[path])) != want:
            raise ShapeError(
                f"{who}: {show(path)} has shape {np.shape(leaves[path])}, but axes were traced with {want}"
            )
        x = jnp.asarray(leaves[path])
        out[path] = x if x.dtype == jnp.float64 else x.astype(jnp.float32)
    return out


def move(
    x: np.ndarray, names: tuple[str | None, ...], axes: Symmetries, g: Mapping[str, Any], but: int | None = None
) -> np.ndarray:
    """Act on a block on the host: `x[..., p[k], ...]` on each axis that a group of `g` has, but not on axis `but`."""
    for name, k, along in moves(names, axes, g, but):
        shape = [x.shape[j] if j in (*along, k) else 1 for j in range(x.ndim)]
        order = sorted(range(len(along) + 1), key=(*along, k).__getitem__)
        p = np.asarray(g[name])
        x = np.take_along_axis(x, p.transpose(order).reshape(shape), k) if along else x.take(p, axis=k)
    return x


def mix(x: Array, names: tuple[str | None, ...], axes: Symmetries, soft: Mapping[str, Array]) -> Array:
    """`move` by matrices [*over, new, old] in place of permutations; differentiable in both."""
    for name, k, along in moves(names, axes, soft):
        x = mix_axis(x, k, along, soft[name])
    return x


def mix_axis(x: Array, k: int, along: tuple[int, ...], matrix: Array) -> Array:
    """One axis of x mixed by a matrix [*along, new, old]; `along` are other axes of x."""
    letters = "abcdefghijklmnopqrstuvw"[: x.ndim]
    of = "".join(letters[j] for j in along) + "z" + letters[k]
    return jnp.einsum(f"{of},{letters}->{letters.replace(letters[k], 'z')}", matrix, x, precision="highest")


def moves(
    names: tuple[str | None, ...], axes: Symmetries, g: Mapping[str, Any], but: int | None = None
) -> list[tuple[str, int, tuple[int, ...]]]:
    """(group, axis, axes of the indices it is over), groups before those that depend on them."""
    at = [(n, k) for k, n in enumerate(names) if n is not None and n in g and k != but]
    at.sort(key=lambda pair: len(axes.groups[pair[0]].over))
    return [(n, k, tuple(names.index(o) for o in axes.groups[n].over)) for n, k in at]


def _positions(strip: Strip) -> np.ndarray:
    at = np.array([strip.offset])
    for f in strip.factors:
        at = (at[:, None] + f.stride * np.arange(f.size)[None]).reshape(-1)
    return at


def _factors(strip: Strip) -> list[tuple[str | None, int]]:
    """Name and size of each factor; neighbours without a name are one."""
    out: list[tuple[str | None, int]] = []
    for f in strip.factors:
        if f.name is None and out and out[-1][0] is None:
            out[-1] = (None, out[-1][1] * f.size)
        else:
            out.append((f.name, f.size))
    return out


def _part(x: Any, at: np.ndarray, axis: int) -> Any:
    """Positions along an axis: all of it, a slice, or a gather."""
    start = int(at[0]) if len(at) else 0
    if not np.array_equal(at, np.arange(start, start + len(at))):
        return x.take(at, axis=axis)
    return x if len(at) == x.shape[axis] else x[(*(slice(None),) * axis, slice(start, start + len(at)))]
