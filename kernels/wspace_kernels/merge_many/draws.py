"""Random numbers by position: what `jax.random.uniform` draws for entry i of an array, computed where it is needed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.typing import Array

COUNTABLE = 2**31 - 1  # entries whose position an int32 holds
TURNS = ((13, 15, 26, 6), (17, 29, 16, 24))


def known(keys: Array) -> bool:
    """Whether the numbers of these keys are those of `draws`."""
    return str(jax.random.key_impl(keys)) == "threefry2x32" and bool(jax.config.jax_threefry_partitionable)  # type: ignore[attr-defined]


def draws(first: Array, second: Array, position: Array) -> Array:
    """Numbers in 0..1 of a key of two uint32 words, for entries at these positions (int32), float32.

    Threefry-2x32 of (0, position) in 20 rounds; the two words are joined by xor, and 23 bits make a fraction.
    """
    keys = (first, second, first ^ second ^ jnp.uint32(0x1BD11BDA))
    y = position.astype(jnp.uint32) + keys[1]
    x = jnp.zeros_like(y) + keys[0]
    for group in range(5):
        for turn in TURNS[group % 2]:
            x = x + y
            y = ((y << jnp.uint32(turn)) | (y >> jnp.uint32(32 - turn))) ^ x
        x, y = x + keys[(group + 1) % 3], y + (keys[(group + 2) % 3] + jnp.uint32(group + 1))
    return lax.bitcast_convert_type(((x ^ y) >> jnp.uint32(9)) | jnp.uint32(0x3F800000), jnp.float32) - 1
