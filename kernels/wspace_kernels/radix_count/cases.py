"""What is counted in tests, benchmarks and lowering."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from wspace.core.typing import Array
from wspace_kernels.case import Case, nbytes
from wspace_kernels.radix_count.api import radix_count


def _make(
    shape: tuple[int, ...], dtype: Any = jnp.float32, prefix: int | None = None, stack: tuple[int, ...] = ()
) -> Callable[[Array], dict[str, Any]]:
    def make(key: Array) -> dict[str, Any]:
        x = jax.random.normal(key, shape, jnp.float32).astype(dtype)
        return {"x": x} if prefix is None else {"x": x, "prefix": jnp.full(stack, prefix, jnp.uint32)}

    return make


def _codes(key: Array) -> dict[str, Any]:
    return {"x": jax.random.bits(key, (9, 140), jnp.uint32)}


def _moved(x: Any, **prefix: Any) -> int:
    return nbytes(x)


case = partial(Case, call=radix_count, moved=_moved)
FIRST, SECOND, LARGE = {"shift": 24}, {"shift": 16}, (4096, 4096)
ROWS = {"rows": True}
CASES = [
    case("leaf", make=_make((40, 1100)), static=FIRST, stacked=("x",)),
    case("leaf-second", make=_make((3, 5, 130), prefix=0x3F), static=SECOND),
    case("codes", make=_codes, static=FIRST),
    case("vector-bfloat16", make=_make((17000,), jnp.bfloat16, 0x3E), static=SECOND),
    case("rows", make=_make((35, 1030), prefix=0x3F, stack=(35,)), static=SECOND | ROWS, stacked=("x", "prefix")),
    case("leaf-large", make=_make(LARGE), static=FIRST, large=True),
    case("bfloat16-large", make=_make(LARGE, jnp.bfloat16), static=FIRST, large=True),
    case("rows-large", make=_make(LARGE, prefix=0x3F), static=SECOND | ROWS, large=True),
]
