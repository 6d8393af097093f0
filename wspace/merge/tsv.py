"""TSV-Merge: of each task vector the leading singular vectors, made orthogonal to those of the other tasks."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from wspace.core.transform import Transform
from wspace.core.typing import Array
from wspace.merge.by_matrix import by_matrix, times
from wspace.stats.polar import live, polar
from wspace.stats.svd import svd


@jax.jit
def tsv_array(deltas: Sequence[Array]) -> Array:
    """`polar(U) S polar(V)'`, with the k leading singular vectors and values of each of n matrices side by side in it.

        d_t = U_t S_t V_t',   U = [U_1[:, :k], ..., U_n[:, :k]],   k = floor(min(in, out) / n), at least 1

    deltas: n of [in, out].
    """
    k = max(1, min(deltas[0].shape) // len(deltas))
    us, ss, vts = zip(*(svd(d) for d in deltas), strict=True)
    lives = [live(s, deltas[0].shape)[:k] for s in ss]
    left = polar(jnp.concatenate([u[:, :k] * x[None] for u, x in zip(us, lives, strict=True)], axis=1))
    right = polar(jnp.concatenate([vt[:k].T * x[None] for vt, x in zip(vts, lives, strict=True)], axis=1))
    return times(left * jnp.concatenate([s[:k] for s in ss])[None], right.T)


def tsv(lam: Array | float = 1.0) -> Transform:
    """Keep of each task vector a share of its singular directions, whiten them across tasks, add up.

        d_t = theta_t - base = U_t S_t V_t',   k = floor(min(in, out) / n)
        U = [U_1[:, :k], ...],   S = [S_1[:k], ...],   V = [V_1[:, :k], ...],   polar(X) = P Q' of X = P D Q'
        theta = base + lam polar(U) S polar(V)'

    Whitening takes the interference of tasks away: singular vectors that tasks share are turned apart. Tasks of rank k
    whose singular vectors are orthogonal already are just added up.

    Scope: leaf (1 pass). Needs: base. Random: no. Output leaf: array, dtype of the first tree.

    Sharding: the output is sharded as the input, but an SVD needs the whole matrix on every device.

    Args:
      lam: scale of the merged task vector; the paper finds 1 to be good. Traced.
    Returns:
      Transform, n -> 1; vectors and scalars get the mean of the models, scaled likewise.
    Raises:
      SideTreeError: no base. TreeMismatch: trees or base differ in structure.
    Example:
      >>> base, a, b = ({"kernel": jnp.diag(jnp.array(w))} for w in ([0.0, 0.0], [5.0, 1.0], [0.0, 3.0]))
      >>> tsv()(a, b, base=base)["kernel"].round(4)  # one direction a task
      Array([[5., 0.],
             [0., 3.]], dtype=float32)

    Reference: Gargiulo, Crisostomi, Bucarelli, Scardapane, Silvestri, Rodola, 2025, "Task Singular Vectors: Reducing
      Task Interference in Model Merging".
    Differs from the paper: at least one direction a task, where its code keeps none of matrices with fewer than n.
      Directions without length (of a task vector of low rank, or that tasks share exactly) drop out of polar, where its
      code has whatever the SVD returns. Convolutions count as matrices, its code averages them.
    """
    return by_matrix("tsv", lambda *deltas: tsv_array(deltas), lam)
