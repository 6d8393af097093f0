"""HQQ: where a group's grid begins, so that most errors are small and a few are large. No data."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.errors import WspaceError
from wspace.core.transform import Context, Transform, leafwise
from wspace.core.typing import Array
from wspace.quant.formats import named
from wspace.quant.grid import WITHIN, Block, Grid, Group, Scales, block_of, blocks, decode, encode, fit
from wspace.quant.qtensor import QTensor, qtensor


def shrunk(x: Array, beta: Array, p: Array) -> Array:
    """Generalized soft thresholding, sign(x) max(|x| - |x|^(p - 1) / beta, 0): what an lp norm leaves of an error."""
    size = jnp.abs(x)
    large = jnp.where(size == 0, 1, size)
    return jnp.where(size == 0, 0, jnp.sign(x) * jnp.maximum(size - large ** (p - 1) / beta, 0))


@partial(jax.jit, static_argnames=("grid", "block", "steps"))
def hqq_array(
    w: Array, grid: Grid, block: Block, p: Array | float, beta: Array | float, kappa: Array | float, steps: int
) -> tuple[Array, Scales]:
    """Codes `[..., in, out]` and scales of w `[..., in, out]`; each block keeps its best step, by sum |e|^p."""
    scales = fit(w, grid, block)
    if w.size == 0:
        return encode(w, grid, scales), scales
    down, across = w.shape[-2] // block.group, w.shape[-1] // block.width

    def mean(x: Array) -> Array:
        return jnp.mean(blocks(x, down, across), axis=WITHIN)

    power = jnp.asarray(p, w.dtype)

    def at(low: Array) -> Scales:
        return {**scales, "low": low}

    def step(k: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        low, best, least = state
        codes = encode(w, grid, at(low))
        made = decode(codes, grid, at(low))
        error = mean(jnp.abs(w - made) ** power)
        best, least = jnp.where(error < least, low, best), jnp.minimum(error, least)
        now = jnp.asarray(beta, w.dtype) * jnp.asarray(kappa, w.dtype) ** k.astype(w.dtype)
        rest = w - shrunk(w - made, now, power)
        return low + mean(rest - made), best, least

    low = scales["low"]
    _, best, _ = lax.fori_loop(0, steps, step, (low, low, jnp.full_like(low, jnp.inf)))
    return encode(w, grid, at(best)), at(best)


def hqq(
    bits: int = 4,
    group: Group = 64,
    p: Array | float = 0.7,
    beta: Array | float = 10.0,
    kappa: Array | float = 1.01,
    steps: int = 20,
) -> Transform:
    """Half-quadratic quantization: the lowest point of each group's grid, for a norm that forgives outliers.

        min |W - Q|_p^p by splitting off an error E:   codes <- nearest(W),   E <- shrink_lp(W - Q, beta)
        low <- low + mean(W - E - Q),   beta <- kappa beta;   steps times, from the grid of smallest to largest weight
        shrink_lp(x, beta) = sign(x) max(|x| - |x|^(p - 1) / beta, 0)

    Scope: leaf (1 pass). Needs: nothing. Random: no. Output leaf: QTensor on the grid `affine4`.

    Args:
      bits: width of a code, 1..8. group: as of `rtn`. Static.
      p: the norm's power, up to 1. beta: weight of the split, in the weights' own units. kappa: its growth. Traced.
      steps: how often. Static.
    Returns:
      Transform, 1 -> 1, for matrices: codes uint8, scales "scale" and "low" (what code 0 stands for), both float32.
    Raises:
      ShapeError: as `rtn`. WspaceError: bits outside 1..8; steps below 1.
    Error: the sum of |error|^p of each group is at most that of the grid from its smallest to its largest weight.
    Example:
      >>> w = jnp.array([[0.0], [1.0], [2.0], [3.3]])
      >>> hqq(bits=2, group=4)({"kernel": w})["kernel"].codes.ravel()
      Array([0, 1, 2, 3], dtype=uint8)

    Reference: Badri, Shaji, 2023, "Half-Quadratic Quantization of Large Machine Learning Models".
    Differs from the paper: each group keeps its own best step, by the objective, where the authors' code stops
      all groups once the mean |error| of the matrix rises. Its zero is -low / scale.
    """
    if not 1 <= bits <= 8:
        raise WspaceError(f"bits={bits} is not supported; a code has 1 to 8 bits")
    if steps < 1:
        raise WspaceError(f"hqq takes at least one step, but got steps={steps}; 20 is usual")
    grid = named(f"affine{bits}")

    def apply(leaves: tuple[Array, ...], ctx: Context) -> QTensor:
        w = ctx.view().to_matrix(leaves[0])
        codes, scales = hqq_array(w, grid, block_of(w, group, ctx.spec.path), p, beta, kappa, steps)
        return qtensor(codes, grid, scales, ctx)

    return leafwise("hqq", apply)
