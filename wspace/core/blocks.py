"""Leaves that lie on the host, transformed a block at a time: what a checkpoint larger than the caches needs.

Whether a transform can be is not declared but read from its program for that leaf: every operation has to be
entry-wise (entry i of the result depends on entry i of the inputs), or be a function that is so once it has looked at
its arrays (`after_a_look`), or one that gives no array of the leaf's shape: sums (`adds_up`) go block by block too,
others get whole arrays. All else between input and output are blocks, random numbers that their position determines
among them (`by_position`), and programs are compiled for one shape whatever the leaves' shapes are. The result is that
of the whole leaf to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from wspace.core.buffers import ALIGNED, empty
from wspace.core.entries import Entries, added, entries_of
from wspace.core.operations import ADDS, CASTS, MULTIPLIES, does, has, inside, is_entrywise, is_placed, sequence, words
from wspace.core.twins import LOOKS, PLACED, TOTALS

BLOCK = 2**19  # entries of a block: 2 MB of float32
WIDE = {"xla_cpu_prefer_vector_width": 512}  # bits, where there are so many: random numbers in 0.6 of the time

JOINS = {"reduce_sum": np.add, "reduce_max": np.maximum, "reduce_min": np.minimum}


def entrywise(closed: Any, made: Any, arrays: int, apart: bool = False) -> Program | None:
    """A function's program, if it is entry-wise and its arguments are large arrays of one shape; else None.

    closed: its jaxpr; there may be a random key before the arrays. made: what it makes, abstract. apart: functions with
    sums are taken apart, so that only the sums themselves are steps on whole arrays; the result then may differ from
    the whole leaf's in the last bits.
    """
    shape = getattr(made, "shape", None)
    *keys, first = closed.in_avals[: len(closed.in_avals) - arrays + 1] or [None]
    if first is None or math.prod(first.shape) < BLOCK or any(x.shape != shape for x in closed.in_avals[len(keys) :]):
        return None
    program = Program(first.shape, arrays, apart)
    arguments = [program.new(aval) for aval in keys]
    program.key = arguments[0] if arguments else program.key
    found = program.take(closed.jaxpr, closed.consts, [*arguments, *range(arrays)])
    if found is None or len(found) != 1 or found[0] not in program.whole:
        return None
    program.result = found[0]
    return program


class _Step(NamedTuple):
    """One operation, and the numbers of the values that it takes and makes. whole: it needs whole arrays. placed: what
    it makes depends on the position. learns: the number of what its look learns; -1: it has none. adds: it gives sums,
    of blocks."""

    eqn: Any
    takes: tuple[int, ...]
    makes: tuple[int, ...]
    whole: bool = False
    placed: bool = False
    learns: int = -1
    adds: bool = False

    @property
    def scans(self) -> bool:
        """Whether it needs all of its arrays, but not at once."""
        return self.adds or self.learns >= 0


class Program:
    """What is done to one leaf. Values have numbers: the arrays first, then all others as they come up.

    whole: the values with one entry for each of the leaf's, and their dtypes. small: known values without.
    key: the number of the random key, which is small. drawn: values that depend on positions; what is needed to have
    them again stays.
    text: equal for leaves whose programs are equal but for the shape and the small values.
    """

    def __init__(self, shape: tuple[int, ...], arrays: int, apart: bool = False) -> None:
        self.shape, self.apart = shape, apart
        self.steps: list[_Step] = []
        self.small: dict[int, Any] = {}
        self.whole: dict[int, Any] = dict.fromkeys(range(arrays))
        self.text: list[Hashable] = []
        self.count = self.arrays = arrays
        self.key = -1
        self.drawn: set[int] = set()
        self.result = 0

    def number(self) -> int:
        self.count += 1
        return self.count - 1

    def new(self, aval: Any, value: Any = None) -> int:
        number = self.number()
        if aval.shape == self.shape:
            self.whole[number] = aval.dtype
        elif value is not None:
            self.small[number] = value
        return number

    def take(
        self, jaxpr: Any, constants: Sequence[Any], arguments: Sequence[int], called: bool = False
    ) -> list[int] | None:
        """Append the steps of a program; the numbers of its results, or None if it can't be run.

        called: it is a function of another one. In memory, what a function does to whole arrays is part of its program.
        """
        if any(np.shape(c) == self.shape for c in constants):
            return None
        numbers = dict(zip(jaxpr.invars, arguments, strict=True))
        numbers |= {v: self.new(v.aval, c) for v, c in zip(jaxpr.constvars, constants, strict=True)}

        def number(atom: Any) -> int:
            if not isinstance(atom, jex.Literal):
                return numbers[atom]
            return self.new(atom.aval, np.asarray(atom.val, atom.aval.dtype))  # type: ignore[attr-defined]

        for eqn in jaxpr.eqns:
            takes = [number(atom) for atom in eqn.invars]
            inner, looks, placed = inside(eqn), eqn.params.get("name") in LOOKS, is_placed(eqn)
            joined = eqn.primitive.name in JOINS and eqn.params["axes"] == tuple(range(len(self.shape)))
            sums = joined if self.apart else not called and all(v.aval.shape != self.shape for v in eqn.outvars)
            adds = sums and eqn.params.get("name") in TOTALS
            if not (placed or sums or is_entrywise(eqn, self.shape)):
                if inner is None or (not self.apart and has(inner.jaxpr, MULTIPLIES) and has(inner.jaxpr, ADDS)):
                    return None  # taken apart, a product and a sum that were fused would round apart
                made = self.take(inner.jaxpr, inner.consts, takes, called=True)
                if made is None:
                    return None
                numbers |= dict(zip(eqn.outvars, made, strict=True))
                continue
            makes = tuple(self.new(v.aval) for v in eqn.outvars)
            numbers |= dict(zip(eqn.outvars, makes, strict=True))
            whole = looks or (sums and any(v.aval.shape == self.shape for v in eqn.invars))
            self.steps.append(_Step(eqn, tuple(takes), makes, whole, placed, self.number() if looks else -1, adds))
            if (placed and not looks) or self.drawn & set(takes):
                self.drawn |= set(makes) & self.whole.keys()
            dtypes = tuple(v.aval.dtype for v in eqn.invars)
            self.text.append((tuple(takes), dtypes, words(eqn, self.shape)))
        return [number(v) for v in jaxpr.outvars]

    @property
    def cuts(self) -> bool:
        """Whether a piece of the leaf can be computed from that piece alone: no function in it needs whole arrays,
        or a place."""
        return not any(step.whole or step.placed for step in self.steps)

    def held(self) -> int:
        """Bytes an entry of all whole arrays that running it makes, at most at once."""
        size = {n: np.dtype(dtype).itemsize for n, dtype in self.whole.items() if n >= self.arrays}
        made: set[int] = set()
        peak = [0]
        took: set[int] = set()
        for step in self.steps:
            if step.whole:
                takes = self._needs(step) | (set(step.takes) & took if step.scans else set())
                made |= self.drawn & takes | (set() if step.scans else set(step.makes))
                peak.append(sum(size.get(n, 0) for n in made | takes))
                took = takes
        return max(*peak, sum(size.get(n, 0) for n in made | {self.result}))

    def _needs(self, step: _Step) -> set[int]:
        """The whole arrays that have to be there for a step: those that it takes; for one that scans, of what was
        drawn the masks that it is made of, or itself if there are none."""
        takes = {n for n in step.takes if n in self.whole}
        if not step.scans:
            return takes
        makers = {n: s for s in self.steps for n in s.makes}

        def masks(n: int) -> set[int]:
            if n not in self.drawn:
                return set()
            if np.dtype(self.whole[n]).kind == "b":
                return {n}
            before = set[int]() if makers[n].placed else {m for k in makers[n].takes for m in masks(k)}
            return before or {n}

        return {m for n in takes for m in masks(n)}

    def __call__(self, arrays: Sequence[np.ndarray[Any, Any]], key: Any = None) -> np.ndarray[Any, Any]:
        """The result for arrays of the leaf's shape; or for a piece of each, of at least BLOCK entries, if it cuts."""
        small = self.small | ({} if key is None else {self.key: key})
        return self._run([x.reshape(-1) for x in arrays], small).reshape(arrays[0].shape)

    def _run(self, arrays: Sequence[np.ndarray[Any, Any]], small: dict[int, Any]) -> np.ndarray[Any, Any]:
        """The result, flat. small: the values without an entry for each of the leaf's, known so far."""
        whole = dict(enumerate(arrays))
        text = (*self.text, *(x.dtype for x in arrays))
        lazy: dict[int, _Step] = {}
        took: dict[int, Any] = {}
        for step in self.steps:
            if step.whole:
                took = {n: x for n, x in took.items() if n in step.takes}
                needed = self._needs(step) - took.keys()
                took |= {n: self.array(n, whole, small, lazy, text) for n in needed}
                whole |= {n: x for n, x in took.items() if n in self.drawn}
                if step.adds:
                    all_of = [self.entries(n, whole | took, small, lazy, text) for n in step.takes]
                    sums = added(TOTALS[step.eqn.params["name"]], all_of, BLOCK)
                    small |= zip(step.makes, jax.tree.leaves(sums), strict=True)
                    continue
                if step.learns < 0:
                    for n, x in zip(step.makes, self._on_whole(step, took, small), strict=True):
                        (whole if n in self.whole else small)[n] = x
                    continue
                if step.learns not in small:
                    array = self.entries(step.takes[0], whole | took, small, lazy, text)
                    small |= self._look(step, array, small)
                lazy |= dict.fromkeys(step.makes, step._replace(takes=(step.learns, *step.takes)))
            elif any(n in self.whole for n in (*step.takes, *step.makes)):
                lazy |= dict.fromkeys(step.makes, step)
            elif not set(step.makes) <= small.keys():
                small |= zip(step.makes, bound(step.eqn, [small[n] for n in step.takes]), strict=True)
                if set(step.takes) <= self.small.keys():  # the same for every leaf
                    self.small |= {n: small[n] for n in step.makes}
        del took
        return self.array(self.result, whole, small, lazy, text)

    def _on_whole(
        self, step: _Step, arrays: Mapping[int, np.ndarray[Any, Any]], small: Mapping[int, Any]
    ) -> Sequence[Any]:
        """What an operation makes of whole arrays."""
        shared = {n: jax.device_put(x.reshape(self.shape), may_alias=True) for n, x in arrays.items()}
        given = (shared[n] if n in shared else small[n] for n in step.takes)
        return jax.block_until_ready(bound(step.eqn, list(given)))

    def _look(self, step: _Step, entries: Entries, small: Mapping[int, Any]) -> Mapping[int, Any]:
        """What a look learns, and others like it that can be had with the same array and what is known."""
        name, array = step.eqn.params["name"], step.takes[0]
        alike = [s for s in self.steps if s.learns >= 0 and s.eqn.params["name"] == name and s.takes[0] == array]
        ready = [s for s in alike if all(n in small for n in s.takes[1:])]
        found = LOOKS[name](entries, [tuple(small[n] for n in s.takes[1:]) for s in ready])
        return dict(zip((s.learns for s in ready), found, strict=True))

    def array(self, wanted: int, whole: dict[int, np.ndarray[Any, Any]], *given: Any) -> np.ndarray[Any, Any]:
        """One value as a whole array; arguments as of `entries`."""
        if wanted in whole:
            return whole[wanted]
        found = self.entries(wanted, whole, *given)
        return found.into(empty(found.size, self.whole[wanted]))

    def entries(
        self,
        wanted: int,
        whole: dict[int, np.ndarray[Any, Any]],
        small: Mapping[int, Any],
        lazy: Mapping[int, _Step],
        text: Hashable,
        first: int = 0,
    ) -> Entries:
        """One value a block at a time, by its steps from arrays that are there. first: where a part begins."""
        if wanted in whole:
            return entries_of(whole[wanted])
        known = (text, wanted, BLOCK)
        if known not in _KNOWN:
            steps = [lazy[s.makes[0]] for s in self.steps if s.makes and s.makes[0] in lazy]
            _KNOWN[known] = _parts(wanted, steps, set(whole), self)
        parts = _KNOWN[known]
        size = whole[0].size

        def run(start: int, cut: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
            values: dict[int, Any] = {}
            for fn, takes, makes in parts:
                given = (values[n] if n in values else cut(whole[n]) if n in whole else small[n] for n in takes)
                values |= zip(makes, fn(np.uint32(first + start), *given), strict=True)
            return np.asarray(values[wanted])

        def spread(count: int) -> np.ndarray[Any, Any]:
            """Entries of many places as a block; numbers that depend on the place are those of other places."""
            step = max(-(-size // BLOCK), size // count)

            def cut(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
                own = x.view(f"u{x.itemsize}") if x.dtype.kind == "V" else x  # NumPy is slow with others' dtypes
                return np.resize(own[::step], BLOCK).view(x.dtype)

            return run(0, cut)[: -(-size // step)]

        return Entries(
            size, self.whole[wanted], _starts(size, whole[0]), lambda k: run(k, lambda x: x[k : k + BLOCK]), spread
        )


def _starts(size: int, array: np.ndarray[Any, Any]) -> list[int]:
    """Where blocks begin. The last one overlaps, so that all have one shape; the first one too, if what lies in a file
    does not begin where jax can read without a copy."""
    ahead, itemsize = -array.ctypes.data % ALIGNED, array.itemsize
    first = 0 if ahead % itemsize else ahead // itemsize % BLOCK
    return sorted({0, *range(first, size - BLOCK, BLOCK), size - BLOCK})


_KNOWN: dict[Hashable, list[tuple[Any, tuple[int, ...], tuple[int, ...]]]] = {}


def _parts(
    wanted: int, steps: Sequence[_Step], known: set[int], program: Program
) -> list[tuple[Any, tuple[int, ...], tuple[int, ...]]]:
    """The steps that lead to a value, in as few compiled functions as give the same bits as one for each step.

    A product is not compiled together with a sum that takes it (they would be fused into one rounding), nor a cast with
    a cast of its result (two would become none).
    """
    needed, wants = [], {wanted}
    for step in reversed(steps):
        if wants & set(step.makes) and not set(step.makes) & known:
            needed.append(step)
            wants |= {n for n in step.takes if n not in known}
    groups: list[list[_Step]] = [[]]
    product: set[int] = set()
    cast: set[int] = set()
    for step in reversed(needed):
        multiplies, adds, casts = (does(step.eqn, kinds) for kinds in (MULTIPLIES, ADDS, CASTS))
        if (adds and product & set(step.takes)) or (casts and cast & set(step.takes)):
            groups.append([])
            product, cast = set(), set()
        groups[-1].append(step)
        product |= set(step.makes) if multiplies or product & set(step.takes) else set()
        cast |= set(step.makes) if casts else set()
    used_later = [
        {n for later in groups[i + 1 :] for s in later for n in s.takes} | {wanted} for i in range(len(groups))
    ]
    return [_compiled(group, later, program) for group, later in zip(groups, used_later, strict=True)]


def _compiled(
    steps: Sequence[_Step], later: set[int], program: Program
) -> tuple[Any, tuple[int, ...], tuple[int, ...]]:
    """One function of where a block begins, of blocks and of small values; the numbers of what it takes and gives."""
    made = [n for s in steps for n in s.makes]
    takes = tuple(dict.fromkeys(n for s in steps for n in s.takes if n not in made))
    makes = tuple(n for n in made if n in later)

    def run(start: Any, *given: Any) -> list[Any]:
        values = dict(zip(takes, given, strict=True))
        for step in steps:
            known = [values[n] for n in step.takes]
            if step.placed:
                made = sequence(PLACED[step.eqn.params["name"]][0](start, *known))
            else:
                made = _apply(step.eqn, known, program.shape, (BLOCK,))
            values |= zip(step.makes, made, strict=True)
        return [values[n] for n in makes]

    options = WIDE if jax.default_backend() == "cpu" else None  # other compilers may refuse what they don't know
    return jax.jit(run, compiler_options=options), takes, makes


def bound(eqn: Any, given: Sequence[Any], **other: Any) -> Sequence[Any]:
    """Run an operation as one program; with other parameters, if they are given."""
    out = eqn.primitive.bind(*given, **{**eqn.params, **other})
    return out if eqn.primitive.multiple_results else [out]


def _apply(eqn: Any, given: Sequence[Any], shape: Any = None, block: tuple[int, ...] = ()) -> list[Any]:
    """Run an operation of a program for leaves of `shape` on blocks."""
    inner = inside(eqn)
    if inner is not None:
        values = dict(zip([*inner.jaxpr.constvars, *inner.jaxpr.invars], [*inner.consts, *given], strict=True))

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, jex.Literal) else values[atom]

        for e in inner.jaxpr.eqns:
            values |= zip(e.outvars, _apply(e, [read(atom) for atom in e.invars], shape, block), strict=True)
        return [read(atom) for atom in inner.jaxpr.outvars]
    if eqn.primitive.name == "broadcast_in_dim" and eqn.outvars[0].aval.shape == shape:
        return [jnp.broadcast_to(given[0], block)]
    return list(bound(eqn, given))
