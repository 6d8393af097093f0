"""n:m sparsity: n of every m consecutive inputs stay. 2:4 is what sparse tensor cores compute at twice the speed."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.errors import ShapeError
from wspace.core.transform import Context, Transform, leafwise
from wspace.core.typing import Array
from wspace.stats.groups import check_group, grouped, ungrouped
from wspace.stats.quantile import magnitude_bits


@partial(jax.jit, static_argnames=("n", "m"))
def nm_mask(score: Array, n: int, m: int) -> Array:
    """True at the n largest |score| of every m consecutive inputs; of equal ones the first stay.

    score: `[..., in, out]`, m divides in. NaN ranks above all numbers.
    """
    code = grouped(magnitude_bits(score), m)
    mine, rival = code[..., :, None, :], code[..., None, :, :]
    square = (*(1,) * (code.ndim - 2), m, m, 1)  # each entry of a group, each of its rivals
    earlier = lax.broadcasted_iota(jnp.int32, square, code.ndim - 1) < lax.broadcasted_iota(
        jnp.int32, square, code.ndim - 2
    )
    ahead = (rival > mine) | ((rival == mine) & earlier)
    return ungrouped(jnp.sum(ahead, axis=-2, dtype=jnp.int32) < n)


def nm_array(w: Array, n: int, m: int) -> Array:
    """w `[..., in, out]` with all but the n largest magnitudes of every m consecutive inputs set to zero."""
    return jnp.where(nm_mask(w, n, m), w, jnp.zeros((), w.dtype))


def check_pattern(w: Array, n: int, m: int, path: str) -> None:
    """Raises ShapeError if n:m is no pattern, or m does not divide the inputs."""
    if not 0 <= n <= m:
        raise ShapeError(f"{n}:{m} is no pattern: n of every m inputs stay, so 0 <= n <= m")
    check_group(w, m, "m", path)


def nm(n: int, m: int) -> Transform:
    """Keep the n largest magnitudes of every m consecutive inputs, for each output.

        w_ij <- w_ij * [|w_ij| is among the n largest of |w_kj|, floor(k/m) = floor(i/m)]

    Scope: leaf (1 pass). Needs: nothing. Random: no. Output leaf: array, input dtype.

    Args:
      n, m: n of m stay, 0 <= n <= m. Static.
    Returns:
      Transform, 1 -> 1, for matrices; the taps of a convolution count as inputs. Of equal magnitudes the first stay.
    Raises:
      ShapeError: m does not divide the inputs (names the path and both numbers); a leaf that is no matrix.
    Example:
      >>> w = jnp.array([[1.0], [-3.0], [2.0], [2.0]])
      >>> nm(2, 4)({"kernel": w})["kernel"].ravel()
      Array([ 0., -3.,  2.,  0.], dtype=float32)

    Reference: Mishra, Latorre, Pool, Stosic, Stosic, Venkatesh, Yu, Micikevicius, 2021, "Accelerating Sparse Deep
      Neural Networks".
    Differs from the paper: any n and m; inputs that m does not divide are refused, not padded.
    """

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        view = ctx.view()
        w = view.to_matrix(leaves[0])
        check_pattern(w, n, m, ctx.spec.path)
        return view.from_matrix(nm_array(w, n, m))

    return leafwise("nm", apply)
