"""OPCM: merge models one after another, each projected away from what is merged already, in constant memory."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from wspace.core.align import align
from wspace.core.compose import around_base, keep, on
from wspace.core.containers import as_params, is_weight
from wspace.core.implicit import dense
from wspace.core.select import matrices
from wspace.core.transform import Context, leafwise, over_stack, working_dtype
from wspace.core.typing import Array, Path, Tree, Where
from wspace.merge.by_matrix import times
from wspace.merge.task_arithmetic import task_arithmetic
from wspace.stats.svd import svd


class OPCMState(NamedTuple):
    """What OPCM remembers, whatever the number of models.

    base: the common ancestor. merged: the merge so far; floating leaves float32 (float64 if they are).
    lam: lambda_t. norm_sum: sum of the norms of the task vectors so far. seen: how many. Scalars float32, int32.
    """

    base: Tree
    merged: Tree
    lam: Array
    norm_sum: Array
    seen: Array


@jax.jit
def opcm_array(delta: Array, merged: Array, alpha: Array | float) -> Array:
    """delta without what it shares with the merged delta: orthogonal to it, and without its leading block.

    delta, merged: matrices of one shape and dtype; either orientation.

        merged = U S V',   P = U' delta V,   P_ii = 0 where s_i > 0,   P_ij = 0 for i, j < r,   out = U P V'
        r = number of leading i with s_0 + ... + s_i <= alpha sum s
    """
    u, s, vt = svd(merged)
    size = s.shape[0]
    live = s > jnp.finfo(s.dtype).eps * max(merged.shape) * jnp.max(s, initial=0)
    leading = live & (jnp.cumsum(s) <= jnp.asarray(alpha, s.dtype) * jnp.sum(s))
    block = leading[:, None] & leading[None]
    diagonal = jnp.eye(size, dtype=bool) & live[:, None]
    inside = jnp.where(block | diagonal, times(u.T, delta, vt.T), 0)
    return delta - times(u, inside, vt)


def opcm_init(base: Tree, first: Tree) -> OPCMState:
    """The state after one model: the model itself.

    Args:
      base: the common ancestor. first: a tree of its structure.
    Raises:
      TreeMismatch: structures differ.
    Example:
      >>> opcm_init({"w": jnp.zeros(2)}, {"w": jnp.array([3.0, 4.0])}).norm_sum
      Array(5., dtype=float32)

    Reference: as `opcm_update`.
    """
    params = as_params(first)
    align(keep(), [as_params(base).leaves, params.leaves], {}, None)  # says where they differ, before any work
    wide = {p: dense(x).astype(working_dtype(x.dtype)) if is_weight(x) else x for p, x in params.leaves.items()}
    one = jnp.ones((), jnp.float32)
    return OPCMState(base, params.rebuild(wide), one, _distance(first, base), one.astype(jnp.int32))


def opcm_update(state: OPCMState, model: Tree, alpha: Array | float = 0.5, where: Where = matrices) -> OPCMState:
    """Merge one more model.

        T = theta_t - base,   D = merged - base,   T' = T without what it shares with D (see `opcm_array`)
        R = lam D + T',   lam' = |R| / mean norm of the task vectors so far,   merged' = base + R / lam'

    Norms are of whole trees, so |merged - base| is always the mean norm of the task vectors.

    Args:
      state: of `opcm_init`, or of this. model: a tree of its structure.
      alpha: share of the singular values whose directions are protected as a block, 0..1. Traced.
      where: the leaves that are projected, all matrices or stacks of them; the others are added. Static.
    Returns:
      OPCMState; `.merged` is the model.
    Raises:
      TreeMismatch: structures differ. SelectionError: `where` selects nothing. ShapeError: it selects no matrix.
    Example:
      >>> base = {"kernel": jnp.zeros((2, 2))}
      >>> a, b = {"kernel": jnp.array([[2.0, 0.0], [0.0, 1.0]])}, {"kernel": jnp.array([[5.0, 1.0], [2.0, 5.0]])}
      >>> state = opcm_update(opcm_init(base, a), b)
      >>> (state.merged["kernel"] * state.lam).round(4)  # what a has on its diagonal is taken from b
      Array([[2., 1.],
             [2., 1.]], dtype=float32)

    Reference: Tang et al., 2025, "Merging Models on the Fly Without Retraining: A Sequential Approach to Scalable
      Continual Model Merging".
    Differs from the paper: its code zeroes the whole diagonal of P; here only where the merged delta has a singular
      value, since the other singular vectors are arbitrary and the result would depend on the SVD. So a model that is
      orthogonal to a low-rank merge is added as it is. The result does depend on the order of the models.
    """

    def whole(leaves: tuple[Array, ...], ctx: Context) -> Array:
        merged, delta = leaves
        return state.lam.astype(merged.dtype) * merged + delta

    def projected(leaves: tuple[Array, ...], ctx: Context) -> Array:
        view, (merged, delta) = ctx.view(), leaves

        def one(d: Array, m: Array) -> Array:
            return opcm_array(d, m, alpha)

        apart = over_stack(one, view.stacks)(view.to_matrix(delta), view.to_matrix(merged))
        return state.lam.astype(merged.dtype) * merged + view.from_matrix(apart)

    step = on(where, leafwise("project", projected, arity=2), otherwise=leafwise("add", whole, arity=2))
    raw = around_base(step)(state.merged, model, base=state.base)
    norm_sum, count = state.norm_sum + _distance(model, state.base), state.seen + 1
    mean = norm_sum / count.astype(jnp.float32)
    size = _distance(raw, state.base)
    moved = (size > 0) & (mean > 0)  # otherwise there is nothing to scale
    lam = jnp.where(moved, size / jnp.where(moved, mean, 1), 1)
    return OPCMState(state.base, task_arithmetic(lam=1 / lam)(raw, base=state.base), lam, norm_sum, count)


def _distance(a: Tree, b: Tree) -> Array:
    """|a - b| of whole trees, a float32 scalar; each difference in the wider dtype of the two."""
    ours, theirs = as_params(a).leaves, as_params(b).leaves

    def square(path: Path) -> Array:
        x, y = dense(ours[path]), dense(theirs[path])
        dtype = working_dtype(x.dtype, y.dtype)
        return jnp.sum((x.astype(dtype) - y.astype(dtype)) ** 2).astype(jnp.float32)

    return jnp.sqrt(sum((square(path) for path in ours if is_weight(ours[path])), jnp.zeros((), jnp.float32)))
