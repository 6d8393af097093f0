"""Grids of a few fixed levels under one scale: small floats, normal floats, signs, and any list of numbers.

w ~ scale level[code],   code = the nearest level of w / scale
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import jax.numpy as jnp
from jax import lax

from wspace.core.transform import narrow
from wspace.core.typing import Array
from wspace.quant.grid import WITHIN, Grid, Scales, in_steps, step
from wspace.stats.sharding import explicit

Snap = Literal["", "up", "mx", "nv"]
UNROLLED = 16  # levels that are compared in one expression; more take a loop
E4M3 = jnp.float8_e4m3fn


@dataclass(frozen=True)
class Scaled(Grid):
    """A grid with a largest number, to which the largest magnitude of a block is scaled.

    snap: what scales may be. "": float32. "up": powers of two, none below the exact scale. "mx": powers of two as in
    the OCP formats, 2^(floor(log2 max|w|) - the grid's largest exponent), so that the largest weights may be clipped.
    "nv": FP8 E4M3 under one float32 scale a matrix.
    """

    snap: Snap = ""

    @property
    def top(self) -> float:
        """The largest number."""
        raise TypeError(f"{type(self).__name__} does not define top")

    @property
    def whole(self) -> bool:
        return self.snap == "nv"

    def fit(self, x: Array, shrink: Array | float = 1.0) -> dict[str, Array]:
        most = jnp.asarray(shrink, x.dtype) * self.extent(x)
        if self.snap == "nv":
            limits = jnp.finfo(E4M3)
            over = step(jnp.max(most, axis=(-4, -2), initial=0, keepdims=True) / (self.top * float(limits.max)))
            scale = narrow(in_steps(most / self.top, over), E4M3).astype(x.dtype)
            return {"scale": jnp.where(scale == 0, float(limits.tiny), scale), "over": over}
        scale = step(most / self.top)
        if self.snap == "up":
            scale = _power(scale, up=True)
        elif self.snap == "mx":
            whole = _power(step(most), up=False) / 2.0 ** (math.frexp(self.top)[1] - 1)
            scale = jnp.where(most == 0, 1, jnp.maximum(whole, jnp.finfo(x.dtype).tiny))
        return {"scale": scale}

    def extent(self, x: Array) -> Array:
        """What of a block is scaled to the largest number."""
        return jnp.max(jnp.abs(x), axis=WITHIN, initial=0, keepdims=True)

    def stored(self, name: str, part: Array) -> Array:
        if name == "scale" and self.snap:
            return part.astype(E4M3 if self.snap == "nv" else jnp.float8_e8m0fnu)
        return part


def effective(scales: Scales) -> Array:
    """The scale of each block, in weight units."""
    return scales["scale"] * scales["over"] if "over" in scales else scales["scale"]


def _power(scale: Array, up: bool) -> Array:
    """The power of two next to a scale, exactly."""
    fraction, exponent = jnp.frexp(scale)  # scale = fraction 2^exponent, 1/2 <= fraction < 1
    exponent = exponent - (jnp.where(fraction == 0.5, 1, 0) if up else 1)
    return jnp.where(jnp.isnan(scale), scale, jnp.ldexp(jnp.ones_like(scale), exponent))


@dataclass(frozen=True)
class Levels(Scaled):
    """levels: rising. borders: between neighbours; () is halfway. mean: if not 0, the scale is this times the mean
    magnitude of a block, whatever its largest weight is."""

    levels: tuple[float, ...] = ()
    borders: tuple[float, ...] = ()
    mean: float = 0.0

    @property
    def top(self) -> float:
        return max(map(abs, self.levels))

    def extent(self, x: Array) -> Array:
        if not self.mean:
            return super().extent(x)
        count = max(x.shape[-3] * x.shape[-1], 1)
        return self.mean * self.top * jnp.sum(jnp.abs(x) / count, axis=WITHIN, keepdims=True)

    def fit(self, x: Array, shrink: Array | float = 1.0) -> dict[str, Array]:
        scales = super().fit(x, shrink)
        if 0.0 not in self.levels:  # a block of zeros has nothing nearer to zero than a level next to it
            nothing = jnp.max(jnp.abs(x), axis=WITHIN, initial=0, keepdims=True) == 0
            scales["scale"] = jnp.where(nothing, jnp.finfo(x.dtype).tiny, scales["scale"])
        return scales

    def encode(self, x: Array, scales: Scales) -> Array:
        steps = in_steps(x, effective(scales))
        borders = self.borders or tuple((a + b) / 2 for a, b in pairwise(self.levels))
        if len(borders) <= UNROLLED:
            code = jnp.zeros(x.shape, jnp.uint8)
            return sum(((steps > b).astype(jnp.uint8) for b in borders), code)
        table = jnp.asarray(borders, x.dtype)
        start = jnp.zeros_like(steps, jnp.uint8)
        return lax.fori_loop(0, len(borders), lambda k, code: code + (steps > table[k]).astype(jnp.uint8), start)

    def decode(self, codes: Array, scales: Scales) -> Array:
        scale = effective(scales)
        table = jnp.asarray(self.levels, scale.dtype)
        return table.at[codes].get(mode="promise_in_bounds", out_sharding=explicit(codes)) * scale


@dataclass(frozen=True)
class Cast(Scaled):
    """The numbers of a float dtype of jax: what a cast gives, and never an overflow. dtype: its name."""

    dtype: str = ""

    @property
    def code_dtype(self) -> str:
        return self.dtype

    @property
    def top(self) -> float:
        return float(jnp.finfo(self.dtype).max)

    def encode(self, x: Array, scales: Scales) -> Array:
        return narrow(in_steps(x, effective(scales)), jnp.dtype(self.dtype))

    def decode(self, codes: Array, scales: Scales) -> Array:
        scale = effective(scales)
        return codes.astype(scale.dtype) * scale
