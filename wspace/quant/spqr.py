"""SpQR: the few weights that spoil the grid of their group keep full precision, scattered over the matrix."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.transform import Context, Transform, leafwise, narrow, over_stack
from wspace.core.typing import Array
from wspace.quant.amended import KeptEntries, entries, facts, inside
from wspace.quant.formats import Format, choose
from wspace.quant.gptq import Form, damped, upper_factor, walk
from wspace.quant.grid import WITHIN, Block, Grid, Group, Scales, block_of, blocks, encode, fit, rounded, unblocked
from wspace.quant.qtensor import qtensor
from wspace.quant.sweep import CARRY
from wspace.stats.quantile import check_fraction, largest_mask
from wspace.stats.sharding import alike, gathered
from wspace.stats.side_gram import gram_of


class Solved(NamedTuple):
    """codes `[in, out]` and scales; values `[k]` of the entries that are kept, at inputs and outputs `[k]`."""

    codes: Array
    scales: Scales
    values: Array
    inputs: Array
    outputs: Array


def gain_of_leaving_out(w: Array, m: Array, grid: Grid, block: Block) -> Array:
    """By how much the error of a block falls if an entry is left out of it, for each entry `[in, out]`.

        sum_l (Q(w_l) - w_l)^2 / U_ll^2  -  sum_(l != i) (Q_i(w_l) - w_l)^2 / U_ll^2,   Q_i on scales without w_i

    gram^-1 = U^T U. m: `[in]`, 1 / U_ll: the diagonal of `upper_factor`. One pass over w for each input of a block.
    """
    down, across = w.shape[0] // block.group, w.shape[1] // block.width
    costs = jnp.square(m)[:, None]
    row = lax.broadcasted_iota(jnp.int32, (w.shape[0], 1), 0) % block.group
    column = lax.broadcasted_iota(jnp.int32, (1, w.shape[1]), 1) % block.width

    def error(out: Array) -> Array:
        """Of each block, spread over its entries; `out`: what is left out."""
        rest = jnp.where(out, 0, w)
        away = jnp.square(rounded(rest, grid, fit(rest, grid, block)) - rest) * costs
        parts = blocks(jnp.where(out, 0, away), down, across)
        return unblocked(jnp.zeros_like(parts) + jnp.sum(parts, axis=WITHIN, keepdims=True))

    before = error(jnp.zeros_like(w, bool))

    def leave_out(k: Array, gain: Array) -> Array:
        here = (row == k // block.width) & (column == k % block.width)
        return jnp.where(here, before - error(here), gain)

    return lax.fori_loop(0, block.group * block.width, leave_out, jnp.zeros_like(w))


@partial(jax.jit, static_argnames=("grid", "block", "keep", "carry"))
def spqr_array(
    w: Array, gram: Array, damp: Array | float, grid: Grid, block: Block, keep: int, carry: int = CARRY
) -> Solved:
    """w `[in, out]`, given gram `[in, in]` of its inputs, with `keep` of its entries in full precision."""
    if w.size == 0:
        scales: Scales = fit(w, grid, block)
        return Solved(encode(w, grid, scales), scales, jnp.zeros(0, w.dtype), *entries(jnp.zeros(w.shape, bool), 0))
    w, gram = damped(w, gram, damp)
    gain = gain_of_leaving_out(w, jnp.diagonal(upper_factor(gram)), grid, block)
    mask = largest_mask(jnp.maximum(gain, 0), keep)
    codes, made, scales = walk(w, gram, Form(grid, block), carry, None, mask)
    at = entries(mask, keep)
    return Solved(codes, scales, made[at[0].astype(jnp.int32), at[1].astype(jnp.int32)], *at)


def spqr(
    bits: int = 3,
    group: Group = 16,
    outliers: float = 0.01,
    damp: Array | float = 0.01,
    symmetric: bool = False,
    grid: Format = None,
) -> Transform:
    """GPTQ but for the entries without which the other weights of their group could be rounded much better.

        gain_i = sum_l (Q(w_l) - w_l)^2 / U_ll^2 - sum_(l != i) (Q_i(w_l) - w_l)^2 / U_ll^2,   gram^-1 = U^T U
        the entries of largest gain are kept; GPTQ over all others, on scales that do not count those

    Scope: leaf (1 pass). Needs: gram. Random: no. Output leaf: KeptEntries around a QTensor.

    Sharding: the leaf is gathered, and so is its Gram matrix.

    Args:
      bits, group, symmetric, grid: as of `rtn`. Its time grows with group. Static.
      outliers: share of the entries to keep, 0..1; rounded to a count for each matrix. Static.
      damp: as of `gptq`. Traced.
    Returns:
      Transform, 1 -> 1, for matrices: a node with values in the leaf's dtype, 32 bits more for the place of each.
    Raises:
      SideTreeError, ShapeError, WspaceError: as `gptq`; a share outside 0..1.
    Example:
      >>> w = {"kernel": jnp.array([[0.1], [-0.2], [5.0], [0.3]])}
      >>> q = spqr(bits=3, group=4, outliers=0.25)(w, gram={"kernel": jnp.eye(4)})["kernel"]
      >>> q.values, q.inputs, bool(jnp.abs(q.materialize() - w["kernel"]).max() < 0.05)
      (Array([5.], dtype=float32), Array([2], dtype=uint16), True)

    Reference: Dettmers, Svirschevski, Egiazarian, Kuznedelev, Frantar, Ashkboos, Borzunov, Hoefler, Alistarh, 2023,
      "SpQR: A Sparse-Quantized Representation for Near-Lossless LLM Weight Compression".
    Differs from the paper: a share of entries is kept, not those above a threshold, and no more join them during the
      walk; scales are not quantized a second time.
    """
    chosen, share = choose(bits, symmetric, grid), check_fraction(outliers)

    def apply(leaves: tuple[Array, ...], ctx: Context) -> KeptEntries:
        view = ctx.view()
        leaf = view.to_matrix(leaves[0])
        w, gram = (gathered(gathered(x, -1), -2) for x in (leaf, gram_of(ctx, leaf)))
        keep = round(share * leaf.shape[-2] * leaf.shape[-1])
        solve = partial(spqr_array, grid=chosen, block=block_of(w, group, ctx.spec.path), keep=keep)
        found = over_stack(lambda w, gram: solve(w, gram, damp), view.stacks)(w, gram)
        base = qtensor(alike(found.codes, leaf), chosen, found.scales, inside(ctx))
        return KeptEntries(base, narrow(found.values, ctx.spec.dtype), found.inputs, found.outputs, **facts(ctx))

    return leafwise("spqr", apply, needs=frozenset({"gram"}))
