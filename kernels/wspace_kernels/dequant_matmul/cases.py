"""Which products are tried in tests, benchmarks and lowering."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from wspace.core.typing import Array
from wspace.quant.formats import float_levels, normal_levels
from wspace_kernels.case import Case, nbytes
from wspace_kernels.dequant_matmul.api import dequant_matmul
from wspace_kernels.dequant_matmul.codes import pack


def _make(
    tokens: int, inputs: int, outputs: int, group: int, bits: int, dtype: Any = jnp.float32, zero: bool = False
) -> Callable[[Array], dict[str, Any]]:
    def make(key: Array) -> dict[str, Any]:
        of_x, of_codes, of_scale = jax.random.split(key, 3)
        shape = (inputs // group, outputs)
        codes = jax.random.randint(of_codes, (inputs, outputs), -(2 ** (bits - 1)), 2 ** (bits - 1), jnp.int8)
        given = {
            "x": jax.random.normal(of_x, (tokens, inputs), jnp.float32).astype(dtype),
            "codes": pack(codes) if bits == 4 else codes,
            "scale": jax.random.uniform(of_scale, shape, jnp.float32, 0.01, 0.02),
        }
        return given | ({"zero": jax.random.randint(key, shape, -8, 8, jnp.int8)} if zero else {})

    return make


def _moved(x: Any, codes: Any, scale: Any, **zero: Any) -> int:
    return nbytes(x, codes, scale, zero) + x.shape[0] * codes.shape[1] * x.dtype.itemsize


def _done(x: Any, codes: Any, **rest: Any) -> int:
    return 2 * x.size * codes.shape[1]


case = partial(Case, call=dequant_matmul, moved=_moved, done=_done)
NF4, FP4 = {"levels": normal_levels()}, {"levels": float_levels(2, 1)}
BF16 = jnp.bfloat16
STACK = ("x", "codes", "scale")
CASES = [
    case("int4", make=_make(5, 512, 72, 128, 4), slopes=("x", "scale"), stacked=STACK, tolerance=3e-6),
    case("int4-zero", make=_make(20, 256, 40, 32, 4, zero=True), tolerance=3e-6),
    case("int4-column", make=_make(3, 256, 130, 256, 4, BF16), tolerance=2**-7),
    case("int8", make=_make(3, 384, 130, 64, 8), tolerance=3e-6),
    case("nf4", make=_make(17, 256, 40, 64, 4), static=NF4, slopes=("x",), tolerance=3e-6),
    case("fp4", make=_make(2, 256, 40, 64, 4), static=FP4, tolerance=3e-6),
    case("int4-token-large", make=_make(1, 4096, 4096, 128, 4, BF16), large=True),
    case("int4-batch-large", make=_make(512, 4096, 4096, 128, 4, BF16), large=True),
    case("int8-token-large", make=_make(1, 4096, 4096, 128, 8, BF16), large=True),
    case("nf4-token-large", make=_make(1, 4096, 4096, 64, 4, BF16), static=NF4, large=True),
]
