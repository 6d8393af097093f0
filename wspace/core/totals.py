"""Sums over large arrays, which are the same from files as in memory.

In which order a compiler adds up an array hangs on its shape and on what is around it. So that a leaf need not be there
as a whole, a sum of a large one on the CPU is that of the sums of its blocks, wherever a function is run by itself.
Within another program (jit, vmap, grad) or over several devices the compiler has its way, and the last bits differ.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from wspace.core import blocks
from wspace.core.entries import padded, summed
from wspace.core.twins import TOTALS

F = TypeVar("F", bound=Callable[..., Any])


def adds_up(function: F) -> F:
    """Decorator: compiles a function of arrays of one shape that gives sums over all entries, a tree of scalars.

    What it gives for arrays has to be the sum of what it gives for their parts, and nothing for zeros. Its name is how
    it is found in the program of a leaf that goes in blocks, so no other function may have it: `wspace_...`.

    Example:
      >>> @adds_up
      ... def wspace_example_squares(x):
      ...     return jnp.sum(x * x)
      >>> wspace_example_squares(jnp.array([3.0, 4.0]))
      Array(25., dtype=float32)
    """
    compiled = TOTALS[function.__name__] = jax.jit(function)

    @functools.wraps(function)
    def total(*arrays: Any) -> Any:
        if arrays[0].size < blocks.BLOCK or not all(map(_on_cpu, arrays)):
            return compiled(*arrays)
        flat = [np.asarray(x).reshape(-1) for x in arrays]
        block = blocks.BLOCK
        found = [compiled(*(padded(x[k : k + block], block) for x in flat)) for k in range(0, flat[0].size, block)]
        return jax.tree.map(lambda *scalars: jnp.asarray(summed(scalars)), *found)

    return total  # type: ignore[return-value]


def _on_cpu(x: Any) -> bool:
    """Whether an array is there, and as a whole, in the memory of the CPU."""
    if isinstance(x, jax.core.Tracer):
        return False
    return isinstance(x, np.ndarray) or ({d.platform for d in x.devices()} == {"cpu"} and len(x.devices()) == 1)
