"""Vectors that a program adds or subtracts entry by entry: biases, running means; and what they meet there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wspace.core.axes import Axes
from wspace.core.containers import as_params
from wspace.core.implicit import dense
from wspace.core.typing import Array, Path, Tree
from wspace.trace.axes import program, walked
from wspace.trace.follow import Eqn, Mark
from wspace.trace.replay import Replay, Value
from wspace.trace.rotations import ALONE, origins
from wspace.trace.taps import Survey
from wspace.trace.view import Factor, View, fresh
from wspace.trace.walk import Op


class Seen(NamedTuple):
    """What a vector meets: mean and variance f32 [n] over all other axes, and over how many rows, f32 []."""

    mean: Array
    variance: Array
    rows: Array


class Layer(NamedTuple):
    """A vector's matrix, and the axis of it that the vector lies along."""

    kernel: Path
    axis: int


def biases(apply: Callable[..., Any], params: Tree, *inputs: Any) -> dict[Path, Layer]:
    """Vectors that are added to the product of one matrix, in the order of the program."""
    walk, leaves = walked(apply, params, inputs)
    known = origins(walk.ops, leaves)
    made: dict[int, Path] = {}
    found: dict[Path, Layer] = {}
    for op in walk.ops:
        own = [known[v.uid] for v in op.ins if v.uid in known]
        if op.name in ("dot_general", "conv_general_dilated") and len(own) == 1:
            made |= {v.uid: own[0] for v in op.outs}
        elif op.name in ALONE and len(op.ins) == 1 and op.ins[0].uid in made:
            made |= {v.uid: made[op.ins[0].uid] for v in op.outs}
        elif op.name == "add" and len(own) == 1 and len(leaves[own[0]].axes) == 1:
            kernels = [made[v.uid] for v in op.ins if v.uid in made]
            for kernel in kernels:
                roles = [axis.role for axis in Axes().of(kernel, leaves[kernel].shape)]
                if roles.count("out") == 1 and "stack" not in roles:
                    found.setdefault(own[0], Layer(kernel, roles.index("out")))
    return found


def normalizations(apply: Callable[..., Any], params: Tree, *inputs: Any) -> dict[Path, Path]:
    """Running means -> the variances that are divided by, in the order of the program."""
    walk, leaves = walked(apply, params, inputs)
    known = origins(walk.ops, leaves)
    shifted, centred, roots = dict(known), dict[int, Path](), dict[int, Path]()
    found: dict[Path, Path] = {}
    for op in walk.ops:
        if op.name == "add" and len(op.ins) == 2:
            _carry(op, shifted, [v.uid for v in op.ins if not v.axes])  # an epsilon
        elif op.name in ("rsqrt", "sqrt") and op.ins[0].uid in shifted:
            roots |= {v.uid: shifted[op.ins[0].uid] for v in op.outs}
        elif op.name == "sub" and op.ins[1].uid in known and op.ins[0].uid not in known:
            centred |= {v.uid: known[op.ins[1].uid] for v in op.outs}
        elif op.name in ("mul", "div") and (pairs := list(_pairs(op, centred, roots))):
            found |= {mean: spread for mean, spread in pairs if mean not in found}
        elif op.name == "mul":
            _carry(op, roots, [v.uid for v in op.ins if v.uid in known])
        if op.name in ALONE and len(op.ins) == 1:
            for kept in (shifted, centred, roots):
                _carry(op, kept, [])
    return found


def _carry(op: Op, kept: dict[int, Path], free: Sequence[int]) -> None:
    """The result is what one operand is, if all others are free."""
    mine = [kept[v.uid] for v in op.ins if v.uid in kept]
    if len(mine) == 1 and all(v.uid in kept or v.uid in free for v in op.ins):
        kept |= {v.uid: mine[0] for v in op.outs}


def _pairs(op: Op, centred: Mapping[int, Path], roots: Mapping[int, Path]) -> Iterator[tuple[Path, Path]]:
    for a, b in ((0, 1), (1, 0)):
        if op.ins[a].uid in centred and op.ins[b].uid in roots:
            yield centred[op.ins[a].uid], roots[op.ins[b].uid]


def meetings(
    apply: Callable[..., Any], params: Tree, batch: Any, wanted: Collection[Path]
) -> Callable[[Tree, Any], dict[Path, Seen]]:
    """A compiled function (params, batch) -> what each wanted vector meets. Uses of one vector are put together.

    Vectors within a loop are not looked at: they have no entry.
    """
    traced = program(apply, params, [batch])
    paths = list(traced.leaves)

    @jax.jit
    def run(arrays: list[Array], flat: list[Array]) -> dict[int, Seen]:
        replay = _Noting({paths.index(path) for path in wanted})
        leaves = [Value((x,), Mark(leaves=(fresh(k, x.shape),))) for k, x in enumerate(arrays)]
        replay.run(traced.closed, [*leaves, *(Value((x,), Mark(data=True)) for x in flat)])
        return {k: Seen(x.mean(0), x.var(0), jnp.float32(x.shape[0])) for k, x in replay.found.items()}

    def met(params: Tree, batch: Any) -> dict[Path, Seen]:
        given = as_params(params).leaves
        found = run([dense(given[path]) for path in paths], [x for x in jax.tree.leaves(batch) if hasattr(x, "shape")])
        return {paths[k]: seen for k, seen in found.items()}

    return met


class _Noting(Replay):
    """Keeps what is added to, or loses, a vector: rows `[everything else, n]`."""

    def __init__(self, wanted: Collection[int]) -> None:
        super().__init__(Survey())
        self.wanted, self.found, self.depth = wanted, dict[int, Array](), 0

    def plain(self, eqn: Eqn, ins: Sequence[Value], marks: Sequence[Mark]) -> list[Value]:
        if eqn.primitive.name in ("add", "sub") and not self.depth:
            for vector, other in ((ins[0], ins[1]), (ins[1], ins[0])):
                for view in () if vector.mark.data or not other.mark.data else vector.mark.leaves:
                    if view.leaf in self.wanted and (axis := _along(view, other.arrays[0].shape)) is not None:
                        x = other.arrays[0].astype(jnp.float32)
                        rows = jnp.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
                        old = self.found.get(view.leaf)
                        self.found[view.leaf] = rows if old is None else jnp.concatenate([old, rows])
        return super().plain(eqn, ins, marks)

    def _inside(self, closed: Any, args: Sequence[Value]) -> Any:
        self.depth += 1
        try:
            return super()._inside(closed, args)
        finally:
            self.depth -= 1


def _along(view: View, shape: Sequence[int]) -> int | None:
    """The axis of a value along which all of a vector lies."""
    if len(view.cuts) != 1 or view.cuts[0] is None:
        return None
    n = view.cuts[0].size
    whole = (Factor(0, 1, n),) if n > 1 else ()
    return next((k for k in reversed(range(len(shape))) if view.axes[k] == whole and shape[k] == n), None)
