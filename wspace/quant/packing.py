"""Codes as a file keeps them: in their own number of bits."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wspace.core.typing import Array

NARROW = {2: (jnp.int2, jnp.uint2), 4: (jnp.int4, jnp.uint4)}  # which files keep packed


def pack(codes: Array, bits: int) -> Array:
    """int8 or uint8 codes of `bits` bits, as the dtype of that width where there is one, else as a flat uint8 array
    whose bits are those of the codes in row-major order, lowest first. Other dtypes stay.

    >>> pack(jnp.array([[-1, 2], [3, -4]], jnp.int8), 3)
    Array([215,   8], dtype=uint8)
    """
    if bits == 8 or codes.dtype not in (jnp.int8, jnp.uint8):
        return codes
    if bits in NARROW:
        return codes.astype(NARROW[bits][codes.dtype == jnp.uint8])
    return _stream(codes, bits)


@partial(jax.jit, static_argnames="bits")
def _stream(codes: Array, bits: int) -> Array:
    """The bits of codes as bytes."""
    flat = codes.astype(jnp.uint8).reshape(-1, 1)
    lanes = (flat >> jnp.arange(bits, dtype=jnp.uint8)[None]) & jnp.uint8(1)
    stream = jnp.pad(lanes.reshape(-1), (0, -codes.size * bits % 8)).reshape(-1, 8)
    return jnp.sum(stream << jnp.arange(8, dtype=jnp.uint8)[None], axis=1, dtype=jnp.uint8)


def unpack(stored: Any, shape: tuple[int, ...], bits: int, dtype: str) -> Any:
    """The inverse of `pack`: codes of this shape and dtype. A NumPy array is unpacked on the host.

    >>> unpack(np.array([215, 8], np.uint8), (2, 2), 3, "int8")
    array([[-1,  2],
           [ 3, -4]], dtype=int8)
    """
    if bits == 8 or bits in NARROW:
        return stored.astype(dtype)
    count, xp = math.prod(shape), np if isinstance(stored, np.ndarray) else jnp  # jnp under a trace, for shapes alone
    lanes = xp.unpackbits(stored, bitorder="little")[: count * bits].reshape(count, bits)
    codes = xp.sum(lanes << xp.arange(bits, dtype=np.uint8)[None], axis=1, dtype=np.uint8).reshape(shape)
    half = 1 << (bits - 1)
    return ((codes ^ np.uint8(half)).astype(np.int16) - np.int16(half)).astype(np.int8) if dtype == "int8" else codes
