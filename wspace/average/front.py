"""Rewarded soups: one model for each preference among several rewards, and the front that they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from wspace.average.uniform_soup import uniform_soup
from wspace.core.errors import NonFinite, ShapeError
from wspace.core.typing import Array, Tree


class Front(NamedTuple):
    """lambdas: [n, models], the weights tried. points: [n, rewards], what the soups scored. efficient: bool [n],
    whether no other point is better."""

    lambdas: np.ndarray[Any, Any]
    points: np.ndarray[Any, Any]
    efficient: np.ndarray[Any, Any]


def soup_front(
    trees: Sequence[Tree], lambdas: Sequence[Sequence[float]] | Array, rewards: Callable[[Tree], Sequence[Any] | Array]
) -> Front:
    """The rewards of the soups `sum_k lambda_k theta_k` of experts, one for each vector of weights.

    Args:
      trees: fine-tunes of one start, one for each reward. Adapters (LoRA) have to be materialized first: the mean of
        factors is not the factors of the mean.
      lambdas: [n, models]; only ratios matter. A vertex, such as (0, 1), is that expert.
      rewards: params -> [rewards] numbers, larger is better.
    Raises:
      ShapeError: lambdas do not have a column for each tree.
    Example:
      >>> import jax.numpy as jnp
      >>> a, b = {"w": jnp.float32(0.0)}, {"w": jnp.float32(1.0)}
      >>> front = soup_front([a, b], [(1, 0), (1, 1), (0, 1)], lambda p: [2 - p["w"] ** 2, p["w"] + 1])
      >>> front.points.tolist(), front.efficient.tolist()
      ([[2.0, 1.0], [1.75, 1.5], [1.0, 2.0]], [True, True, True])

    Reference: Rame et al., 2023, "Rewarded soups: towards Pareto-optimal alignment by interpolating weights fine-tuned
      on diverse rewards".
    """
    table = np.asarray(lambdas, np.float64)
    if table.ndim != 2 or table.shape[1] != len(trees):
        raise ShapeError(f"soup_front: lambdas have shape {table.shape}, but {len(trees)} trees need [n, {len(trees)}]")
    scored = [rewards(uniform_soup(row)(*trees)) for row in table.astype(np.float32)]
    points = np.array([[float(x) for x in each] for each in scored])
    return Front(table, points, pareto_mask(points))


def choose_lambda(front: Front, preference: Sequence[float] | Array) -> np.ndarray[Any, Any]:
    """The weights on a front with the largest `sum_j preference_j reward_j`, the first of equal ones.

    Args:
      front: soups with a reward that is NaN are never chosen. preference: [rewards].
    Raises:
      ShapeError: not one number for each reward. NonFinite: no soup has numbers for all rewards.
    Example:
      >>> choose_lambda(Front(np.eye(2), np.array([[1.0, 0.0], [0.0, 3.0]]), np.array([True, True])), (0.7, 0.3))
      array([0., 1.])
    """
    wanted = np.asarray(preference, np.float64)
    if wanted.shape != front.points.shape[1:]:
        raise ShapeError(f"choose_lambda: preference {wanted.shape} for {front.points.shape[1]} rewards; give one each")
    known = ~np.isnan(front.points).any(1)
    if not known.any():
        raise NonFinite(f"choose_lambda: none of {len(front.points)} soups has numbers for all rewards; check them")
    return front.lambdas[int(np.argmax(np.where(known, front.points @ wanted, -np.inf)))]


def pareto_mask(points: Any) -> np.ndarray[Any, Any]:
    """Which points [n, rewards] no other point beats: as good in all rewards and better in one. Larger is better.

    A point with a NaN is none of them.

    Example:
      >>> pareto_mask([[1, 3], [2, 2], [1, 2], [2, 2]]).tolist()
      [True, True, False, True]
    """
    p = np.asarray(points, np.float64)
    beaten = [((p >= x).all(1) & (p > x).any(1)).any() for x in p]
    return np.array([not bad and not np.isnan(x).any() for bad, x in zip(beaten, p, strict=True)], bool)


def hypervolume(points: Any, reference: Sequence[float]) -> float:
    """The volume between a reference point and the points that are better than it in all rewards.

    By slices along the last reward: exact, and quick for few rewards.

    Args:
      points: [n, rewards]. reference: [rewards], such as the start's. Larger is better.
    Raises:
      ShapeError: the reference has another number of rewards.
    Example:
      >>> hypervolume([[1, 3], [2, 2], [3, 1]], (0, 0))
      6.0

    Reference: Zitzler, Thiele, 1999, "Multiobjective evolutionary algorithms".
    """
    p, low = np.asarray(points, np.float64), np.asarray(reference, np.float64)
    if p.ndim != 2 or low.shape != p.shape[1:]:
        raise ShapeError(f"hypervolume: points {p.shape}, reference {low.shape}; give [n, rewards] and [rewards]")
    return _volume((p - low[None])[(p > low[None]).all(1)])


def _volume(p: np.ndarray[Any, Any]) -> float:
    """Of the union of the boxes from 0 to the points."""
    if len(p) == 0:
        return 0.0
    if p.shape[1] == 1:
        return float(p.max())
    heights = np.unique(p[:, -1])
    steps = np.diff(heights, prepend=0.0)
    return float(sum(step * _volume(p[p[:, -1] >= h, :-1]) for h, step in zip(heights, steps, strict=True)))
