"""Which rows are tried in tests, benchmarks and lowering."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from wspace.core.typing import Array
from wspace_kernels.case import Case, nbytes
from wspace_kernels.two_pass_softmax.api import two_pass_softmax


def _make(
    shape: tuple[int, ...], dtype: Any = jnp.float32, around: float = 0.0, masks: bool = False
) -> Callable[[Array], dict[str, Any]]:
    def make(key: Array) -> dict[str, Any]:
        x = around + 3 * jax.random.normal(key, shape, jnp.float32)
        if masks:  # a stretch longer than a block, at the start, and more than half of the rest
            place = jnp.arange(shape[-1])
            x = jnp.where(jnp.broadcast_to((place < 5000) | (place % 5 < 3), shape), -jnp.inf, x)
        return {"x": x.astype(dtype)}

    return make


def _moved(x: Any) -> int:
    return 3 * nbytes(x)


case = partial(Case, call=two_pass_softmax, moved=_moved, slopes=("x",))
CASES = [
    case("beyond-overflow", make=_make((3, 9000), around=5000.0), stacked=("x",), tolerance=4e-6),
    case("masked", make=_make((9000,), masks=True), tolerance=4e-6),
    case("bfloat16", make=_make((35, 4200), jnp.bfloat16), slopes=(), tolerance=2**-8),
    case("rows-large", make=_make((2048, 65536), jnp.bfloat16), slopes=(), large=True),
]
