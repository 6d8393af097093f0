"""QEP: what earlier layers lost to quantization is made up for in a later layer's weights, before they are rounded."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.transform import Context, Transform, leafwise, over_stack
from wspace.core.typing import Array
from wspace.stats.sharding import alike, gathered
from wspace.stats.side_gram import gram_of


@jax.jit
def qep_array(w: Array, gram: Array, cross: Array, strength: Array | float, damp: Array | float) -> Array:
    """Weights `[in, out]` for inputs as they come, from w `[in, out]` for inputs as they were.

    gram `[in, in]`: mean of x̂ x̂ᵀ; cross `[in, in]`: mean of x̂ xᵀ. A gram that is not positive definite once damped
    gives NaN.
    """
    gram, cross = gram.astype(w.dtype), cross.astype(w.dtype)
    diagonal = jnp.diagonal(gram)
    alive = jnp.where(diagonal == 0, 1, diagonal + jnp.asarray(damp, w.dtype) * jnp.mean(diagonal))
    damped = jnp.where(jnp.eye(len(gram), dtype=bool), alive[:, None], gram)
    lost = jnp.matmul(cross - gram, w, precision=lax.Precision.HIGHEST)
    factor = jnp.linalg.cholesky(damped, symmetrize_input=False)
    return w + jnp.asarray(strength, w.dtype) * jax.scipy.linalg.cho_solve((factor, True), lost)


def qep(strength: Array | float = 0.5, damp: Array | float = 0.01) -> Transform:
    """Fit a layer to inputs that earlier quantized layers changed, so that its output is again what it was.

        W' = W + a (X̂ᵀX̂ + d I)^-1 X̂ᵀ(X - X̂) W

    X̂ are the layer's inputs after the quantized layers before it, X its inputs in the original model. At a = 1, without
    damping, X̂ W' is the least-squares fit to X W. A solver is to follow, with the gram of X̂:
    `chain(qep(), gptq(bits=3))`, in `calibrate.blockwise(..., folds=["gram", "cross"], beside=True)`.

    Scope: leaf (1 pass). Needs: gram, cross. Random: no.

    Args:
      strength: a, how much of the error to make up for, 0..1. Traced.
      damp: d, as a fraction of the mean of gram's diagonal. Traced.
    Returns:
      Transform, 1 -> 1, for matrices; same shape and dtype.
    Raises:
      SideTreeError: no gram or cross for a leaf, or of another shape than `[*stack, in, in]`. ShapeError: no matrix.
    Example:
      >>> import jax.numpy as jnp
      >>> halved = {"gram": {"kernel": jnp.eye(2) / 4}, "cross": {"kernel": jnp.eye(2) / 2}}  # x came as x / 2
      >>> qep(1.0, damp=0.0)({"kernel": jnp.ones((2, 1))}, **halved)["kernel"].ravel()
      Array([2., 2.], dtype=float32)

    Reference: Arai, Ichikawa, 2025, "Quantization Error Propagation: Revisiting Layer-Wise Post-Training Quantization";
      the same target, at a = 1, is that of Li, Yin, Lee, Panda, 2025, "GPTAQ: Efficient Finetuning-Free Quantization
      for Asymmetric Calibration".
    Differs from the paper: none that its form in qwix shows, whose defaults these are; the paper lets the strength
      differ by layer, as `route` does here. Weights of dead inputs stay; GPTQ then drops them.
    """

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        view = ctx.view()
        leaf = view.to_matrix(leaves[0])
        w = gathered(leaf, -2)
        gram, cross = (gathered(gathered(gram_of(ctx, leaf, side), -1), -2) for side in ("gram", "cross"))
        solve = partial(qep_array, strength=strength, damp=damp)
        return view.from_matrix(alike(over_stack(solve, view.stacks)(w, gram, cross), leaf))

    return leafwise("qep", apply, needs=frozenset({"gram", "cross"}))
