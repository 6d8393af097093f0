"""What stands for a jitted function where a leaf goes in blocks, found by the function's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

LOOKS: dict[str, Callable[..., Any]] = {}
PLACED: dict[str, tuple[Callable[..., Any], Callable[..., bool]]] = {}
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


def after_a_look(name: str, look: Callable[..., Any]) -> Callable[[F], F]:
    """Decorator: for blocks, what the jitted function of this name gives that has to know its whole arrays first.

    The decorated function is traceable and takes where the block begins, and what was learned, before that function's
    arguments: one array, and small ones. look: the array as `Entries`, and all small arguments that it comes with -> a
    generator that is sent the array, as often as it goes on: where each stretch begins with its entries, then None. It
    returns what is learned for each, a small tree.
    """

    def register(placed: F) -> F:
        LOOKS[name], PLACED[name] = look, (placed, lambda *arguments: True)
        return placed

    return register
