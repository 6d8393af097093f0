"""Quantization of blocks of 8 bits, as bitsandbytes does it to the state of optimizers."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from wspace.core.errors import ShapeError
from wspace.core.typing import Array
from wspace_kernels.dispatch import Choice, Implementation, choose
from wspace_kernels.quantize_blockwise.ref import dequantize

OP = "quantize_blockwise"


class Moments(NamedTuple):
    """Of one leaf, in row-major blocks, the last one filled up with zeros.

    first, second: uint8 `[n, block]`. first_most, second_most: float32 `[n, 1]`, the largest magnitudes.
    """

    first: Array
    first_most: Array
    second: Array
    second_most: Array


def quantize_blockwise(
    x: Array, block: int = 256, signed: bool = True, implementation: Implementation = None
) -> tuple[Array, Array]:
    """The nearest numbers of the dynamic map to x over the largest magnitude of its block.

        a_b = max |x_b|,   code = argmin_j |x / a_b - map_j|

    Args:
      x: floating, any shape; taken in row-major order in blocks, the last filled up with zeros.
      block: entries of a block. Static. signed: whether the map has both signs; without, x >= 0. Static.
      implementation: None, "ref", "tpu" or "gpu". Static.
    Returns:
      codes uint8 `[n, block]`, the largest magnitudes float32 `[n, 1]`. A block with a NaN has infinity there and is
      NaN. No gradients.
    Raises:
      ShapeError: block below 1. As `dispatch.choose` for a named implementation.
    Example:
      >>> codes, most = quantize_blockwise(jnp.array([0.0, -2.0, 2.0]), block=4)
      >>> codes, most
      (Array([[127,   0, 255, 127]], dtype=uint8), Array([[2.]], dtype=float32))
      >>> [f"{x:.3f}" for x in dequantize_blockwise(codes, most, (3,))]
      ['0.000', '-1.986', '2.000']

    Reference: Dettmers, Lewis, Shleifer, Zettlemoyer, 2022, "8-bit Optimizers via Block-wise Quantization".
    Differs from the paper: blocks of 256, as in bitsandbytes today; the paper has 2048.
    """
    rows = _rows(x, block)
    return _quantize(rows, choose(OP, implementation, rows), signed)


def dequantize_blockwise(codes: Array, most: Array, shape: tuple[int, ...], signed: bool = True) -> Array:
    """The array that codes and magnitudes stand for, float32. No kernel: XLA makes it part of what reads it."""
    return dequantize(codes, most, signed=signed).reshape(-1)[: math.prod(shape)].reshape(shape)


def empty_moments(param: Array, block: int = 256) -> Moments:
    """Those before the first step: zeros.

    >>> [x.shape for x in empty_moments(jnp.ones((3, 100)))]
    [(2, 256), (2, 1), (2, 256), (2, 1)]
    """
    n = -(-param.size // block)
    none = jnp.zeros((n, 1), jnp.float32)
    return Moments(jnp.full((n, block), 127, jnp.uint8), none, jnp.zeros((n, block), jnp.uint8), none)


def adam_8bit(
    param: Array,
    grad: Array,
    moments: Moments,
    step: Array | int,
    rate: Array | float,
    b1: Array | float = 0.9,
    b2: Array | float = 0.999,
    eps: Array | float = 1e-8,
    decay: Array | float = 0.0,
    implementation: Implementation = None,
) -> tuple[Array, Moments]:
    """A step of Adam whose moments are kept in 8 bits: read, stepped and quantized again in one pass.

        m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2
        p = p - rate (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay p)

    Donate param and moments: a kernel then writes where it read.

    Args:
      param, grad: floating, of one shape. moments: of `empty_moments`, or of the last step.
      step: t, from 1. rate, b1, b2, eps, decay: as of AdamW. Traced.
      implementation: None, "ref", "tpu" or "gpu". Static.
    Returns:
      param after the step, in its dtype, and its moments. Computed in float32; the step uses the moments before they
      are quantized.
    Raises:
      ShapeError: grad or moments of another shape. As `dispatch.choose` for a named implementation.
    Example:
      >>> p, g = jnp.ones(3), jnp.array([1.0, -1.0, 0.0])
      >>> adam_8bit(p, g, empty_moments(p), step=1, rate=0.1)[0]
      Array([0.9, 1.1, 1. ], dtype=float32)

    Reference: as `quantize_blockwise`.
    Differs from the paper: decoupled weight decay is an addition, as in bitsandbytes; there small leaves stay in
      float32, which here is the caller's choice.
    """
    blocks = -(-param.size // moments.first.shape[-1])
    if grad.shape != param.shape or any(x.shape[0] != blocks for x in moments):
        raise ShapeError(
            f"adam_8bit: param {param.shape}, grad {grad.shape} and moments of {moments.first.shape} codes do not fit; "
            f"moments start with empty_moments(param)"
        )
    t = jnp.asarray(step, jnp.float32)
    one, two = (jnp.asarray(b, jnp.float32) for b in (b1, b2))
    rest = [jnp.asarray(x, jnp.float32) for x in (eps, decay)]
    numbers = jnp.stack([jnp.asarray(rate, jnp.float32), one, two, *rest, 1 - one**t, 1 - two**t])
    rows = [_rows(x, moments.first.shape[-1]) for x in (param, grad)]
    made = _adam(numbers, *rows, *moments, choose(OP, implementation, *rows, *moments))
    return made[0].reshape(-1)[: param.size].reshape(param.shape), Moments(*made[1:])


def _rows(x: Array, block: int) -> Array:
    """x in blocks `[n, block]`."""
    if block < 1:
        raise ShapeError(f"block={block} is no number of entries; 256 is usual")
    flat = x.reshape(-1)
    return (jnp.pad(flat, (0, -x.size % block)) if x.size % block else flat).reshape(-1, block)


@partial(jax.jit, static_argnames=("choice", "signed"))
def _quantize(rows: Array, choice: Choice, signed: bool) -> tuple[Array, Array]:
    made: tuple[Array, Array] = choice.function("quantize", signed=signed)(rows)
    return made


@partial(jax.jit, static_argnames="choice")
def _adam(
    numbers: Array,
    param: Array,
    grad: Array,
    first: Array,
    first_most: Array,
    second: Array,
    second_most: Array,
    choice: Choice,
) -> tuple[Array, ...]:
    step = choice.function("adam")
    made: tuple[Array, ...] = step(numbers, param, grad, first, first_most, second, second_most)
    return made
