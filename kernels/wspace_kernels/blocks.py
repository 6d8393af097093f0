"""How an array of any shape is cut for an element-wise kernel."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from wspace.core.typing import Array

LANES, SUBLANES = 128, 32  # a TPU's tile: 32 rows hold also what has one byte
FLAT = 1024  # entries that a program on a GPU takes: 8 a thread of 4 warps


def matrix(x: Array) -> Array:
    """All axes but the last as one, which moves nothing; a vector is one row."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def tile(shape: tuple[int, int], arrays: int, budget: int = 2**22) -> tuple[int, int]:
    """Rows and columns of a block of a matrix on a TPU, of which `arrays` in float32 fit in `budget` bytes.

    >>> tile((4096, 4096), 4), tile((1, 100), 4), tile((40, 48), 4)
    ((512, 512), (1, 100), (40, 48))
    """
    entries = budget // (4 * arrays)
    if shape[0] == 1:
        return 1, min(shape[1], max(entries // 8 // LANES, 1) * LANES)
    columns = min(shape[1], 4 * LANES)
    rows = max(entries // max(columns, LANES) // SUBLANES, 1) * SUBLANES
    return min(shape[0], rows), columns


def float_reason(*arrays: jax.Array) -> str:
    """Why a kernel that computes in float32 can't take these arrays; "" if it can."""
    odd = [x.dtype for x in arrays if x.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16)]
    if odd:
        return f"computes in float32 and can't take {odd[0]}"
    return "has nothing to do for an empty array" if any(x.size == 0 for x in arrays) else ""
