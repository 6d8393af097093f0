"""Weight normalization: the length and the direction of each output unit's weights, trained apart."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from wspace.core.errors import ShapeError
from wspace.core.implicit import Implicit, implicit, static
from wspace.core.transform import Context, Transform, leafwise, narrow, working, working_dtype
from wspace.core.typing import Array


def _squares(v: Array, axes: tuple[int, ...]) -> Array:
    """|v|^2 over `axes`, kept as axes of length 1."""
    return jnp.sum(v * v, axis=axes, keepdims=True)


@partial(jax.jit, static_argnames="axes")
def norm_array(v: Array, axes: tuple[int, ...]) -> Array:
    """|v| over `axes`, kept as axes of length 1."""
    return jnp.sqrt(_squares(v, axes))


@partial(jax.jit, static_argnames="axes")
def weight_norm_array(v: Array, g: Array, axes: tuple[int, ...]) -> Array:
    """w = g v / |v|, the norm over `axes`; zero where v is all zero.

    v: floating array. g: v's shape with 1 at `axes`. axes: static.
    """
    squares = _squares(v, axes)
    return v * (g / jnp.sqrt(jnp.where(squares == 0, 1, squares)))


@implicit
class WeightNorm(Implicit):
    """g v / |v|. v: the leaf's shape. g: length 1 at `axes`, over which the norm is taken (counted from the end, so a
    scan may take layers out of a stack whose axes come first)."""

    v: Array
    g: Array
    axes: tuple[int, ...] = static()

    trainable = frozenset({"v", "g"})

    def materialize(self) -> Array:
        v = working(self.v)
        return narrow(weight_norm_array(v, self.g.astype(v.dtype), self.axes), self.v.dtype)


def weight_norm(axis: int | tuple[int, ...] | None = None) -> Transform:
    """Reparameterize each output unit's weights by a length g and a direction v.

        w = g v / |v|,   at the start v = w, g = |w|,   |.| over all axes but `axis`

    So dL/dg = dL/dw . v / |v|, and dL/dv = g / |v| (I - v v' / |v|^2) dL/dw is orthogonal to v: plain gradient descent
    never shortens v, and a longer v takes smaller steps.

    Scope: leaf (1 pass). Needs: nothing. Random: no. Output leaf: WeightNorm.

    Args:
      axis: the axis or axes with a norm for each index; default the axes of outputs and stacked layers. Static.
    Returns:
      Transform, 1 -> 1. v: the leaf as it was; g: float32 (float64), the leaf's shape with 1 at all axes but `axis`.
      A unit whose weights are all zero stays zero, with zero gradient.
    Raises:
      ShapeError: no `axis` and the leaf is no matrix, or `axis` is none of its axes (names the path).
    Example:
      >>> p = weight_norm()({"kernel": jnp.array([[3.0, 0.0], [4.0, 2.0]])})
      >>> p["kernel"].g
      Array([[5., 2.]], dtype=float32)
      >>> p["kernel"].materialize()
      Array([[3., 0.],
             [4., 2.]], dtype=float32)

    Reference: Salimans, Kingma, 2016, "Weight Normalization: A Simple Reparameterization to Accelerate Training of Deep
      Neural Networks".
    Differs from the paper: starts at given weights; its start from data is `weight_norm_data_init`.
    """

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Implicit:
        (w,) = leaves
        axes = _normed(axis, ctx)
        return WeightNorm(w.astype(ctx.spec.dtype), norm_array(w, axes), axes)

    return leafwise("weight_norm", apply)


def _normed(axis: int | tuple[int, ...] | None, ctx: Context) -> tuple[int, ...]:
    """The axes that the norm is taken over, counted from the end."""
    rank = len(ctx.spec.shape)
    if axis is None:
        ctx.view()
        own = {i for i, a in enumerate(ctx.spec.axes) if a.role in ("out", "stack")}
    else:
        given = axis if isinstance(axis, tuple) else (axis,)
        if not all(-rank <= i < rank for i in given):
            raise ShapeError(
                f"weight_norm(axis={axis}): {ctx.spec.path} has shape {ctx.spec.shape}; "
                f"name axes from {-rank} to {rank - 1}"
            )
        own = {i % rank for i in given}
    return tuple(i - rank for i in range(rank) if i not in own)


def weight_norm_data_init(node: WeightNorm, preactivations: Array) -> tuple[WeightNorm, Array]:
    """Scale g and choose a bias so that the pre-activations of one batch have mean 0 and variance 1.

        g <- g / sigma[t],   b = -mu[t] / sigma[t],   t = the layer's output with this node and no bias

    Args:
      node: of one layer. The paper draws v from N(0, 0.05^2) and starts at g = 1.
      preactivations: [*batch, *outputs], the outputs in the order of the kernel's output axes.
    Returns:
      the node with the new g, and the bias [*outputs] in float32. A unit whose output does not vary keeps its g.
    Raises:
      ShapeError: the number of outputs is not that of g.
    Example:
      >>> node = weight_norm()({"kernel": jnp.array([[2.0]])})["kernel"]
      >>> x = jnp.array([[1.0], [3.0]])
      >>> node, bias = weight_norm_data_init(node, x @ node.materialize())
      >>> (x @ node.materialize() + bias[None])[:, 0]
      Array([-1.,  1.], dtype=float32)

    Reference: Salimans, Kingma, 2016, section 3, "Data-Dependent Initialization of Parameters".
    """
    t = preactivations.astype(working_dtype(preactivations.dtype))
    outs = tuple(n for i, n in enumerate(node.g.shape, -node.g.ndim) if i not in node.axes)
    if t.shape[t.ndim - len(outs) :] != outs:
        raise ShapeError(f"preactivations have shape {t.shape}, but g has {node.g.shape}; they must end in {outs}")
    batch = tuple(range(t.ndim - len(outs)))
    sigma = jnp.std(t, axis=batch)
    sigma = jnp.where(sigma == 0, 1, sigma)
    g = node.g / sigma.reshape(node.g.shape).astype(node.g.dtype)
    return WeightNorm(node.v, g, node.axes), -jnp.mean(t, axis=batch) / sigma
