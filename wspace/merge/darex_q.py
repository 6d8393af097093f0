"""DAREx with a learned q: how much to rescale what is left of every layer, so that the answers stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from wspace.core.compose import on
from wspace.core.errors import WspaceError
from wspace.core.learn import Learned, by_leaf, descend, spread
from wspace.core.select import matrices
from wspace.core.transform import Transform
from wspace.core.typing import Array, Progress, Tree, Where
from wspace.merge.darex import darex

START = 1e-4  # |c| to begin with, as in the paper's code: q is then that of DARE
ADAMW = optax.adamw(1e-3)


def darex_q(
    loss: Callable[[Tree, Tree, Any], Array],
    base: Tree,
    tuned: Tree,
    batches: Tree,
    density: float,
    optimizer: optax.GradientTransformation = ADAMW,
    *,
    key: Array,
    where: Where = matrices,
    steps: int | None = None,
    progress: Progress | None = None,
) -> Learned:
    """Drop most of a task vector, and learn for every matrix what to divide the rest by.

        theta = base + m d / q,   d = tuned - base,   m_i ~ Bernoulli(density),   q = |c| + density
        c = argmin mean_x sum_{j among the 5 largest z(x; tuned)} (z_j(x; theta) - z_j(x; tuned))^2

    Args:
      loss: (params, tuned, batch) -> scalar, traceable: how far the answers of the pruned fine-tune are from those of
        the whole one; for the paper's, `lambda p, tuned, x: objectives.top_logits(apply(p, x), apply(tuned, x))`.
      base, tuned: one structure, in memory. density: probability of an entry to stay; the paper's drop rate is
        p = 1 - density. Traced. key: of the masks, the same at every step.
      batches: a tree stacked on a first axis; step i takes batch i modulo its length.
      where: the leaves to drop from, by default all matrices; the others keep the fine-tune's values.
      optimizer: of c; AdamW in the paper's code. steps: default one pass over the batches. Static.
      progress: called as (steps done, steps, the loss in words).
    Returns:
      Learned: the pruned fine-tune, and q, a tree like the base with None where nothing is dropped. The same with
      other masks: `on(where, by_leaf(lambda q: darex(density, q), 1.0))(tuned, base=, values=found.values, key=)`.
    Raises:
      WspaceError: a density out of range. SelectionError: where takes no leaf. ShapeError: the loss is no scalar.
    Example:
      >>> base, tuned, x = {"w": jnp.zeros((4, 1))}, {"w": jnp.ones((4, 1))}, jnp.ones((1, 4))
      >>> loss = lambda p, tuned, x: jnp.sum((x @ p["w"] - x @ tuned["w"]) ** 2)
      >>> found = darex_q(loss, base, tuned, x[None], 0.5, optax.sgd(0.01), key=jax.random.key(3), steps=300)
      >>> (x @ found.params["w"]).round(3), f"{found.values['w']:.3f}"  # 3 of 4 were kept
      (Array([[4.]], dtype=float32), '0.750')

    Reference: Deng et al., 2025, "DARE the Extreme: Revisiting Delta-Parameter Pruning For Fine-Tuned Models" (DAREx-q,
      learned for every layer; start and form of q as in its code).
    Differs from the paper: any loss and optimizer; no cosine schedule and no early stop, which an optax schedule and
      `steps` can be.
    """
    if not 0 < density <= 1:
        raise WspaceError(f"darex_q: density is {density}; it is a probability above 0, at most 1")
    fixed = (base, tuned, jnp.asarray(density, jnp.float32), key)
    start = spread(jnp.asarray(START, jnp.float32), base, where)
    found = descend(_Objective(loss, where), start, fixed, batches, optimizer, steps=steps, progress=progress)
    q = jax.tree.map(lambda c: jnp.abs(c) + fixed[2], found.values)
    return Learned(_pruned(q, fixed, where), q, found.losses)


@dataclass(frozen=True)
class _Objective:
    """Equal if its parts are, so that a second run with the same loss compiles nothing."""

    loss: Callable[[Tree, Tree, Any], Array]
    where: Where

    def __call__(self, c: Tree, fixed: Any, batch: Any, key: Array) -> Array:
        q = jax.tree.map(lambda x: jnp.abs(x) + fixed[2], c)
        return self.loss(_pruned(q, fixed, self.where), fixed[1], batch)


def _pruned(q: Tree, fixed: Any, where: Where) -> Tree:
    base, tuned, density, key = fixed

    def dropped(q: Array) -> Transform:
        return darex(density, q)

    return on(where, by_leaf(dropped, jnp.ones(())))(tuned, base=base, values=q, key=key)
