"""Averages of what models predict: Bayesian mixtures of probabilities, and aggregates of quantiles."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

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


def pinball(predictions: Array, targets: Array, levels: Array) -> Array:
    """The pinball loss of quantiles, summed over levels, mean over examples.

    Args:
      predictions: [n, levels]. targets: [n]. levels: [levels], each in 0..1.
    Raises:
      ShapeError: the shapes do not belong together.
    Example:
      >>> pinball(jnp.array([[1.0]]), jnp.array([3.0]), jnp.array([0.9])).round(4)
      Array(1.8, dtype=float32)

    Reference: Koenker, Bassett, 1978, "Regression Quantiles".
    """
    if predictions.shape != (*targets.shape, *levels.shape):
        raise ShapeError(
            f"pinball: predictions {predictions.shape}, targets {targets.shape}, levels {levels.shape}; "
            f"give [n, levels], [n] and [levels]"
        )
    above = targets[:, None] - predictions
    return jnp.mean(jnp.sum(jnp.maximum(levels[None] * above, (levels[None] - 1) * above), axis=-1))


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
