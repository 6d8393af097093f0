"""A leaf on its way through its program (`blocks`), a block at a time.

Programs are compiled for one shape, whatever the leaves' shapes are, and the result is that of the whole leaf to the
last bit. What has to know all of an array first, sums and looks, goes through the blocks before the result does; all
that can do so at once, then a block is read and computed once for all of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from wspace.core import blocks
from wspace.core.blocks import Program, Step
from wspace.core.buffers import ALIGNED, empty
from wspace.core.entries import Array, Entries, entries_of, padded, summed
from wspace.core.operations import ADDS, CASTS, MULTIPLIES, does, inside, sequence
from wspace.core.twins import LOOKS, PLACED, TOTALS

WIDE = {"xla_cpu_prefer_vector_width": 512}  # bits, where there are so many: random numbers in 0.6 of the time

Scanning = Generator[None, Sequence[Any] | None, Any]


def in_memory(program: Program, arrays: Sequence[Array], key: Any = None) -> Array:
    """The result for arrays of the leaf's shape."""
    found = result(program, [entries_of(x.reshape(-1)) for x in arrays], key)
    return next(found.portions([found.size])).reshape(arrays[0].shape)


def result(program: Program, arrays: Sequence[Entries], key: Any = None, keep: bool = True) -> Entries:
    """The result, computed when it is looked at. keep: hold random masks that will be needed again."""
    leaf = _Leaf(program, arrays, key)
    for steps in program.at_once():
        if steps[0].whole:
            leaf.forget(steps)
        if steps[0].scans:
            leaf.scan(steps, keep)
        elif steps[0].whole:
            leaf.on_whole(steps[0])
        else:
            leaf.take(steps[0])
    leaf.forget([])
    return leaf.entries({program.result})[program.result]


class _Scan(NamedTuple):
    """What goes through arrays. takes: their numbers. run: is sent where a stretch begins and its entries of each
    array, and None at the end, until it returns what it found; then `found` is called with that."""

    takes: tuple[int, ...]
    run: Scanning
    found: Callable[[Any], None]


