"""Grids of a few fixed levels under one scale: small floats, normal floats, signs, and any list of numbers.

w ~ scale level[code],   code = the nearest level of w / scale
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import lax

from wspace.core.transform import narrow
from wspace.core.typing import Array
from wspace.quant.grid import NEAR, WITHIN, Grid, Scales, in_steps, step
from wspace.stats.sharding import explicit

Snap = Literal["", "up", "mx", "nv", "ratio"]
UNROLLED = 16  # levels that are compared in one expression; more take a loop
E4M3 = jnp.float8_e4m3fn


@dataclass(frozen=True)
class Scaled(Grid):
    """A grid with a largest number, to which the largest magnitude of a block is scaled.

    snap: what scales may be. "": float32. "up": powers of two, none below the exact scale. "mx": powers of two as in
    the OCP formats, 2^(floor(log2 max|w|) - the grid's largest exponent), so that the largest weights may be clipped.
    "nv": FP8 E4M3 under one float32 scale a matrix. "ratio": an output's largest scale over powers of two, none below
    the exact scale.
    """

    snap: Snap = ""

    @property
    def top(self) -> float:
        """The largest number."""
        raise TypeError(f"{type(self).__name__} does not define top")

    @property
    def whole(self) -> bool:
        return self.snap in ("nv", "ratio")

    def fit(self, x: Array, shrink: Array | float = 1.0) -> dict[str, Array]:
        most = jnp.asarray(shrink, x.dtype) * self.extent(x)
        if self.snap == "nv":
            limits = jnp.finfo(E4M3)
            over = step(jnp.max(most, axis=(-4, -2), initial=0, keepdims=True) / (self.top * float(limits.max)))
            scale = narrow(in_steps(most / self.top, over), E4M3).astype(x.dtype)
            return {"scale": jnp.where(scale == 0, float(limits.tiny), scale), "over": over}
        scale = step(most / self.top)
        if self.snap == "ratio":
            over = step(jnp.max(most / self.top, axis=-4, initial=0, keepdims=True))
            share = jnp.where(most == 0, 1, most / self.top / over)
            return {"scale": _power(jnp.clip(share, 2.0**-120, 1), up=True), "over": over}
        if self.snap == "up":
            scale = _power(scale, up=True)
        elif self.snap == "mx":
            whole = _power(step(most), up=False) / 2.0 ** (math.frexp(self.top)[1] - 1)
            scale = jnp.where(most == 0, 1, jnp.maximum(whole, jnp.finfo(x.dtype).tiny))
        return {"scale": scale}

    def extent(self, x: Array) -> Array:
        """What of a block is scaled to the largest number."""
        return jnp.max(jnp.abs(x), axis=WITHIN, initial=0, keepdims=True)

    @property
    def reach(self) -> tuple[float, float]:
        """The numbers beyond which a weight is clipped: half a gap past the outermost."""
        raise TypeError(f"{type(self).__name__} does not define reach")

    def unit(self, scales: Scales) -> Array:
        return effective(scales)

    def straight(self, x: Array, scales: Scales) -> Array:
        scale = effective(scales)
        low, high = self.reach
        free = jnp.where((x > low * scale) & (x < high * scale), x, 0)
        nearest = lax.stop_gradient(self.decode(self.encode(x, scales), scales))
        away = lax.stop_gradient((nearest - free) / scale)
        return nearest + (free - lax.stop_gradient(free)) + (scale - lax.stop_gradient(scale)) * away

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
        return _passed(steps, self.borders or tuple((a + b) / 2 for a, b in pairwise(self.levels)))

    @property
    def reach(self) -> tuple[float, float]:
        first, *_, last = self.levels
        half = (self.levels[1] - first) / 2, (last - self.levels[-2]) / 2
        return first - half[0], last + half[1]

    def neighbours(self, x: Array, scales: Scales) -> tuple[Array, Array]:
        least = min(b - a for a, b in pairwise(self.levels))
        above = _passed(in_steps(x, effective(scales)) + NEAR * least, self.levels)
        last = jnp.uint8(len(self.levels) - 1)
        return jnp.where(above > 0, above, jnp.uint8(1)) - jnp.uint8(1), jnp.minimum(above, last)

    def decode(self, codes: Array, scales: Scales) -> Array:
        scale = effective(scales)
        table = jnp.asarray(self.levels, scale.dtype)
        return table.at[codes].get(mode="promise_in_bounds", out_sharding=explicit(codes)) * scale


def _passed(steps: Array, marks: tuple[float, ...]) -> Array:
    """How many of the marks lie below."""
    if len(marks) <= UNROLLED:
        return sum(((steps > b).astype(jnp.uint8) for b in marks), jnp.zeros(steps.shape, jnp.uint8))
    table = jnp.asarray(marks, steps.dtype)
    start = jnp.zeros_like(steps, jnp.uint8)
    return lax.fori_loop(0, len(marks), lambda k, code: code + (steps > table[k]).astype(jnp.uint8), start)


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

    @property
    def reach(self) -> tuple[float, float]:
        gap = 2.0 ** (math.frexp(self.top)[1] - 1) * float(jnp.finfo(self.dtype).eps)
        return -self.top - gap / 2, self.top + gap / 2

    def neighbours(self, x: Array, scales: Scales) -> tuple[Array, Array]:
        code = self.encode(x, scales)
        steps = in_steps(x, effective(scales))
        below = code.astype(x.dtype) <= steps + jnp.abs(steps) * NEAR
        return jnp.where(below, code, self._next(code, -1)), jnp.where(below, self._next(code, 1), code)

    def _next(self, code: Array, by: int) -> Array:
        """The code after it or before it, by its bits: a sign and, in the order of the numbers, a magnitude."""
        bits = lax.bitcast_convert_type(code, jnp.uint8).astype(jnp.int32)
        place = jnp.where(bits < 128, bits, 128 - bits)
        most = int(np.asarray(jnp.finfo(self.dtype).max).view(np.uint8))
        place = jnp.clip(place + by, -most, most)
        bits = jnp.where(place < 0, 128 - place, place).astype(jnp.uint8)
        return lax.bitcast_convert_type(bits, jnp.dtype(self.dtype))

    def encode(self, x: Array, scales: Scales) -> Array:
        return narrow(in_steps(x, effective(scales)), jnp.dtype(self.dtype))

    def decode(self, codes: Array, scales: Scales) -> Array:
        scale = effective(scales)
        return codes.astype(scale.dtype) * scale
