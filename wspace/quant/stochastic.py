"""Stochastic rounding: up or down at random, so that the expected value is the weight."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from wspace.core.transform import Context, Transform, leafwise
from wspace.core.typing import Array
from wspace.quant.formats import choose
from wspace.quant.grid import Block, Group, Scales, block_of, blocks, fit, unblocked, widened
from wspace.quant.integer import Integer
from wspace.quant.qtensor import QTensor, qtensor


@partial(jax.jit, static_argnames=("grid", "block"))
def stochastic_array(w: Array, key: Array, grid: Integer, block: Block) -> tuple[Array, Scales]:
    """Codes `floor(w / s + zero + u)`, u uniform in 0..1, and scales of w `[..., in, out]`.

    The draws depend on key and position alone, so they are the same on every sharding.
    """
    scales = fit(w, grid, block)
    draws = jax.random.uniform(key, w.shape, jnp.float32, out_sharding=jax.typeof(w).sharding).astype(w.dtype)
    down, across = scales["scale"].shape[-2:]
    wide = {name: widened(s, w.ndim) for name, s in scales.items()}
    place = unblocked(grid.position(blocks(w, down, across), wide))
    return grid.code_of(jnp.floor(place + draws)), scales


def stochastic(bits: int = 4, group: Group = None, symmetric: bool = True) -> Transform:
    """Round to one of the two neighbouring integers, with the probability that makes the expected value the weight.

        q = floor(w / s + u),   u ~ U(0, 1),   so that E[s q] = w

    Scope: leaf (1 pass). Needs: key. Random: yes, by leaf path. Output leaf: QTensor.

    Args:
      bits, group, symmetric: as of `rtn`, as are the scales. Static.
    Returns:
      Transform, 1 -> 1, for matrices; QTensor as of `rtn`.
    Raises:
      ShapeError, WspaceError: as `rtn`. SideTreeError: no key.
    Error: |w - materialized| <= s element-wise.
    Example:
      >>> w = {"kernel": jnp.array([[7.0], *[[0.25]] * 999])}
      >>> q = stochastic(bits=4)(w, key=jax.random.key(0))["kernel"]
      >>> bool(abs(q.materialize()[1:].mean() - 0.25) < 0.05)
      True

    Reference: Gupta, Agrawal, Gopalakrishnan, Narayanan, 2015, "Deep Learning with Limited Numerical Precision".
    Differs from the paper: the range is that of each group's weights, not a fixed-point format.
    """
    chosen = choose(bits, symmetric, None)

    def apply(leaves: tuple[Array, ...], ctx: Context) -> QTensor:
        w = ctx.view().to_matrix(leaves[0])
        codes, scales = stochastic_array(w, ctx.key, chosen, block_of(w, group, ctx.spec.path))
        return qtensor(codes, chosen, scales, ctx)

    return leafwise("stochastic", apply, needs=frozenset({"key"}))
