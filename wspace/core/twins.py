"""What stands for a jitted function where a leaf goes in blocks or in parts, found by the function's name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from wspace.core.fold import Fold

F = TypeVar("F", bound=Callable[..., Any])

LOOKS: dict[str, Callable[..., Any]] = {}
PLACED: dict[str, tuple[Callable[..., Any], Callable[..., bool]]] = {}
PARTED: dict[str, InParts] = {}
TOTALS: dict[str, Callable[..., Any]] = {}  # of `totals.adds_up`


def by_position(name: str, fits: Callable[..., bool]) -> Callable[[F], F]:
    """Decorator: for blocks, what the jitted function of this name gives at their place in the leaf.

    It is traceable and takes where the block begins before that function's arguments. fits: whether it is the same, for
    arguments of these abstract values.
    """

    def register(placed: F) -> F:
        PLACED[name] = placed, fits
        return placed

    return register


def after_a_look(name: str, look: Callable[..., Any], parted: InParts | None = None) -> Callable[[F], F]:
    """Decorator: for blocks, what the jitted function of this name gives that has to know its whole arrays first.

    The decorated function is traceable and takes where the block begins, and what was learned, before that function's
    arguments: one array, and small ones. look: the array as `Entries`, and all small arguments that it comes with ->
    what is learned for each, a small tree. parted: how it is done for a leaf of which only a part is in memory.
    """

    def register(placed: F) -> F:
        LOOKS[name], PLACED[name] = look, (placed, lambda *arguments: True)
        if parted is not None:
            PARTED[name] = parted
        return placed

    return register


class InParts(NamedTuple):
    """What does a jitted function's work on one part of its arrays after the other.

    folds: itemsize of the arrays -> what it must know first; `lift(known, *arguments)`. start: the results of the folds
    -> a function of the arguments that is called with each part in turn.
    """

    start: Callable[[Sequence[Any]], Callable[..., np.ndarray[Any, Any]]]
    folds: Callable[[int], tuple[Fold, ...]] = lambda itemsize: ()
