"""Power grids: equal steps of a power of the weight, so that small weights get finer steps than large ones.

w ~ s sign(q) |q|^(1/a),   q = clip(round(sign(w) |w / s|^a), ...),   s = max|w| / (2^(b-1) - 1)^(1/a)

a = 1 is the uniform grid. x -> sign(x) |x|^a are the automorphisms of multiplication: products stay products.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax

from wspace.core.typing import Array
from wspace.quant.grid import NEAR, WITHIN, Block, Grid, Scales, blocks, in_steps, step, widened
from wspace.quant.integer import limits

USUAL = 0.5  # the exponent where none is given


def power(x: Array, a: Array) -> Array:
    """sign(x) |x|^a; 0 for 0."""
    size = jnp.where(x == 0, 1, jnp.abs(x))
    return jnp.where(x == 0, 0, jnp.sign(x) * jnp.exp(a * jnp.log(size)))


def power_fit(w: Array, grid: Power, block: Block, exponent: Array | float) -> dict[str, Array]:
    """The scales of w `[..., in, out]` for an exponent: a number, or one a matrix, `[..., 1, 1]`."""
    each = jnp.zeros((*w.shape[:-2], 1, 1), w.dtype) + jnp.asarray(exponent, w.dtype)
    x = blocks(w, w.shape[-2] // block.group, w.shape[-1] // block.width)
    scales = grid.fit(x, exponent=widened(each, w.ndim))
    return {name: jnp.squeeze(s, (w.ndim - 1, w.ndim + 1)) for name, s in scales.items()}


@dataclass(frozen=True)
class Power(Grid):
    """Codes of `bits` bits, none for the lowest: symmetric. scales: "scale" s, weight units; "exponent" a."""

    @property
    def code_dtype(self) -> str:
        return "int8"

    @property
    def last(self) -> int:
        """The largest code."""
        return limits(self.bits)[1]

    def fit(self, x: Array, shrink: Array | float = 1.0, exponent: Array | float = USUAL) -> dict[str, Array]:
        a = jnp.zeros((*x.shape[:-4], 1, 1, 1, 1), x.dtype) + jnp.asarray(exponent, x.dtype)
        most = jnp.asarray(shrink, x.dtype) * jnp.max(jnp.abs(x), axis=WITHIN, initial=0, keepdims=True)
        return {"scale": step(most / power(jnp.full_like(a, self.last), 1 / a)), "exponent": a}

    def position(self, x: Array, scales: Scales) -> Array:
        """Where x lies between the codes, before it is rounded."""
        return power(in_steps(x, scales["scale"]), scales["exponent"])

    def code_of(self, steps: Array) -> Array:
        """Whole numbers as codes: drawn into the range."""
        steps = jnp.clip(steps, -self.last, self.last)
        return jnp.where(jnp.isnan(steps), 0, steps).astype(jnp.int8)

    def encode(self, x: Array, scales: Scales) -> Array:
        return self.code_of(jnp.round(self.position(x, scales)))

    def decode(self, codes: Array, scales: Scales) -> Array:
        steps = codes.astype(scales["scale"].dtype)
        return power(steps, 1 / scales["exponent"]) * scales["scale"]

    def neighbours(self, x: Array, scales: Scales) -> tuple[Array, Array]:
        below = jnp.floor(self.position(x, scales) + NEAR)
        return self.code_of(below), self.code_of(below + 1)

    def straight(self, x: Array, scales: Scales) -> Array:
        codes, scale = self.position(x, scales), scales["scale"]
        free = jnp.where(jnp.abs(lax.stop_gradient(codes)) < self.last + 0.5, x, 0)
        nearest = lax.stop_gradient(self.decode(self.encode(x, scales), scales))
        away = lax.stop_gradient((nearest - free) / scale)
        return nearest + (free - lax.stop_gradient(free)) + (scale - lax.stop_gradient(scale)) * away
