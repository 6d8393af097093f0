"""Scales of inputs that cost nothing: as an element of the model's scale group, which leaves the function as it is.

    axes = ws.trace.axes(apply, params, x, kind="scale")
    g = smooth_element(params, axes, abs_max)          # or awq_element, or equalize_element
    params, error = ws.match.act_checked(apply, params, axes, g, x)  # then quantize

A consumer of a group has its inputs multiplied by s; the producer before it (a norm's gain, a matrix's outputs) by 1/s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wspace.core.axes import Axes, MatrixView, has_matrix, matrix_view
from wspace.core.containers import as_params, show
from wspace.core.errors import WspaceError
from wspace.core.implicit import dense
from wspace.core.typing import Array, Path, Tree
from wspace.quant.awq import LEAST, output_error
from wspace.quant.formats import Format, choose
from wspace.quant.grid import Group as Grouping
from wspace.quant.grid import block_of
from wspace.quant.smoothquant import smooth_array
from wspace.trace.groups import Group, Member, Symmetries

Element = dict[str, Array]
Act = Callable[[Tree, Symmetries, Mapping[str, Array]], Tree]


class Place(NamedTuple):
    """Where a group acts on a matrix: leaf, view, the coordinate of each input `[*stack, in]` (-1: none), exponent."""

    path: Path
    view: MatrixView
    at: np.ndarray
    exponent: float


def coordinates(axes: Symmetries, group: Group, member: Member, rank: int) -> np.ndarray:
    """The flat coordinate of a group at every position of a leaf, of size 1 along axes that do not matter; -1: none."""
    grids: dict[str, np.ndarray] = {}
    for k, strips in enumerate(axes.layout[member.path]):
        for name in (*group.over, group.factor or group.name):
            mine = member if k == member.axis and name == (group.factor or group.name) else None
            along = _along(strips, name, mine)
            if along is not None:
                shape = tuple(-1 if j == k else 1 for j in range(rank))
                grids[name] = along.reshape(shape)
    names = (*group.over, group.factor or group.name)
    if any(name not in grids for name in names):
        return np.full((1,) * rank, -1)
    each = np.broadcast_arrays(*(grids[name] for name in names))
    flat = np.ravel_multi_index([np.maximum(x, 0) for x in each], group.shape)
    return np.where(np.min(each, axis=0) < 0, -1, flat)


def _along(strips: Any, name: str, member: Member | None) -> np.ndarray | None:
    """The coordinate of a factor at every position of an axis, -1 elsewhere; None if it is not there."""
    out = np.full(sum(math.prod(f.size for f in s.factors) for s in strips), -1)
    hit = False
    for s in strips:
        grid = np.indices([f.size for f in s.factors]).reshape(len(s.factors), -1)
        at = s.offset + sum((f.stride * c for f, c in zip(s.factors, grid, strict=True)), np.zeros(1, int))
        for f, c in zip(s.factors, grid, strict=True):
            if f.name == name and (member is None or (f.start, f.stride) == (member.offset, member.stride)):
                out[at], hit = c, True
    return out if hit else None


def places(axes: Symmetries, group: Group, roles: Axes, params: Mapping[Path, Any], role: str) -> list[Place]:
    """The matrices that a group acts on by inputs (role "in") or outputs ("out"), each with its coordinates."""
    found = []
    for m in group.members:
        shape = tuple(np.shape(params[m.path]))
        of = roles.of(m.path, shape)
        if not has_matrix(of) or of[m.axis].role != role:
            continue
        view = matrix_view(of, shape, show(m.path))
        index = coordinates(axes, group, m, len(shape))
        lead = view.stacks + view.ins if role == "in" else 0
        moved = np.transpose(index, view.order)
        keep = moved.shape[lead:] if role == "in" else moved.shape[view.stacks : view.stacks + view.ins]
        if any(n != 1 for n in keep):
            continue  # the group differs along an axis that is summed over
        wanted = view.moved_shape
        if role == "in":
            index = np.broadcast_to(moved.reshape(moved.shape[:lead]), wanted[:lead])
            index = index.reshape(view.matrix_shape[:-1])
        else:
            rest = (*moved.shape[: view.stacks], *moved.shape[view.stacks + view.ins :])
            full = (*wanted[: view.stacks], *wanted[view.stacks + view.ins :])
            index = np.broadcast_to(moved.reshape(rest), full)
            index = index.reshape(*view.matrix_shape[: view.stacks], view.matrix_shape[-1])
        found.append(Place(m.path, view, index, m.exponent))
    return found


def _matrix(params: Mapping[Path, Any], at: Place) -> Array:
    return at.view.to_matrix(dense(params[at.path]).astype(jnp.float32))


def _largest(values: Array, index: np.ndarray, size: int) -> Array:
    """The largest value at each coordinate; 0 where there is none."""
    return jnp.zeros(size).at[jnp.asarray(np.where(index < 0, size, index).ravel())].max(values.ravel(), mode="drop")


def _spread(s: Array, index: np.ndarray) -> Array:
    """A group's numbers at the inputs of a matrix, 1 where it does not act."""
    at = jnp.asarray(np.maximum(index, 0))
    return jnp.where(jnp.asarray(index < 0), 1, s.ravel()[at])


