"""Rules of the primitives that compute: element by element, over an axis, between two arrays, by index."""

from __future__ import annotations

from collections.abc import Sequence

from wspace.trace.terms import Node, carve, pin, product, unify
from wspace.trace.walk import Eqn, Label, Place, Rule, Value, Walk, labels


def elementwise(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """All operands have the shape of the result, or 1 along an axis, or are scalars."""
    shape, n = eqn.outvars[0].aval.shape, len(ins)
    axes: list[Node] = []
    made: list[Label] = []
    for k, size in enumerate(shape):
        have = [i for i, v in enumerate(ins) if v.axes and v.axes[k].size == size]
        first = ins[have[0]].axes[k]
        for i in have[1:]:
            unify(first, ins[i].axes[k])
        axes.append(first)
        made += labels((first, dict.fromkeys([*have, n], k)))
    name = eqn.primitive.name
    zero = (name in KEEP_ZERO and all(v.zero for v in ins)) or (name == "mul" and any(v.zero for v in ins))
    zero = zero or _negative(name, ins)
    return walk.record(eqn, ins, [walk.value(axes, _names(name, ins), zero)], made)


def _negative(name: str, ins: Sequence[Value]) -> bool:
    """Whether an index is asked if it counts from the end: a coordinate never does."""
    return name == "lt" and ins[0].names is not None and ins[1].zero


def _names(name: str, ins: Sequence[Value]) -> Node | None:
    """Coordinates stay coordinates under a cast or a copy, and become plain truth when compared with others."""
    tags = [v.names for v in ins if v.names is not None]
    if name in ("convert_element_type", "copy", "stop_gradient") and tags:
        return tags[0]
    if name == "select_n" and ins[0].zero:
        return ins[1].names
    if _negative(name, ins):
        return None
    if name in ("eq", "ne") and len(tags) == 2 and tags[0].size == tags[1].size:
        unify(*tags)
    else:
        for tag in tags:
            pin(tag, "position")
    return None


def identity(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """The same arrays come out."""
    return list(ins)


def reduce(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """Sum, product, largest: the same for every order, so the reduced axis stays free."""
    (x,) = ins
    gone = set(eqn.params["axes"])
    left = [k for k in range(len(x.axes)) if k not in gone]
    out = walk.value([x.axes[k] for k in left], zero=x.zero)
    at = [{0: k, 1: left.index(k)} if k in left else {0: k} for k in range(len(x.axes))]
    return walk.record(eqn, ins, [out], labels(*zip(x.axes, at, strict=True)))


def argument(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """argmax, argmin: the numbers that come out are coordinates of the axis."""
    (out,) = reduce(walk, eqn, ins)
    (axis,) = eqn.params["axes"]
    return [walk.named(out._replace(zero=False), ins[0].axes[axis])]


def sort(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """The result has an order of its own; operands that are sorted along are moved alike."""
    d, n = eqn.params["dimension"], len(ins)
    for other in ins[1:]:
        for a, b in zip(ins[0].axes, other.axes, strict=True):
            unify(a, b)
    ranks = Node(ins[0].axes[d].size, "sorted")
    outs = [walk.value([ranks if k == d else a for k, a in enumerate(ins[0].axes)]) for _ in ins]
    made = labels((ins[0].axes[d], dict.fromkeys(range(n), d)), (ranks, dict.fromkeys(range(n, 2 * n), d)))
    made += labels(*((a, dict.fromkeys(range(2 * n), k)) for k, a in enumerate(ins[0].axes) if k != d))
    return walk.record(eqn, ins, outs, made)


def top_k(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """The k largest in their order, and their coordinates."""
    (x,) = ins
    d = eqn.params.get("axis", -1) % len(x.axes)
    ranks = Node(eqn.outvars[0].aval.shape[d], "sorted")
    axes = [ranks if k == d else a for k, a in enumerate(x.axes)]
    outs = [walk.value(axes), walk.named(walk.value(axes), x.axes[d])]
    made = labels((x.axes[d], {0: d}), (ranks, {1: d, 2: d}))
    made += labels(*((a, dict.fromkeys(range(3), k)) for k, a in enumerate(x.axes) if k != d))
    return walk.record(eqn, ins, outs, made)


def dot_general(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """Contracted and batched axes are the same in both operands."""
    (lc, rc), (lb, rb) = eqn.params["dimension_numbers"]
    x, y = ins
    for k, j in [*zip(lc, rc, strict=True), *zip(lb, rb, strict=True)]:
        unify(x.axes[k], y.axes[j])
    made = labels(*((x.axes[k], {0: k, 1: j}) for k, j in zip(lc, rc, strict=True)))
    axes: list[Node] = []
    for k, j in zip(lb, rb, strict=True):
        made += labels((x.axes[k], {0: k, 1: j, 2: len(axes)}))
        axes.append(x.axes[k])
    for i, v, taken in ((0, x, {*lc, *lb}), (1, y, {*rc, *rb})):
        for k, node in enumerate(v.axes):
            if k not in taken:
                made += labels((node, {i: k, 2: len(axes)}))
                axes.append(node)
    return walk.record(eqn, ins, [walk.value(axes, zero=x.zero or y.zero)], made)


def convolution(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """Channels as in a dot product, group by group. Positions are pinned unless the kernel is 1x1."""
    p, (x, w) = eqn.params, ins
    if p["batch_group_count"] != 1:
        return walk.give_up(eqn, ins, "convolution with batch groups")
    (xb, xc, *xs), (wo, wi, *ws), (ob, oc, *os) = p["dimension_numbers"]
    groups = p["feature_group_count"]
    gx, cin = carve(x.axes[xc], [groups, x.axes[xc].size // groups])
    gw, cout = carve(w.axes[wo], [groups, w.axes[wo].size // groups])
    unify(gx, gw)
    unify(cin, w.axes[wi])
    shape = eqn.outvars[0].aval.shape
    axes = [Node(n) for n in shape]
    axes[ob], axes[oc] = x.axes[xb], product([gx, cout])
    made = labels((x.axes[xb], {0: xb, 2: ob}), (cin, {0: xc, 1: wi}), (cout, {1: wo, 2: oc}))
    where = {0: Place(xc, None, cin.size), 1: Place(wo, None, cout.size), 2: Place(oc, None, cout.size)}
    made.append(Label(gx, where))
    windows = zip(xs, ws, os, p["window_strides"], p["padding"], p["lhs_dilation"], strict=True)
    for a, b, c, stride, padding, dilation in windows:
        if (w.axes[b].size, stride, tuple(padding), dilation) == (1, 1, (0, 0), 1):
            axes[c] = x.axes[a]
            made += labels((axes[c], {0: a, 2: c}))
        else:
            axes[c] = Node(shape[c], "convolved")
            pin(x.axes[a], "convolved")
            pin(w.axes[b], "convolved")
            made += labels((x.axes[a], {0: a}), (w.axes[b], {1: b}), (axes[c], {2: c}))
    return walk.record(eqn, ins, [walk.value(axes, zero=x.zero or w.zero)], made)


def window(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """Pooling: axes with a window pin, the others pass."""
    p, x = eqn.params, ins[0]
    shape = eqn.outvars[0].aval.shape
    axes: list[Node] = []
    made: list[Label] = []
    for k, (node, size) in enumerate(zip(x.axes, p["window_dimensions"], strict=True)):
        plain = (size, p["window_strides"][k], tuple(p["padding"][k])) == (1, 1, (0, 0))
        if plain and p["base_dilation"][k] == 1:
            axes.append(node)
            made += labels((node, {0: k, 1: k}))
        else:
            pin(node, "pooled")
            axes.append(Node(shape[k], "pooled"))
            made += labels((node, {0: k}), (axes[k], {1: k}))
    return walk.record(eqn, ins, [walk.value(axes)], made)


def gather(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """Axes taken whole pass; an axis that is looked up is pinned, unless the numbers are its own coordinates."""
    x, at = ins
    d, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape = eqn.outvars[0].aval.shape
    batch = [j for j in range(len(shape)) if j not in d.offset_dims]
    axes = [Node(n, "looked up") for n in shape]
    made: list[Label] = []
    for k, j in enumerate(batch):
        axes[j] = at.axes[k]
        places = {1: k, 2: j}
        if k in d.start_indices_batching_dims:
            own = d.operand_batching_dims[list(d.start_indices_batching_dims).index(k)]
            unify(at.axes[k], x.axes[own])
            places[0] = own
        made += labels((at.axes[k], places))
    whole = [k for k in range(len(x.axes)) if k not in d.collapsed_slice_dims and k not in d.operand_batching_dims]
    for k, j in zip(whole, d.offset_dims, strict=True):
        if sizes[k] == x.axes[k].size:
            axes[j] = x.axes[k]
            made += labels((x.axes[k], {0: k, 2: j}))
        else:
            pin(x.axes[k], "looked up")
            made += labels((x.axes[k], {0: k}), (axes[j], {2: j}))
    if at.names is not None and not _by_name(x, at.names, eqn):
        pin(at.names, "position")
    for k in d.collapsed_slice_dims:
        if at.names is None or not _by_name(x, at.names, eqn):
            pin(x.axes[k], "looked up")
        else:
            unify(at.names, x.axes[k])
        made += labels((x.axes[k], {0: k}))
    pin(at.axes[-1], "looked up")
    return walk.record(eqn, ins, [walk.value(axes, x.names)], [*made, *labels((at.axes[-1], {1: len(at.axes) - 1}))])


def _by_name(x: Value, names: Node, eqn: Eqn) -> bool:
    """Whether a gather picks single entries of one axis by the coordinates of that axis."""
    d = eqn.params["dimension_numbers"]
    return d.collapsed_slice_dims == d.start_index_map and [x.axes[k].size for k in d.start_index_map] == [names.size]


def scatter(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """Axes written whole pass; the others, and the places that are written to, are pinned."""
    x, at, new = ins
    d = eqn.params["dimension_numbers"]
    whole = [k for k in range(len(x.axes)) if k not in (*d.inserted_window_dims, *d.operand_batching_dims)]
    pairs = dict(zip(whole, d.update_window_dims, strict=True))
    same = {k: j for k, j in pairs.items() if x.axes[k].size == new.axes[j].size}
    for k, j in same.items():
        unify(x.axes[k], new.axes[j])
    made = labels(*((x.axes[k], {0: k, 2: j, 3: k}) for k, j in same.items()))
    loose = [(0, x, k) for k in range(len(x.axes)) if k not in same]
    loose += [(2, new, j) for j in range(len(new.axes)) if j not in same.values()]
    loose += [(1, at, j) for j in range(len(at.axes))]
    for i, v, k in loose:
        pin(v.axes[k], "scattered")
        made += labels((v.axes[k], {0: k, 3: k} if i == 0 else {i: k}))
    return walk.record(eqn, ins, [walk.value(x.axes)], made)


def opaque(walk: Walk, eqn: Eqn, ins: list[Value]) -> list[Value]:
    """Random numbers and the like: known to depend on every position."""
    return walk.give_up(eqn, ins, eqn.primitive.name)


KEEP_ZERO = frozenset("mul neg add sub convert_element_type copy stop_gradient abs max min".split())
ELEMENTWISE = (
    "abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp clz complex conj "
    "convert_element_type copy cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma "
    "igamma_grad_a igammac imag integer_pow is_finite le le_to lgamma log log1p logistic lt lt_to max min mul ne neg "
    "nextafter not or polygamma population_count pow real reduce_precision regularized_incomplete_beta rem round rsqrt "
    "select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub tan "
    "tanh xor zeta"
).split()
IDENTITIES = (
    "device_put layout_constraint mesh_cast name optimization_barrier pvary reshard sharding_constraint "
    "with_memory_space_constraint"
).split()
OPAQUE = (
    "random_bits random_clone random_fold_in random_gamma random_seed random_split random_unwrap random_wrap "
    "rng_bit_generator rng_uniform threefry2x32"
).split()
SCATTERS = (
    "scatter scatter-add scatter-max scatter-min scatter-mul scatter_add scatter_max scatter_min scatter_mul".split()
)
COMPUTE: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(IDENTITIES, identity),
    **dict.fromkeys(["debug_callback", "debug_print"], lambda walk, eqn, ins: []),
    **dict.fromkeys([f"reduce_{f}" for f in ("sum", "max", "min", "prod", "and", "or", "xor")], reduce),
    **dict.fromkeys([f"reduce_window_{f}" for f in ("sum", "max", "min")], window),
    **dict.fromkeys(SCATTERS, scatter),
    **dict.fromkeys(OPAQUE, opaque),
    "argmax": argument,
    "argmin": argument,
    "conv_general_dilated": convolution,
    "dot_general": dot_general,
    "gather": gather,
    "sort": sort,
    "top_k": top_k,
}
