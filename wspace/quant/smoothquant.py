"""SmoothQuant: what is hard to quantize moves from activations to weights, input by input."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from wspace.core.transform import Context, Transform, leafwise
from wspace.core.typing import Array
from wspace.quant.amended import PerInput, check_single, scaled_inputs
from wspace.quant.rtn import rtn
from wspace.stats.side_gram import per_input

LEAST = 1e-5  # of a magnitude: the paper's code


@jax.jit
def smooth_array(weight: Array, size: Array, alpha: Array | float) -> Array:
    """s = size^alpha / weight^(1 - alpha), the largest magnitudes `[..., in]` of activations and of weights."""
    share = jnp.asarray(alpha, size.dtype)
    weight, size = (jnp.maximum(x, LEAST) for x in (weight, size))
    return jnp.maximum(size**share / weight ** (1 - share), LEAST)


def smoothquant(alpha: Array | float = 0.5, then: Transform | None = None) -> Transform:
    """Multiply inputs of the weights by s and let the activations be divided by it, so that both are easy to round.

        y = (x / s) (s w),   s_i = max|x_i|^alpha / max_j|w_ij|^(1 - alpha)

    Scope: leaf (1 pass). Needs: abs_max. Random: no. Output leaf: PerInput around a QTensor.

    The node's gain is 1/s: a runtime that quantizes activations applies it to x, before that. To have it in the layer
    before, as the paper has, see `smooth_element`.

    Args:
      alpha: how much of the difficulty moves to the weights, 0..1. Traced.
      then: what quantizes the scaled weights; None: `rtn(8)`, one scale an output.
    Returns:
      Transform, 1 -> 1, for matrices: a node that materializes to the leaf's dtype, with gain float32 `[*stack, in]`.
    Raises:
      SideTreeError: no abs_max for a leaf, or of another shape. ShapeError: a leaf that is no matrix. WspaceError:
      `then` needs folds.
    Example:
      >>> w, largest = {"kernel": jnp.array([[1.0], [0.25]])}, {"kernel": jnp.array([16.0, 1.0])}
      >>> smoothquant()(w, abs_max=largest)["kernel"].gain
      Array([0.25, 0.5 ], dtype=float32)

    Reference: Xiao, Lin, Seznec, Wu, Demouth, Han, 2022, "SmoothQuant: Accurate and Efficient Post-Training
      Quantization for Large Language Models".
    Differs from the paper: scales of one matrix by its own weights; the paper takes the largest weight of all matrices
      that share an input (`smooth_element` does).
    """
    solver = check_single(then or rtn(8), "smoothquant")

    def apply(leaves: tuple[Array, ...], ctx: Context) -> PerInput:
        w = ctx.view().to_matrix(leaves[0])
        scale = smooth_array(jnp.max(jnp.abs(w), axis=-1, initial=0), per_input(ctx, "abs_max", w), alpha)
        return scaled_inputs(w, scale, solver, ctx)

    return leafwise("smoothquant", apply, needs=frozenset({"abs_max"}) | solver.needs)
