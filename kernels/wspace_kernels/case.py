"""What a case of an operation is: the entry of every `cases.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Case(NamedTuple):
    """One call of a public function.

    name: of the case, unique in its list. call: the public function. make: key -> its traced arguments by name; made by
    jax alone, so that `shapes` of large ones costs nothing. static: its other keywords.
    tolerance: of results and slopes against the truth and the reference, relative to the largest magnitude of each.
    slopes, stacked: names of arguments that have a gradient, and of arguments that vmap maps over.
    large: too much to interpret: for benchmarks and compilers.
    moved: arguments -> bytes that have to be read and written. done: arguments -> floating-point operations of
    products. None where the bound is the other one.
    """

    name: str
    call: Callable[..., Any]
    make: Callable[[jax.Array], dict[str, Any]]
    static: dict[str, Any] = {}
    tolerance: float = 1e-6
    slopes: tuple[str, ...] = ()
    stacked: tuple[str, ...] = ()
    large: bool = False
    moved: Callable[..., int] | None = None
    done: Callable[..., int] | None = None

    def shapes(self) -> dict[str, Any]:
        """The arguments as shapes and dtypes."""
        return jax.eval_shape(self.make, jax.random.key(0))


def nbytes(*trees: Any) -> int:
    """Of all arrays, or shapes, in the trees."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(trees))
