"""OWQ: a few weak inputs keep full precision, and GPTQ carries the errors of all others into them."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from wspace.core.errors import ShapeError
from wspace.core.transform import Context, Transform, leafwise, narrow, over_stack
from wspace.core.typing import Array
from wspace.quant.amended import KeptInputs, facts, inside, positions
from wspace.quant.clip import Percentile, Scale, Search, choice
from wspace.quant.formats import Format, choose
from wspace.quant.gptq import Form, damped, walk
from wspace.quant.grid import Block, Grid, Group, Scales, block_of, encode, fit, rounded
from wspace.quant.qtensor import qtensor
from wspace.quant.sweep import CARRY
from wspace.stats.quantile import largest_mask
from wspace.stats.sharding import alike, gathered
from wspace.stats.side_gram import gram_of


class Solved(NamedTuple):
    """codes `[in, out]` and scales of all inputs; rows `[k, out]` of those that are kept, which are at `[k]`."""

    codes: Array
    scales: Scales
    rows: Array
    at: Array


def weak_inputs(w: Array, gram: Array, grid: Grid, block: Block, k: int) -> Array:
    """True for the k inputs `[in]` whose rounding changes the output most.

    lambda_i = G_ii |Q(w_i) - w_i|^2, with Q to nearest.
    """
    q = rounded(w, grid, fit(w, grid, block))
    return largest_mask(jnp.diagonal(gram) * jnp.sum(jnp.square(q - w), axis=1), k)


@partial(jax.jit, static_argnames=("grid", "block", "keep", "carry", "how"))
def owq_array(
    w: Array,
    gram: Array,
    damp: Array | float,
    grid: Grid,
    block: Block,
    keep: int,
    carry: int = CARRY,
    how: Search | Percentile | None = None,
) -> Solved:
    """w `[in, out]`, given gram `[in, in]` of its inputs, with its `keep` weakest inputs in full precision."""
    if w.size == 0:
        empty = fit(w, grid, block)
        return Solved(encode(w, grid, empty), empty, w[:keep], jnp.arange(keep))
    weak = weak_inputs(w, gram, grid, block, keep)
    w, gram = damped(w, gram, damp)
    form = Form(grid, block, how)
    order = None if keep == 0 else jnp.argsort(weak, stable=True)
    codes, made, scales = walk(w, gram, form, carry, order, weak[:, None])
    index = jnp.nonzero(weak, size=keep)[0]
    return Solved(codes, scales, made[index], index)


def owq(
    bits: int = 4,
    group: Group = None,
    keep: int = 8,
    damp: Array | float = 0.01,
    symmetric: bool = True,
    grid: Format = None,
    scale: Scale = "absmax",
) -> Transform:
    """GPTQ but for the inputs to which the output is most sensitive: they are not rounded, and come last.

        lambda_i = gram_ii |Q(w_i) - w_i|^2,   the `keep` largest are weak
        GPTQ over all others, then the weak ones take what errors are left

    Scope: leaf (1 pass). Needs: gram. Random: no. Output leaf: KeptInputs around a QTensor.

    Weak column tuning trains these inputs alone: `split` takes the node's rows.

    Sharding: as of `gptq`.

    Args:
      bits, group, symmetric, grid, scale: as of `rtn`; scales do not count weak inputs. Static.
      keep: how many inputs keep full precision; at most all. Static.
      damp: as of `gptq`. Traced.
    Returns:
      Transform, 1 -> 1, for matrices: a node with rows `[*stack, keep, out]` in the leaf's dtype. keep = 0 is GPTQ; if
      all inputs are kept the leaf is what it was, but for dead inputs, which become zero.
    Raises:
      SideTreeError, ShapeError, WspaceError: as `gptq`; ShapeError: more inputs are to be kept than there are.
    Example:
      >>> w, gram = jnp.array([[0.7], [0.12], [0.31]]), jnp.diag(jnp.array([1.0, 1.0, 50.0]))
      >>> q = owq(bits=2, keep=1)({"kernel": w}, gram={"kernel": gram})["kernel"]
      >>> q.index, q.rows, q.base.codes.ravel()
      (Array([2], dtype=uint16), Array([[0.31]], dtype=float32), Array([1, 0, 0], dtype=int8))

    Reference: Lee, Jin, Kim, Kim, Park, 2023, "OWQ: Outlier-Aware Weight Quantization for Efficient Fine-Tuning and
      Inference of Large Language Models".
    Differs from the paper: how many inputs of each layer are kept is an argument (the paper splits a budget between
      layers); groups are of inputs as they lie, weak ones among them, with codes of 0 whose bits are counted.
    """
    chosen, how = choose(bits, symmetric, grid), choice(scale)
    if keep < 0:
        raise ShapeError(f"owq can't keep {keep} inputs; give 0 or more")

    def apply(leaves: tuple[Array, ...], ctx: Context) -> KeptInputs:
        view = ctx.view()
        leaf = view.to_matrix(leaves[0])
        if keep > leaf.shape[-2]:
            raise ShapeError(f"{ctx.spec.path} has {leaf.shape[-2]} inputs, of which keep={keep} can't be kept")
        w, gram = gathered(leaf, -2), gathered(gathered(gram_of(ctx, leaf), -1), -2)
        solve = partial(owq_array, grid=chosen, block=block_of(w, group, ctx.spec.path), keep=keep, how=how)
        found = over_stack(lambda w, gram: solve(w, gram, damp), view.stacks)(w, gram)
        base = qtensor(alike(found.codes, leaf), chosen, found.scales, inside(ctx))
        rows, index = narrow(found.rows, ctx.spec.dtype), positions(found.at, leaf.shape[-2])
        return KeptInputs(base, rows, index, **facts(ctx))

    return leafwise("owq", apply, needs=frozenset({"gram"}))
