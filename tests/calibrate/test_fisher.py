"""Without it Fisher information and mean gradients could be off by a square, a sum or a batch size."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from tests.calibrate.truths import close, normal

X, W = normal(1, 12, 3), normal(2, 3)
Y = (normal(3, 12) > 0).astype(jnp.float32)


def logits(p: Any, batch: Any) -> Any:
    return batch[0] @ p["w"]


def logistic(z: Any, batch: Any) -> Any:
    """-log p(y | x), a mean over the batch."""
    return (jax.nn.softplus(z) - batch[1] * z).mean()


def chance() -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(X, np.float64) @ np.asarray(W, np.float64)))


@pytest.mark.parametrize("chunk", [1, 5, 8, 64])
def test_empirical_fisher_of_logistic_regression(chunk: int) -> None:
    """The gradient of one example is (p - y) x."""
    found = ws.calibrate(
        logits, {"w": W}, [(X[:7], Y[:7]), (X[7:], Y[7:])], {"fisher": ws.stats.fisher(logistic, chunk=chunk)}
    )
    want = ((chance() - np.asarray(Y))[:, None] * np.asarray(X, np.float64)) ** 2
    close(found["fisher"], {"w": want.mean(0)})


def test_sampled_fisher_of_logistic_regression() -> None:
    """In expectation over y ~ p(y | x): mean of p (1 - p) x². The bound is five standard errors of the draws."""

    def sample(key: Any, z: Any) -> Any:
        return None, jax.random.bernoulli(key, jax.nn.sigmoid(z)).astype(jnp.float32)

    fisher = ws.stats.fisher(logistic, sample=sample, chunk=4000)
    many = (jnp.tile(X, (2000, 1)), jnp.zeros(24000))
    found = ws.calibrate(logits, {"w": W}, [many], {"fisher": fisher}, key=jax.random.key(0))
    p, x = chance()[:, None], np.asarray(X, np.float64)
    variance = (p * (1 - p) ** 4 + (1 - p) * p**4 - (p * (1 - p)) ** 2) * x**4
    spread = np.sqrt(variance.sum(0) / 2000) / 12
    np.testing.assert_array_less(np.abs(found["fisher"]["w"] - (p * (1 - p) * x**2).mean(0)), 5 * spread + 1e-5)
    again = ws.calibrate(logits, {"w": W}, [many], {"fisher": fisher}, key=jax.random.key(0))
    np.testing.assert_array_equal(found["fisher"]["w"], again["fisher"]["w"])
    other = ws.calibrate(logits, {"w": W}, [many], {"fisher": fisher}, key=jax.random.key(1))
    assert (np.asarray(found["fisher"]["w"]) != np.asarray(other["fisher"]["w"])).all()


def test_examples_of_weight_zero_do_not_count() -> None:
    weights = jnp.array([1.0, 0, 2, 0, 0, 1, 1, 1, 0, 1, 1, 1])
    found = ws.calibrate(
        logits, {"w": W}, [(X, Y)], {"fisher": ws.stats.fisher(logistic)}, weights=lambda batch: weights
    )
    each = ((chance() - np.asarray(Y))[:, None] * np.asarray(X, np.float64)) ** 2
    close(found["fisher"], {"w": np.average(each, 0, weights)})


def test_mean_gradient_over_batches_of_unequal_size() -> None:
    batches = [(X[:2], Y[:2]), (X[2:], Y[2:])]
    found = ws.calibrate(logits, {"w": W}, batches, {"grad": ws.stats.grad(logistic), "mean": ws.stats.mean()})
    want = ((chance() - np.asarray(Y))[:, None] * np.asarray(X, np.float64)).mean(0)
    close(found["grad"], {"w": want})


def test_every_floating_leaf_has_an_entry_and_counters_none() -> None:
    def apply(p: Any, batch: Any) -> Any:
        return batch[0] @ p["kernel"] + p["bias"][None] * (p["steps"] > 0).astype(jnp.float32)

    params = {
        "kernel": normal(4, 3, 2).astype(jnp.bfloat16).astype(jnp.float32),
        "bias": jnp.zeros(2),
        "steps": jnp.int32(3),
    }
    found = ws.calibrate(apply, params, [(X, Y)], {"fisher": ws.stats.fisher(lambda z, batch: z.sum())})
    want = {"kernel": np.stack([(np.asarray(X, np.float64) ** 2).mean(0)] * 2, 1), "bias": np.ones(2)}
    close(found["fisher"], want)
    assert found["fisher"]["steps"] is None
