"""A leaf that fits only in parts, where an entry hangs on a norm or a threshold of all of them, or on its place.

Such a program has steps on whole arrays: sums, and functions that look at all of them first. A sum is a fold over the
parts; such a function says which folds it needs and then takes the parts in their order (`InParts`). Each round of
folds reads the leaf once more. The parts of a fold come from the shape alone, so that a sum is the same whatever memory
there is; it rounds otherwise than the sum over the whole leaf, in the last bits. Random numbers are those that the
whole leaf has there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from wspace.core import blocks
from wspace.core.blocks import JOINS, Program
from wspace.core.fold import Fold
from wspace.core.twins import PARTED

Arrays = Sequence[np.ndarray[Any, Any]]


class Parted:
    """A program that is run on parts. rounds: how often the leaf is read before they can be."""

    def __init__(self, program: Program) -> None:
        self.program, self.small = program, dict(program.small)
        self.makers = {n: k for k, step in enumerate(program.steps) for n in step.makes}
        self.folds = {k: self._folds(k) for k, step in enumerate(program.steps) if step.whole}
        self.results: dict[int, list[Any]] = {k: [] for k in self.folds}
        self.running: Callable[[Arrays], Mapping[int, np.ndarray[Any, Any]]] | None = None
        self.rounds = max((self._ready(k) + len(self.folds[k]) for k in self.folds), default=0)

    def _folds(self, k: int) -> tuple[Fold, ...]:
        step = self.program.steps[k]
        if (known := PARTED.get(_name(step))) is not None:
            return known.folds(
                max(np.dtype(self.program.whole[n]).itemsize for n in step.takes if n in self.program.whole)
            )
        join, dtype = JOINS[step.eqn.primitive.name], step.eqn.outvars[0].aval.dtype
        wide = np.float64 if np.issubdtype(dtype, np.floating) or dtype == "bfloat16" else dtype

        def lift(known: Any, x: np.ndarray[Any, Any]) -> Any:
            (found,) = blocks.bound(step.eqn, [x], axes=(0,))
            return np.asarray(found, wide)

        return (Fold(lift, join, lambda s: np.asarray(s, dtype)),)

    def _ready(self, k: int) -> int:
        """After how many rounds the arguments of a step on whole arrays are known."""
        return max((self._ready(j) + len(self.folds[j]) for j in self._before(self.program.steps[k].takes)), default=0)

    def _before(self, numbers: Iterable[int]) -> set[int]:
        """The steps on whole arrays that values hang on, next to them."""
        found: set[int] = set()
        left, seen = list(numbers), set[int]()
        while left:
            n = left.pop()
            if n in seen or n not in self.makers:
                continue
            seen.add(n)
            k = self.makers[n]
            if k in self.folds:
                found.add(k)
            else:
                left += self.program.steps[k].takes
        return found

    def held(self) -> int:
        """Bytes an entry of all arrays that a part takes, at most."""
        made = {n for k in self.folds for n in (*self.program.steps[k].takes, *self.program.steps[k].makes)}
        sizes = {n: np.dtype(d).itemsize for n, d in self.program.whole.items() if n >= self.program.arrays}
        return sum(sizes.get(n, 0) for n in made | {self.program.result})

    def fold(self, read: Callable[[], Iterable[Arrays]], key: Any = None) -> None:
        """All rounds. read: gives the parts of the arrays, from the beginning."""
        self.small |= {} if key is None else {self.program.key: key}
        for now in range(self.rounds):
            self._settle()
            todo = [k for k in self.folds if self._ready(k) <= now < self._ready(k) + len(self.folds[k])]
            wanted = {n for k in todo for n in self.program.steps[k].takes if n in self.program.whole}
            values, sums = self._values(wanted), dict[int, Any]()
            for arrays in read():
                found = values(arrays)
                for k in todo:
                    given = (found[n] if n in found else self.small[n] for n in self.program.steps[k].takes)
                    fold, known = self.folds[k][len(self.results[k])], self.results[k]
                    lifted = fold.lift(known, *given)
                    sums[k] = fold.merge(sums[k], lifted) if k in sums else lifted
            for k, s in sums.items():
                self.results[k].append(self.folds[k][len(self.results[k])].finish(s))
                if _name(self.program.steps[k]) not in PARTED:
                    self.small[self.program.steps[k].makes[0]] = self.results[k][0]
        self._settle()

    def __call__(self, arrays: Arrays, key: Any = None) -> np.ndarray[Any, Any]:
        """The part of the result for the next part of the arrays, once all is folded."""
        if self.running is None:
            self.running = self._values({self.program.result})
        return self.running(arrays)[self.program.result].reshape(arrays[0].shape)

    def _settle(self) -> None:
        """Small values, as far as they are known."""
        small, whole = self.small, self.program.whole
        for step in self.program.steps:
            apart = step.whole or any(n in whole for n in (*step.takes, *step.makes))
            if not apart and all(n in small for n in step.takes) and step.makes[0] not in small:
                small |= zip(step.makes, blocks.bound(step.eqn, [small[n] for n in step.takes]), strict=True)

    def _values(self, wanted: set[int]) -> Callable[[Arrays], Mapping[int, np.ndarray[Any, Any]]]:
        """A function of the parts in turn, which gives the parts of the values that are wanted."""
        steps, before, more = self.program.steps, set[int](), self._before(wanted)
        while more:
            before |= more
            more = self._before(n for k in more for n in steps[k].takes) - before
        running = {
            k: PARTED[_name(steps[k])].start(self.results[k]) for k in sorted(before) if _name(steps[k]) in PARTED
        }

        past = 0

        def values(arrays: Arrays) -> Mapping[int, np.ndarray[Any, Any]]:
            nonlocal past
            first, past = past, past + arrays[0].size
            whole = {n: x.reshape(-1) for n, x in enumerate(arrays)}
            lazy = {n: step for step in steps if not step.whole for n in step.makes if n in self.program.whole}
            text = (*self.program.text, *(x.dtype for x in arrays), "in parts")

            def array(n: int) -> np.ndarray[Any, Any]:
                return self.program.array(n, whole, self.small, lazy, text, first)

            for k, part in running.items():
                given = (array(n) if n in self.program.whole else self.small[n] for n in steps[k].takes)
                whole[steps[k].makes[0]] = part(*given)
            return {n: array(n) for n in wanted}

        return values


def parted(program: Program | None) -> Parted | None:
    """None if a step on whole arrays can't be taken in parts."""
    if program is None or any(s.learns >= 0 and _name(s) not in PARTED for s in program.steps):
        return None
    return Parted(program)


def pieces(shape: tuple[int, ...]) -> int:
    """Into how many parts a leaf goes for a fold."""
    return max(1, math.prod(shape) // (2 * blocks.BLOCK))


def _name(step: Any) -> str:
    return str(step.eqn.params.get("name", ""))
