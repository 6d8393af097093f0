"""WUDI-Merging: the merged task vector that interferes least with each task in the subspace of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.errors import WspaceError
from wspace.core.transform import Transform
from wspace.core.typing import Array
from wspace.merge.by_matrix import by_matrix, times
from wspace.stats.norms import length
from wspace.stats.polar import live
from wspace.stats.svd import svd

B1, B2, EPS = 0.9, 0.999, 1e-8  # Adam as its paper has it
TINY = 1e-30  # a square far below EPS, so that the root of none has a derivative


@partial(jax.jit, static_argnames="steps")
def wudi_array(deltas: Sequence[Array], steps: int, lr: Array | float) -> Array:
    """The sum of n matrices after some steps of Adam on their interference.

        L(M) = sum_t |d_t' (M - d_t)|^2 / |d_t|^2,   M_0 = sum_t d_t

    deltas: n of [in, out]; a task's inputs lie in the span of its d_t's columns.
    """
    start = sum(deltas[1:], deltas[0])
    lr = jnp.asarray(lr, start.dtype)
    units = [d / jnp.where(norm > 0, norm, 1) for d, norm in zip(deltas, map(length, deltas), strict=True)]
    parts = [times(u, u.T, d) for u, d in zip(units, deltas, strict=True)]
    wanted, beside = sum(parts[1:], parts[0]), jnp.concatenate(units, axis=1)
    small = beside.shape[0] <= 2 * beside.shape[1]  # then its square is what costs less to multiply by
    normal = (times(beside, beside.T),) if small else (beside, beside.T)

    def step(i: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        m, mean, square = state
        gradient = 2 * (times(*normal, m) - wanted)
        mean, square = B1 * mean + (1 - B1) * gradient, B2 * square + (1 - B2) * gradient**2
        t = (i + 1).astype(m.dtype)
        size = jnp.sqrt(jnp.maximum(square / (1 - B2**t), TINY)) + EPS
        return m - lr * mean / (1 - B1**t) / size, mean, square

    return lax.fori_loop(0, steps, step, (start, jnp.zeros_like(start), jnp.zeros_like(start)))[0]


@jax.jit
def wudi_exact_array(deltas: Sequence[Array]) -> Array:
    """The least L of `wudi_array` in closed form: least squares with all d_t' / |d_t| on top of each other.

    Directions that no task has keep the mean of the task vectors, which is zero there.
    """
    mean = sum(deltas[1:], deltas[0]) / len(deltas)
    norms = [length(d) for d in deltas]
    rows = [d.T / jnp.where(norm > 0, norm, 1) for d, norm in zip(deltas, norms, strict=True)]
    wanted = [times(row, d - mean) for row, d in zip(rows, deltas, strict=True)]
    stacked = jnp.concatenate(rows)
    u, s, vt = svd(stacked)
    alive = live(s, stacked.shape)
    inverse = alive / jnp.where(alive > 0, s, 1)
    return mean + times(vt.T * inverse[None], u.T, jnp.concatenate(wanted))


def wudi(steps: int | None = 300, lr: Array | float = 1e-5, lam: Array | float = 1.0) -> Transform:
    """Merge task vectors so that the merge acts on each task's inputs as that task's own vector does.

        L(M) = sum_t |d_t' (M - d_t)|^2 / |d_t|^2,   d_t = theta_t - base,   theta = base + lam M

    The rows that gradient descent added to a linear layer lie in the span of its inputs, so a task's own vector stands
    for its data: this is RegMean with d_t d_t' / |d_t|^2 in place of the Gram matrices. M starts as the sum of the task
    vectors and takes `steps` of Adam, or, with steps=None, is the minimum itself.

    Scope: leaf (1 pass). Needs: base. Random: no. Output leaf: array, dtype of the first tree.

    Sharding: the output is sharded as the input; the products of task vectors are taken on whole matrices.

    Args:
      steps: of Adam; None solves for the minimum. Static. lr: their size, in units of the weights; it has to suit the
        task vectors' size, since a step moves each entry by about lr. Traced.
      lam: scale of the merged task vector. Traced.
    Returns:
      Transform, n -> 1; vectors and scalars get the mean of the models, scaled likewise.
    Raises:
      SideTreeError: no base. TreeMismatch: trees or base differ in structure. WspaceError: steps below 1.
    Example:
      >>> base, a, b = ({"kernel": jnp.array(w)} for w in ([[0.0], [0.0]], [[1.0], [0.0]], [[3.0], [0.0]]))
      >>> wudi(steps=None)(a, b, base=base)["kernel"].round(4)
      Array([[2.],
             [0.]], dtype=float32)

    Reference: Cheng, Xiong, Wei, Zhu, Yuan, 2025, "Whoever Started the Interference Should End It: Guiding Data-Free
      Model Merging via Task Vectors".
    Differs from the paper: the closed form is an addition. Convolutions count as matrices, its code averages them.
    """
    if steps is not None and steps < 1:
        raise WspaceError(f"wudi: steps is {steps}; it has to be at least 1, such as 300, or None for the minimum")

    def one(*deltas: Array) -> Array:
        return wudi_exact_array(deltas) if steps is None else wudi_array(deltas, steps, lr)

    return by_matrix("wudi", one, lam)
