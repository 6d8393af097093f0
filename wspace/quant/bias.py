"""Biases that make up for what quantization did to the mean of a layer's output, and DFQ's other means without data."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.stats import norm

from wspace.core.axes import Axes, matrix_view
from wspace.core.containers import as_params, is_weight, show
from wspace.core.errors import SelectionError, ShapeError
from wspace.core.implicit import dense
from wspace.core.transform import narrow, working_dtype
from wspace.core.typing import Array, Tree

BIASES = ("bias", "b")  # what a layer calls them


@jax.jit
def mean_shift(w: Array, q: Array, mean: Array) -> Array:
    """E[x] (q - w) `[..., out]`: by how much the output's mean moves. w, q: `[..., in, out]`. mean: `[..., in]`."""
    return jnp.matmul(mean[..., None, :], q - w, precision=lax.Precision.HIGHEST)[..., 0, :]


def bias_correct(params: Tree, quantized: Tree, mean: Tree, axes: Axes | None = None) -> Tree:
    """Take what quantization adds to the mean of each output off its bias.

        b <- b - E[x] (Q - W)

    A layer's bias is the leaf beside its matrix that is called bias or b, also within one name ("query.weight",
    "query.bias"); a matrix without one stays as it is.

    Args:
      params: the weights before. quantized: after, nodes or arrays.
      mean: side tree of the inputs' means `[*stack, in]`, from `calibrate(..., "mean")`, or from the statistics of a
        norm before them by `clipped_normal_mean`.
    Returns:
      quantized with new biases, in their dtype.
    Raises:
      SelectionError: no matrix that is quantized has a bias and a mean. ShapeError: means or a bias of another size.
    Example:
      >>> w = {"kernel": jnp.ones((2, 1)), "bias": jnp.zeros(1)}
      >>> bias_correct(w, w | {"kernel": jnp.full((2, 1), 0.75)}, {"kernel": jnp.array([1.0, 3.0])})["bias"]
      Array([1.], dtype=float32)

    Reference: Nagel, van Baalen, Blankevoort, Welling, 2019, "Data-Free Quantization Through Weight Equalization and
      Bias Correction". Differs from the paper: none.
    """
    old, new = as_params(params).leaves, as_params(quantized)
    means = as_params(mean, stop=old).leaves
    roles, out, hits = axes or Axes(), dict(new.leaves), 0
    for path, w in old.items():
        layer = str(path[-1]).rpartition(".")  # "query.weight" is beside "query.bias"
        beside = ((*path[:-1], "".join((*layer[:2], name))) for name in BIASES)
        at = next((p for p in beside if p in old and p != path), None)
        if at is None or not is_weight(w) or means.get(path) is None or w.ndim < 2:
            continue
        view, wide = matrix_view(roles.of(path, w.shape), w.shape, show(path)), working_dtype(w.dtype)
        matrices = (view.to_matrix(dense(x).astype(wide)) for x in (w, out[path]))
        bias, x = dense(out[at]), dense(means[path]).astype(wide)
        wanted = (*view.matrix_shape[: view.stacks], view.matrix_shape[-1])
        if x.shape != view.matrix_shape[:-1] or bias.size != jnp.zeros(wanted).size:
            raise ShapeError(
                f"{show(path)} {w.shape} has means {x.shape} and a bias {bias.shape}; wanted {view.matrix_shape[:-1]} "
                f"and {wanted}"
            )
        shift = mean_shift(*matrices, x).reshape(bias.shape)
        out[at] = narrow(bias.astype(wide) - shift, bias.dtype)
        hits += 1
    if not hits:
        raise SelectionError("bias_correct: no matrix has a bias beside it and a mean; give means by the matrix's path")
    return new.rebuild(out)


@jax.jit
def clipped_normal_mean(mean: Array, std: Array, low: Array | float = 0.0, high: Array | float = jnp.inf) -> Array:
    """E[clip(x, low, high)] of x ~ N(mean, std^2): what a relu (low = 0) or relu6 (0, 6) after a norm gives on average.

        std (phi(a) - phi(b)) + mean (Phi(b) - Phi(a)) + low Phi(a) + high (1 - Phi(b))
        a = (low - mean) / std,   b = (high - mean) / std

    Example:
      >>> round(float(clipped_normal_mean(jnp.array(0.0), jnp.array(1.0))), 4)
      0.3989
    """
    a, b = ((jnp.asarray(x, mean.dtype) - mean) / std for x in (low, high))
    top = jnp.where(jnp.isfinite(b), jnp.asarray(high, mean.dtype), 0) * norm.sf(b)
    bottom = jnp.where(jnp.isfinite(a), jnp.asarray(low, mean.dtype), 0) * norm.cdf(a)
    return std * (norm.pdf(a) - norm.pdf(b)) + mean * (norm.cdf(b) - norm.cdf(a)) + bottom + top


@jax.jit
def absorb_bias(bias: Array, next_kernel: Array, next_bias: Array, mean: Array, std: Array) -> tuple[Array, Array]:
    """Move what a relu lets through of every input's high bias into the next layer.

        c = max(0, mean - 3 std),   b1 <- b1 - c,   b2 <- b2 + c W2

    Where the values before the relu are above c, as all but 0.1% of a normal distribution are, the function stays as it
    is, and the range of what lies between gets smaller.

    Args:
      bias: `[n]` of the layer before the relu. next_kernel: `[n, out]`, next_bias: `[out]` of the layer after it.
      mean, std: `[n]` of the values before the relu: a norm's beta and gamma.
    Returns:
      The two biases.
    Reference: as of `bias_correct`.
    Example:
      >>> five, two, none, one = (jnp.array([x]) for x in (5.0, 2.0, 0.0, 1.0))
      >>> absorb_bias(five, two[None], none, mean=five, std=one)
      (Array([3.], dtype=float32), Array([4.], dtype=float32))
    """
    c = jnp.maximum(mean - 3 * std, 0)
    return bias - c, next_bias + jnp.matmul(c, next_kernel, precision=lax.Precision.HIGHEST)
