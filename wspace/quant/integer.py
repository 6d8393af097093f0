"""Integer grids: equal steps, with zero on the grid.

w ~ scale (code - zero),   code = clip(round(w / scale + zero), -2^(b-1), 2^(b-1) - 1)
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from wspace.core.typing import Array
from wspace.quant.grid import WITHIN, Grid, Scales, in_steps, step


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
    """

    symmetric: bool = True

    @property
    def code_dtype(self) -> str:
        return "int8"

    def fit(self, x: Array, shrink: Array | float = 1.0) -> dict[str, Array]:
        low, high = limits(self.bits)
        shrink = jnp.asarray(shrink, x.dtype)
        if self.symmetric:
            return {"scale": step(shrink * jnp.max(jnp.abs(x), axis=WITHIN, initial=0, keepdims=True) / high)}
        least = shrink * jnp.min(x, axis=WITHIN, initial=0, keepdims=True)
        most = shrink * jnp.max(x, axis=WITHIN, initial=0, keepdims=True)
        scale = step(most / (high - low) - least / (high - low))
        return {"scale": scale, "zero": _code(jnp.round(-least / scale) + low)}

    def encode(self, x: Array, scales: Scales) -> Array:
        return self.code_of(jnp.round(self.position(x, scales)))

    def position(self, x: Array, scales: Scales) -> Array:
        """Where x lies between the codes, before it is rounded: x / scale + zero."""
        steps = in_steps(x, scales["scale"])
        return steps + scales["zero"].astype(x.dtype) if "zero" in scales else steps

    def code_of(self, steps: Array) -> Array:
        """Whole numbers as codes: drawn into the range."""
        return _code(jnp.clip(steps, *limits(self.bits)))

    def decode(self, codes: Array, scales: Scales) -> Array:
        return self.at(codes.astype(scales["scale"].dtype), scales)

    def at(self, steps: Array, scales: Scales) -> Array:
        """What positions between codes stand for: the inverse of `position`."""
        if "zero" in scales:
            steps = steps - scales["zero"].astype(steps.dtype)
        return steps * scales["scale"]


def _code(x: Array) -> Array:
    return jnp.where(jnp.isnan(x), 0, x).astype(jnp.int8)
