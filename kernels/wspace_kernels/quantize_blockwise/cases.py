"""What is quantized and stepped in tests, benchmarks and lowering."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from wspace.core.typing import Array
from wspace_kernels.case import Case, nbytes
from wspace_kernels.quantize_blockwise.api import Moments, adam_8bit, quantize_blockwise
from wspace_kernels.quantize_blockwise.ref import quantize


def _array(shape: tuple[int, ...], positive: bool = False) -> Callable[[Array], dict[str, Any]]:
    """Numbers of many magnitudes."""

    def make(key: Array) -> dict[str, Any]:
        x = jax.random.normal(key, shape, jnp.float32) ** 3
        return {"x": x * x if positive else x}

    return make


def _step(shape: tuple[int, ...], block: int, dtype: Any = jnp.float32) -> Callable[[Array], dict[str, Any]]:
    """A leaf in the middle of its training; it fills its blocks."""

    def make(key: Array) -> dict[str, Any]:
        size = (-1, block)
        param, grad, m, v = jax.random.normal(key, (4, *shape), jnp.float32)
        v = (m * m + v * v) * 0.1
        moments = Moments(*quantize(m.reshape(size), signed=True), *quantize(v.reshape(size), signed=False))
        numbers = {"step": jnp.int32(7), "rate": jnp.float32(0.01), "decay": jnp.float32(0.1)}
        return {"param": param.astype(dtype), "grad": grad.astype(dtype), "moments": moments, **numbers}

    return make


def _quantized(x: Any) -> int:
    return nbytes(x) + x.size + 4 * x.size // 256


def _stepped(param: Any, grad: Any, moments: Any, **numbers: Any) -> int:
    return 2 * nbytes(param, moments) + nbytes(grad)


codes = partial(Case, call=quantize_blockwise, moved=_quantized)
steps = partial(Case, call=adam_8bit, moved=_stepped)
STEP = ("param", "grad", "moments")
CASES = [
    codes("signed", make=_array((3, 300)), static={"block": 128}, stacked=("x",)),
    codes("positive", make=_array((33, 256), positive=True), static={"signed": False}),
    codes("signed-large", make=_array((4096, 4096)), large=True),
    steps("adam", make=_step((20, 64), 128), stacked=STEP),
    steps("adam-bfloat16", make=_step((300, 128), 256, jnp.bfloat16), tolerance=2**-8),
    steps("adam-large", make=_step((4096, 4096), 256), large=True),
]
