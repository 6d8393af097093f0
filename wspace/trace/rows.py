"""Putting an activation in a parameter's own order: stacked axes, then tokens, then one axis of inputs (or outputs)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from wspace.core.axes import Role
from wspace.core.errors import ShapeError
from wspace.core.typing import Array
from wspace.stats.seen import Lookup, Rows
from wspace.trace import view as views
from wspace.trace.view import Factor, Factors, View

SUMMED = -3  # a factor along which the weight repeats: the inputs along it are added up


class Layout(NamedTuple):
    """The roles of a leaf's axes. Inputs lie as in MatrixView: taps, then channels."""

    name: str
    shape: tuple[int, ...]
    roles: tuple[Role, ...]

    def _axes(self, *roles: Role) -> tuple[int, ...]:
        return tuple(k for role in roles for k, r in enumerate(self.roles) if r == role)

    @property
    def stacks(self) -> tuple[int, ...]:
        return self._axes("stack")

    @property
    def ins(self) -> tuple[int, ...]:
        return self._axes("space", "in")

    @property
    def outs(self) -> tuple[int, ...]:
        return self._axes("out")


def arrange(
    x: Array,
    dims: Sequence[Factors | None],
    tokens: View | None,
    view: View,
    layout: Layout,
    wanted: Sequence[int],
    weights: Array | None,
) -> tuple[Rows, list[int]]:
    """Rows `[*stacks, *tokens, width]` of an array whose axes are factors of a leaf (or None: tokens), and the axes of
    the leaf that are stacked in front."""
    labels = tokens.axes if tokens is not None else ((),) * x.ndim
    split = [
        fs if fs is not None else _token_factors(label, n) for fs, label, n in zip(dims, labels, x.shape, strict=True)
    ]
    tags = [f if fs is not None else None for fs, parts in zip(dims, split, strict=True) for f in parts]
    sizes = [f.size for parts in split for f in parts]
    x, tokens = x.reshape(sizes), tokens and _dealt(tokens, sizes, layout.name)
    summed = tuple(k for k, f in enumerate(tags) if f is not None and f.axis == SUMMED)
    x, tokens = x.sum(summed, dtype=x.dtype) if summed else x, tokens and views.drop(tokens, summed)
    tags = [f for f in tags if f is None or f.axis != SUMMED]

    stacks = [a for a in layout.stacks if any(f is not None and f.axis == a for f in tags)]
    front = [k for a in stacks for k in _places(tags, a)]
    width = [_places(tags, a) for a in wanted]
    back = [k for places in width for k in places]
    middle = [k for k in range(x.ndim) if k not in front and k not in back]
    heads = [math.prod(x.shape[k] for k in _places(tags, a)) for a in stacks]
    rows = [x.shape[k] for k in middle]
    parts = [math.prod(x.shape[k] for k in places) for places in width]
    x = x.transpose(*front, *middle, *back).reshape(*heads, *rows, *parts)
    x, present = _padded(x, parts, view, layout, wanted)
    x = x.reshape(*heads, *rows, math.prod(layout.shape[a] for a in wanted))
    if weights is None or tokens is None:
        return Rows(x, _ones(rows) if weights is not None else None, present), stacks
    if any(f.axis >= 0 for k in front for f in tokens.axes[k]):
        raise lost_tokens(layout.name)
    return Rows(x, spread(weights, views.transpose(tokens, middle), rows, layout.name), present), stacks


def looked_up(ids: Array, tokens: View | None, weights: Array | None, width: int, name: str) -> Lookup:
    """Indices into a table, with the weights of their tokens."""
    if weights is None:
        return Lookup(ids, None, width)
    if tokens is None:
        return Lookup(ids, _ones(ids.shape), width)
    split = [_token_factors(label, n) for label, n in zip(tokens.axes, ids.shape, strict=True)]
    sizes = [f.size for parts in split for f in parts]
    return Lookup(ids.reshape(sizes), spread(weights, _dealt(tokens, sizes, name), sizes, name), width)


def _dealt(tokens: View, sizes: Sequence[int], name: str) -> View:
    dealt = views.reshape(tokens, sizes)
    if dealt is None:
        raise lost_tokens(name)
    return dealt


def _ones(shape: Sequence[int]) -> Array:
    return jnp.ones(tuple(shape), jnp.float32)


def _token_factors(label: Factors, n: int) -> Factors:
    """An axis of tokens: split where two axes of the weights were merged."""
    return label if len(label) > 1 else (Factor(views.BLANK, 0, n),)


def _places(tags: Sequence[Factor | None], axis: int) -> list[int]:
    """Where the factors of an axis of the leaf lie, major first."""
    found = [(f.stride, k) for k, f in enumerate(tags) if f is not None and f.axis == axis]
    return [k for _, k in sorted(found, key=lambda item: -item[0])]


def _padded(
    x: Array, parts: Sequence[int], view: View, layout: Layout, wanted: Sequence[int]
) -> tuple[Array, Array | None]:
    """Zeros where a slice of the leaf has no entry, and which entries are there."""
    config = [(0, 0, 0)] * (x.ndim - len(wanted))
    inner = []
    for axis, n in zip(wanted, parts, strict=True):
        cut = view.cuts[axis]
        start = 0 if cut is None else cut.start
        inner.append((start, layout.shape[axis] - n - start, 0))
    if not any(map(any, inner)):
        return x, None
    ones = lax.pad(_ones(parts), jnp.float32(0), inner).reshape(-1)
    return lax.pad(x, jnp.zeros((), x.dtype), [*config, *inner]), ones


def spread(weights: Array, tokens: View, shape: Sequence[int], name: str) -> Array:
    """The weights of tokens that lie as the view says, f32 of `shape`. Where tokens were averaged over an axis of the
    weights, the largest weight along it counts.

    Raises:
      ShapeError: tokens were mixed up on the way (concatenated, sorted, rolled, scanned).
    """
    w = weights.astype(jnp.float32)
    order: list[int] = []
    for axis, kept in reversed(list(enumerate(tokens.cuts))):
        at = sorted(
            (k for k, fs in enumerate(tokens.axes) if fs and fs[0].axis == axis),
            key=lambda k: -tokens.axes[k][0].stride,
        )
        sizes = [tokens.axes[k][0].size for k in at]
        if kept is None or (at and math.prod(sizes) != kept.size) or any(t.axis == axis for t in tokens.turns):
            raise lost_tokens(name)
        w = lax.slice_in_dim(w, kept.start, kept.start + kept.size, axis=axis)
        if at:
            w = w.reshape(*w.shape[:axis], *sizes, *w.shape[axis + 1 :])
            order = [*at, *order]
        else:
            w = w.max(axis)
    return lax.broadcast_in_dim(
        w.transpose(sorted(range(len(order)), key=order.__getitem__)), tuple(shape), tuple(sorted(order))
    )


def lost_tokens(name: str) -> ShapeError:
    """The error that says so."""
    return ShapeError(
        f"calibrate: {name}: the program mixes tokens (concatenates, sorts, rolls or scans along an axis of the "
        "weights), so their weights can't be told; give weights one axis less, as [batch], or none"
    )
