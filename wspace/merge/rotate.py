"""Procrustes-aligned merging: turn one model's layers onto another's, and average what is left between them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from wspace.core.axes import has_matrix
from wspace.core.transform import Context, Transform, leafwise, over_stack
from wspace.core.typing import Array
from wspace.merge.by_matrix import times
from wspace.stats.polar import polar
from wspace.stats.sharding import alike, gathered


@jax.jit
def rotate_array(a: Array, b: Array, alpha: Array | float) -> Array:
    """`(1 - alpha) (R A + mean of b) + alpha b`: a turned onto b, or its average with b.

        A, B = a, b less the means of their columns,   R = argmin |R A - B| over orthogonal R = polar(B A')

    a, b: [in, out]; a column is what one output weighs its inputs with.
    """
    center = jnp.mean(b, axis=1, keepdims=True)
    around = a - jnp.mean(a, axis=1, keepdims=True)
    turned = times(polar(times(b - center, around.T)), around)
    alpha = jnp.asarray(alpha, a.dtype)
    return (1 - alpha) * (turned + center) + alpha * b


def rotate(alpha: Array | float = 0.5) -> Transform:
    """Turn the inputs of each layer of one model so that its neurons come nearest to another's, then average the two.

        A, B = the layers [in, out] less their mean neuron,   R = argmin |R A - B| over orthogonal R
        theta = (1 - alpha) (R A + mean neuron of b) + alpha b

    With alpha=0 it is the nearest to b of all that has the singular values of a (less its mean neuron). The layer
    before is not turned along, so models have to be near each other, such as fine-tunes of one base; `match` turns
    whole models, and changes no output.

    Scope: leaf (1 pass). Needs: nothing. Random: no. Output leaf: array, dtype of the first tree.

    Sharding: as `tsv`.

    Args:
      alpha: share of b, 0..1. Traced.
    Returns:
      Transform, 2 -> 1: (a, b). Stacked layers are merged one by one, convolutions as `[taps * in, out]`; vectors and
      scalars are interpolated, (1 - alpha) a + alpha b.
    Raises:
      TreeMismatch: trees differ in structure. ShapeError: not two trees.
    Example:
      >>> a = {"kernel": jnp.array([[2.0, -2.0], [0.0, 0.0]])}
      >>> b = {"kernel": jnp.array([[5.0, 5.0], [4.0, 2.0]])}
      >>> rotate(alpha=0.0)(a, b)["kernel"].round(4)  # along b's line, as long as a is
      Array([[5., 5.],
             [5., 1.]], dtype=float32)

    Reference: sd-mecha's merge method `rotate`; the orthogonal Procrustes problem: Schoenemann, 1966, "A generalized
      solution of the orthogonal Procrustes problem".
    Differs from the paper: sd-mecha can also turn by a part of R, and center in part; here both are whole.
    """

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        a, b = leaves
        if not has_matrix(ctx.spec.axes) or a.size == 0:
            share = jnp.asarray(alpha, a.dtype)
            return (1 - share) * a + share * b
        view = ctx.view()
        given = view.to_matrix(a)
        whole = [gathered(gathered(view.to_matrix(x), -1), -2) for x in leaves]
        turned = over_stack(lambda x, y: rotate_array(x, y, alpha), view.stacks)(*whole)
        return view.from_matrix(alike(turned, given))

    return leafwise("rotate", apply, arity=2)
