"""What is rounded in tests, benchmarks and lowering."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from wspace.core.typing import Array
from wspace_kernels.case import Case, nbytes
from wspace_kernels.fake_quant.api import fake_quant


def _make(shape: tuple[int, int], group: int = 0, dtype: Any = jnp.float32) -> Callable[[Array], dict[str, Any]]:
    """With a group there is a learned step, so large that some weights are clipped."""

    def make(key: Array) -> dict[str, Any]:
        w = jax.random.normal(key, shape, jnp.float32).astype(dtype)
        step = jax.random.uniform(key, (shape[0] // (group or 1), shape[1]), jnp.float32, 0.1, 0.4)
        return {"w": w, "step": step} if group else {"w": w}

    return make


case = partial(Case, call=fake_quant, moved=lambda w, **step: nbytes(w, w, step))
BOTH = ("w", "step")
CASES = [
    case("learned", make=_make((96, 72), 32), slopes=BOTH, stacked=BOTH),
    case("learned-bfloat16", make=_make((40, 130), 40, jnp.bfloat16), static={"bits": 2}, slopes=BOTH, tolerance=2**-7),
    case("straight", make=_make((120, 70)), static={"group": 40, "bits": 3}, slopes=("w",), stacked=("w",)),
    case("learned-large", make=_make((4096, 4096), 128), slopes=BOTH, large=True),
    case("straight-large", make=_make((4096, 4096)), static={"group": 128}, large=True),
]
