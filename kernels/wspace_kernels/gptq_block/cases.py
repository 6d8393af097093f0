"""Which blocks are solved in tests, benchmarks and lowering."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from wspace.core.typing import Array
from wspace_kernels.case import Case, nbytes
from wspace_kernels.gptq_block.api import gptq_block


def _make(block: int, outputs: int, group: int, zero: bool = False) -> Callable[[Array], dict[str, Any]]:
    def make(key: Array) -> dict[str, Any]:
        of_w, of_factor, of_zero = jax.random.split(key, 3)
        shape = (block // group, outputs)
        factor = jnp.triu(jax.random.normal(of_factor, (block, block), jnp.float32)) * 0.1
        given = {
            "w": jax.random.normal(of_w, (block, outputs), jnp.float32),
            "factor": factor + 1.5 * jnp.eye(block, dtype=jnp.float32),
            "scale": jax.random.uniform(key, shape, jnp.float32, 0.2, 0.4),
        }
        return given | ({"zero": jax.random.randint(of_zero, shape, -3, 3, jnp.int8)} if zero else {})

    return make


def _moved(w: Any, factor: Any, **scales: Any) -> int:
    return nbytes(w, w, w, factor, scales) + w.size


case = partial(Case, call=gptq_block, moved=_moved, tolerance=1e-5)
CASES = [
    case("symmetric", make=_make(32, 70, 32), stacked=("w", "factor", "scale")),
    case("zero", make=_make(64, 40, 16, zero=True), static={"bits": 3}),
    case("symmetric-large", make=_make(128, 11008, 128), large=True),
]
