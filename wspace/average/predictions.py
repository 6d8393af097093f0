"""Averages of what models predict: Bayesian mixtures of probabilities, and aggregates of quantiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wspace.core.errors import ShapeError
from wspace.core.typing import Array


class Mixture(NamedTuple):
    """log_prob: [n], of each outcome before it was seen. log_posterior: [models], after all of them."""

    log_prob: Array
    log_posterior: Array


def bayes_mixture(log_probs: Array, log_prior: Array | None = None) -> Mixture:
    """Predict a sequence by a mixture of models, each weighed by how well it predicted what came before.

        p(y_t | past) = sum_k pi_k p_k(y_t),   pi_k = prior_k exp(sum_{s<t} log p_k(y_s)) / normalizer

    Args:
      log_probs: [n, models], log of what each model gave each outcome. log_prior: [models]; default uniform.
    Returns:
      Mixture. Its total log loss is at most that of the best model - log prior of that model (log models if uniform).
    Raises:
      ShapeError: the shapes do not belong together.
    Example:
      >>> out = bayes_mixture(jnp.log(jnp.array([[0.5, 0.25], [0.5, 0.25]])))
      >>> [f"{p:.3f}" for p in jnp.exp(out.log_posterior)]
      ['0.800', '0.200']

    Reference: "The Universality Lens: Why Even Highly Over-Parametrized Models Learn Well" (the mixture predictor).
    """
    models = log_probs.shape[-1]
    prior = jnp.full((models,), -jnp.log(models), log_probs.dtype) if log_prior is None else jnp.asarray(log_prior)
    if log_probs.ndim != 2 or prior.shape != (models,):
        raise ShapeError(f"bayes_mixture: log_probs {log_probs.shape}, prior {prior.shape}; give [n, models], [models]")
    prior = jax.nn.log_softmax(prior)
    joint = prior[None] + jnp.cumsum(log_probs, axis=0)
    evidence = jax.nn.logsumexp(joint, axis=1)
    before = jnp.concatenate([jnp.zeros_like(evidence[:1]), evidence[:-1]])
    return Mixture(evidence - before, joint[-1] - evidence[-1])


def quantile_aggregate(predictions: Array, logits: Array, increasing: bool = True) -> Array:
    """The weighted mean of the quantiles that several models predict, weights by softmax over the models.

        g_t(x) = sum_j w_j,t(x) q_j,t(x)

    Args:
      predictions: [n, models, levels]. logits: one of [models] (coarse), [models, levels] (medium), [n, models, levels]
        (local, such as a network's output).
      increasing: sort the result over the levels, which never makes the summed pinball loss larger. Static.
    Returns:
      [n, levels].
    Raises:
      ShapeError: logits have another shape.
    Example:
      >>> quantile_aggregate(jnp.array([[[3.0, 2.0], [5.0, 4.0]]]), jnp.zeros(2))
      Array([[3., 4.]], dtype=float32)

    Reference: Fakoor, Kim, Mueller, Smola, Tibshirani, 2023, "Flexible Model Aggregation for Quantile Regression".
    """
    shapes = {1: predictions.shape[1:2], 2: predictions.shape[1:], 3: predictions.shape}
    if predictions.ndim != 3 or shapes.get(logits.ndim) != logits.shape:
        raise ShapeError(
            f"quantile_aggregate: predictions {predictions.shape}, logits {logits.shape}; give [n, models, levels] and "
            f"[models], [models, levels] or [n, models, levels]"
        )
    full = logits[:, None] if logits.ndim == 1 else logits
    weights = jax.nn.softmax(full if full.ndim == 3 else full[None], axis=1)
    mean = jnp.sum(weights * predictions, axis=1)
    return jnp.sort(mean, axis=-1) if increasing else mean


def conformal_shift(lower: Array, upper: Array, targets: Array, coverage: Array | float) -> Array:
    """How much to widen an interval on both sides so that it covers: [lower - s, upper + s].

    Args:
      lower, upper, targets: [n], held-out. coverage: 0..1. Traced.
    Returns:
      scalar s: the ceil((n + 1) coverage)-th smallest of max(lower - y, y - upper); infinity if n is too small.
    Example:
      >>> y = jnp.arange(9.0)
      >>> conformal_shift(jnp.zeros(9), jnp.zeros(9), y, 0.8)
      Array(7., dtype=float32)

    Reference: Romano, Patterson, Candes, 2019, "Conformalized Quantile Regression".
    """
    scores = jnp.sort(jnp.maximum(lower - targets, targets - upper))
    n = scores.shape[0]
    rank = jnp.ceil(jnp.asarray(coverage, scores.dtype) * (n + 1) * (1 - 1e-6)).astype(jnp.int32)
    return jnp.where(rank > n, jnp.inf, scores[jnp.clip(rank - 1, 0, n - 1)])


def conformalize(predictions: Array, held_out: Array, targets: Array, levels: Sequence[float]) -> Array:
    """Move predicted quantiles outwards, level and opposite level together, until their intervals cover as they say.

        q_t <- q_t - s_t,   q_{1-t} <- q_{1-t} + s_t,   s_t = conformal_shift of [q_t, q_{1-t}] at coverage 1 - 2 t

    Args:
      predictions: [n, levels], to correct. held_out: [m, levels], of the same model on examples it was not fitted to.
      targets: [m], of those. levels: ascending and symmetric around one half, such as (0.1, 0.5, 0.9). Static.
    Returns:
      [n, levels]; a middle level stays. The order of levels may be lost where a shift is negative: sort again.
    Raises:
      ShapeError: the shapes do not belong together, or the levels are not symmetric.
    Example:
      >>> y = jnp.arange(9.0)
      >>> conformalize(jnp.zeros((1, 3)), jnp.zeros((9, 3)), y, (0.1, 0.5, 0.9))
      Array([[-7.,  0.,  7.]], dtype=float32)

    Reference: Romano, Patterson, Candes, 2019, "Conformalized Quantile Regression", as Fakoor et al., 2023 use it for
      aggregates.
    """
    known = np.asarray(levels, np.float64)
    half = len(known) // 2
    if known.ndim != 1 or np.abs(known + known[::-1] - 1).max(initial=0) > 1e-6 or (np.diff(known) <= 0).any():
        raise ShapeError(f"conformalize: levels {known.tolist()} are not ascending and symmetric around 0.5")
    if predictions.shape[1:] != known.shape or held_out.shape != (*targets.shape, *known.shape):
        raise ShapeError(
            f"conformalize: predictions {predictions.shape}, held_out {held_out.shape}, targets {targets.shape} for "
            f"{len(known)} levels; give [n, levels], [m, levels] and [m]"
        )
    upper = held_out[:, ::-1]
    shift = jax.vmap(conformal_shift, in_axes=(1, 1, None, 0))(
        held_out[:, :half], upper[:, :half], targets, jnp.asarray(1 - 2 * known[:half], jnp.float32)
    )
    middle = jnp.zeros((len(known) - 2 * half,), shift.dtype)
    return predictions + jnp.concatenate([-shift, middle, shift[::-1]])[None]


@jax.jit
def isotonic(predictions: Array) -> Array:
    """The nearest ascending sequence: where quantiles cross they are replaced by the mean of those that do.

        g = argmin_{g_1 <= g_2 <= ...} sum_t (g_t - q_t)^2,   g_t = max_{i <= t} min_{j >= t} mean(q_i .. q_j)

    Args:
      predictions: [..., levels], up to a few hundred levels: the memory is that of [..., levels, levels]. Traced.
    Returns:
      the same shape, ascending along the last axis; ascending predictions stay (to rounding).
    Example:
      >>> isotonic(jnp.array([1.0, 3.0, 2.0, 4.0]))
      Array([1. , 2.5, 2.5, 4. ], dtype=float32)

    Reference: Ayer, Brunk, Ewing, Reid, Silverman, 1955, "An empirical distribution function for sampling with
      incomplete information"; Robertson, Wright, Dykstra, 1988, "Order Restricted Statistical Inference" (the formula).
    Differs from the paper: all means at once instead of pooling neighbors (PAVA); the result is the same.
    """
    n = predictions.shape[-1]
    sums = jnp.concatenate([jnp.zeros_like(predictions[..., :1]), jnp.cumsum(predictions, axis=-1)], axis=-1)
    place = jnp.arange(n)
    count = jnp.broadcast_to(place[None, :] - place[:, None] + 1, (*predictions.shape, n))  # of i .. j
    mean = (sums[..., None, 1:] - sums[..., :-1, None]) / jnp.maximum(count, 1).astype(predictions.dtype)
    least = jax.lax.cummin(jnp.where(count > 0, mean, jnp.inf), axis=mean.ndim - 1, reverse=True)  # over j >= t
    return jnp.max(jnp.where(count > 0, least, -jnp.inf), axis=-2)  # over i <= t
