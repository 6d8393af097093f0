"""A program a group of some outputs; it walks down the group's inputs."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton

from wspace.core.typing import Array
from wspace_kernels.blocks import float_reason
from wspace_kernels.dispatch import out
from wspace_kernels.fake_quant.ref import rate, rounded, slopes_of, step_of
from wspace_kernels.portable import magnitude

ROWS, WIDE = 32, 64  # of a tile
PARAMS = {"num_warps": 4, "num_stages": 1}


def refuses(w: Array, step: Array | None, *, bits: int, group: int) -> str:
    """Why this kernel can't take the arguments; "" if it can."""
    return float_reason(w, *(() if step is None else (step,)))


def fake_quant(w: Array, step: Array | None, *, bits: int, group: int, interpret: bool) -> Array:
    """As `ref.fake_quant`, forward."""
    made: Array = pl.pallas_call(
        partial(_forward, bits=bits, group=group),
        grid=(w.shape[0] // group, pl.cdiv(w.shape[1], WIDE)),
        out_shape=out(w.shape, w.dtype, w),
        compiler_params=pltriton.CompilerParams(**PARAMS),
        interpret=interpret,
        name="fake_quant",
    )(w, *(() if step is None else (step,)))
    return made


def slopes(w: Array, step: Array, slope: Array, *, bits: int, group: int, interpret: bool) -> tuple[Array, Array]:
    """The gradients of w and of step."""
    made: tuple[Array, Array] = pl.pallas_call(
        partial(_backward, bits=bits, group=group),
        grid=(w.shape[0] // group, pl.cdiv(w.shape[1], WIDE)),
        out_shape=[out(w.shape, w.dtype, w), out(step.shape, step.dtype, w)],
        compiler_params=pltriton.CompilerParams(**PARAMS),
        interpret=interpret,
        name="fake_quant_slopes",
    )(w, step, slope)
    return made


class _Spot(NamedTuple):
    """Where a program is: asked for once, as a loop that writes can't ask."""

    group: Any
    column: Any

    def columns(self, outputs: int) -> tuple[Any, Array]:
        """Its outputs, and which of them there are."""
        return pl.ds(self.column, WIDE), self.column + lax.iota(jnp.int32, WIDE) < outputs

    def tile(self, x: Any, i: Any, group: int) -> tuple[Any, Array]:
        """Tile i of its group, and what of it there is."""
        across, there = self.columns(x.shape[1])
        inside = i * ROWS + lax.iota(jnp.int32, ROWS) < group
        return x.at[pl.ds(self.group * group + i * ROWS, ROWS), across], inside[:, None] & there[None]


def _here() -> _Spot:
    return _Spot(pl.program_id(0), pl.program_id(1) * WIDE)


def _load(x: Any, spot: _Spot, i: Any, group: int) -> Array:
    place, there = spot.tile(x, i, group)
    return pltriton.load(place, mask=there, other=0).astype(jnp.float32)


def _store(x: Any, spot: _Spot, i: Any, group: int, value: Array) -> None:
    place, there = spot.tile(x, i, group)
    pltriton.store(place, value.astype(x.dtype), mask=there)


def _step(step: Any, spot: _Spot) -> Array:
    across, there = spot.columns(step.shape[1])
    return pltriton.load(step.at[spot.group, across], mask=there, other=1).astype(jnp.float32)[None]


def _forward(w: Any, *refs: Any, bits: int, group: int) -> None:
    *given, result = refs
    tiles, spot = pl.cdiv(group, ROWS), _here()
    if given:
        s = _step(given[0], spot)
    else:
        most = lax.fori_loop(
            0,
            tiles,
            lambda i, most: jnp.maximum(most, jnp.max(magnitude(_load(w, spot, i, group)), axis=0)),
            jnp.zeros((WIDE,), jnp.float32),
        )
        s = step_of(most, bits)[None]

    def walk(i: Any, nothing: None) -> None:
        _store(result, spot, i, group, rounded(_load(w, spot, i, group), s, bits))

    lax.fori_loop(0, tiles, walk, None)


def _backward(w: Any, step: Any, slope: Any, of_w: Any, of_step: Any, *, bits: int, group: int) -> None:
    spot = _here()
    s = _step(step, spot)

    def walk(i: Any, total: Array) -> Array:
        mine, shared = slopes_of(_load(w, spot, i, group), s, _load(slope, spot, i, group), bits)
        _store(of_w, spot, i, group, mine)
        return total + jnp.sum(shared, axis=0)

    total = lax.fori_loop(0, pl.cdiv(group, ROWS), walk, jnp.zeros((WIDE,), jnp.float32))
    across, there = spot.columns(step.shape[1])
    pltriton.store(of_step.at[spot.group, across], (rate(bits, group) * total).astype(of_step.dtype), mask=there)
