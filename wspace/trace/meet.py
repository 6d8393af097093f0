"""Where a parameter meets an activation: products, convolutions, look-ups; and what it sees there, in its own order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
from jax import lax

from wspace.core.axes import Role
from wspace.core.typing import Array
from wspace.stats.seen import Rows, Seen
from wspace.trace import view as views
from wspace.trace.follow import Eqn, Mark
from wspace.trace.rows import SUMMED, Layout, arrange, looked_up
from wspace.trace.view import UNKNOWN, Factors, View

CONTRACTED = ("in", "space")
Kinds: TypeAlias = tuple[frozenset[str], ...]


class Operand(NamedTuple):
    """An array of the program and what is known of it."""

    array: Array
    mark: Mark


Found: TypeAlias = tuple[Seen, dict[int, tuple[bool, bool]]]  # and which of its two parts have each stacked axis
Make: TypeAlias = Callable[[Layout, Operand, Operand, Array | None], Found]


class Use(NamedTuple):
    """A parameter's view enters an equation with an activation. kinds: by axis of the leaf, what the equation does with
    it. other: which operand is the activation. make: (layout, activation, result, weights) -> what is seen; None if it
    can't be summed up, and then why."""

    view: View
    kinds: Kinds
    other: int
    make: Make | None
    why: str = ""


def uses(eqn: Eqn, marks: Sequence[Mark]) -> list[Use]:
    """All meetings in one equation."""
    rule = MEETINGS.get(eqn.primitive.name)
    if rule is None:
        return []
    found = []
    for i, other in ((0, 1), (1, 0)):
        if marks[i].leaves and not marks[i].data and marks[other].data:
            found += [use for v in marks[i].leaves if (use := rule(eqn, v, i)) is not None]
    return found


def kinds_of(view: View, labelled: Sequence[tuple[str, Factors]]) -> Kinds:
    """What happens to each axis of a leaf, given what happens to each axis of the value."""
    out = []
    for axis, kept in enumerate(view.cuts):
        found = {kind for kind, fs in labelled for f in fs if f.axis == axis}
        found |= {"turn" for t in view.turns if t.axis == axis}
        if kept is None:
            found = {"lost"}
        out.append(frozenset(found or ({"fixed"} if kept is not None and kept.size == 1 else {"lost"})))
    return tuple(out)


def dot_general(eqn: Eqn, view: View, i: int) -> Use:
    """Products: batch axes of the leaf are stacked, contracted ones are inputs, the others outputs."""
    contracts, batches = eqn.params["dimension_numbers"]
    (wc, xc), (wb, xb) = ((pair[i], pair[1 - i]) for pair in (contracts, batches))
    free = [k for k in range(len(view.axes)) if k not in wc and k not in wb]
    labelled = [("in", view.axes[k]) for k in wc] + [("batch", view.axes[k]) for k in wb]
    kinds = kinds_of(view, labelled + [("out", view.axes[k]) for k in free])
    if any(f.axis == UNKNOWN for k in wc for f in view.axes[k]):
        return Use(view, kinds, 1 - i, None, "its inputs are joined with other values")
    x_rank = len(eqn.invars[1 - i].aval.shape)

    def make(layout: Layout, x: Operand, y: Operand, weights: Array | None) -> Found:
        dims: list[Factors | None] = [None] * x_rank
        for k, j in [*zip(xc, wc, strict=True)]:
            dims[k] = tuple(f._replace(axis=SUMMED) if f.axis < 0 else f for f in view.axes[j])
        for k, j in zip(xb, wb, strict=True):
            dims[k] = view.axes[j]
        apart: list[Factors | None] = [None] * (x_rank - len(xb) - len(xc))
        mine: list[Factors | None] = [view.axes[k] for k in free]
        results = [view.axes[k] for k in wb] + (mine + apart if i == 0 else apart + mine)
        return _seen(layout, view, (x, dims), (y, results), weights)

    return Use(view, kinds, 1 - i, make)


