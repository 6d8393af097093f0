"""BitsFusion's quantizer: one level more than bits allow, and the scale of least squares."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.errors import WspaceError
from wspace.core.transform import Context, Transform, leafwise
from wspace.core.typing import Array
from wspace.quant.formats import named
from wspace.quant.grid import WITHIN, Block, Grid, Group, Scales, block_of, blocks, encode, fit, widened
from wspace.quant.qtensor import QTensor, qtensor


@partial(jax.jit, static_argnames=("grid", "block", "rounds"))
def alternate_array(w: Array, grid: Grid, block: Block, rounds: int = 10) -> tuple[Array, Scales]:
    """Codes and scales of w `[..., in, out]`, in turns: nearest levels q for scales s, then s of least squares for q.

        q = nearest level of w / s,   s = <w, q> / <q, q>   within each block

    |w - s q|^2 never rises. It starts at the scales of `fit`. grid: levels under one scale. A block of zero levels
    keeps its scale.
    """
    scales = fit(w, grid, block)
    x = blocks(w, w.shape[-2] // block.group, w.shape[-1] // block.width)

    def turn(_: int, scale: Array) -> Array:
        wide = widened(scale, w.ndim)
        q = grid.decode(grid.encode(x, {"scale": wide}), {"scale": jnp.ones_like(wide)})
        both, own = (jnp.sum(q * y, axis=WITHIN) for y in (x, q))
        return jnp.where((own > 0) & (both > 0), both / jnp.where(own > 0, own, 1), scale)

    found = {"scale": lax.fori_loop(0, rounds, turn, scales["scale"])}
    return encode(w, grid, found), found


def balanced(bits: int = 2, group: Group = None, rounds: int = 10) -> Transform:
    """Round to 2^b + 1 codes balanced around zero, with the scale found by alternating least squares.

        codes {-2^(b-1), ..., 0, ..., 2^(b-1)},   s and q as in `alternate_array`

    Scope: leaf (1 pass). Needs: nothing. Random: no. Output leaf: QTensor.

    Args:
      bits: 1..7; `effective_bits(b)` is what a code holds. Static. group: as of `rtn`. Static.
      rounds: of the alternation; 0 takes the largest magnitude for the scale. Static.
    Returns:
      Transform, 1 -> 1, for matrices; a file keeps b + 1 bits a code.
    Raises:
      ShapeError: as `rtn`. WspaceError: bits outside 1..7.
    Example:
      >>> q = balanced(bits=1)({"kernel": jnp.array([[4.0], [1.0], [-1.1], [0.1]])})["kernel"]
      >>> q.materialize().ravel()
      Array([4., 0., 0., 0.], dtype=float32)

    Reference: Sui et al., 2024, "BitsFusion: 1.99 bits Weight Quantization of Diffusion Model".
    Differs from the paper: its code is not public; the start of the alternation is ours.
    """
    grid = balanced_grid(bits)

    def apply(leaves: tuple[Array, ...], ctx: Context) -> QTensor:
        w = ctx.view().to_matrix(leaves[0])
        codes, scales = alternate_array(w, grid, block_of(w, group, ctx.spec.path), rounds)
        return qtensor(codes, grid, scales, ctx)

    return leafwise("balanced", apply)


def balanced_grid(bits: int) -> Grid:
    """The grid of 2^b + 1 codes.

    Raises:
      WspaceError: bits outside 1..7.
    """
    if not 1 <= bits <= 7:
        raise WspaceError(f"balanced: bits={bits} is not supported; it takes 1 to 7")
    return named(f"balanced{bits}")


def effective_bits(bits: int) -> float:
    """What one code of `balanced` holds: log2(2^b + 1).

    >>> round(effective_bits(1), 3), round(effective_bits(2), 3)
    (1.585, 2.322)
    """
    return math.log2(2**bits + 1)
