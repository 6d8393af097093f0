"""Orthogonal initialization: every matrix a uniformly random rotation, so depth changes no signal's length."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from wspace.core.axes import MatrixView
from wspace.core.implicit import dense
from wspace.core.transform import Context, Transform, narrow, working_dtype
from wspace.core.typing import Array, Leaf
from wspace.stats.sharding import alike


def orthogonal_array(normal: Array) -> Array:
    """Standard normal matrices [*stack, n, m] to Haar-distributed ones with orthonormal columns (rows, if n < m).

    QR is unique once the diagonal of R is positive; without that sign the result is not uniform over rotations.
    """
    if normal.shape[-2] < normal.shape[-1]:
        return jnp.swapaxes(orthogonal_array(jnp.swapaxes(normal, -1, -2)), -1, -2)
    q, r = jnp.linalg.qr(normal)
    diagonal = jnp.diagonal(r, axis1=-2, axis2=-1)
    return q * jnp.where(diagonal < 0, -1, 1).astype(q.dtype)[..., None, :]


@partial(jax.jit, static_argnames="view", keep_unused=True)  # `like` says where
def _init(key: Array, like: Array, gain: Array | float, view: MatrixView) -> Array:
    dtype = working_dtype(like.dtype)
    q = orthogonal_array(jax.random.normal(key, view.matrix_shape, dtype))
    return alike(narrow(jnp.asarray(gain, dtype) * view.from_matrix(q), like.dtype), like)


def orthogonal(gain: Array | float = 1.0) -> Transform:
    """A fresh start: gain times a random matrix with orthonormal columns (or rows, whichever there are fewer of).

        w = gain * Q,   Q R = QR(N(0, 1)), signs such that diag R > 0: Q is Haar-distributed

    In a deep linear net every singular value of the product of all layers is then gain^depth. The leaf gives shape,
    dtype and sharding; its values are not read.

    Scope: leaf (1 pass). Needs: nothing. Random: yes. Output leaf: array, input dtype.

    Sharding: the result has the leaf's, without an all-gather, but QR does not partition: every device makes the whole
    leaf (all its stacked layers) in float32 and keeps its part. Not for a leaf that one device can't hold.

    Args:
      gain: every singular value of the matrix. Traced.
    Returns:
      Transform, 1 -> 1, for matrices: each layer of a stack on its own; a convolution as [taps * in, out].
    Raises:
      ShapeError: a leaf that is no matrix (names the path).
    Example:
      >>> w = orthogonal(gain=2.0)({"kernel": jnp.ones((4, 2))}, key=jax.random.key(0))["kernel"]
      >>> bool(jnp.allclose(w.T @ w, 4 * jnp.eye(2), atol=1e-5))
      True

    Reference: Saxe, McClelland, Ganguli, 2013, "Exact solutions to the nonlinear dynamics of learning in deep linear
      neural networks".
    Differs from the paper: rectangular matrices and convolutions are additions, in the convention of other libraries.
    """

    def apply(leaves: tuple[Leaf, ...], ctx: Context) -> Array:
        return _init(ctx.key, dense(leaves[0]), gain, ctx.view())

    return Transform(apply, "orthogonal", needs=frozenset({"key"}))
