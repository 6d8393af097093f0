"""Rules of the primitives that only move numbers: which axis of the result is which axis of the operand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from wspace.trace.terms import Node, carve, cut, factors, find, pin, product, total, unify
from wspace.trace.walk import Eqn, Label, Place, Rule, Value, Walk, labels


def transpose(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """Axes change places."""
    (x,) = ins
    order = eqn.params["permutation"]
    out = walk.value([x.axes[k] for k in order], x.names, x.zero)
    return walk.record(eqn, ins, [out], labels(*((x.axes[k], {0: k, 1: j}) for j, k in enumerate(order))))


def squeeze(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """Axes of size 1 go."""
    (x,) = ins
    gone = {d % len(x.axes) for d in eqn.params["dimensions"]}
    left = [k for k in range(len(x.axes)) if k not in gone]
    out = walk.value([x.axes[k] for k in left], x.names, x.zero)
    return walk.record(eqn, ins, [out], labels(*((x.axes[k], {0: k, 1: j}) for j, k in enumerate(left))))


def broadcast_in_dim(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """A new axis, along which nothing changes, is free: it becomes what it is used with."""
    x = ins[0]
    shape, where = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    source = {j: k for k, j in enumerate(where) if x.axes[k].size == shape[j]}
    out = walk.value([x.axes[source[j]] if j in source else Node(n) for j, n in enumerate(shape)], x.names, x.zero)
    at = [{0: source[j], 1: j} if j in source else {1: j} for j in range(len(shape))]
    return walk.record(eqn, [x], [out], labels(*zip(out.axes, at, strict=True)))


def reshape(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """Splits axes into factors and merges factors into axes."""
    x, sizes = ins[0], tuple(eqn.params["new_sizes"])
    axes: list[Node] = [Node(1) for _ in sizes]
    made: list[Label] = []
    for ks, js in _blocks(x.shape, sizes):
        whole = product([x.axes[k] for k in ks])
        for j, node in zip(js, carve(whole, [sizes[j] for j in js]), strict=True):
            axes[j] = node
        left, right = _places(x.axes, ks), _places(axes, js)
        if len(left) == len(right):
            made += [Label(n, {0: a, 1: b}) for (n, a), (_, b) in zip(left, right, strict=True)]
        else:
            made += [*(Label(n, {0: a}) for n, a in left), *(Label(n, {1: b}) for n, b in right)]
    return walk.record(eqn, [x], [walk.value(axes, x.names, x.zero)], made)


def _blocks(a: Sequence[int], b: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of axes that a reshape maps to each other; axes of size 1 are left out."""
    left, right = [k for k, n in enumerate(a) if n != 1], [j for j, n in enumerate(b) if n != 1]
    out: list[tuple[list[int], list[int]]] = []
    while left:
        ks, js = [left.pop(0)], [right.pop(0)]
        while (m := math.prod(a[k] for k in ks)) != (n := math.prod(b[j] for j in js)):
            (ks if m < n else js).append((left if m < n else right).pop(0))
        out.append((ks, js))
    return out


def _places(axes: Sequence[Node], which: Sequence[int]) -> list[tuple[Node, Place]]:
    """The factors of some axes in order, each with its place."""
    out = []
    for k in which:
        parts = factors(axes[k])
        strides = list(itertools.accumulate((f.size for f in reversed(parts)), lambda a, b: a * b, initial=1))
        out += [(f, Place(k, None, s)) for f, s in zip(parts, reversed(strides[:-1]), strict=True)]
    return out


