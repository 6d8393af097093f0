"""The codec of L2 compression: one function that prunes below an edge and quantizes above it, and counts its bits.

    c(w) = w / (2 e)                          if |w| <= e           d(q) = 2 e q                          if |q| <= 1/2
           sign(w) (1/2 + (|w| - e) / s)      else                         sign(q) (e + (|q| - 1/2) s)    else

d(c(w)) = w; once c is rounded, what lies within the edge is zero, and the rest has an error of at most s/2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.transform import working
from wspace.core.typing import Array
from wspace.quant.grid import NEAR, WITHIN, Grid, Scales, step
from wspace.quant.integer import limits, straightened


@jax.jit
def edge_scale_encode(w: Array, edge: Array, scale: Array) -> Array:
    """c(w), not rounded; edge and scale above 0, of shapes that broadcast."""
    size = jnp.abs(w)
    return jnp.where(size <= edge, w / (2 * edge), jnp.sign(w) * (0.5 + (size - edge) / scale))


@jax.jit
def edge_scale_decode(q: Array, edge: Array, scale: Array) -> Array:
    """d(q), of rounded codes or not."""
    size = jnp.abs(q)
    return jnp.where(size <= 0.5, 2 * edge * q, jnp.sign(q) * (edge + (size - 0.5) * scale))


@dataclass(frozen=True)
class EdgeScale(Grid):
    """Signed codes of `bits` bits. scales: "scale" s and "edge" e, weight units; fitted, (max w - min w) / 2^b both."""

    @property
    def code_dtype(self) -> str:
        return "int8"

    def fit(self, x: Array, shrink: Array | float = 1.0) -> dict[str, Array]:
        least, most = (f(x, axis=WITHIN, initial=0, keepdims=True) for f in (jnp.min, jnp.max))
        size = step(jnp.asarray(shrink, x.dtype) * (most / 2**self.bits - least / 2**self.bits))
        return {"scale": size, "edge": size}

    def position(self, x: Array, scales: Scales) -> Array:
        """Where x lies between the codes, before it is rounded."""
        return edge_scale_encode(x, scales["edge"], scales["scale"])

    def code_of(self, steps: Array) -> Array:
        """Whole numbers as codes: drawn into the range."""
        last = limits(self.bits)[1]
        steps = jnp.clip(steps, -last, last)
        return jnp.where(jnp.isnan(steps), 0, steps).astype(jnp.int8)

    def encode(self, x: Array, scales: Scales) -> Array:
        return self.code_of(jnp.round(self.position(x, scales)))

    def decode(self, codes: Array, scales: Scales) -> Array:
        steps = codes.astype(scales["scale"].dtype)
        made = edge_scale_decode(steps, scales["edge"], scales["scale"])
        return jnp.where(jnp.isnan(scales["scale"]), jnp.nan, made)

    def neighbours(self, x: Array, scales: Scales) -> tuple[Array, Array]:
        below = jnp.floor(self.position(x, scales) + NEAR)
        return self.code_of(below), self.code_of(below + 1)

    def straight(self, x: Array, scales: Scales) -> Array:
        """Slopes to x, to the edge and to the scale, all through c and d."""
        last = limits(self.bits)[1]
        steps = straightened(self.position(x, scales))
        steps = jnp.where(jnp.abs(steps) < last + 0.5, steps, lax.stop_gradient(jnp.clip(steps, -last, last)))
        return edge_scale_decode(steps, scales["edge"], scales["scale"])


Kernel = Literal["linear", "cosine"]


def _rise(u: Array, kernel: Kernel) -> Array:
    """A smooth step from 0 at -1 to 1 at 1."""
    u = jnp.clip(u, -1, 1)
    return (u + 1) / 2 if kernel == "linear" else (1 + jnp.sin(jnp.pi * u / 2)) / 2


@partial(jax.jit, static_argnames=("last", "kernel"))
def soft_bit_count(codes: Array, resolution: Array | float = 64.0, last: int = 127, kernel: Kernel = "linear") -> Array:
    """The bits that an ideal coder needs for the rounded codes, as a function with slopes.

        bits = -sum_j log2(n(q_j) / N),   n(q) = F(q + 1/2) - F(q - 1/2),   F(x) = sum_k rise((x - c_k) / delta)
        delta = (max c - min c) / resolution

    Args:
      codes: c, not rounded, `[...]`, within -last..last. resolution: traced. last: the largest code. Static.
      kernel: the step from 0 to 1 over -1..1: a line or half a sine wave. Static.
    Returns:
      scalar. With a high resolution and whole numbers: the entropy of the codes times their number.
    Example:
      >>> round(float(soft_bit_count(jnp.array([0.0, 0.0, 1.0, -1.0]), 1e4)), 3)
      6.0

    Reference: Shi, Bai, Wei, Gong, Yang, 2023, "Lossy and Lossless (L2) Post-training Model Size Compression".
    Differs from the paper: counts are made at the whole numbers, of which there are few, not at each code; a code that
      moves has the slope of the count where it is.
    """
    c = working(codes)
    q = straightened(c)
    delta = lax.stop_gradient(jnp.maximum((jnp.max(c) - jnp.min(c)) / resolution, 1e-6))

    def share(x: Array) -> Array:
        """How many codes count as x, over their number."""
        count = _rise((x + 0.5 - c) / delta, kernel) - _rise((x - 0.5 - c) / delta, kernel)
        return jnp.sum(count) / c.size

    levels = jnp.arange(-last, last + 1, dtype=c.dtype)
    value, slope = lax.map(jax.checkpoint(jax.value_and_grad(share)), levels)  # else each level's arrays are kept
    at = (lax.stop_gradient(q) + last).astype(jnp.int32)
    n = value[at] + lax.stop_gradient(slope[at]) * (q - lax.stop_gradient(q))
    return -jnp.sum(jnp.log2(jnp.maximum(n, 1e-30)))  # a smaller number times log 2 may be flushed to zero


@partial(jax.jit, static_argnames="last")
def entropy_bits(codes: Array, last: int = 127) -> Array:
    """The entropy of whole codes within -last..last, in bits a code: what range coding comes to.

    Example:
      >>> entropy_bits(jnp.array([0, 0, 1, -1], jnp.int8))
      Array(1.5, dtype=float32)
    """
    levels = jnp.arange(-last, last + 1, dtype=jnp.int32)
    counts = lax.map(lambda k: jnp.sum(codes.astype(jnp.int32) == k), levels)
    p = counts / jnp.maximum(jnp.sum(counts), 1)
    return -jnp.sum(jnp.where(p > 0, p * jnp.log2(jnp.where(p > 0, p, 1)), 0))
