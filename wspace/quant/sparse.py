"""Dense and sparse: a few entries keep full precision, chosen by a score; all others are quantized without them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wspace.calibrate.batches import calibrate
from wspace.core.axes import Axes, matrix_view
from wspace.core.containers import as_params, is_weight, show
from wspace.core.errors import ShapeError, SideTreeError, WspaceError
from wspace.core.implicit import dense, materialize
from wspace.core.select import Spec, matches
from wspace.core.transform import Context, Transform, leafwise, narrow, over_stack
from wspace.core.typing import Array, Path, Tree, Where
from wspace.quant.amended import KeptEntries, check_single, entries, facts, inside
from wspace.quant.rtn import rtn
from wspace.stats.moments import abs_max
from wspace.stats.quantile import check_fraction, largest_mask
from wspace.stats.seen import outputs
from wspace.stats.sharding import alike, gathered

Found = list[tuple[Path, tuple[int, ...]]]


@partial(jax.jit, static_argnames="keep")
def largest_entries(w: Array, score: Array, keep: int) -> tuple[Array, Array, Array, Array]:
    """The mask of the `keep` entries of largest score of w `[in, out]`; their values, inputs and outputs `[keep]`."""
    mask = largest_mask(score, keep)
    at = entries(mask, keep)
    return mask, w[at[0].astype(jnp.int32), at[1].astype(jnp.int32)], *at


@jax.jit
def clipped(w: Array, z: Array | float) -> Array:
    """w `[..., in, out]` drawn into mean |w| + z std |w| of the matrix."""
    size = jnp.abs(w)
    mean, std = (f(size, axis=(-2, -1), keepdims=True) for f in (jnp.mean, jnp.std))
    most = mean + jnp.asarray(z, w.dtype) * std if w.size else mean
    return jnp.clip(w, -most, most)


def dense_and_sparse(share: float = 0.005, then: Transform | None = None) -> Transform:
    """Keep the entries of largest score in full precision, and quantize the rest without them.

        w ~ Q(w [not kept]) + w [kept],   kept: the round(share n) entries of largest |score| of each matrix

    Scope: leaf (1 pass). Needs: score, and what `then` needs. Random: no. Output leaf: KeptEntries around a QTensor.

    score may be the weights themselves, a gradient, a Fisher information, or `pqi`'s integral. Sharding: the leaf is
    gathered.

    Args:
      share: of the entries, 0..1; rounded to a count for each matrix. Static.
      then: what quantizes the rest; None: `rtn(4)`.
    Returns:
      Transform, 1 -> 1, for matrices: a node with values in the leaf's dtype, 32 bits more for the place of each.
    Raises:
      SideTreeError: no score for a leaf, or of another shape. ShapeError: a leaf that is no matrix. WspaceError: a
      share outside 0..1; `then` needs folds.
    Example:
      >>> w = {"kernel": jnp.array([[0.1], [-0.2], [5.0], [0.7]])}
      >>> q = dense_and_sparse(0.25)(w, score=w)["kernel"]
      >>> q.values, float(q.base.scale[0, 0])
      (Array([5.], dtype=float32), 0.10000000149011612)

    Reference: Kim, Hooper, Gholami, Dong, Li, Shen, Mahoney, Keutzer, 2023, "SqueezeLLM: Dense-and-Sparse
      Quantization"; Hu, Zhao, Chen, Zhu, 2025, "Identifying Sensitive Weights via Post-quantization Integral".
    Differs from the paper: the dense part is any grid's, where SqueezeLLM has codebooks.
    """
    solver, part = check_single(then or rtn(4), "dense_and_sparse"), check_fraction(share)

    def apply(leaves: tuple[Array, ...], ctx: Context) -> KeptEntries:
        return _kept(leaves[0], ctx, lambda size: round(part * size), solver, None)

    return leafwise("dense_and_sparse", apply, needs=frozenset({"score"}) | solver.needs)


def super_weight(keep: int = 1, z: Array | float = 9.0, then: Transform | None = None) -> Transform:
    """Clip outliers, quantize, and put the super weights back as they were.

        w ~ Q(clip(w, -m, m)) + w [super],   m = mean |w| + z std |w| of the matrix

    Scope: leaf (1 pass). Needs: score, and what `then` needs. Random: no. Output leaf: KeptEntries around a QTensor.

    The score is `super_scores(params, find_super_weights(...))`: without restoring what it marks, clipping ruins a
    model. Sharding: the leaf is gathered.

    Args:
      keep: entries of largest score that are put back, for each matrix; models have one to six in all. Static.
      z: how many standard deviations above the mean magnitude weights reach. Traced.
      then: what quantizes; None: `rtn(4)`.
    Returns:
      Transform, 1 -> 1, for matrices: a node as of `dense_and_sparse`.
    Raises:
      SideTreeError: no score for a leaf, or of another shape. ShapeError: a leaf that is no matrix; keep below 0.
    Example:
      >>> w = {"kernel": jnp.full((64, 1), 0.7).at[3, 0].set(90.0)}
      >>> q = super_weight(1, z=0.0)(w, score=w)["kernel"].materialize()
      >>> float(q[3, 0]), round(float(q[0, 0]), 2)
      (90.0, 0.6)

    Reference: Yu, Wang, Shan, Reed, Wan, 2024, "The Super Weight in Large Language Models".
    Differs from the paper: mean and deviation are those of the matrix, the code's of the block that shares a
      scale; `then` may be any layer solver, the paper's is asymmetric rounding.
    """
    if keep < 0:
        raise ShapeError(f"super_weight can't put back {keep} weights; give 0 or more")
    solver = check_single(then or rtn(4), "super_weight")

    def apply(leaves: tuple[Array, ...], ctx: Context) -> KeptEntries:
        return _kept(leaves[0], ctx, lambda size: min(keep, size), solver, lambda w: clipped(w, z))

    return leafwise("super_weight", apply, needs=frozenset({"score"}) | solver.needs)


def _kept(
    leaf: Array, ctx: Context, count: Callable[[int], int], then: Transform, rest: Callable[[Array], Array] | None
) -> KeptEntries:
    """The node of a leaf whose entries of largest score are kept. rest: what is quantized; None: zeros for these."""
    view = ctx.view()
    score = dense(ctx.side("score"))
    if score.shape != leaf.shape:
        raise SideTreeError(
            f"side tree 'score' has {score.shape} for {ctx.spec.path} {leaf.shape}; give it one number a weight"
        )
    w, scores = (gathered(gathered(view.to_matrix(x), -1), -2) for x in (leaf, score.astype(leaf.dtype)))
    keep = count(w.shape[-2] * w.shape[-1])
    mask, values, ins, outs = over_stack(partial(largest_entries, keep=keep), view.stacks)(w, scores)
    matrix = view.to_matrix(leaf)
    others = rest(matrix) if rest else jnp.where(alike(mask, matrix), 0, matrix)
    base = then.apply((view.from_matrix(others),), inside(ctx))
    return KeptEntries(base, narrow(values, ctx.spec.dtype), ins, outs, **facts(ctx))


def find_super_weights(
    apply: Callable[[Tree, Any], Any],
    params: Tree,
    batch: Any,
    where: Where = "down|fc2|wo",
    threshold: float = 50.0,
    most: int = 8,
    axes: Axes | None = None,
) -> Found:
    """Weights that alone make a huge activation: at the largest input and the largest output of a projection.

    In the matrices that `where` selects the largest |output| is looked for; if it is above the threshold, the weight
    between that output and the largest |input| is super: it is set to zero, and the search goes on.

    Args:
      apply, params, batch, axes: as of `calibrate`; any few tokens will do.
      where: which matrices, the down projections of the MLPs. threshold: of an output. most: weights in all.
    Returns:
      A list of (path, index in the leaf's matrix `[*stack, in, out]`), in the order they were found.
    Raises:
      SelectionError: as of `calibrate`.
    Reference: Yu, Wang, Shan, Reed, Wan, 2024, "The Super Weight in Large Language Models". Differs from the paper: the
      spike of each layer is read from its largest input and output, without plots; the threshold is that of its code.
    """
    found: Found = []
    folds = {"inputs": abs_max(), "outputs": outputs(abs_max())}
    now = as_params(materialize(params))
    leaves, rebuild = dict(now.leaves), now.rebuild
    roles = axes or Axes()
    while len(found) < most:
        seen = calibrate(apply, rebuild(leaves), [batch], folds, axes=axes)
        largest = {name: as_params(seen[name]).leaves for name in folds}
        spikes = []
        for path, x in leaves.items():
            of = roles.of(path, x.shape) if is_weight(x) else ()
            met = largest["outputs"].get(path)
            if met is not None and matches(where, Spec(show(path), x.shape, x.dtype, of)):
                spikes.append((float(jnp.max(met)), path))
        size, path = max(spikes, default=(0.0, ()))
        if size <= threshold:
            break
        ins, outs = (np.asarray(largest[name][path]) for name in ("inputs", "outputs"))
        *stack, column = np.unravel_index(np.argmax(outs), outs.shape)
        index = (*(int(k) for k in stack), int(np.argmax(ins[tuple(stack)])), int(column))
        if (path, index) in found:
            break
        found.append((path, index))
        view = matrix_view(seen.axes.of(path, leaves[path].shape), leaves[path].shape, show(path))
        leaves[path] = view.from_matrix(view.to_matrix(leaves[path]).at[index].set(0))
    return found


def super_scores(params: Tree, found: Found, axes: Axes | None = None) -> Tree:
    """The side tree `score` for `super_weight`: 1 at the weights that were found, earlier ones a little more, else 0.

    Raises:
      WspaceError: a path that params don't have.
    """
    taken, roles = as_params(params), axes or Axes()
    if missing := [show(path) for path, _ in found if path not in taken.leaves]:
        raise WspaceError(f"super_scores: params have no {missing[0]}; give it those that were searched")
    scores: dict[Path, Any] = {p: jnp.zeros(x.shape) if is_weight(x) else x for p, x in taken.leaves.items()}
    for k, (path, index) in enumerate(found):
        view = matrix_view(roles.of(path, scores[path].shape), scores[path].shape, show(path))
        scores[path] = view.from_matrix(view.to_matrix(scores[path]).at[index].set(1 + 1 / (k + 1)))
    return taken.rebuild(scores)
