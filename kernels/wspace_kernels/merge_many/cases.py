"""What is merged in tests, benchmarks and lowering."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from wspace.core.typing import Array
from wspace_kernels.case import Case, nbytes
from wspace_kernels.merge_many.api import merge_many


def _make(
    shape: tuple[int, ...], n: int, dtype: Any = jnp.float32, trims: bool = False, drops: bool = False
) -> Callable[[Array], dict[str, Any]]:
    def make(key: Array) -> dict[str, Any]:
        leaves = jax.random.normal(key, (n + 1, *shape), jnp.float32).astype(dtype)
        weights = jnp.sqrt(jnp.arange(n, dtype=jnp.float32) + 0.3)  # whose signed sums are nowhere near zero
        given = {"leaves": tuple(leaves[:n]), "base": leaves[n], "weights": weights, "lam": jnp.float32(0.7)}
        if trims:
            given["least"] = jnp.linspace(0.4, 1.1, n, dtype=jnp.float32)
        if drops:
            given |= {"keys": jax.random.split(key, n), "density": jnp.full((n,), 0.4, jnp.float32)}
        return given

    return make


def _moved(leaves: Any, base: Any, **numbers: Any) -> int:
    return nbytes(leaves, base, leaves[0])


case = partial(Case, call=merge_many, moved=_moved)
ELECT = {"consensus": "elect"}
SMOOTH = ("leaves", "base", "weights", "lam")
LARGE = (4096, 4096)
CASES = [
    case("linear", make=_make((20, 300), 3), slopes=SMOOTH, stacked=("leaves", "base")),
    case("linear-vector", make=_make((2100,), 2)),
    case("linear-large", make=_make(LARGE, 3, jnp.bfloat16), large=True),
    case("ties", make=_make((24, 260), 3, trims=True), static=ELECT, slopes=SMOOTH),
    case("ties-bfloat16", make=_make((3, 7, 130), 4, jnp.bfloat16, trims=True), static=ELECT, tolerance=2**-8),
    case("ties-large", make=_make(LARGE, 3, jnp.bfloat16, trims=True), static=ELECT, large=True),
    case("dare", make=_make((20, 300), 3, drops=True), slopes=SMOOTH, stacked=("leaves", "base", "keys")),
    case("dare-ties", make=_make((40, 200), 3, drops=True), static=ELECT | {"normalize": False}),
    case("dare-large", make=_make(LARGE, 3, jnp.bfloat16, drops=True), static=ELECT, large=True),
]