def tile(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """Copies are a factor of their own, which is free."""
    (x,) = ins
    reps = eqn.params["reps"]
    copies = [Node(r) for r in reps]
    out = walk.value([product([c, node]) for c, node in zip(copies, x.axes, strict=True)], x.names, x.zero)
    made = labels(*((node, {0: k, 1: k}) for k, node in enumerate(x.axes)))
    made += [Label(c, {1: Place(k, None, n.size)}) for k, (c, n) in enumerate(zip(copies, x.axes, strict=True))]
    return walk.record(eqn, ins, [out], made)


def concatenate(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """The axis becomes a sum of segments; the other axes are the same in all operands."""
    d, n = eqn.params["dimension"], len(ins)
    for other in ins[1:]:
        for k, (a, b) in enumerate(zip(ins[0].axes, other.axes, strict=True)):
            if k != d:
                unify(a, b)
    axes = list(ins[0].axes)
    axes[d] = total([v.axes[d] for v in ins])
    out = walk.value(axes, zero=all(v.zero for v in ins))
    starts = itertools.accumulate((v.axes[d].size for v in ins), initial=0)
    made = [Label(v.axes[d], {i: Place(d), n: Place(d, s)}) for i, (v, s) in enumerate(zip(ins, starts, strict=False))]
    made += labels(*((a, dict.fromkeys(range(n + 1), k)) for k, a in enumerate(axes) if k != d))
    return walk.record(eqn, ins, [out], made)


def stack(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """The new axis is a sum of single coordinates; the other axes are the same in all operands."""
    d, n = eqn.params["axis"], len(ins)
    for other in ins[1:]:
        for a, b in zip(ins[0].axes, other.axes, strict=True):
            unify(a, b)
    axes = [*ins[0].axes[:d], total([Node(1) for _ in ins]), *ins[0].axes[d:]]
    made = labels(*((a, dict.fromkeys(range(n), k) | {n: k + (k >= d)}) for k, a in enumerate(ins[0].axes)))
    return walk.record(eqn, ins, [walk.value(axes, zero=all(v.zero for v in ins))], made)


def unstack(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """The axis is cut into single coordinates; the others are the same in all results."""
    (x,) = ins
    d, n = eqn.params["axis"], len(eqn.outvars)
    cut(x.axes[d], [1] * n)
    left = [*x.axes[:d], *x.axes[d + 1 :]]
    outs = [walk.value(left, zero=x.zero) for _ in range(n)]
    made = labels(*((a, {0: k + (k >= d), **dict.fromkeys(range(1, n + 1), k)}) for k, a in enumerate(left)))
    return walk.record(eqn, ins, outs, made)


def split(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """The axis is cut into segments; the others are the same in all results."""
    (x,) = ins
    d, sizes = eqn.params["axis"], eqn.params["sizes"]
    pieces = cut(x.axes[d], sizes)
    outs = [walk.value([*x.axes[:d], p, *x.axes[d + 1 :]], zero=x.zero) for p in pieces]
    starts = itertools.accumulate(sizes, initial=0)
    made = [Label(p, {0: Place(d, s), i: Place(d)}) for i, (p, s) in enumerate(zip(pieces, starts, strict=False), 1)]
    made += labels(*((a, dict.fromkeys(range(len(outs) + 1), k)) for k, a in enumerate(x.axes) if k != d))
    return walk.record(eqn, ins, outs, made)


def slice_(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """A range of an axis is a segment of it; every other one of an axis is a factor."""
    (x,) = ins
    p = eqn.params
    strides = p["strides"] or (1,) * len(x.axes)
    axes, made = [], []
    for k, (node, low, high, step) in enumerate(
        zip(x.axes, p["start_indices"], p["limit_indices"], strides, strict=True)
    ):
        size = -(-(high - low) // step)
        if (low, high, step) == (0, node.size, 1):
            made.append(Label(node, {0: Place(k), 1: Place(k)}))
        elif step == 1:
            sizes = [low, size, node.size - high]
            before, node, after = cut(node, sizes)
            made += [Label(before, {0: Place(k, 0)}, False), Label(after, {0: Place(k, high)}, False)]
            made.append(Label(node, {0: Place(k, low), 1: Place(k)}))
        elif node.size == size * step:
            node, minor = carve(node, [size, step])
            pin(minor, "strided slice")
            made += [Label(node, {0: Place(k, None, step), 1: Place(k)}), Label(minor, {0: Place(k)})]
        else:
            pin(node, "strided slice")
            made.append(Label(node, {0: Place(k)}))
            node = Node(size, "strided slice")
            made.append(Label(node, {1: Place(k)}))
        axes.append(node)
    return walk.record(eqn, ins, [walk.value(axes, zero=x.zero)], made)


def pad(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """What is padded is all one number, so a segment of its own that is free."""
    x, fill = ins
    axes, made = [], []
    for k, (node, (low, high, inner)) in enumerate(zip(x.axes, eqn.params["padding_config"], strict=True)):
        out = node
        if min(low, high) < 0 or inner:
            pin(node, "padding")
            out = Node(node.size + low + high + inner * max(node.size - 1, 0), "padding")
            made += [Label(node, {0: Place(k)}), Label(out, {2: Place(k)})]
        else:
            before, after = Node(low), Node(high)
            out = total([before, node, after]) if low or high else node
            made.append(Label(node, {0: Place(k), 2: Place(k, low)}))
            made += [Label(before, {2: Place(k, 0)}), Label(after, {2: Place(k, low + node.size)})]
        axes.append(out)
    return walk.record(eqn, [x, fill], [walk.value(axes, zero=x.zero and fill.zero)], made)


def iota(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """Its numbers are the coordinates of its own axis."""
    shape, d = eqn.params["shape"], eqn.params["dimension"]
    axes = [Node(n) for n in shape]
    out = walk.named(walk.value(axes), axes[d])
    return walk.record(eqn, ins, [out], labels(*((a, {len(ins): k}) for k, a in enumerate(axes))))


def rev(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """The reversed axis is pinned."""
    return _elsewhere(walk, eqn, ins, set(eqn.params["dimensions"]), "reversed")


def cumulative(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """Running sums depend on the order: pinned."""
    return _elsewhere(walk, eqn, ins, {eqn.params["axis"]}, "cumulative")


def dynamic_slice(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """Axes taken whole pass, the others are pinned; but a stack of which each turn of a loop takes its own entry."""
    sizes = eqn.params["slice_sizes"]
    moved = {k for k, (n, s) in enumerate(zip(ins[0].axes, sizes, strict=True)) if n.size != s}
    for k in moved if len(moved) == 1 else ():
        turn, loops = ins[1 + k].names, [find(loop) for loop in walk.loops]
        if turn is not None and find(turn) in loops and sizes[k] == 1 and turn.size == ins[0].axes[k].size:
            return _of_turn(walk, ins[0], k, turn)
    return _elsewhere(walk, eqn, ins, moved, "dynamic slice", dict(enumerate(sizes)))


def _of_turn(walk: Walk, x: Value, axis: int, turn: Node) -> list[Value]:
    """As if the stack were scanned: the slice is taken before the turn."""
    unify(turn, x.axes[axis])
    out = walk.value([Node(1) if k == axis else node for k, node in enumerate(x.axes)], zero=x.zero)
    made = [Label(turn, {0: Place(axis), 1: None})]
    made += labels(*((node, {0: k, 1: k}) for k, node in enumerate(x.axes) if k != axis))
    around, walk.loops = walk.loops, tuple(loop for loop in walk.loops if find(loop) is not find(turn))
    walk.record("turn", [x], [out], made)
    walk.loops = around
    return [out]


def dynamic_update_slice(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """Axes written whole pass, the others are pinned."""
    x, new = ins[:2]
    end = len(ins)
    made: list[Label] = []
    for k, (a, b) in enumerate(zip(x.axes, new.axes, strict=True)):
        if a.size == b.size:
            unify(a, b)
            made.append(Label(a, {0: Place(k), 1: Place(k), end: Place(k)}))
        else:
            pin(a, "dynamic update")
            pin(b, "dynamic update")
            made += [Label(a, {0: Place(k), end: Place(k)}), Label(b, {1: Place(k)})]
    return walk.record(eqn, ins, [walk.value(x.axes, zero=x.zero and new.zero)], made)


def _elsewhere(
    walk: Walk, eqn: Eqn, ins: list[Value], moved: set[int], why: str, sizes: Mapping[int, int] | None = None
) -> list[Value]:
    """Axes in `moved` are pinned, and other ones in the result; the rest pass."""
    x, end = ins[0], len(ins)
    axes, made = [], []
    for k, node in enumerate(x.axes):
        if k in moved:
            pin(node, why)
            out = Node((sizes or {}).get(k, node.size), why)
            made += [Label(node, {0: Place(k)}), Label(out, {end: Place(k)})]
        else:
            out = node
            made.append(Label(node, {0: Place(k), end: Place(k)}))
        axes.append(out)
    return walk.record(eqn, ins, [walk.value(axes, zero=x.zero)], made)


SHAPE: dict[str, Rule] = {
    "broadcast_in_dim": broadcast_in_dim,
    "concatenate": concatenate,
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
    "iota": iota,
    "pad": pad,
    "reshape": reshape,
    "rev": rev,
    "slice": slice_,
    "split": split,
    "squeeze": squeeze,
    "stack": stack,
    "tile": tile,
    "transpose": transpose,
    "unstack": unstack,
    **dict.fromkeys(["cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"], cumulative),
}