def _read(side: Tree, params: Mapping[Path, Any]) -> Mapping[Path, Any]:
    return as_params(side, stop=params).leaves


def _consumers(axes: Symmetries, params: Mapping[Path, Any], roles: Axes, known: Any) -> dict[str, list[Place]]:
    """By group the matrices that read it, if all have entries in the side trees."""
    if axes.kind != "scale":
        raise WspaceError(f"these are {axes.kind} groups; trace them with kind='scale'")
    every = {name: places(axes, group, roles, params, "in") for name, group in axes.groups.items()}
    return {n: at for n, at in every.items() if len({p.exponent for p in at}) == 1 and all(known(p.path) for p in at)}


def smooth_element(
    params: Tree, axes: Symmetries, abs_max: Tree, alpha: Array | float = 0.5, roles: Axes | None = None
) -> Element:
    """SmoothQuant's scales as a group element, for all matrices that share inputs.

        s = max|x|^alpha / max|w|^(1 - alpha),   w: the rows of all these matrices

    Args:
      params: the tree that axes was traced with. axes: from `ws.trace.axes(..., kind="scale")`.
      abs_max: side tree of the largest |input|. alpha: as of `smoothquant`. roles: of the leaves' axes, as calibrate's.
    Returns:
      group -> `[*over, size]`, for `ws.match.act`; 1 for groups that no matrix with statistics reads.
    Raises:
      WspaceError: axes are not of kind scale.
    Reference: as of `smoothquant`.
    """
    leaves = as_params(params).leaves
    sizes = _read(abs_max, leaves)
    out: Element = {name: jnp.ones(g.shape) for name, g in axes.groups.items()}
    for name, at in _consumers(axes, leaves, roles or Axes(), lambda p: sizes.get(p) is not None).items():
        n = math.prod(axes.groups[name].shape)
        x = jnp.max(jnp.stack([_largest(jnp.asarray(sizes[p.path], jnp.float32), p.at, n) for p in at]), axis=0)
        w = jnp.max(jnp.stack([_largest(jnp.max(jnp.abs(_matrix(leaves, p)), -1), p.at, n) for p in at]), axis=0)
        out[name] = smooth_array(w, x, alpha).reshape(axes.groups[name].shape) ** (1 / at[0].exponent)
    return out


