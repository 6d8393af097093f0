"""DiWA's restricted selection (the greedy soup), and what tells whether members are worth averaging."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp

from wspace.average.uniform_soup import uniform_soup
from wspace.core.containers import as_params, is_weight
from wspace.core.errors import NonFinite, ShapeError
from wspace.core.implicit import dense
from wspace.core.typing import Array, Tree


class GreedySoup(NamedTuple):
    """params: the mean of the trees kept. kept: their places, best first. score: that of params."""

    params: Tree
    kept: tuple[int, ...]
    score: float


def greedy_soup(
    trees: Sequence[Tree], score: Callable[[Tree], Array | float], scores: Sequence[float] | None = None
) -> GreedySoup:
    """Average models one by one, best first, keeping those with which the mean scores no worse.

    Args:
      trees: fine-tunes of one start. score: params -> a number, larger is better, on held-out data; NaN is worst.
      scores: [n], score of each tree alone, if known.
    Returns:
      GreedySoup; its score is never below the best single one. Of equal scores, the earlier tree goes first.
    Raises:
      ShapeError: no trees, or not a score for each. NonFinite: no tree's score is a number.
    Example:
      >>> trees = [{"w": jnp.float32(x)} for x in (0.0, 3.0, 9.0)]
      >>> soup = greedy_soup(trees, lambda p: -abs(p["w"] - 2.0))
      >>> soup.kept, soup.params["w"]
      ((1, 0), Array(1.5, dtype=float32))

    Reference: Wortsman et al., 2022, "Model soups"; Rame et al., 2022, "Diverse Weight Averaging for
      Out-of-Distribution Generalization" (DiWA, restricted selection; its uniform one is `uniform_soup`).
    """
    single = [_number(score(tree)) for tree in trees] if scores is None else [_number(s) for s in scores]
    if not trees or len(single) != len(trees):
        raise ShapeError(f"greedy_soup got {len(trees)} trees and {len(single)} scores; give a score for each tree")
    if max(single) == -math.inf:
        raise NonFinite(f"greedy_soup: none of {len(trees)} trees has a score that is a number; check what scores them")
    first, *others = sorted(range(len(trees)), key=lambda i: -single[i])
    best = GreedySoup(trees[first], (first,), single[first])
    for i in others:
        kept = (*best.kept, i)
        params = uniform_soup()(*[trees[j] for j in kept])
        value = _number(score(params))
        if value >= best.score:
            best = GreedySoup(params, kept, value)
    return best


def _number(score: Array | float) -> float:
    """A model that has diverged has a score below all others."""
    value = float(score)
    return -math.inf if math.isnan(value) else value


def error_diversity(predictions: Array, labels: Array) -> Array:
    """How often two members err differently for each time that they err alike: larger, more diverse.

        ratio(a, b) = #{both wrong, or one of them, and not the same answer} / #{both wrong with the same answer}

    Args:
      predictions: int [m, n], classes that m members give n examples. labels: int [n].
    Returns:
      float32 [m, m]; infinity where two never make the same error but some, NaN where neither errs; the diagonal is 0
      (or NaN).
    Raises:
      ShapeError: the shapes do not belong together.
    Example:
      >>> error_diversity(jnp.array([[1, 1, 0], [1, 0, 2]]), jnp.array([0, 0, 0]))[0, 1]
      Array(2., dtype=float32)

    Reference: Aksela, 2003, "Comparison of Classifier Selection Methods for Improving Committee Performance" (the ratio
      error), the measure that DiWA plots gains against.
    """
    if predictions.ndim != 2 or predictions.shape[1:] != labels.shape:
        raise ShapeError(
            f"error_diversity: predictions {predictions.shape}, labels {labels.shape}; give [m, n] and [n]"
        )
    wrong = predictions != labels[None]
    some = wrong[:, None] | wrong[None]
    alike = wrong[:, None] & wrong[None] & (predictions[:, None] == predictions[None])
    return jnp.sum(some & ~alike, -1, dtype=jnp.float32) / jnp.sum(alike, -1, dtype=jnp.float32)


class Bvcl(NamedTuple):
    """Squared bias, variance, covariance of the members' predictions, and the locality of their weights; scalars.

    error: that of the mean prediction, `bias + variance / m + (m - 1) / m covariance` to rounding.
    """

    bias: Array
    variance: Array
    covariance: Array
    locality: Array
    error: Array


def bvcl(predictions: Array, targets: Array, trees: Sequence[Tree] = ()) -> Bvcl:
    """What the error of an average of m members is made of: bias, variance, covariance, locality.

        E |mean_m f_m - y|^2 = bias + variance / m + (m - 1) / m covariance
        locality = max_m |theta_m - mean theta|^2: the mean of weights has this error up to O(locality)

    Args:
      predictions: [runs, m, n, c], of m members on n examples in several runs: the expectation is over runs. All
        members of one kind trained with other seeds. targets: [n, c], such as one-hot labels.
      trees: the members' parameters in one run; without them locality is 0.
    Returns:
      Bvcl of float32 scalars; sums over c, means over n.
    Raises:
      ShapeError: the shapes do not belong together.
    Example:
      >>> parts = bvcl(jnp.array([1.0, 3.0, 3.0, 1.0]).reshape(2, 2, 1, 1), jnp.array([[0.0]]))
      >>> [float(x) for x in parts]
      [4.0, 1.0, -1.0, 0.0, 4.0]

    Reference: Rame et al., 2022 (DiWA), after Ueda, Nakano, 1996, "Generalization error of ensemble estimators".
    Differs from the paper: expectations are means over the given runs, so the sum is the error exactly.
    """
    if predictions.ndim != 4 or predictions.shape[2:] != targets.shape:
        raise ShapeError(
            f"bvcl: predictions {predictions.shape}, targets {targets.shape}; give [runs, m, n, c] and [n, c]"
        )
    m = predictions.shape[1]
    center = jnp.mean(predictions, axis=0)
    away = predictions - center[None]
    variance = jnp.mean(jnp.sum(away**2, axis=-1))
    of_mean = jnp.mean(jnp.sum(jnp.mean(away, axis=1) ** 2, axis=-1))  # variance / m + (m - 1) / m covariance
    covariance = (m * of_mean - variance) / max(m - 1, 1)
    bias = jnp.mean(jnp.sum((jnp.mean(center, axis=0) - targets) ** 2, axis=-1))
    error = jnp.mean(jnp.sum((jnp.mean(predictions, axis=1) - targets[None]) ** 2, axis=-1))
    return Bvcl(bias, variance, covariance, _locality(trees), error)


def _locality(trees: Sequence[Tree]) -> Array:
    """The largest squared distance of a tree from the mean of them, a float32 scalar."""
    if not trees:
        return jnp.zeros((), jnp.float32)
    flat = [[dense(x).astype(jnp.float32) for x in as_params(t).leaves.values() if is_weight(x)] for t in trees]
    center = [sum(leaves[1:], leaves[0]) / len(trees) for leaves in zip(*flat, strict=True)]
    squares = [sum(jnp.sum((x - c) ** 2) for x, c in zip(leaves, center, strict=True)) for leaves in flat]
    return jnp.max(jnp.stack(squares))
