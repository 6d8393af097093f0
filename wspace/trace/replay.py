"""Replay: the jaxpr of `apply` evaluated again, equation by equation, with what is known of each value beside it.

Several models of one program run side by side, so that what one parameter sees in each can be compared. Loops in which
nothing is summed up run as they are; in others the summaries go round with the carry, or are stacked with the layers.

Relies on: jaxprs having `.eqns`, `.invars`, `.outvars`, `.constvars`; equations `.primitive`, `.params`, `.invars`,
`.outvars`; `Primitive.bind` and `get_bind_params`, as in JAX's own page on writing interpreters of jaxprs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import jaxpr_as_fun

from wspace.core.typing import Array
from wspace.trace import view as views
from wspace.trace.follow import Eqn, Mark, follow
from wspace.trace.meet import Operand, uses
from wspace.trace.rules_control import CALLS
from wspace.trace.taps import Folder, Sums, Survey
from wspace.trace.view import Factor, View
from wspace.trace.walk import scan_operands


class Value(NamedTuple):
    """A value in every model, and what is known of it."""

    arrays: tuple[Array, ...]
    mark: Mark


class Replay:
    """One evaluation of a program. `taps` gets every meeting; `sums` are the summaries so far of what is running."""

    def __init__(self, taps: Survey | Folder, models: int = 1) -> None:
        self.taps, self.models = taps, models
        self.sums: Sums = {}
        self._loops = itertools.count()

    def run(self, closed: Any, args: Sequence[Value]) -> list[Value]:
        """Evaluate a jaxpr: a closed one, or one without constants."""
        jaxpr, consts = (closed.jaxpr, closed.consts) if hasattr(closed, "jaxpr") else (closed, ())
        given = [self._constant(c) for c in consts]
        env: dict[Any, Value] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*given, *args], strict=True))

        def read(atom: Any) -> Value:
            return self._constant(atom.val) if hasattr(atom, "val") else env[atom]

        for eqn in jaxpr.eqns:
            env.update(zip(eqn.outvars, self.step(eqn, [read(v) for v in eqn.invars]), strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _constant(self, x: Any) -> Value:
        return Value((x,) * self.models, Mark())

    def step(self, eqn: Eqn, ins: list[Value]) -> list[Value]:
        name = eqn.primitive.name
        if name in CALLS:
            return self.run(eqn.params[CALLS[name]], ins)
        rules = {"scan": self.scan, "while": self.while_, "cond": self.cond}
        return rules[name](eqn, ins) if name in rules else self.plain(eqn, ins, follow(eqn, [v.mark for v in ins]))

    def plain(self, eqn: Eqn, ins: Sequence[Value], marks: Sequence[Mark]) -> list[Value]:
        """An equation as it is, in every model."""
        taken = eqn.primitive.get_bind_params(eqn.params)  # jax before 0.10 gives the functions inside apart
        subfuns, params = taken if isinstance(taken, tuple) else ((), taken)
        each = [eqn.primitive.bind(*subfuns, *(v.arrays[m] for v in ins), **params) for m in range(self.models)]
        outs = zip(*(each if eqn.primitive.multiple_results else [[out] for out in each]), strict=True)
        made = [Value(arrays, mark) for arrays, mark in zip(outs, marks, strict=True)]
        met = uses(eqn, [v.mark for v in ins])
        for use in met:
            x, y = ([Operand(a, v.mark) for a in v.arrays] for v in (ins[use.other], made[0]))
            self.taps.meet(eqn, use, x, y, self.sums)
        self._ends(eqn, ins, marks, {use.view.leaf for use in met})
        return made

    def _ends(self, eqn: Eqn, ins: Sequence[Value], marks: Sequence[Mark], met: set[int]) -> None:
        after = {v.leaf for mark in marks for v in mark.leaves}
        for leaf in {v.leaf for x in ins for v in x.mark.leaves} - after - met:
            self.taps.end(leaf, eqn.primitive.name)

    def _inside(self, closed: Any, args: Sequence[Value]) -> tuple[list[Value], Sums]:
        """Run a program with sums of its own."""
        outer, self.sums = self.sums, {}
        try:
            return self.run(closed, args), self.sums
        finally:
            self.sums = outer

    def _outline(self, closed: Any, args: Sequence[Value], turn: int | None = None) -> tuple[list[Mark], Sums]:
        """The marks of a program's results and the shapes of its sums; nothing is computed. Arguments from `turn` on
        come with an axis of turns in front."""
        marks: list[Mark] = []

        def call(arrays: list[tuple[Array, ...]]) -> Sums:
            given = [
                v._replace(arrays=tuple(lax.index_in_dim(x, 0, keepdims=False) for x in a) if turned else a)
                for k, (v, a) in enumerate(zip(args, arrays, strict=True))
                for turned in [turn is not None and k >= turn]
            ]
            outs, sums = self._inside(closed, given)
            marks[:] = [v.mark for v in outs]
            return sums

        shapes = jax.eval_shape(call, [v.arrays for v in args])
        return marks, shapes

    def scan(self, eqn: Eqn, ins: list[Value]) -> list[Value]:
        """Summaries of parameters that are stacked along the loop are stacked alike; all others go round."""
        p, loop = eqn.params, next(self._loops)
        closed, (n, m) = p["jaxpr"], scan_operands(p)
        consts, init, xs = ins[:n], ins[n:m], [v._replace(mark=_turn(v.mark, loop)) for v in ins[m:]]
        carry, outs, shapes = self._settle(closed, (consts, self._carried(closed, n, init, ins), xs))
        marks = [*(v.mark for v in carry), *(_stacked(mark, loop, p["length"]) for mark in outs[len(carry) :])]
        if not shapes:
            return self.plain(eqn, ins, marks)
        folder = self._folder()
        along = {key for key in shapes if any(t.loop == loop for t in key.turns)}

        def body(state: Any, arrays: Any) -> Any:
            now, sums = state
            args = [*consts, *_filled(carry, now), *_filled(xs, arrays)]
            made, found = self._inside(closed, args)
            sums = {key: folder.merge(key, sums[key], found[key]) for key in sums}
            rows = [v.arrays for v in made]
            return (rows[: len(carry)], sums), (rows[len(carry) :], {key: found[key] for key in along})

        start = ([v.arrays for v in init], _zeros({key: s for key, s in shapes.items() if key not in along}))
        (ends, sums), (stacks, layers) = lax.scan(
            body, start, [v.arrays for v in xs], length=p["length"], reverse=p["reverse"], unroll=p["unroll"]
        )
        for key, made in sums.items():
            folder.add(self.sums, key, made)
        for key, made in layers.items():
            folder.stack(self.sums, key, loop, made)
        return [Value(arrays, mark) for arrays, mark in zip([*ends, *stacks], marks, strict=True)]

    def while_(self, eqn: Eqn, ins: list[Value]) -> list[Value]:
        """Summaries go round. Several models side by side may take different numbers of turns: nothing is summed up."""
        p = eqn.params
        n, m = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
        closed, tests, consts, init = p["body_jaxpr"], ins[:n], ins[n:m], ins[m:]
        carry, _, shapes = self._settle(closed, (consts, self._carried(closed, m - n, init, ins), []))
        marks = [v.mark for v in carry]
        if not shapes or self.models > 1:
            return self.plain(eqn, ins, marks)
        folder, test = self._folder(), jaxpr_as_fun(p["cond_jaxpr"])

        def body(state: Any) -> Any:
            now, sums = state
            made, found = self._inside(closed, [*consts, *_filled(carry, now)])
            return [v.arrays for v in made], {key: folder.merge(key, sums[key], found[key]) for key in sums}

        def going(state: Any) -> Any:
            return test(*(v.arrays[0] for v in tests), *(arrays[0] for arrays in state[0]))[0]

        ends, sums = lax.while_loop(going, body, ([v.arrays for v in init], _zeros(shapes)))
        for key, made in sums.items():
            folder.add(self.sums, key, made)
        return [Value(arrays, mark) for arrays, mark in zip(ends, marks, strict=True)]

    def cond(self, eqn: Eqn, ins: list[Value]) -> list[Value]:
        """The branch that is taken is summed up."""
        branches, (index, *args) = eqn.params["branches"], ins
        outlines = [self._outline(branch, args) for branch in branches]
        data = any(v.mark.data for v in ins)
        marks = [Mark(data)] * len(eqn.outvars)
        for outs, _ in outlines:
            marks = [m._replace(tokens=views.merged(m.tokens, o.tokens)) for m, o in zip(marks, outs, strict=True)]
        shapes = {key: s for _, sums in outlines for key, s in sums.items()}
        if not shapes or self.models > 1:
            return self.plain(eqn, ins, marks)
        folder = self._folder()

        def taken(branch: Any) -> Any:
            def call(arrays: Any) -> Any:
                made, found = self._inside(branch, _filled(args, arrays))
                return [v.arrays for v in made], {key: found.get(key) or _zeros(s) for key, s in shapes.items()}

            return call

        outs, sums = lax.switch(index.arrays[0], [taken(b) for b in branches], [v.arrays for v in args])
        for key, made in sums.items():
            folder.add(self.sums, key, made)
        return [Value(arrays, mark) for arrays, mark in zip(outs, marks, strict=True)]

    def _folder(self) -> Folder:
        if not isinstance(self.taps, Folder):
            raise TypeError("only a Folder makes sums")
        return self.taps

    def _carried(self, closed: Any, consts: int, init: Sequence[Value], ins: Sequence[Value]) -> list[Value]:
        """What goes round a loop: as it came in where the program inside hands it on untouched; else it may depend on
        all that the loop is given."""
        data = any(v.mark.data for v in ins)
        jaxpr = closed.jaxpr
        return [
            v if out is into else v._replace(mark=Mark(data, (), v.mark.tokens))
            for v, into, out in zip(init, jaxpr.invars[consts:], jaxpr.outvars, strict=False)
        ]

    def _settle(
        self, closed: Any, parts: tuple[list[Value], list[Value], list[Value]]
    ) -> tuple[list[Value], list[Mark], Sums]:
        """Go round on shapes alone until the places of tokens stay where they are."""
        consts, carry, xs = parts
        while True:
            marks, shapes = self._outline(closed, [*consts, *carry, *xs], len(consts) + len(carry))
            after = [views.merged(v.mark.tokens, m.tokens) for v, m in zip(carry, marks, strict=False)]
            if after == [v.mark.tokens for v in carry]:
                return carry, marks, shapes
            carry = [v._replace(mark=v.mark._replace(tokens=t)) for v, t in zip(carry, after, strict=True)]


def _filled(values: Sequence[Value], arrays: Sequence[tuple[Array, ...]]) -> list[Value]:
    return [v._replace(arrays=tuple(a)) for v, a in zip(values, arrays, strict=True)]


def _zeros(shapes: Mapping[Any, Any]) -> Any:
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def _turn(mark: Mark, loop: int) -> Mark:
    """One turn's slice of a value."""
    tokens: View | None = mark.tokens and views.enter(mark.tokens, loop)
    return mark._replace(leaves=tuple(views.enter(v, loop) for v in mark.leaves), tokens=tokens)


def _stacked(mark: Mark, loop: int, length: int) -> Mark:
    """The results of all turns: no leaf is followed out of a loop."""
    tokens = mark.tokens
    if tokens is not None:
        axes = [t.axis for t in tokens.turns if t.loop == loop]
        front = tuple(Factor(a, 1, length) for a in axes) if axes and length > 1 else views.blank(length)
        turns = tuple(t for t in tokens.turns if t.loop != loop)
        tokens = tokens._replace(axes=(front, *tokens.axes), turns=turns)
    return Mark(mark.data, (), tokens)
