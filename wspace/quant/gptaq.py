"""GPTAQ: GPTQ for a layer whose inputs have changed, towards what it gave on the inputs as they were."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.transform import Context, Transform, leafwise, over_stack
from wspace.core.typing import Array
from wspace.quant.clip import Percentile, Scale, Search, choice, weighing
from wspace.quant.formats import Format, choose
from wspace.quant.gptq import Form, by_groups, damped, factored, feedback
from wspace.quant.grid import Block, Grid, Group, Scales, block_of, encode, fit
from wspace.quant.qtensor import QTensor, qtensor
from wspace.quant.sweep import CARRY
from wspace.stats.sharding import alike, gathered
from wspace.stats.side_gram import gram_of


@partial(jax.jit, static_argnames=("grid", "block", "carry", "how"))
def gptaq_array(
    w: Array,
    gram: Array,
    cross: Array,
    strength: Array | float,
    damp: Array | float,
    grid: Grid,
    block: Block,
    carry: int = CARRY,
    how: Search | Percentile | None = None,
) -> tuple[Array, Scales]:
    """Codes `[in, out]` and scales of w `[in, out]`. gram `[in, in]`: mean of x̂ x̂ᵀ; cross `[in, in]`: mean of x̂ xᵀ."""
    if w.size == 0:
        empty = fit(w, grid, block)
        return encode(w, grid, empty), empty
    residual = jnp.where(jnp.diagonal(gram)[None] == 0, 0, cross.T - gram)  # E (x - x̂) x̂ᵀ
    w, gram = damped(w, gram, damp)
    w, m = factored(w, gram)
    handed = jnp.triu(lax.linalg.triangular_solve(m, residual, transpose_a=True), 1) / jnp.diagonal(m)[None]
    form, factors = Form(grid, block, how), (feedback(m), -jnp.asarray(strength, w.dtype) * handed.T)
    codes, _, scales = by_groups(w, factors, weighing(gram, block, how), None, form, carry)
    return codes, scales


def gptaq(
    bits: int = 4,
    group: Group = None,
    strength: Array | float = 0.25,
    damp: Array | float = 0.01,
    symmetric: bool = True,
    grid: Format = None,
    scale: Scale = "absmax",
) -> Transform:
    """Round one input after another towards the output that the layer had on its inputs before earlier layers changed.

        min |X̂ Q - X W|^2:   q_i = nearest(w_i),   e_i = (w_i - q_i) / U_ii
        w_j <- w_j - U_ij e_i + P_ij w_i   for j > i,   P = a triu(E[(x - x̂) x̂ᵀ] Uᵀ, 1) U,   E[x̂ x̂ᵀ] + d = (Uᵀ U)^-1

    Scope: leaf (1 pass). Needs: gram (of x̂) and cross (mean of x̂ xᵀ). Random: no. Output leaf: QTensor.

    Both come from `calibrate.blockwise(..., folds=["gram", "cross"], beside=True)`. With equal inputs it is GPTQ. See
    `qep` for the same aim in closed form, before any solver. Sharding: as of `gptq`.

    Args:
      bits, group, symmetric, grid, scale: as of `rtn`. Static.
      strength: a, how much of the inputs' change to make up for. damp: as of `gptq`. Traced.
    Returns:
      Transform, 1 -> 1, for matrices; QTensor as of `gptq`.
    Raises:
      SideTreeError, ShapeError, WspaceError: as `gptq`.
    Example:
      >>> w, gram = jnp.array([[0.7], [0.12]]), jnp.array([[1.0, 0.9], [0.9, 1.0]])
      >>> gptaq(4, 2)({"kernel": w}, gram={"kernel": gram}, cross={"kernel": gram})["kernel"].codes.ravel()
      Array([7, 1], dtype=int8)

    Reference: Li, Yin, Lee, Xiao, Panda, 2025, "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric
      Calibration".
    Differs from the paper: an input hands on its value before it is rounded, to all later inputs (the authors' code
      does so within a block of 128, and the rounded value beyond it). Inputs are taken as they lie. strength is the
      0.25 of their code. U is not computed, as in `gptq`.
    """
    chosen, how = choose(bits, symmetric, grid), choice(scale)

    def apply(leaves: tuple[Array, ...], ctx: Context) -> QTensor:
        view = ctx.view()
        leaf = view.to_matrix(leaves[0])
        w = gathered(leaf, -2)
        gram, cross = (gathered(gathered(gram_of(ctx, leaf, side), -1), -2) for side in ("gram", "cross"))
        solve = partial(gptaq_array, grid=chosen, block=block_of(w, group, ctx.spec.path), how=how)
        run = over_stack(lambda w, gram, cross: solve(w, gram, cross, strength, damp), view.stacks)
        codes, scales = run(w, gram, cross)
        return qtensor(alike(codes, leaf), chosen, scales, ctx)

    return leafwise("gptaq", apply, needs=frozenset({"gram", "cross"}))