def conv_general_dilated(eqn: Eqn, view: View, i: int) -> Use | None:
    """The rows are patches, one for each position (and group of channels), with taps before channels."""
    p = eqn.params
    if i != 1:
        return Use(view, kinds_of(view, []), 1 - i, None, "it is what a convolution goes over")
    (x_batch, x_channel, *x_space), (w_out, w_in, *w_space), (_, y_channel, *_) = p["dimension_numbers"]
    groups, out = p["feature_group_count"], view.axes[w_out]
    dealt = views.reshape(view._replace(axes=(out,)), (groups, views.size(out) // groups))
    taps = [view.axes[k] for k in w_space]
    labelled = [("in", view.axes[w_in]), *(("space", fs) for fs in taps), ("out", out)]
    if dealt is not None:
        labelled[-1:] = [("batch" if groups > 1 else "out", dealt.axes[0]), ("out", dealt.axes[1])]
    kinds = kinds_of(view, labelled)
    if p["batch_group_count"] != 1 or dealt is None:
        return Use(view, kinds, 0, None, "it is in a convolution with groups of examples or uneven groups")
    if any(f.axis < 0 for fs in (view.axes[w_in], *taps) for f in fs):
        return Use(view, kinds, 0, None, "its taps or channels are joined with other values")

    def make(layout: Layout, x: Operand, y: Operand, weights: Array | None) -> Found:
        rows = lax.conv_general_dilated_patches(
            x.array,
            [views.size(fs) for fs in taps],
            p["window_strides"],
            p["padding"],
            lhs_dilation=p["lhs_dilation"],
            rhs_dilation=p["rhs_dilation"],
            dimension_numbers=_channels_last(p["dimension_numbers"]),
            precision=lax.Precision.HIGHEST,
        )
        channels = x.array.shape[x_channel]
        rows = rows.reshape(*rows.shape[:-1], groups, channels // groups, *(views.size(fs) for fs in taps))
        spaces: list[Factors | None] = [None] * len(x_space)
        dims = [None, *spaces, dealt.axes[0], view.axes[w_in], *taps]
        results: list[Factors | None] = [None] * y.array.ndim
        results[y_channel] = out
        tokens = x.mark.tokens and views.lose(x.mark.tokens, {f.axis for k in x_space for f in x.mark.tokens.axes[k]})
        where = tokens and views.broadcast(tokens._replace(axes=(tokens.axes[x_batch],)), rows.shape, (0,))
        patches = Operand(rows, x.mark._replace(tokens=where))
        return _seen(layout, view, (patches, dims), (y, results), weights)

    return Use(view, kinds, 0, make)


def _channels_last(numbers: Any) -> Any:
    """Dimension numbers with the same image, the patches with channels last."""
    rank = len(numbers.lhs_spec)
    last = (0, rank - 1, *range(1, rank - 1))
    return lax.ConvDimensionNumbers(numbers.lhs_spec, (rank - 1, rank - 2, *range(rank - 2)), last)


def gather(eqn: Eqn, view: View, i: int) -> Use | None:
    """Rows looked up by index along one axis."""
    n = eqn.params["dimension_numbers"]
    if i != 0:
        return None
    axes = n.start_index_map
    sizes = [size for k, size in enumerate(eqn.params["slice_sizes"]) if k not in axes]
    whole = sizes == [size for k, size in enumerate(eqn.invars[0].aval.shape) if k not in axes]
    known = len(axes) == 1 and n.collapsed_slice_dims == axes and not n.operand_batching_dims and whole
    labelled = [("in" if k in axes else "out", fs) for k, fs in enumerate(view.axes)]
    kinds = kinds_of(view, labelled)
    if not known or len(view.axes[axes[0]]) != 1:
        return Use(view, kinds, 1, None, "it is indexed along more than one axis, or one that is joined with others")
    (table,) = view.axes[axes[0]]
    if table.axis < 0:
        return Use(view, kinds, 1, None, "it is looked up among other values")

    def make(layout: Layout, x: Operand, y: Operand, weights: Array | None) -> Found:
        ids, kept = x.array[..., 0].astype(jnp.int32), view.cuts[table.axis]
        if eqn.params["mode"] is not None and eqn.params["mode"].name == "CLIP":
            ids = jnp.clip(ids, 0, table.size - 1)
        ids = jnp.where((ids >= 0) & (ids < table.size), ids + (kept.start if kept else 0), -1)
        tokens = x.mark.tokens and views.drop(x.mark.tokens, (x.array.ndim - 1,))
        inputs = looked_up(ids, tokens, weights, layout.shape[table.axis], layout.name)
        results: list[Factors | None] = [None] * y.array.ndim
        for k, j in zip(n.offset_dims, [k for k in range(len(view.axes)) if k not in axes], strict=True):
            results[k] = view.axes[j]
        seen, has = _outputs(layout, view, (y, results), weights)
        return Seen(inputs, seen), {axis: (False, axis in has) for axis in has}

    return Use(view, kinds, 1, make)


def _seen(
    layout: Layout,
    view: View,
    x: tuple[Operand, list[Factors | None]],
    y: tuple[Operand, list[Factors | None]],
    weights: Array | None,
) -> Found:
    """Rows in and out of one matrix, stacked axes in front, and which of the two has each."""
    inputs, has = arrange(x[0].array, x[1], x[0].mark.tokens, view, layout, layout.ins, weights)
    outputs, also = _outputs(layout, view, y, weights)
    return Seen(inputs, outputs), {axis: (axis in has, axis in also) for axis in {*has, *also}}


def _outputs(
    layout: Layout, view: View, y: tuple[Operand, list[Factors | None]], weights: Array | None
) -> tuple[Rows | None, list[int]]:
    """The products, if all of them are this leaf's own."""
    axes = [f for fs in y[1] for f in fs or ()]
    for axis in layout.outs:
        kept = view.cuts[axis]
        if kept is None or math.prod(f.size for f in axes if f.axis == axis) != kept.size:
            return None, []
    if any(f.axis == UNKNOWN for f in axes):
        return None, []
    return arrange(y[0].array, y[1], y[0].mark.tokens, view, layout, layout.outs, weights)


MEETINGS: dict[str, Callable[[Eqn, View, int], Use | None]] = {
    "conv_general_dilated": conv_general_dilated,
    "dot_general": dot_general,
    "gather": gather,
}


def graph_roles(use: Use, names: tuple[Role, ...], shape: tuple[int, ...]) -> tuple[Role, ...] | None:
    """What each axis of a leaf is for, as one use of it says; None where an axis is of two kinds. An axis of length 1
    says nothing and keeps the role it has by name. Without any free axis the last one that both operands share is the
    outputs', since a matrix has some."""
    roles: list[Role] = []
    for kind, named, n in zip(use.kinds, names, shape, strict=True):
        if n == 1:
            roles.append(named)
        elif kind & set(CONTRACTED):
            if len(kind) > 1:
                return None
            roles.append("space" if "space" in kind else "in")
        else:
            roles.append("stack" if kind <= {"batch"} or kind <= {"turn"} or kind <= {"fixed"} else "out")
    shared = [k for k, kind in enumerate(use.kinds) if kind == {"batch"} and shape[k] > 1]
    if "out" not in roles and shared:
        roles[shared[-1]] = "out"
    return tuple(roles) if "in" in roles else None


def fits(use: Use, roles: tuple[Role, ...], shape: tuple[int, ...]) -> bool:
    """Whether a use contracts the inputs that the roles name, and nothing but them and whole stacked axes."""
    if "in" not in roles or use.make is None:
        return False
    for kind, role, n in zip(use.kinds, roles, shape, strict=True):
        contracted = bool(kind & set(CONTRACTED))
        if n == 1:
            continue
        if role in CONTRACTED and (not contracted or len(kind) > 1):
            return False
        if role == "stack" and (len(kind) > 1 or "lost" in kind):
            return False
        if role == "out" and contracted:
            return False
    return True