class _Leaf:
    """there: values with entries that can be had. kept: which of these stay. small: known values without entries.
    lazy: the steps that make all others."""

    def __init__(self, program: Program, arrays: Sequence[Entries], key: Any) -> None:
        self.program, self.size = program, arrays[0].size
        self.there = dict(enumerate(arrays))
        self.kept = set(self.there)
        self.small = program.small | ({} if key is None else {program.key: key})
        self.lazy: dict[int, Step] = {}
        self.text = (*program.text, *(x.dtype for x in arrays))
        self.starts = starts_of(arrays[0])

    def take(self, step: Step) -> None:
        """An operation on entries: for later. On small values: now."""
        if any(n in self.program.whole for n in (*step.takes, *step.makes)):
            self.lazy |= dict.fromkeys(step.makes, step)
        elif not set(step.makes) <= self.small.keys():
            self.small |= zip(step.makes, _bound(step.eqn, [self.small[n] for n in step.takes]), strict=True)
            if set(step.takes) <= self.program.small.keys():  # the same for every leaf
                self.program.small |= {n: self.small[n] for n in step.makes}

    def forget(self, steps: Sequence[Step]) -> None:
        """Arrays that were made for a step, but those that these take too."""
        stay = self.kept | {n for step in steps for n in step.takes}
        self.there = {n: x for n, x in self.there.items() if n in stay}

    def on_whole(self, step: Step) -> None:
        """A function that needs whole arrays at once."""
        needed = self.program.needs(step)
        for n in needed:
            self.there[n] = entries_of(self.entries({n})[n].whole())
        self.kept |= needed & self.program.drawn
        given = {n: jax.device_put(self.there[n].whole().reshape(self.program.shape), may_alias=True) for n in needed}
        made = jax.block_until_ready(_bound(step.eqn, [given[n] if n in given else self.small[n] for n in step.takes]))
        for n, x in zip(step.makes, made, strict=True):
            if n in self.program.whole:
                self.there[n] = entries_of(np.asarray(x).reshape(-1))
                self.kept.add(n)
            else:
                self.small[n] = x

    def scan(self, steps: Sequence[Step], keep: bool) -> None:
        """Sums and looks together, as often as one of them goes on."""
        sums = [step for step in steps if step.adds]
        drawn = {n for step in steps for n in self.program.needs(step)} - self.there.keys() if keep else set()
        scans = [_Scan((n,), _holding(self.size, self.program.whole[n]), self._hold(n)) for n in sorted(drawn)]
        scans += [_Scan(step.takes, _adding(TOTALS[step.name]), self._know(step.makes)) for step in sums]
        looks = dict[tuple[str, int], list[Step]]()
        for step in steps:
            if step.learns >= 0:
                looks.setdefault((step.name, step.takes[0]), []).append(step)
                self.lazy |= dict.fromkeys(step.makes, step._replace(takes=(step.learns, *step.takes)))
        arrays = self.entries({n for _, n in looks})
        for (name, n), alike in looks.items():
            look = LOOKS[name](arrays[n], [tuple(self.small[k] for k in step.takes[1:]) for step in alike])
            scans.append(_Scan((n,), look, self._know([step.learns for step in alike])))
        active = list(filter(_goes_on, scans))
        while active:
            for start, found in self._sweep({n for scan in active for n in scan.takes}, fixed=bool(sums)):
                for scan in active:
                    scan.run.send((start, *(found[n] for n in scan.takes)))
            active = list(filter(_goes_on, active))

    def _hold(self, n: int) -> Callable[[Array], None]:
        def hold(array: Array) -> None:
            self.there[n] = entries_of(array)
            self.kept.add(n)

        return hold

    def _know(self, numbers: Sequence[int]) -> Callable[[Sequence[Any]], None]:
        return lambda values: self.small.update(zip(numbers, values, strict=True))

    def _sweep(self, wanted: Set[int], fixed: bool) -> Iterator[tuple[int, Mapping[int, Any]]]:
        """Where a stretch begins, and the entries of some values: one after the other, each entry once.

        fixed: stretches are blocks, whatever the alignment is.
        """
        run, block, done = self._runner(wanted), blocks.BLOCK, 0
        for start in range(0, self.size, block) if fixed else self.starts:
            begin = min(start, self.size - block)
            found = run(begin, functools.partial(Entries.stretch, start=begin, count=block))
            yield done, found if begin == done else {n: np.asarray(x)[done - begin :] for n, x in found.items()}
            done = begin + block

    def entries(self, wanted: Set[int]) -> Mapping[int, Entries]:
        """Some values, by the steps that lead to them from what is there; their samples are taken together."""
        run, block = self._runner(wanted), blocks.BLOCK

        @functools.lru_cache(1)
        def every(k: int) -> Mapping[int, Array]:
            """Numbers that depend on the place are those of other places."""
            size = -(-self.size // k)

            def part(at: int) -> Mapping[int, Array]:
                found = run(at, lambda x: padded(x.every(k)[at : at + block], block))
                return {n: np.asarray(found[n])[: size - at] for n in wanted}

            parts = [part(at) for at in range(0, size, block)]
            return {n: np.concatenate([found[n] for found in parts]) for n in wanted}

        def one(n: int) -> Entries:
            return self.there.get(n) or Entries(
                self.size,
                self.program.whole[n],
                self.starts,
                lambda start: np.asarray(run(start, lambda x: x.stretch(start, block))[n]),
                lambda k: every(k)[n],
            )

        return {n: one(n) for n in wanted}

    def _runner(self, wanted: Set[int]) -> Callable[[int, Callable[[Entries], Array]], Mapping[int, Any]]:
        """A function of where a block begins, and of what cuts that block out of the arrays that are there."""
        known = (self.text, frozenset(wanted), frozenset(self.there), blocks.BLOCK)
        if known not in _KNOWN:
            steps = [self.lazy[s.makes[0]] for s in self.program.steps if s.makes and s.makes[0] in self.lazy]
            _KNOWN[known] = _parts(wanted - self.there.keys(), steps, self.there.keys(), self.program)
        parts, there, small = _KNOWN[known], self.there, self.small

        def run(start: int, cut: Callable[[Entries], Array]) -> Mapping[int, Any]:
            values: dict[int, Any] = {n: cut(there[n]) for n in wanted & there.keys()}
            for fn, takes, makes in parts:
                values |= {n: cut(there[n]) for n in takes if n in there and n not in values}
                given = (values[n] if n in values else small[n] for n in takes)
                values |= zip(makes, fn(np.uint32(start), *given), strict=True)
            return {n: values[n] for n in wanted}

        return run


def _goes_on(scan: _Scan) -> bool:
    """Begins a scan, or tells it that its arrays are through."""
    try:
        scan.run.send(None)
    except StopIteration as end:
        scan.found(end.value)
        return False
    return True


def _adding(function: Callable[..., Any]) -> Scanning:
    """The sums of `totals.adds_up`."""
    found: list[Any] = []
    while (given := (yield)) is not None:
        found.append(function(*(padded(x, blocks.BLOCK) for x in given[1:])))
        jax.block_until_ready(found[-2:-1])  # one runs ahead, not dozens that each hold a block
    return jax.tree.leaves(jax.tree.map(lambda *scalars: summed(scalars), *found))


def _holding(size: int, dtype: Any) -> Scanning:
    """The array itself."""
    out = empty(size, dtype)
    while (given := (yield)) is not None:
        start, found = given
        out[start : start + found.size] = found
    return out


def starts_of(array: Entries) -> list[int]:
    """Where blocks begin. The last one overlaps, so that all have one shape; the first one too, if what lies in a file
    does not begin where jax can read without a copy."""
    ahead, itemsize, block = -array.block(0).ctypes.data % ALIGNED, array.dtype.itemsize, blocks.BLOCK
    first = 0 if ahead % itemsize else ahead // itemsize % block
    return sorted({0, *range(first, array.size - block, block), array.size - block})


_Compiled = tuple[Any, tuple[int, ...], tuple[int, ...]]  # a function; numbers of what it takes, of what it gives
_KNOWN: dict[Hashable, list[_Compiled]] = {}


def _parts(wanted: Set[int], steps: Sequence[Step], known: Set[int], program: Program) -> list[_Compiled]:
    """The steps that lead to some values, in as few compiled functions as give the same bits as one for each step.

    A product is not compiled together with a sum that takes it (they would be fused into one rounding), nor a cast with
    a cast of its result (two would become none).
    """
    needed, wants = [], set(wanted)
    for step in reversed(steps):
        if wants & set(step.makes) and not set(step.makes) & known:
            needed.append(step)
            wants |= {n for n in step.takes if n not in known}
    groups: list[list[Step]] = [[]]
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
    used_later = [{n for later in groups[i + 1 :] for s in later for n in s.takes} | wanted for i in range(len(groups))]
    return [_compiled(group, later, program) for group, later in zip(groups, used_later, strict=True)]


def _compiled(steps: Sequence[Step], later: Set[int], program: Program) -> _Compiled:
    """One function of where a block begins, of blocks and of small values."""
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
                made = _apply(step.eqn, known, program.shape, (blocks.BLOCK,))
            values |= zip(step.makes, made, strict=True)
        return [values[n] for n in makes]

    options = WIDE if jax.default_backend() == "cpu" else None  # other compilers may refuse what they don't know
    return jax.jit(run, compiler_options=options), takes, makes


def _bound(eqn: Any, given: Sequence[Any]) -> Sequence[Any]:
    """Run an operation as one program."""
    out = eqn.primitive.bind(*given, **eqn.params)
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
    return list(_bound(eqn, given))
