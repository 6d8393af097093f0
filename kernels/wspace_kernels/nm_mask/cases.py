"""What is packed in tests, benchmarks and lowering."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from wspace.core.typing import Array
from wspace_kernels.case import Case, nbytes
from wspace_kernels.nm_mask.api import nm_pack


def _make(shape: tuple[int, ...], dtype: Any = jnp.float32, scored: bool = False) -> Callable[[Array], dict[str, Any]]:
    def make(key: Array) -> dict[str, Any]:
        w = jnp.round(2 * jax.random.normal(key, shape, jnp.float32)).astype(dtype)  # with ties, and zeros
        return {"w": w, "score": jnp.sin(3 * w)} if scored else {"w": w}

    return make


def _moved(w: Any, **score: Any) -> int:
    return nbytes(w, score) + w.size // 2 * w.dtype.itemsize + w.size // 8


case = partial(Case, call=nm_pack, moved=_moved, tolerance=0)
CASES = [
    case("2:4", make=_make((256, 130)), stacked=("w",)),
    case("2:4-bfloat16", make=_make((2, 256, 20), jnp.bfloat16)),
    case("2:4-scored", make=_make((256, 20), scored=True)),
    case("1:4", make=_make((512, 9)), static={"n": 1}),
    case("2:4-large", make=_make((4096, 4096), jnp.bfloat16), large=True),
    case("2:4-scored-large", make=_make((4096, 4096), jnp.bfloat16, scored=True), large=True),
]
