"""AdaMerging: how much of every task vector to add, learned from what the merged model is undecided about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from wspace.core.errors import ShapeError
from wspace.core.learn import Learned, Loss, Make, by_leaf, learn, spread
from wspace.core.transform import Transform
from wspace.core.typing import Array, Progress, Tree
from wspace.merge.task_arithmetic import task_arithmetic

ADAM = optax.adam(1e-3)  # that of the paper's code


def adamerging(
    loss: Loss,
    base: Tree,
    trees: Sequence[Tree],
    batches: Tree,
    optimizer: optax.GradientTransformation = ADAM,
    *,
    scope: Literal["leaf", "tree"] = "leaf",
    start: float = 0.3,
    steps: int = 500,
    progress: Progress | None = None,
) -> Learned:
    """Task arithmetic with coefficients that minimize a loss without labels, one for each task and layer.

        theta^l = base^l + sum_k lambda_k^l (theta_k^l - base^l),   lambda in 0..1
        lambda = argmin sum_k mean_{x of task k} H(f(x; theta))                               (H: `objectives.entropy`)

    Args:
      loss: (params, batch) -> scalar, traceable; for the paper's, the sum over tasks of the entropies on unlabelled
        test examples, each with its task's head: `lambda p, x: entropy(apply(p, x))` with one head.
      base, trees: the pretrained model and its n fine-tunes, in memory.
      batches: a tree stacked on a first axis; step i takes batch i modulo its length. The paper: 16 examples a task.
      optimizer: of the coefficients. start: of each coefficient.
      scope: "leaf" has coefficients for every leaf (layer-wise AdaMerging, a leaf of stacked layers has one set),
        "tree" for all leaves together (task-wise). Static. steps: 500 in the paper. Static.
      progress: called as (steps done, steps, the loss in words).
    Returns:
      Learned: the merged model, and the coefficients [n], in a tree like the base with scope "leaf". The same merge of
      checkpoints of any size: `stream(by_leaf(task_arithmetic, jnp.zeros(n)), sources, sink, base=...,
      values=found.values)`.
    Raises:
      ShapeError: no trees, the loss is no scalar, or another word for scope. TreeMismatch: trees differ in structure.
    Example:
      >>> base, a, b = {"w": jnp.zeros(2)}, {"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([0.0, 1.0])}
      >>> loss = lambda p, x: jnp.sum((p["w"] - x) ** 2)
      >>> found = adamerging(loss, base, [a, b], jnp.array([[0.5, 7.0]]), optax.sgd(0.2), scope="tree", steps=30)
      >>> found.values.round(4)  # a coefficient stays in 0..1
      Array([0.5, 1. ], dtype=float32)

    Reference: Yang, Wang, Shen, Liu, Guo, Wang, Tao, 2024, "AdaMerging: Adaptive Model Merging for Multi-Task Learning"
      (limits, start, optimizer as in its code).
    Differs from the paper: any loss. AdaMerging++ is this on fine-tunes whose task vectors TIES has trimmed before, and
      whose entries against the elected sign were set to the base's.
    """
    if not trees or scope not in ("leaf", "tree"):
        raise ShapeError(f"adamerging got {len(trees)} trees and scope={scope!r}; give trees, and 'leaf' or 'tree'")
    first = jnp.full((len(trees),), start, jnp.float32)
    make: Make = _layer_wise if scope == "leaf" else _limited
    values = spread(first, base) if scope == "leaf" else first
    found = learn(make, values, loss, trees, batches, optimizer, steps=steps, progress=progress, base=base)
    return found._replace(values=jax.tree.map(_limits, found.values))


def _limits(coefficients: Array) -> Array:
    return jnp.clip(coefficients, 0, 1)


def _limited(coefficients: Array) -> Transform:
    return task_arithmetic(_limits(coefficients))


def _layer_wise(values: Tree) -> Callable[..., Tree]:
    t = by_leaf(_limited, jnp.zeros(1), "adamerging")
    return lambda *trees, **sides: t(*trees, values=values, **sides)
