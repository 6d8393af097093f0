"""BCWI: an updated model that stays compatible with the old one, by interpolating back towards it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wspace.core.errors import ShapeError, WspaceError
from wspace.core.transform import Context, Transform, leafwise
from wspace.core.typing import Array, Tree
from wspace.interpolate.lerp import check_position, lerp_array


@jax.jit
def bcwi_array(old: Array, new: Array, alpha: Array | float, fisher_old: Array, fisher_new: Array) -> Array:
    """`(alpha F_old old + (1 - alpha) F_new new) / (alpha F_old + (1 - alpha) F_new)`, entry by entry.

    All arrays of one shape and dtype, the F at least 0. Where both terms of the divisor are 0: `alpha old + (1 - alpha)
    new`.
    """
    alpha = jnp.asarray(alpha, old.dtype)
    of_old, of_new = alpha * fisher_old, (1 - alpha) * fisher_new
    total = of_old + of_new
    share = jnp.where(total == 0, alpha, of_old / jnp.where(total == 0, 1, total))
    return share * old + (1 - share) * new


def bcwi(alpha: Array | float, fisher: bool = False) -> Transform:
    """A share alpha of the old model in the new one, so that fewer answers that were right become wrong.

        theta = alpha old + (1 - alpha) new
        theta_i = (alpha F_i old_i + (1 - alpha) F'_i new_i) / (alpha F_i + (1 - alpha) F'_i)                   (fisher)

    The new model has to be fine-tuned from the old one. With several new models (other seeds) the new one is their
    mean, `average.uniform_soup()(*news)`: the paper's SoupBCWI. `search_alpha` finds alpha on held-out data.

    Scope: leaf (1 pass). Needs: with fisher, `fisher_old` and `fisher_new`. Random: no. Output leaf: array, dtype of
    the first tree.

    Args:
      alpha: share of the first tree, the old model, 0..1. Traced.
      fisher: weigh each entry by the diagonal Fisher information of the two models, given as side trees. Static.
    Returns:
      Transform, 2 -> 1, called as `(old, new)`. alpha 0 is new and alpha 1 old (with fisher: where F is not 0).
    Raises:
      ShapeError: alpha is no scalar. SideTreeError: fisher without its side trees.
    Example:
      >>> old, new = {"w": jnp.array([0.0, 0.0])}, {"w": jnp.array([1.0, 1.0])}
      >>> bcwi(0.25)(old, new)["w"]
      Array([0.75, 0.75], dtype=float32)
      >>> f, g = {"w": jnp.array([3.0, 0.0])}, {"w": jnp.array([1.0, 1.0])}
      >>> bcwi(0.25, fisher=True)(old, new, fisher_old=f, fisher_new=g)["w"]
      Array([0.5, 1. ], dtype=float32)

    Reference: Schumann, Mansimov, Lai, Pappas, Gao, Zhang, 2023, "Backward Compatibility During Data Updates by Weight
      Interpolation".
    Differs from the paper: an entry that is important to neither model is interpolated without Fisher. The paper's
      scaling of the two Fishers was not checked: here they count as they are given.
    """
    check_position(alpha)

    def plain(leaves: tuple[Array, ...], ctx: Context) -> Array:
        old, new = leaves
        return lerp_array(new, old, alpha)

    def weighed(leaves: tuple[Array, ...], ctx: Context) -> Array:
        fishers = (jnp.asarray(ctx.side(name)).astype(leaves[0].dtype) for name in ("fisher_old", "fisher_new"))
        return bcwi_array(*leaves, alpha, *fishers)

    if fisher:
        return leafwise("bcwi", weighed, arity=2, needs=frozenset({"fisher_old", "fisher_new"}))
    return leafwise("bcwi", plain, arity=2)


def negative_flip_rate(old_logits: Array, new_logits: Array, labels: Array) -> Array:
    """The fraction of examples that the old model had right and the new one has wrong.

    Args:
      old_logits, new_logits: [n, classes], of the two models on the same examples. labels: int [n].
    Returns:
      float32 scalar, 0..1.
    Raises:
      ShapeError: the shapes do not belong together.
    Example:
      >>> old, new = jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.array([[0.0, 2.0], [0.0, 1.0]])
      >>> negative_flip_rate(old, new, jnp.array([0, 1]))
      Array(0.5, dtype=float32)

    Reference: Yan et al., 2021, "Positive-Congruent Training"; the metric of BCWI.
    """
    if old_logits.shape != new_logits.shape or old_logits.shape[:-1] != labels.shape:
        raise ShapeError(
            f"negative_flip_rate: logits {old_logits.shape} and {new_logits.shape}, labels {labels.shape}; "
            f"give logits [n, classes] of both models and labels [n]"
        )
    was_right, is_wrong = jnp.argmax(old_logits, -1) == labels, jnp.argmax(new_logits, -1) != labels
    return jnp.mean(was_right & is_wrong, dtype=jnp.float32)


class AlphaSearch(NamedTuple):
    """alpha: the one found. alphas, scores: [n], what was tried, ascending, and its scores."""

    alpha: float
    alphas: np.ndarray
    scores: np.ndarray


def search_alpha(
    score: Callable[[Tree], Array | float],
    old: Tree,
    new: Tree,
    alphas: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    by: Callable[[float], Transform] = bcwi,
    **sides: Tree,
) -> AlphaSearch:
    """The largest share of the old model with which a score is no worse than that of the new model alone.

    Args:
      score: params -> a number, larger is better, such as accuracy on held-out data.
      old, new: trees of one structure. alphas: shares to try; 0, the new model, is always one of them.
      by: alpha -> Transform, 2 -> 1, such as `lambda alpha: bcwi(alpha, fisher=True)`. sides: its side trees.
    Returns:
      AlphaSearch; `by(found.alpha)(old, new, **sides)` is the model.
    Raises:
      WspaceError: an alpha out of 0..1.
    Example:
      >>> found = search_alpha(lambda p: -abs(p["w"] - 4.0), {"w": jnp.array(3.0)}, {"w": jnp.array(5.0)})
      >>> found.alpha
      1.0

    Reference: Schumann et al., 2023 (BCWI), the choice of alpha on development data.
    """
    tried = np.unique(np.array([0.0, *alphas], np.float64))
    if tried[0] < 0 or tried[-1] > 1:
        raise WspaceError(f"search_alpha: alphas go from {tried[0]} to {tried[-1]}, but a share is from 0 to 1")
    scores = np.array([float(score(by(float(a))(old, new, **sides))) for a in tried])
    return AlphaSearch(float(tried[scores >= scores[0]].max(initial=0.0)), tried, scores)
