"""PQI: which weights' rounding changed the loss, by the integral of the gradient from the old weights to the new."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from wspace.core.containers import as_params, is_weight
from wspace.core.errors import SelectionError, WspaceError
from wspace.core.implicit import materialize
from wspace.core.transform import Transform
from wspace.core.typing import Array, Path, Tree
from wspace.quant.sparse import dense_and_sparse
from wspace.stats.quantile import check_fraction, largest_mask

Loss = Callable[[Tree, Any], Array]


def pqi(loss: Loss, params: Tree, quantized: Tree, batches: Iterable[Any], points: int = 32) -> Tree:
    """What the change of each weight did to the loss: its share of F(q) - F(w), with its sign.

        PQI_i = (q_i - w_i) mean_k d_i F(w + t_k (q - w)),   t_k = (k + 1/2) / points,   k = 0 .. points - 1

    The sum over all weights tends to F(q) - F(w), where the slope at w alone, or with a Hessian, is far from it.

    Args:
      loss: (params, batch) -> scalar, the mean over the batch. params, quantized: of the same leaves; Implicit ones are
        materialized. batches: of one size, else weigh them in the loss.
      points: midpoints of the path. Static.
    Returns:
      A tree like params of float leaves, the mean over batches; others are what params have. `score` of
      `dense_and_sparse` takes it as it is.
    Raises:
      SelectionError: no batches. WspaceError: points below 1.
    Example:
      >>> w, q = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([1.0, 3.0])}
      >>> pqi(lambda p, x: jnp.sum(p["w"] ** 2) * x, w, q, [1.0])["w"]
      Array([0., 5.], dtype=float32)

    Reference: Hu, Zhao, Chen, Zhu, 2025, "Identifying Sensitive Weights via Post-quantization Integral". Differs from
      the paper: the midpoint rule, whose sum is nearer than that of the right ends of the same intervals.
    """
    if points < 1:
        raise WspaceError(f"pqi takes the slope at one point at least, but got points={points}; 32 is usual")
    old, new = as_params(materialize(params)), as_params(materialize(quantized)).leaves
    start = {p: x for p, x in old.leaves.items() if is_weight(x)}
    change = {p: (new[p] - x).astype(x.dtype) for p, x in start.items()}
    total, count = jax.tree.map(jnp.zeros_like, start), 0

    def value(weights: dict[Path, Array], batch: Any) -> Array:
        return loss(old.rebuild({**old.leaves, **weights}), batch)

    run = jax.jit(partial(_integral, jax.grad(value), points))
    for batch in batches:
        total, count = jax.tree.map(jnp.add, total, run(start, change, batch)), count + 1
    if not count:
        raise SelectionError("pqi: no batches; give it one at least")
    return old.rebuild({**old.leaves, **jax.tree.map(lambda x: x / count, total)})


def _integral(slope: Any, points: int, start: Any, change: Any, batch: Any) -> Any:
    def add(k: Array, total: Any) -> Any:
        t = (k.astype(jnp.float32) + 0.5) / points
        here = jax.tree.map(lambda w, d: w + t.astype(w.dtype) * d, start, change)
        return jax.tree.map(jnp.add, total, slope(here, batch))

    total = jax.lax.fori_loop(0, points, add, jax.tree.map(jnp.zeros_like, start))
    return jax.tree.map(lambda g, d: g * d / points, total, change)


def requant(
    loss: Loss,
    params: Tree,
    then: Transform,
    batches: Iterable[Any],
    share: float = 0.01,
    rounds: int = 2,
    points: int = 32,
    **sides: Tree,
) -> Tree:
    """Give back full precision, step by step, to the weights whose rounding changed the loss most.

    Quantize; then, `rounds` times: integrate (`pqi`), keep the share / rounds of each matrix's entries with the largest
    |PQI| besides those that are kept already, and quantize the rest anew.

    Args:
      loss, params, points: as of `pqi`; all floating leaves must be ones that `then` takes.
      then: the quantizer. share: of each matrix's entries, in the end. rounds: steps. sides: side trees of `then`.
    Returns:
      The tree of nodes that `dense_and_sparse(share, then)` gives.
    Raises:
      WspaceError: rounds below 1. What `pqi` and `then` raise.
    Reference: as of `pqi`. Differs from the paper: every matrix has the same share (the paper spreads a budget by the
      layers' integrals, and takes out some of the largest weights first; its algorithms were not at hand).
    """
    if rounds < 1:
        raise WspaceError(f"requant takes at least one round, but got rounds={rounds}; 2 is usual")
    check_fraction(share)
    every = list(batches)
    taken = as_params(materialize(params))
    now = then(params, **sides)
    kept: dict[Path, Array] = {}
    for k in range(1, rounds + 1):
        found = as_params(pqi(loss, params, now, every, points)).leaves
        part = share * k / rounds
        for path, x in taken.leaves.items():
            if is_weight(x):
                score = jnp.where(kept.get(path, False), jnp.inf, jnp.abs(found[path]))
                kept[path] = largest_mask(score, round(part * score.size))
        marks = {path: mask.astype(jnp.float32) for path, mask in kept.items()}
        now = dense_and_sparse(part, then)(params, score=taken.rebuild({**taken.leaves, **marks}), **sides)
    return now