def awq_element(
    params: Tree,
    axes: Symmetries,
    gram: Tree,
    abs_mean: Tree,
    bits: int = 4,
    group: Grouping = None,
    symmetric: bool = False,
    grid: Format = None,
    steps: int = 20,
    roles: Axes | None = None,
) -> Element:
    """AWQ's scales as a group element: one ratio a group, by the summed output error of all matrices that share inputs.

    Args:
      params, axes, roles: as of `smooth_element`. gram, abs_mean: side trees. bits .. grid, steps: as of `awq`.
    Returns, Raises, Reference: as of `smooth_element`; the paper of `awq`.
    """
    leaves, form = as_params(params).leaves, choose(bits, symmetric, grid)
    grams, sizes = _read(gram, leaves), _read(abs_mean, leaves)
    out: Element = {name: jnp.ones(g.shape) for name, g in axes.groups.items()}

    def known(path: Path) -> bool:
        return grams.get(path) is not None and sizes.get(path) is not None

    def errors(w: Array, gram: Array, scale: Array, path: Path) -> Array:
        block = block_of(w, group, show(path))
        flat = (x.reshape(-1, *x.shape[x.ndim - k :]) for x, k in ((w, 2), (gram, 2), (scale, 1)))
        return jnp.sum(jax.lax.map(lambda a: output_error(a[0], a[1], a[2], form, block), tuple(flat)))

    for name, at in _consumers(axes, leaves, roles or Axes(), known).items():
        shape = axes.groups[name].shape
        size = jnp.max(
            jnp.stack([_largest(jnp.asarray(sizes[p.path], jnp.float32), p.at, math.prod(shape)) for p in at]), 0
        ).reshape(shape)
        given = [(_matrix(leaves, p), dense(grams[p.path]).astype(jnp.float32), p) for p in at]

        def tried(ratio: Array, size: Array = size, given: Any = given) -> tuple[Array, Array]:
            s = jnp.maximum(size**ratio, LEAST)
            s = s / jnp.sqrt(jnp.max(s, axis=-1, keepdims=True) * jnp.min(s, axis=-1, keepdims=True))
            return s, sum((errors(w, g, _spread(s, p.at), p.path) for w, g, p in given), jnp.zeros(()))

        scales, found = jax.lax.map(tried, jnp.arange(steps) / steps)
        out[name] = scales[jnp.argmin(found)] ** (1 / at[0].exponent)
    return out


def equalize_element(params: Tree, axes: Symmetries, roles: Axes | None = None) -> Element:
    """One step of DFQ's cross-layer equalization: both sides of every group get the same range.

    r1 = max |W1| by outputs, r2 = max |W2| by inputs;   W1 <- W1 sqrt(r2 / r1),   W2 <- W2 sqrt(r1 / r2)
    """
    leaves, roles = as_params(params).leaves, roles or Axes()
    out: Element = {}
    for name, group in axes.groups.items():
        n = math.prod(group.shape)
        readers, writers = (places(axes, group, roles, leaves, role) for role in ("in", "out"))
        signs = [{p.exponent for p in at} for at in (readers, writers)]
        out[name] = jnp.ones(group.shape)
        if signs in ([{-1.0}, {1.0}], [{1.0}, {-1.0}]):
            r1, r2 = (
                jnp.max(jnp.stack([_largest(jnp.max(jnp.abs(_matrix(leaves, p)), axis), p.at, n) for p in at]), 0)
                for at, axis in ((writers, -2), (readers, -1))
            )
            s = jnp.sqrt(jnp.where((r1 > 0) & (r2 > 0), r2 / jnp.where(r1 > 0, r1, 1), 1))
            out[name] = s.reshape(group.shape) ** writers[0].exponent
    return out


def equalize(params: Tree, axes: Symmetries, act: Act, steps: int = 20, roles: Axes | None = None) -> Tree:
    """Cross-layer equalization: groups one step after another, until the ranges on both sides agree.

    Args:
      params: arrays, the tree that axes was traced with. axes: from `ws.trace.axes(..., kind="scale")`.
      act: `ws.match.act`. steps: how often; chains of layers need a few. roles: of the leaves' axes.
    Returns:
      params with the same function, of which every group's weights have equal ranges before and after it.
    Raises:
      WspaceError: axes are not of kind scale.
    Reference: Nagel, van Baalen, Blankevoort, Welling, 2019, "Data-Free Quantization Through Weight Equalization and
      Bias Correction". Differs from the paper: all groups of a step at once; symmetric ranges; groups, not pairs of
      layers, so that several writers and readers are equalized too.
    """
    if axes.kind != "scale":
        raise WspaceError(f"these are {axes.kind} groups; trace them with kind='scale'")
    for _ in range(steps):
        params = act(params, axes, equalize_element(params, axes, roles))
    return params
