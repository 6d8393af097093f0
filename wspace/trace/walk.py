"""The walker: goes through the jaxpr of `apply(params, *inputs)` and hands each equation to the rule of its primitive.

A rule says which axes of operands and results are one axis. It gives back the results and records a label for each
axis: where it lies in every operand and result. The readers of the records (`depend`, `scale`) need nothing else.

Relies on: `jax.make_jaxpr`; jaxprs have `.eqns`, `.invars`, `.outvars`, `.constvars`; equations `.primitive.name`,
`.params`, `.invars`, `.outvars`; literals `.val`. Nothing private; primitives and params are named as in jax 0.10.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from wspace.trace.terms import Node, pin, unify


class Value(NamedTuple):
    """An array of the program. `names`: the axis whose coordinates its numbers are (iota). `zero`: it is all 0."""

    uid: int
    axes: tuple[Node, ...]
    names: Node | None = None
    zero: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(n.size for n in self.axes)


class Place(NamedTuple):
    """Where a label lies in one operand: a segment of an axis from `offset`, or all along it (None) with a step."""

    axis: int
    offset: int | None = None
    stride: int = 1


class Label(NamedTuple):
    """One axis of an operation: what it is, and its place in each operand and result that has it.

    A place of None: there without being an axis (the layer within one turn of a scan). `used` is False for what a
    slice leaves out.
    """

    node: Node
    places: Mapping[int, Place | None]
    used: bool = True


class Op(NamedTuple):
    """A record: operands and results (numbered in this order), labels, and the loops around it."""

    name: str
    params: Mapping[str, Any]
    ins: tuple[Value, ...]
    outs: tuple[Value, ...]
    labels: tuple[Label, ...]
    loops: tuple[Node, ...]


Eqn: TypeAlias = Any
Rule: TypeAlias = Callable[["Walk", Eqn, list[Value]], list[Value]]


class Walk:
    """The state of one walk: the records, the loops around the present equation, and the primitives without a rule."""

    def __init__(self, rules: Mapping[str, Rule], names: frozenset[str]) -> None:
        self.rules, self.knows_names = rules, names
        self.ops: list[Op] = []
        self.loops: tuple[Node, ...] = ()
        self.still: list[tuple[Value, Node]] = []  # values that every turn of a scan shares
        self.unknown: Counter[str] = Counter()
        self._uids = itertools.count()

    def value(self, axes: Sequence[Node], names: Node | None = None, zero: bool = False) -> Value:
        return Value(next(self._uids), tuple(axes), names, zero)

    def record(
        self, eqn: Eqn | str, ins: Sequence[Value], outs: Sequence[Value], labels: Sequence[Label]
    ) -> list[Value]:
        """Note what an equation did; a string is a record of the walker's own, such as "same"."""
        name, params = (eqn, {}) if isinstance(eqn, str) else (eqn.primitive.name, eqn.params)
        real = tuple(label for label in labels if label.node.size > 1)
        self.ops.append(Op(name, params, tuple(ins), tuple(outs), real, self.loops))
        return list(outs)

    def pinned(self, shape: Sequence[int], why: str) -> Value:
        return self.value([Node(n, why) for n in shape])

    def constant(self, array: Any) -> Value:
        """A number or array in the program. An axis along which it does not change may be permuted."""
        x = np.asarray(array) if not hasattr(array, "dtype") or isinstance(array, np.generic) else array
        if np.ndim(x) == 0:
            concrete = not isinstance(x, jax.core.Tracer) and not jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended)
            return self.value((), zero=bool(concrete and not np.any(np.asarray(x))))
        try:
            values = np.asarray(x)
        except (TypeError, ValueError, jax.errors.JAXTypeError):
            return self.pinned(np.shape(x), "constant")
        even = [
            bool((values == np.take(values, [0], axis=k)).all()) if values.size else False for k in range(values.ndim)
        ]
        axes = [Node(n, None if same else "constant") for n, same in zip(values.shape, even, strict=True)]
        return self.same([self.value(axes, zero=not values.any())])

    def named(self, v: Value, axis: Node) -> Value:
        """A value whose numbers are coordinates of an axis: one permutation for all, whatever their position."""
        self.record("named", [], [], [Label(axis, {0: None})])
        return v._replace(names=axis)

    def same(self, values: Sequence[Value]) -> Value:
        """Values that must be moved alike: branches of a cond, a carry and its next turn."""
        for other in values[1:]:
            for a, b in zip(values[0].axes, other.axes, strict=True):
                unify(a, b)
        for v in values:
            if v.names is not None:
                pin(v.names, "position")
        out = self.value(values[0].axes, zero=all(v.zero for v in values))
        places = [Label(n, {i: Place(k) for i in range(len(values) + 1)}) for k, n in enumerate(out.axes)]
        return self.record("same", values, [out], places)[0]

    def run(self, jaxpr: Any, consts: Sequence[Value], args: Sequence[Value]) -> list[Value]:
        """Walk a jaxpr."""
        env: dict[Any, Value] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
        for eqn in jaxpr.eqns:
            ins = [self.read(env, v) for v in eqn.invars]
            for var, out in zip(eqn.outvars, self.step(eqn, ins), strict=True):
                env[var] = out
        return [self.read(env, v) for v in jaxpr.outvars]

    def closed(self, closed: Any, args: Sequence[Value]) -> list[Value]:
        """Walk a jaxpr that may bring its constants."""
        if not hasattr(closed, "jaxpr"):
            return self.run(closed, (), args)
        return self.run(closed.jaxpr, [self.constant(c) for c in closed.consts], args)

    def read(self, env: Mapping[Any, Value], atom: Any) -> Value:
        return self.constant(atom.val) if hasattr(atom, "val") else env[atom]

    def step(self, eqn: Eqn, ins: list[Value]) -> list[Value]:
        """One equation: its rule, or everything it touches is pinned."""
        name = eqn.primitive.name
        if name not in self.knows_names:
            for v in ins:
                if v.names is not None:
                    pin(v.names, "position")
        rule = self.rules.get(name)
        shapes = [tuple(getattr(v.aval, "shape", ())) for v in eqn.outvars]
        if rule is not None and all(v.shape.count(0) == 0 for v in ins) and not any(0 in s for s in shapes):
            return rule(self, eqn, ins)
        if rule is None and any(n.size > 1 for v in ins for n in v.axes):
            self.unknown[name] += 1
        return self.give_up(
            eqn, ins, f"{name}, a primitive without a rule" if rule is None else f"empty array in {name}"
        )

    def give_up(self, eqn: Eqn, ins: Sequence[Value], why: str) -> list[Value]:
        """Pin all that an equation touches."""
        for v in ins:
            for n in v.axes:
                pin(n, why)
        outs = [self.pinned(getattr(v.aval, "shape", ()), why) for v in eqn.outvars]
        both = [(i, v) for i, v in enumerate([*ins, *outs])]
        return self.record(eqn, ins, outs, [Label(n, {i: Place(k)}) for i, v in both for k, n in enumerate(v.axes)])


def labels(*axes: tuple[Node, Mapping[int, int]]) -> list[Label]:
    """Labels that are whole axes: (what it is, operand -> axis)."""
    return [Label(node, {i: Place(k) for i, k in at.items()}) for node, at in axes]


def scan_operands(params: Mapping[str, Any]) -> tuple[int, int]:
    """Where a scan's carry begins and ends among its operands: constants come before, what is scanned after.

    jax 0.12 has, in place of two numbers, a tree of the three groups of operands.
    """
    if "num_consts" in params:
        return params["num_consts"], params["num_consts"] + params["num_carry"]
    consts, carry, _ = (len(list(group.vals)) for group in params["ft_in"].unpack())
    return consts, consts + carry
