"""Learned soup: the weights of a soup by gradient on held-out data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from wspace.average.uniform_soup import uniform_soup
from wspace.core.errors import ShapeError
from wspace.core.learn import Learned, by_leaf, descend, spread
from wspace.core.transform import Transform
from wspace.core.typing import Array, Progress, Tree

ADAMW = optax.adamw(0.1)  # the paper's optimizer and rate


def learned_soup(
    loss: Callable[[Tree, Any, Array], Array],
    trees: Sequence[Tree],
    batches: Tree,
    optimizer: optax.GradientTransformation = ADAMW,
    *,
    scope: Literal["leaf", "tree"] = "tree",
    steps: int | None = None,
    progress: Progress | None = None,
) -> Learned:
    """The mean of n models with the weights, and the sharpness of the predictions, that a loss is least for.

        alpha, beta = argmin sum_j loss(beta f(x_j; sum_k alpha_k theta_k), y_j),   alpha = softmax(a)

    Args:
      loss: (params, batch, beta) -> scalar, traceable, on labelled held-out examples; beta multiplies the logits:
        `lambda p, b, beta: cross_entropy(beta * apply(p, b["x"]), b["y"])`. It may leave beta out of use.
      trees: n models of one structure, fine-tunes of one start, in memory. They begin as the uniform soup, beta at 1.
      batches: a tree stacked on a first axis; step i takes batch i modulo its length.
      optimizer: of a and beta.
      scope: "tree" has one set of weights, "leaf" one for every leaf (learned by layer; a leaf of stacked layers has
        one). Static. steps: default one pass over the batches; the paper makes three. Static.
      progress: called as (steps done, steps, the loss in words).
    Returns:
      Learned: the soup; values {"weights": alpha [n], or a tree of them, "beta": scalar}.
    Raises:
      ShapeError: no trees, the loss is no scalar, or another word for scope. TreeMismatch: trees differ in structure.
    Example:
      >>> a, b = {"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([0.0, 1.0])}
      >>> loss = lambda p, x, beta: jnp.sum((p["w"] - x) ** 2)
      >>> found = learned_soup(loss, [a, b], jnp.array([[0.25, 0.75]]), steps=200)
      >>> found.values["weights"].round(2)
      Array([0.25, 0.75], dtype=float32)

    Reference: Wortsman et al., 2022, "Model soups: averaging weights of multiple fine-tuned models improves accuracy
      without increasing inference time" (appendix, learned soup).
    Differs from the paper: none known (written from memory of the appendix).
    """
    if not trees or scope not in ("leaf", "tree"):
        raise ShapeError(f"learned_soup got {len(trees)} trees and scope={scope!r}; give trees, and 'leaf' or 'tree'")
    even = jnp.zeros((len(trees),), jnp.float32)
    start = {"weights": spread(even, trees[0]) if scope == "leaf" else even, "beta": jnp.ones((), jnp.float32)}
    objective = _Objective(loss, scope)
    found = descend(objective, start, tuple(trees), batches, optimizer, steps=steps, progress=progress)
    values = {**found.values, "weights": jax.tree.map(jax.nn.softmax, found.values["weights"])}
    return Learned(_cook(found.values["weights"], trees, scope), values, found.losses)


@dataclass(frozen=True)
class _Objective:
    """Equal if its parts are, so that a second soup with the same loss compiles nothing."""

    loss: Callable[[Tree, Any, Array], Array]
    scope: str

    def __call__(self, values: Any, trees: Sequence[Tree], batch: Any, key: Array) -> Array:
        return self.loss(_cook(values["weights"], trees, self.scope), batch, values["beta"])


def _cook(a: Tree, trees: Sequence[Tree], scope: str) -> Tree:
    """The soup of weights softmax(a)."""
    return by_leaf(_soup, jnp.zeros(1))(*trees, values=a) if scope == "leaf" else _soup(a)(*trees)


def _soup(a: Array) -> Transform:
    return uniform_soup(jax.nn.softmax(a))
