"""AWQ: inputs that are large get finer steps, by a scale for each input that is searched on the layer's output."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.errors import WspaceError
from wspace.core.transform import Context, Transform, leafwise, over_stack
from wspace.core.typing import Array
from wspace.quant.amended import PerInput, check_single, scaled_inputs
from wspace.quant.clip import Scale
from wspace.quant.formats import Format, choose
from wspace.quant.grid import Block, Grid, Group, block_of, fit, rounded
from wspace.quant.rtn import rtn
from wspace.stats.halves import HALVINGS, MANY, quadratic
from wspace.stats.sharding import alike, gathered, shards
from wspace.stats.side_gram import gram_of, per_input

FIRST = 512  # outputs by which ratios are ranked before the best are measured on all
BEST = 3  # how many are
LEAST = 1e-4  # of a power of the activations' size: the paper's code


def input_scales(size: Array, ratio: Array) -> Array:
    """size^ratio `[in]`, so that the product of the largest and the smallest is 1. size: mean |x| of the inputs."""
    scale = jnp.maximum(size**ratio, LEAST)
    return scale / jnp.sqrt(jnp.max(scale, initial=LEAST) * jnp.min(scale, initial=1 / LEAST))


@partial(jax.jit, static_argnames=("grid", "block"))
def output_error(w: Array, gram: Array, scale: Array, grid: Grid, block: Block) -> Array:
    """E |x (Q(s w) / s - w)|^2 from gram = E x x^T: what rounding w `[in, out]` under scales `[in]` does to outputs."""
    scaled = w * scale[:, None]
    e = rounded(scaled, grid, fit(scaled, grid, block)) / scale[:, None] - w
    return quadratic(gram, e, HALVINGS if len(gram) >= MANY else 0)


@partial(jax.jit, static_argnames=("grid", "block", "steps", "first"))
def awq_array(
    w: Array, gram: Array, size: Array, grid: Grid, block: Block, steps: int = 20, first: int | None = FIRST
) -> Array:
    """The scales `[in]` of least output error, of the ratios k / steps, k = 0 .. steps - 1.

    w: `[in, out]`. gram: `[in, in]`. size: `[in]`, mean |x|. first: with more than twice as many outputs, every n-th of
    them, about `first` in all, ranks the ratios, and all of them decide between the best three. None: always all.
    """
    ratios = jnp.arange(steps, dtype=w.dtype) / steps

    def errors(w: Array, ratios: Array) -> Array:
        return lax.map(lambda r: output_error(w, gram, input_scales(size, r), grid, block), ratios)

    stride = 1 if first is None else w.shape[1] // first
    if stride > 1 and steps > BEST and block.width == 1 and not grid.whole and shards(w, -1) == 1:
        ratios = ratios[jnp.argsort(errors(w[:, ::stride], ratios))[:BEST]]
    least = jnp.arange(len(ratios)) == jnp.argmin(errors(w, ratios))
    return input_scales(size, jnp.sum(jnp.where(least, ratios, 0)))  # an index would ask where it lies on a mesh


def awq(
    bits: int = 4,
    group: Group = None,
    symmetric: bool = False,
    grid: Format = None,
    scale: Scale = "absmax",
    steps: int = 20,
    then: Transform | None = None,
) -> Transform:
    """Multiply inputs by scales that grow with their activations, round, and divide again.

        w ~ Q(s w) / s,   s_i = a_i^r / sqrt(max_j a_j^r min_j a_j^r),   a_i = mean |x_i|
        r = the ratio of 0, 1/20, .., 19/20 with the least E |x (Q(s w) / s - w)|^2 = tr(e^T gram e)

    Scope: leaf (1 pass). Needs: gram and abs_mean. Random: no. Output leaf: PerInput around a QTensor.

    The division is kept in the node. To have none, fold the scales into the layer before: see `awq_element`.

    Sharding: as of `gptq`; of the solver, too, and `rtn` refuses a group that spans devices on Explicit axes.

    Args:
      bits, group, symmetric, grid: as of `rtn`; the paper's are 4 or 3 bits, groups of 128, asymmetric. Static.
      scale: as of `rtn`, after the search; "output" is the paper's clip. Static.
      steps: ratios tried. Static.
      then: what rounds the scaled weights, instead of `rtn` with these settings: `gptq(4, 128)`, say. The search is
        for rounding to nearest in any case.
    Returns:
      Transform, 1 -> 1, for matrices: a node that materializes to the leaf's dtype, with gain float32 `[*stack, in]`.
    Raises:
      SideTreeError: no gram or abs_mean for a leaf, or of another shape. ShapeError, WspaceError: as `rtn`; steps below
      1; `then` needs folds.
    Example:
      >>> import jax.numpy as jnp
      >>> w = {"kernel": jnp.array([[0.31], [1.0], [0.45]])}
      >>> gram, size = {"kernel": jnp.diag(jnp.array([900.0, 1, 1]))}, {"kernel": jnp.array([30.0, 1, 1])}
      >>> q = awq(bits=2, symmetric=True)(w, gram=gram, abs_mean=size)["kernel"]
      >>> (q.gain < 1).tolist(), abs(float(q.materialize()[0, 0]) - 0.31) < 0.01
      ([True, False, False], True)

    Reference: Lin, Tang, Tang, Yang, Dang, Gan, Han, 2023, "AWQ: Activation-aware Weight Quantization for LLM
      Compression and Acceleration".
    Differs from the paper: each matrix has scales of its own, chosen by its own output's error through the Gram matrix
      (the paper: by the output of the block, shared by matrices with one input: so does `awq_element`). Of layers with
      1024 outputs and more, a part of the outputs ranks the ratios.
    """
    if steps < 1:
        raise WspaceError(f"awq tries at least one ratio, but got steps={steps}; 20 is usual")
    chosen = choose(bits, symmetric, grid)
    solver = check_single(then or rtn(bits, group, symmetric, grid, scale), "awq")

    def apply(leaves: tuple[Array, ...], ctx: Context) -> PerInput:
        leaf = ctx.view().to_matrix(leaves[0])
        w, gram = gathered(leaf, -2), gathered(gathered(gram_of(ctx, leaf), -1), -2)
        size = gathered(per_input(ctx, "abs_mean", leaf), -1)
        search = partial(awq_array, grid=chosen, block=block_of(w, group, ctx.spec.path), steps=steps)
        found = over_stack(search, ctx.view().stacks)(w, gram, size)
        return scaled_inputs(leaf, alike(found, per_input(ctx, "abs_mean", leaf)), solver, ctx)

    return leafwise("awq", apply, needs=frozenset({"gram", "abs_mean"}) | solver.needs)
