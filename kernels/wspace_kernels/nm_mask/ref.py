"""Slot by slot on whole arrays; and the choice within a group, which the kernels make of blocks."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from wspace.core.typing import Array
from wspace.stats.quantile import magnitude_bits


def groups_in_a_byte(n: int) -> int:
    """Of n indices of two bits each."""
    return 4 // n


def nm_pack(w: Array, score: Array | None, *, n: int, m: int) -> tuple[Array, Array]:
    """w and score `[stack, in, out]`; values `[stack, n, in/m, out]`, indices `[stack, in/m / (4 // n), out]`."""
    stack, inputs, outputs = w.shape
    shape = (stack, inputs // m, m, outputs)
    ranked = magnitude_bits(w if score is None else score).reshape(shape)
    inside = w.reshape(shape)
    values, places = keep([inside[:, :, j] for j in range(m)], [ranked[:, :, j] for j in range(m)], n)
    bytes_of = [x.reshape(stack, groups_in_a_byte(n), -1, outputs) for x in places]
    indices = joined([[x[:, k] for x in bytes_of] for k in range(groups_in_a_byte(n))])
    return jnp.stack(values, axis=1), indices.astype(jnp.uint8)


def nm_unpack(values: Array, indices: Array, *, m: int) -> Array:
    """values `[..., n, in/m, out]`, indices `[..., in/m / (4 // n), out]`; `[..., in, out]`."""
    *stack, n, groups, outputs = values.shape
    fields = jnp.stack([(indices >> (2 * k)) & 3 for k in range(n * groups_in_a_byte(n))], axis=-3)
    fields = fields.reshape(*stack, groups_in_a_byte(n), n, -1, outputs)
    places = jnp.swapaxes(fields, -4, -3).reshape(*stack, n, groups, 1, outputs)
    at = lax.broadcasted_iota(jnp.uint8, (*stack, n, groups, m, outputs), len(stack) + 2)
    spread = jnp.where(places == at, values[..., None, :], jnp.zeros((), values.dtype))
    return jnp.sum(spread, axis=-4).reshape(*stack, groups * m, outputs)


def keep(inside: Sequence[Array], ranked: Sequence[Array], n: int) -> tuple[list[Array], list[Array]]:
    """The n entries with the largest codes of m, in the order they stand in, and their places, int32.

    inside, ranked: m arrays of one shape: the first entries of all groups, the second ones, and so on.
    """
    m = len(inside)
    shape = inside[0].shape
    stays, position = [], []
    before = jnp.zeros(shape, jnp.int32)
    for j in range(m):
        ahead = jnp.zeros(shape, jnp.int32)
        for i in range(m):
            if i != j:
                wins = ranked[i] >= ranked[j] if i < j else ranked[i] > ranked[j]
                ahead = ahead + wins.astype(jnp.int32)
        stays.append(ahead < n)
        position.append(before)
        before = before + stays[j].astype(jnp.int32)
    values, places = [], []
    for slot in range(n):
        value, place = jnp.zeros(shape, inside[0].dtype), jnp.zeros(shape, jnp.int32)
        for j in range(m):
            here = stays[j] & (position[j] == slot)
            value, place = jnp.where(here, inside[j], value), jnp.where(here, j, place)
        values.append(value)
        places.append(place)
    return values, places


def joined(places: Sequence[Sequence[Array]]) -> Array:
    """The indices of a byte's groups as one int32: two bits each, those of the first group lowest."""
    total, shift = jnp.zeros_like(places[0][0]), 0
    for group in places:
        for place in group:
            total, shift = total | (place << shift), shift + 2
    return total
