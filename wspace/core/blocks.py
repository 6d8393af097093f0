"""Leaves that lie on the host, transformed a block at a time: what a checkpoint larger than the caches needs.

Whether a transform can be is not declared but read from its program for that leaf: every operation has to be
entry-wise (entry i of the result depends on entry i of the inputs), or be a function that is so once it has looked at
its arrays (`after_a_look`), or one that gives no array of the leaf's shape: sums (`adds_up`) go block by block too,
others get whole arrays. All else between input and output are blocks, random numbers that their position determines
among them (`by_position`). How it is run is in `sweep`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import jax.extend.core as jex
import numpy as np

from wspace.core.operations import ADDS, MULTIPLIES, has, inside, is_entrywise, is_placed, words
from wspace.core.twins import LOOKS, TOTALS

BLOCK = 2**19  # entries of a block: 2 MB of float32


def entrywise(closed: Any, made: Any, arrays: int) -> Program | None:
    """A function's program, if it is entry-wise and its arguments are large arrays of one shape; else None.

    closed: its jaxpr; there may be a random key before the arrays. made: what it makes, abstract.
    """
    shape = getattr(made, "shape", None)
    *keys, first = closed.in_avals[: len(closed.in_avals) - arrays + 1] or [None]
    if first is None or math.prod(first.shape) < BLOCK or any(x.shape != shape for x in closed.in_avals[len(keys) :]):
        return None
    program = Program(first.shape, arrays)
    arguments = [program.new(aval) for aval in keys]
    program.key = arguments[0] if arguments else program.key
    found = program.take(closed.jaxpr, closed.consts, [*arguments, *range(arrays)])
    if found is None or len(found) != 1 or found[0] not in program.whole:
        return None
    program.result = found[0]
    program.steps.sort(key=lambda step: step.level)
    return program


class Step(NamedTuple):
    """One operation, and the numbers of the values that it takes and makes. level: how many steps that need whole
    arrays have to be done before it, one after the other. whole: it is one of them. placed: what it makes depends on
    the position. learns: the number of what its look learns; -1: it has none. adds: it gives sums, of blocks."""

    eqn: Any
    takes: tuple[int, ...]
    makes: tuple[int, ...]
    level: int
    whole: bool = False
    placed: bool = False
    learns: int = -1
    adds: bool = False

    @property
    def name(self) -> str:
        """Of the jitted function that it runs."""
        return str(self.eqn.params.get("name", ""))

    @property
    def scans(self) -> bool:
        """Whether it needs all of its arrays, but not at once."""
        return self.adds or self.learns >= 0


class Program:
    """What is done to one leaf. Values have numbers: the arrays first, then all others as they come up.

    steps: in an order in which they can be done. levels: of values.
    whole: the values with one entry for each of the leaf's, and their dtypes. small: known values without.
    key: the number of the random key, which is small. drawn: values that depend on positions; what is needed to have
    them again stays.
    text: equal for leaves whose programs are equal but for the shape and the small values.
    """

    def __init__(self, shape: tuple[int, ...], arrays: int) -> None:
        self.shape = shape
        self.steps: list[Step] = []
        self.levels: dict[int, int] = {}
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
            sums = not called and all(v.aval.shape != self.shape for v in eqn.outvars)
            adds = sums and eqn.params.get("name") in TOTALS
            if not (placed or sums or is_entrywise(eqn, self.shape)):
                if inner is None or (has(inner.jaxpr, MULTIPLIES) and has(inner.jaxpr, ADDS)):
                    return None  # taken apart, a product and a sum that were fused would round apart
                made = self.take(inner.jaxpr, inner.consts, takes, called=True)
                if made is None:
                    return None
                numbers |= dict(zip(eqn.outvars, made, strict=True))
                continue
            makes = tuple(self.new(v.aval) for v in eqn.outvars)
            numbers |= dict(zip(eqn.outvars, makes, strict=True))
            whole = looks or (sums and any(v.aval.shape == self.shape for v in eqn.invars))
            learns, level = self.number() if looks else -1, max((self.levels.get(n, 0) for n in takes), default=0)
            self.levels |= dict.fromkeys(makes, level + whole)
            self.steps.append(Step(eqn, tuple(takes), makes, level, whole, placed, learns, adds))
            if (placed and not looks) or self.drawn & set(takes):
                self.drawn |= set(makes) & self.whole.keys()
            dtypes = tuple(v.aval.dtype for v in eqn.invars)
            self.text.append((tuple(takes), dtypes, words(eqn, self.shape)))
        return [number(v) for v in jaxpr.outvars]

    @property
    def scans(self) -> bool:
        """Whether no function in it needs whole arrays at once."""
        return all(step.scans for step in self.steps if step.whole)

    @property
    def rounds(self) -> int:
        """How often the arrays are gone through before the result can be made: a look takes a sample first."""
        scans = [step for step in self.steps if step.scans]
        return sum(1 + any(s.learns >= 0 for s in some) for _, some in groupby(scans, lambda step: step.level))

    def at_once(self) -> Iterator[list[Step]]:
        """The steps in their order, those that go through the arrays together in one."""
        for _, steps in groupby(self.steps, lambda step: step.level):
            some = list(steps)
            yield from ([step] for step in some if not step.scans)
            if scans := [step for step in some if step.scans]:
                yield scans

    def held(self) -> int:
        """Bytes an entry of all whole arrays that running it makes, at most at once."""
        size = {n: np.dtype(dtype).itemsize for n, dtype in self.whole.items() if n >= self.arrays}
        made: set[int] = set()
        peak = [0]
        took: set[int] = set()
        for steps in self.at_once():
            if steps[0].whole:
                scans, takes = steps[0].scans, {n for step in steps for n in step.takes}
                takes = {n for step in steps for n in self.needs(step)} | (takes & took if scans else set())
                made |= self.drawn & takes | (set() if scans else set(steps[0].makes))
                peak.append(sum(size.get(n, 0) for n in made | takes))
                took = takes
        return max(*peak, sum(size.get(n, 0) for n in made | {self.result}))

    def passing(self) -> int:
        """Bytes of the blocks of values that steps go through together, at most; three of each are there at once."""
        each = [
            {n for step in steps for n in step.takes if n in self.whole} for steps in self.at_once() if steps[0].scans
        ]
        return 3 * BLOCK * max((sum(np.dtype(self.whole[n]).itemsize for n in takes) for takes in each), default=0)

    def needs(self, step: Step) -> set[int]:
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
