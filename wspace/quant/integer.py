"""Integer grids: equal steps, with zero on the grid or anywhere.

w ~ scale (code - zero),   code = clip(round(w / scale + zero), -2^(b-1), 2^(b-1) - 1)
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax

from wspace.core.typing import Array
from wspace.quant.grid import NEAR, WITHIN, Grid, Scales, in_steps, step


def limits(bits: int) -> tuple[int, int]:
    """The smallest and the largest code.

    >>> limits(4)
    (-8, 7)
    """
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


@dataclass(frozen=True)
class Integer(Grid):
    """Codes of `bits` bits; symmetric: zero is code 0; else the code that stands for 0 is a scale of its own, int8.

    symmetric: s = max|w| / (2^(b-1) - 1);   else s = (max(w, 0) - min(w, 0)) / (2^b - 1), and 0 is a code
    full: symmetric, s = max|w| / (2^(b-1) - 1/2), as in GPTQ's code and qwix: finer steps, and a largest positive
      weight that is cut by up to half of one.
    """

    symmetric: bool = True
    full: bool = False

    @property
    def code_dtype(self) -> str:
        return "int8"

    def fit(self, x: Array, shrink: Array | float = 1.0) -> dict[str, Array]:
        shrink = jnp.asarray(shrink, x.dtype)
        scales = self.fit_ends(x, shrink, shrink)
        return scales if self.symmetric else scales | {"zero": _code(scales["zero"])}

    def fit_ends(self, x: Array, low: Array, high: Array) -> dict[str, Array]:
        """As `fit`; the zero is a whole number in the dtype of x."""
        first, last = limits(self.bits)
        least = low * jnp.min(x, axis=WITHIN, initial=0, keepdims=True)
        most = high * jnp.max(x, axis=WITHIN, initial=0, keepdims=True)
        if self.symmetric:
            return {"scale": step(jnp.maximum(most, -least) / (last + 0.5 * self.full))}
        scale = step(most / (last - first) - least / (last - first))
        return {"scale": scale, "zero": straightened(-least / scale) + first}

    def encode(self, x: Array, scales: Scales) -> Array:
        return self.code_of(jnp.round(self.position(x, scales)))

    def position(self, x: Array, scales: Scales) -> Array:
        """Where x lies between the codes, before it is rounded: x / scale + zero."""
        steps = in_steps(x, scales["scale"])
        return steps + scales["zero"].astype(x.dtype) if "zero" in scales else steps

    def code_of(self, steps: Array) -> Array:
        """Whole numbers as codes: drawn into the range."""
        return _code(jnp.clip(steps, *limits(self.bits)))

    def neighbours(self, x: Array, scales: Scales) -> tuple[Array, Array]:
        below = jnp.floor(self.position(x, scales) + NEAR)
        return self.code_of(below), self.code_of(below + 1)

    def straight(self, x: Array, scales: Scales) -> Array:
        return self.at(self.clipped(straightened(self.position(x, scales))), scales)

    def clipped(self, steps: Array) -> Array:
        """Whole numbers drawn into the range of codes; those that were outside have no gradient."""
        low, high = limits(self.bits)
        inside = (steps > low - 0.5) & (steps < high + 0.5)
        return jnp.where(inside, steps, lax.stop_gradient(jnp.clip(steps, low, high)))

    def decode(self, codes: Array, scales: Scales) -> Array:
        return self.at(codes.astype(scales["scale"].dtype), scales)

    def at(self, steps: Array, scales: Scales) -> Array:
        """What positions between codes stand for: the inverse of `position`."""
        if "zero" in scales:
            steps = steps - scales["zero"].astype(steps.dtype)
        return steps * scales["scale"]


def straightened(x: Array) -> Array:
    """Whole numbers, with the gradient of x."""
    return jnp.round(x) + (x - lax.stop_gradient(x))


@dataclass(frozen=True)
class Affine(Grid):
    """Equal steps from any number on: w ~ low + scale code, code = clip(round((w - low) / scale), 0, 2^b - 1).

    From the smallest to the largest weight of a block; zero need not be on it. Two float scales a block.
    """

    def fit(self, x: Array, shrink: Array | float = 1.0) -> dict[str, Array]:
        top = 2**self.bits - 1
        shrink = jnp.asarray(shrink, x.dtype)
        least = shrink * jnp.min(x, axis=WITHIN, keepdims=True)
        most = shrink * jnp.max(x, axis=WITHIN, keepdims=True)
        return {"scale": step(most / top - least / top), "low": least}

    def encode(self, x: Array, scales: Scales) -> Array:
        return self.code_of(jnp.round(self.position(x, scales)))

    def position(self, x: Array, scales: Scales) -> Array:
        """Where x lies between the codes, before it is rounded."""
        return in_steps(x - scales["low"], scales["scale"])

    def code_of(self, steps: Array) -> Array:
        """Whole numbers as codes: drawn into the range."""
        steps = jnp.clip(steps, 0, 2**self.bits - 1)
        return jnp.where(jnp.isnan(steps), 0, steps).astype(jnp.uint8)

    def neighbours(self, x: Array, scales: Scales) -> tuple[Array, Array]:
        below = jnp.floor(self.position(x, scales) + NEAR)
        return self.code_of(below), self.code_of(below + 1)

    def decode(self, codes: Array, scales: Scales) -> Array:
        return scales["low"] + codes.astype(scales["scale"].dtype) * scales["scale"]


def _code(x: Array) -> Array:
    return jnp.where(jnp.isnan(x), 0, x).astype(jnp.int8)
