"""Which gains are computed in tests, benchmarks and lowering."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from wspace.core.typing import Array
from wspace_kernels.case import Case
from wspace_kernels.permute_gather.api import permute_gather


def _make(rows: int, n: int, m: int) -> Callable[[Array], dict[str, Any]]:
    def make(key: Array) -> dict[str, Any]:
        of_a, of_b, of_order = jax.random.split(key, 3)
        return {
            "a": jax.random.normal(of_a, (rows, n), jnp.float32),
            "b": jax.random.normal(of_b, (rows, m), jnp.float32),
            "permutation": jax.random.permutation(of_order, rows),
        }

    return make


def _done(a: Any, b: Any, **order: Any) -> int:
    return 2 * a.size * b.shape[1]


case = partial(Case, call=permute_gather, done=_done, tolerance=3e-6)
CASES = [
    case("square", make=_make(256, 128, 128), slopes=("a", "b"), stacked=("b", "permutation")),
    case("uneven", make=_make(128, 70, 384)),
    case("large", make=_make(4096, 4096, 4096), large=True),
]
