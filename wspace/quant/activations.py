"""Activations on a grid: the same grids as for weights, with scales found on the fly or beforehand."""

from __future__ import annotations

from functools import partial
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp

from wspace.core.errors import ShapeError, WspaceError
from wspace.core.typing import Array
from wspace.quant.formats import Format, choose
from wspace.quant.grid import Block, Grid, Scales, decode, encode, fit

Per: TypeAlias = Literal["tensor", "token", "channel"] | int


def activation_block(x: Array, per: Per) -> Block:
    """Which numbers of x `[tokens, channels]` share scales: all, a token's, a channel's, or a token's `per` channels.

    Raises:
      ShapeError: x is no matrix, or `per` does not divide its channels. WspaceError: another word.
    """
    if x.ndim != 2:
        raise ShapeError(f"activations of shape {x.shape}: reshape them to [tokens, channels]")
    tokens, channels = (max(n, 1) for n in x.shape)
    if isinstance(per, int):
        if per < 1 or channels % per:
            raise ShapeError(f"{channels} channels, which groups of {per} do not divide; use a divisor of {channels}")
        return Block(1, per)
    shared = {"tensor": Block(tokens, channels), "token": Block(1, channels), "channel": Block(tokens, 1)}
    if per not in shared:
        raise WspaceError(f"activations have no scales per {per!r}; use 'tensor', 'token', 'channel' or a group size")
    return shared[per]


@partial(jax.jit, static_argnames=("grid", "block"))
def _dynamic(x: Array, grid: Grid, block: Block) -> tuple[Array, dict[str, Array]]:
    scales = fit(x, grid, block)
    return encode(x, grid, scales), scales


def quantize_activations(
    x: Array,
    bits: int = 8,
    per: Per = "token",
    symmetric: bool = True,
    grid: Format = None,
    scales: Scales | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Codes and scales of activations: dynamic, or static where `scales` is given.

    Args:
      x: floating `[tokens, channels]`. bits, symmetric, grid: as of `rtn`. Static.
      per: "tensor", "token", "channel", or how many channels of a token share a scale. Static.
      scales: of `static_scales`; then nothing is measured, and what lies outside is clipped.
    Returns:
      codes `[tokens, channels]`; scales `[tokens or 1, channels / width]`. Back with `wspace.quant.decode`.
    Raises:
      ShapeError: x is no matrix, or a group does not divide its channels. WspaceError: unknown words.
    Example:
      >>> codes, scales = quantize_activations(jnp.array([[0.1, -12.7], [1.27, 0.0]]), bits=8)
      >>> codes, scales["scale"].ravel()
      (Array([[   1, -127],
             [ 127,    0]], dtype=int8), Array([0.1 , 0.01], dtype=float32))
    """
    chosen, block = choose(bits, symmetric, grid), activation_block(x, per)
    if scales is not None:
        return jax.jit(encode, static_argnums=1)(x, chosen, scales), dict(scales)
    codes, found = _dynamic(x, chosen, block)
    return codes, found


@partial(jax.jit, static_argnames=("grid", "block"))
def _straight_through(x: Array, grid: Grid, block: Block) -> Array:
    scales = fit(jax.lax.stop_gradient(x), grid, block)
    return x + jax.lax.stop_gradient(decode(encode(x, grid, scales), grid, scales) - x)


def fake_quantize_activations(
    x: Array, bits: int = 8, per: Per = "token", symmetric: bool = True, grid: Format = None
) -> Array:
    """Activations rounded to their grid, as a model simulates it; the gradient passes straight through.

    Args: as of `quantize_activations`. Returns: x's shape and dtype.

    Example:
      >>> fake_quantize_activations(jnp.array([[1.0, 0.3, -0.6]]), bits=2)
      Array([[ 1.,  0., -1.]], dtype=float32)
    """
    return _straight_through(x, choose(bits, symmetric, grid), activation_block(x, per))


def static_scales(
    low: Array,
    high: Array,
    bits: int = 8,
    per: Literal["tensor", "channel"] = "tensor",
    symmetric: bool = True,
    grid: Format = None,
) -> dict[str, Array]:
    """Scales fixed beforehand, from the least and the greatest value of each channel on calibration data.

    Args:
      low, high: `[channels]`; for a symmetric grid `-m` and `m` with m of `calibrate(..., "abs_max")`.
      bits, symmetric, grid: as of `rtn`. per: one scale for all, or one a channel.
    Returns:
      scales `[1, 1]` or `[1, channels]`.
    Example:
      >>> static_scales(jnp.array([-1.0, -2.54]), jnp.array([1.0, 0.0]), per="tensor")["scale"]
      Array([[0.02]], dtype=float32)
    """
    both = jnp.stack([low, high])
    return jax.jit(fit, static_argnums=(1, 2))(both, choose(bits, symmetric, grid), activation_block(both, per))
