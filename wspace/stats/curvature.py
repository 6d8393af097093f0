"""Curvature of a loss: traces of the Hessian, block by block, without the Hessian."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from wspace.core.containers import as_params, is_weight, show
from wspace.core.typing import Array, Tree


def hessian_trace(loss: Callable[[Tree], Array], params: Tree, *, key: Array, samples: int = 32) -> dict[str, Array]:
    """The trace of each leaf's block of the Hessian, by Hutchinson's estimator.

        trace(H_l) ~ mean_v v_l . (H v)_l,   entries of v are -1 or 1

    Args:
      loss: params -> scalar, twice differentiable. params: floating leaves count. key: typed. samples: how many v.
    Returns:
      leaf -> float32 scalar. The error falls as 1 / sqrt(samples); it is zero where the Hessian is diagonal.
    Example:
      >>> found = hessian_trace(lambda p: jnp.sum(p["w"] ** 2 * jnp.array([1.0, 2.0])), {"w": jnp.ones(2)},
      ...                       key=jax.random.key(0), samples=1)
      >>> found["w"]
      Array(6., dtype=float32)

    Reference: Hutchinson, 1989, "A Stochastic Estimator of the Trace of the Influence Matrix for Laplacian Smoothing
      Splines".
    """
    flat = as_params(params)
    weights = {p: jnp.asarray(x) for p, x in flat.leaves.items() if is_weight(x)}

    def of(weights: dict[Any, Array]) -> Array:
        return loss(flat.rebuild({**flat.leaves, **weights}))

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0))
    def one(weights: dict[Any, Array], key: Array) -> dict[Any, Array]:
        keys = dict(zip(weights, jax.random.split(key, len(weights)), strict=True))
        v = {p: jax.random.rademacher(keys[p], x.shape, x.dtype) for p, x in weights.items()}
        _, curved = jax.jvp(jax.grad(of), (weights,), (v,))
        return {p: jnp.sum(v[p] * curved[p]) for p in weights}

    found = one(weights, jax.random.split(key, samples))
    return {show(p): jnp.mean(x).astype(jnp.float32) for p, x in found.items()}
