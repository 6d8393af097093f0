"""OrthoMerge: what turns the base into each model is merged as a rotation, and only the rest by adding."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from wspace.core.axes import has_matrix
from wspace.core.errors import ShapeError
from wspace.core.implicit import dense
from wspace.core.transform import Context, Transform, leafwise, over_stack
from wspace.core.typing import Array
from wspace.merge.by_matrix import times
from wspace.merge.task_arithmetic import weighted_sum
from wspace.stats.norms import length
from wspace.stats.polar import polar
from wspace.stats.sharding import alike, gathered


@jax.jit
def procrustes_array(x: Array, y: Array) -> Array:
    """The rotation or reflection Q, [rows, rows], with the least |Q x - y|; x, y: [rows, columns].

    Q = polar(y x' + e |y x'| I),   e of rounding's size: what x or y leaves open stays where it is
    """
    m = times(y, x.T)
    size = length(m)
    pull = jnp.finfo(m.dtype).eps * jnp.where(size > 0, size, 1)
    return polar(m + pull * jnp.eye(len(m), dtype=m.dtype))


@jax.jit
def rotation_array(rotations: Sequence[Array]) -> Array:
    """The mean of n rotations [d, d] in the Lie algebra, as far from the identity as they are on average.

    A_k = (Q_k - I)(Q_k + I)^-1,   A = mean_k |A_k| / |sum_k A_k| sum_k A_k,   Q = (I - A)^-1 (I + A)
    """
    one = jnp.eye(len(rotations[0]), dtype=rotations[0].dtype)
    solved = [jnp.linalg.solve(q + one, q - one) for q in rotations]
    skews = [(a - a.T) / 2 for a in solved]
    total = sum(skews[1:], skews[0])
    lengths = [length(a) for a in skews]
    whole, mean = length(total), sum(lengths[1:], lengths[0]) / len(skews)
    a = jnp.where(whole > 0, mean / jnp.where(whole > 0, whole, 1), 0) * total
    return jnp.linalg.solve(one - a, one + a)


def ortho_merge(lam: Array | float = 0.2, multi: Transform | None = None) -> Transform:
    """Split every model into a rotation of the base and a residual; merge rotations as such, and add the residuals.

        Q_k = argmin |Q base - theta_k| over orthogonal Q,   Q = their mean (see `rotation_array`)
        theta = Q base + lam multi(theta_1 - Q_1 base, ..., theta_n - Q_n base)

    The rotated base has the singular values and the angles between neurons that the base has. A matrix is rotated on
    its shorter side, inputs or outputs, so that the base determines the rotation.

    Scope: leaf (1 pass). Needs: base. Random: no. Output leaf: array, dtype of the first tree.

    Sharding: as `tsv`.

    Args:
      lam: scale of the merged residuals, and of the merged task vectors of leaves that are no matrix. Traced.
      multi: merges n residuals, leaf by leaf; default `weighted_sum()`. Static.
    Returns:
      Transform, n -> 1. Stacked layers are merged one by one, convolutions as `[taps * in, out]`. A model that is
      turned by half a circle against the base has no place in the algebra: large or non-finite numbers tell.
    Raises:
      SideTreeError: no base. TreeMismatch: trees or base differ in structure. ShapeError: multi takes more.
    Example:
      >>> base = {"kernel": jnp.array([[1.0, 0.0], [0.0, 2.0]])}
      >>> quarter = {"kernel": jnp.array([[0.0, 2.0], [-1.0, 0.0]])}
      >>> merged = ortho_merge()(quarter, base, base=base)["kernel"]  # of 90 degrees and 0: tan(angle / 2) is halved
      >>> bool(jnp.allclose(merged, jnp.array([[0.6, 1.6], [-0.8, 1.2]])))
      True

    Reference: Yang, Shi, Liu, 2026, "Orthogonal Model Merging" (the orthogonal Procrustes problem: Schoenemann, 1966).
    Differs from the paper: its code always rotates inputs, also where the base has fewer outputs and leaves them open.
      Its variant that looks only at rows in conflict with the mean is not here, nor TSV-Merge of residuals.
    """
    merge = weighted_sum() if multi is None else multi
    if merge.folds or merge.arity == 1 or merge.needs:
        raise ShapeError(f"ortho_merge merges with {merge.name}; it takes n trees in one pass, without side trees")

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        base = dense(ctx.side("base")).astype(leaves[0].dtype)
        turned, parts = base, [x - base for x in leaves]
        if has_matrix(ctx.spec.axes) and base.size:
            view = ctx.view()
            given = view.to_matrix(base)
            whole = [gathered(gathered(view.to_matrix(x), -1), -2) for x in (base, *leaves)]
            apart = over_stack(_split, view.stacks)(*whole)
            turned, *parts = (view.from_matrix(alike(x, given)) for x in apart)
        merged = merge.apply(tuple(parts), ctx)
        return turned + jnp.asarray(lam, merged.dtype) * merged

    return leafwise("ortho_merge", apply, arity=None, needs=frozenset({"base"}))


@jax.jit
def _split(base: Array, *models: Array) -> list[Array]:
    """The base turned by the mean rotation, and each model's residual."""
    if base.shape[0] > base.shape[1]:
        return [x.T for x in _split(base.T, *(w.T for w in models))]
    rotations = [procrustes_array(base, w) for w in models]
    rest = [w - times(q, base) for w, q in zip(models, rotations, strict=True)]
    return [times(rotation_array(rotations), base), *rest]
