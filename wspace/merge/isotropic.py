"""Isotropic merging: a merged task vector whose directions all count the same, in common and in task-specific ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from wspace.core.errors import WspaceError
from wspace.core.transform import Transform
from wspace.core.typing import Array
from wspace.merge.by_matrix import by_matrix, times
from wspace.stats.polar import live, polar
from wspace.stats.svd import svd


@jax.jit
def iso_c_array(deltas: Sequence[Array]) -> Array:
    """`mean(s) U V'` of `sum_t d_t = U diag(s) V'`, over the singular values that are not 0. deltas: n of [in, out]."""
    u, s, vt = svd(sum(deltas[1:], deltas[0]))
    return _even(u, s, vt.T, live(s, deltas[0].shape))


def _even(left: Array, s: Array, right: Array, alive: Array) -> Array:
    """left right' times the mean of those of s that are alive."""
    level = jnp.sum(s * alive) / jnp.maximum(jnp.sum(alive), 1)
    return level * times(left * alive[None], right.T)


@partial(jax.jit, static_argnames="common")
def iso_cts_array(deltas: Sequence[Array], common: float) -> Array:
    """Iso-C, with the trailing directions of the sum replaced by leading ones of what each task has beside the others.

        sum_t d_t = U diag(s) V',   d_t - d_t V_k V_k' = U_t diag(s_t) V_t',   V_k: the k leading ones
        out = mean(S) polar(L) polar(R)',   L = [U_1[:, :m], ..., U_k],   R = [V_1[:, :m], ..., V_k]

    S: the singular values of all these. k + n m = min(in, out), k near to common min(in, out). deltas: n of [in, out].
    """
    shape, n = deltas[0].shape, len(deltas)
    size = min(shape)
    own = min(round((size - int(size * common)) / n), size // n)
    kept = size - n * own
    u, s, vt = svd(sum(deltas[1:], deltas[0]))
    shared = vt[:kept].T
    beside = [d - times(d, shared, shared.T) for d in deltas]
    us, ss, vts = zip(*(svd(d) for d in beside), strict=True)
    alive = jnp.concatenate([*(live(x, shape)[:own] for x in ss), live(s, shape)[:kept]])
    values = jnp.concatenate([*(x[:own] for x in ss), s[:kept]])
    left = polar(jnp.concatenate([*(x[:, :own] for x in us), u[:, :kept]], axis=1) * alive[None])
    right = polar(jnp.concatenate([*(x[:own].T for x in vts), shared], axis=1) * alive[None])
    return _even(left, values, right, alive)


def iso_c(lam: Array | float = 1.0) -> Transform:
    """Add task vectors up and make all singular values of the sum equal: isotropic merging in the common subspace.

        sum_t (theta_t - base) = U diag(s) V',   theta = base + lam mean(s) U V'

    Scope: leaf (1 pass). Needs: base. Random: no. Output leaf: array, dtype of the first tree.

    Sharding: as `tsv`.

    Args:
      lam: scale of the merged task vector, found on held-out data. Traced.
    Returns:
      Transform, n -> 1; vectors and scalars get the mean of the models, scaled likewise.
    Raises:
      SideTreeError: no base. TreeMismatch: trees or base differ in structure.
    Example:
      >>> base, a, b = ({"kernel": jnp.diag(jnp.array(w))} for w in ([0.0, 0.0], [5.0, 0.0], [0.0, 1.0]))
      >>> iso_c()(a, b, base=base)["kernel"].round(4)
      Array([[3., 0.],
             [0., 3.]], dtype=float32)

    Reference: Marczak, Magistri, Cygert, Twardowski, Bagdanov, van de Weijer, 2025, "No Task Left Behind: Isotropic
      Model Merging with Common and Task-Specific Subspaces".
    Differs from the paper: directions in which the sum has no length stay without one and don't count for the mean; in
      its code the SVD decides which directions they are. Convolutions count as matrices, its code averages
      them.
    """
    return by_matrix("iso_c", lambda *deltas: iso_c_array(deltas), lam)


def iso_cts(lam: Array | float = 1.0, common: float = 0.8) -> Transform:
    """Isotropic merging in common and task-specific subspaces: Iso-C that gives its weakest directions to single tasks.

    See `iso_cts_array` for the formula. With common=1 it is `iso_c`.

    Scope: leaf (1 pass). Needs: base. Random: no. Output leaf: array, dtype of the first tree.

    Sharding: as `tsv`.

    Args:
      lam: scale of the merged task vector, found on held-out data. Traced.
      common: share of the directions that are those of the sum, 0..1; what is left is divided among the tasks. Static.
    Returns:
      Transform, n -> 1; vectors and scalars get the mean of the models, scaled likewise.
    Raises:
      SideTreeError: no base. TreeMismatch: trees or base differ in structure. WspaceError: common outside 0..1.
    Example:
      >>> base, a, b = ({"kernel": jnp.diag(jnp.array(w))} for w in ([0.0] * 4, [4.0, 2.0, 0, 0], [4.0, 0, 2.0, 0]))
      >>> iso_cts(common=0.5)(a, b, base=base)["kernel"].diagonal().round(4)  # 8, 2 and 2, evened
      Array([4., 4., 4., 0.], dtype=float32)

    Reference: as `iso_c`.
    Differs from the paper: as `iso_c`.
    """
    if not 0 <= common <= 1:
        raise WspaceError(f"iso_cts: common is {common}; it is a share of the directions, 0 to 1, such as 0.8")
    return by_matrix("iso_cts", lambda *deltas: iso_cts_array(deltas, common), lam)
