"""What one equation does to the views of its operands: which parameters its results still are, and where tokens lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from wspace.trace import view as views
from wspace.trace.rules_compute import ELEMENTWISE, IDENTITIES
from wspace.trace.view import View

Eqn: TypeAlias = Any


class Mark(NamedTuple):
    """What is known of a value: whether it depends on the data, which leaves it is made of entry by entry, and where
    the axes of the token weights lie in it."""

    data: bool = False
    leaves: tuple[View, ...] = ()
    tokens: View | None = None


Move: TypeAlias = Callable[[View, Eqn, int], list[View | None]]  # (view of operand i, equation, i) -> views of results


def follow(eqn: Eqn, marks: Sequence[Mark]) -> list[Mark]:
    """The marks of the results of an equation without a program inside."""
    data = any(m.data for m in marks)
    moved = [] if data else [made for i, m in enumerate(marks) for made in _moved(eqn, m.leaves, i)]
    outs = [Mark(data, tuple(v for made in moved if (v := made[k]) is not None)) for k in range(len(eqn.outvars))]
    if any(m.tokens for m in marks):
        tokens = _tokens(eqn, [m.tokens for m in marks])
        outs = [m._replace(tokens=t) for m, t in zip(outs, tokens, strict=True)]
    return outs


def _moved(eqn: Eqn, leaves: Sequence[View], i: int) -> list[list[View | None]]:
    move = MOVES.get(eqn.primitive.name)
    return [] if move is None else [move(v, eqn, i) for v in leaves]


def _tokens(eqn: Eqn, known: Sequence[View | None]) -> list[View | None]:
    name = eqn.primitive.name
    rule = TOKENS.get(name)
    if rule is not None:
        return rule(eqn, known)
    move = MOVES.get(name)
    outs: list[View | None] = [None] * len(eqn.outvars)
    for i, v in enumerate(known):
        if v is not None:
            made = move(v, eqn, i) if move else [None] * len(outs)
            lost = [w if w is not None else gone(v, eqn.outvars[k].aval.shape) for k, w in enumerate(made)]
            outs = [views.merged(a, b) for a, b in zip(outs, lost, strict=True)]
    return outs


def gone(v: View, shape: Sequence[int]) -> View:
    """A value of which nothing is known, but that it came from v."""
    v = views.lose(v, set(range(len(v.cuts))))
    return v._replace(axes=tuple(views.blank(n, views.UNKNOWN) for n in shape))


def _shape(eqn: Eqn, i: int) -> tuple[int, ...]:
    return tuple(eqn.invars[i].aval.shape)


def _same(v: View, eqn: Eqn, i: int) -> list[View | None]:
    return [v if k == i or len(eqn.outvars) == 1 else None for k in range(len(eqn.outvars))]


def _elementwise(v: View, eqn: Eqn, i: int) -> list[View | None]:
    shape = eqn.outvars[0].aval.shape
    return [views.broadcast(v, shape, range(len(shape)) if v.axes else ())]


def _reshape(v: View, eqn: Eqn, i: int) -> list[View | None]:
    order = eqn.params.get("dimensions")
    return [views.reshape(v if order is None else views.transpose(v, order), eqn.outvars[0].aval.shape)]


def _broadcast(v: View, eqn: Eqn, i: int) -> list[View | None]:
    return [views.broadcast(v, eqn.params["shape"], eqn.params["broadcast_dimensions"])]


def _slice(v: View, eqn: Eqn, i: int) -> list[View | None]:
    p = eqn.params
    steps = p["strides"] or (1,) * len(v.axes)
    for k, n in enumerate(eqn.outvars[0].aval.shape):
        v = views.cut(v, k, p["start_indices"][k], n) if steps[k] == 1 or n == 1 else views.lose_along(v, k, n)
    return [v]


def _split(v: View, eqn: Eqn, i: int) -> list[View | None]:
    axis, start = eqn.params["axis"], 0
    outs: list[View | None] = []
    for n in eqn.params["sizes"]:
        outs.append(views.cut(v, axis, int(start), int(n)))
        start += n
    return outs


def _dynamic_slice(v: View, eqn: Eqn, i: int) -> list[View | None]:
    return [_resized(v, _shape(eqn, 0), eqn.outvars[0].aval.shape)] if i == 0 else [None]


def _resized(v: View, before: Sequence[int], after: Sequence[int]) -> View:
    """Nothing is known along the axes whose size changed."""
    for k, (n, m) in enumerate(zip(before, after, strict=True)):
        v = views.lose_along(v, k, m) if n != m else v
    return v


def _concatenate(v: View, eqn: Eqn, i: int) -> list[View | None]:
    axis = eqn.params["dimension"]
    return [views.lose_along(v, axis, eqn.outvars[0].aval.shape[axis]) if len(eqn.invars) > 1 else v]


def _pad(v: View, eqn: Eqn, i: int) -> list[View | None]:
    for k, (config, n) in enumerate(zip(eqn.params["padding_config"], eqn.outvars[0].aval.shape, strict=True)):
        v = views.lose_along(v, k, n) if i == 0 and any(config) else v
    return [v if i == 0 else None]


def _rev(v: View, eqn: Eqn, i: int) -> list[View | None]:
    for k in eqn.params["dimensions"]:
        v = views.lose_along(v, k, _shape(eqn, 0)[k])
    return [v]


def _tile(v: View, eqn: Eqn, i: int) -> list[View | None]:
    axes = [views.joined([*views.blank(n), *fs]) for n, fs in zip(eqn.params["reps"], v.axes, strict=True)]
    return [v._replace(axes=tuple(axes))]


MOVES: dict[str, Move] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(IDENTITIES, _same),
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "dynamic_slice": _dynamic_slice,
    "pad": _pad,
    "reshape": _reshape,
    "rev": _rev,
    "slice": _slice,
    "split": _split,
    "squeeze": lambda v, eqn, i: [views.drop(v, eqn.params["dimensions"])],
    "tile": _tile,
    "transpose": lambda v, eqn, i: [views.transpose(v, eqn.params["permutation"])],
}

Known: TypeAlias = Sequence[View | None]


def _reduce(eqn: Eqn, known: Known) -> list[View | None]:
    v = known[0]
    return [v and views.drop(v, eqn.params["axes"]) for _ in eqn.outvars]


def _cumulative(eqn: Eqn, known: Known) -> list[View | None]:
    return [known[0]]


def _sort(eqn: Eqn, known: Known) -> list[View | None]:
    """Along the sorted axis every token is now somewhere else."""
    shape = eqn.outvars[0].aval.shape
    axis = eqn.params.get("dimension", len(shape) - 1)
    return [views.lose_along(v, axis, shape[axis]) if (v := known[0]) else None for _ in eqn.outvars]


def _window(eqn: Eqn, known: Known) -> list[View | None]:
    shape, v = eqn.outvars[0].aval.shape, known[0]
    for k, n in enumerate(eqn.params["window_dimensions"]):
        v = views.lose_along(v, k, shape[k]) if v and n != 1 else v
    return [v]


def _dot(eqn: Eqn, known: Known) -> list[View | None]:
    contract, batch = eqn.params["dimension_numbers"]
    shape = eqn.outvars[0].aval.shape
    out, start = None, len(batch[0])
    for v, c, b, aval in zip(known, contract, batch, (_shape(eqn, 0), _shape(eqn, 1)), strict=True):
        free = [k for k in range(len(aval)) if k not in c and k not in b]
        if v is not None:
            kept = v._replace(axes=tuple(v.axes[k] for k in (*b, *free)))
            at = (*range(len(b)), *range(start, start + len(free)))
            out = views.merged(out, views.broadcast(kept, shape, at))
        start += len(free)
    return [out]


def _conv(eqn: Eqn, known: Known) -> list[View | None]:
    x, n = known[0], eqn.params["dimension_numbers"]
    if x is None or eqn.params["batch_group_count"] != 1:
        return [gone(v, eqn.outvars[0].aval.shape) if (v := x or known[1]) else None]
    x = views.lose(x, {f.axis for k in n.lhs_spec[1:] for f in x.axes[k]})
    return [views.broadcast(x._replace(axes=(x.axes[n.lhs_spec[0]],)), eqn.outvars[0].aval.shape, (n.out_spec[0],))]


def _gather(eqn: Eqn, known: Known) -> list[View | None]:
    """Looked up: tokens lie where they lie in the indices."""
    shape, taken = eqn.outvars[0].aval.shape, eqn.params["dimension_numbers"]
    operand, ids = known
    at = [k for k in range(len(shape)) if k not in taken.offset_dims]
    out = ids and views.broadcast(ids._replace(axes=ids.axes[:-1]), shape, at)
    return [views.merged(out, operand and gone(operand, shape))]


def _drop_last(eqn: Eqn, known: Known) -> list[View | None]:
    """top_k: the last axis becomes ranks."""
    v = known[0]
    return [v and views.lose_along(v, len(v.axes) - 1, o.aval.shape[-1]) for o in eqn.outvars]


TOKENS: dict[str, Callable[[Eqn, Known], list[View | None]]] = {
    **{f"reduce_{f}": _reduce for f in ("sum", "max", "min", "prod", "and", "or", "xor")},
    **dict.fromkeys(["argmax", "argmin"], _reduce),
    **dict.fromkeys(["cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"], _cumulative),
    **{f"reduce_window_{f}": _window for f in ("sum", "max", "min")},
    "conv_general_dilated": _conv,
    "dot_general": _dot,
    "gather": _gather,
    "sort": _sort,
    "top_k": _drop_last,
}
