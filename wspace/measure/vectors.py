"""How the task vectors of several fine-tunes lie to each other: their angles, and how far they undo one another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from wspace.core.align import align
from wspace.core.compose import keep
from wspace.core.containers import as_params
from wspace.core.errors import ShapeError
from wspace.core.plan import is_lazy
from wspace.core.transform import working
from wspace.core.typing import Array, Leaf, Tree


def cosines(models: Sequence[Tree], base: Tree) -> np.ndarray:
    """The cosine of every two task vectors, taken over the whole tree.

        C_ij = <d_i, d_j> / (|d_i| |d_j|),   d_i = theta_i - base

    Args:
      models: n fine-tunes of the base, trees of one structure or checkpoints, read a leaf at a time.
      base: the model they come from.
    Returns:
      float64 [n, n]; NaN for a model that is the base.
    Raises:
      TreeMismatch: structures or shapes differ. ShapeError: no model.
    Example:
      >>> base, a, b = ({"w": jnp.array(w)} for w in ([1.0, 1.0], [2.0, 1.0], [2.0, 2.0]))
      >>> cosines([a, b], base).round(3).tolist()
      [[1.0, 0.707], [0.707, 1.0]]

    Reference: Ilharco et al., 2023, "Editing Models with Task Arithmetic" (its figure of cosines between task vectors).
    """
    gram = sum(np.asarray(_products(*leaves), np.float64) for _, leaves in _each(models, base))
    lengths = np.sqrt(np.diagonal(gram))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(gram / (lengths[:, None] * lengths[None]))


def interference(models: Sequence[Tree], base: Tree) -> dict[str, np.ndarray]:
    """Per leaf, the share of two task vectors' movement that is lost when they are added.

        I_ij = 1 - |d_i + d_j|_1 / (|d_i|_1 + |d_j|_1),   d_i = theta_i - base

    0 if they never disagree in sign (or one of them does not move), 1 if they cancel out; two independent normal
    vectors of one length have 1 - 1/sqrt(2) = 0.29.

    Args:
      models, base: as for `cosines`.
    Returns:
      path -> float64 [n, n], 0 on the diagonal, NaN where neither moves.
    Raises:
      TreeMismatch: structures or shapes differ. ShapeError: no model.
    Example:
      >>> base, a, b = ({"w": jnp.array(w)} for w in ([0.0, 0.0], [1.0, 1.0], [1.0, -1.0]))
      >>> interference([a, b], base)["w"].tolist()
      [[0.0, 0.5], [0.5, 0.0]]
    """
    found = {}
    for path, leaves in _each(models, base):
        sums = np.asarray(_lengths_of_sums(*leaves), np.float64)
        alone = np.diagonal(sums) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            found[path] = 1 - sums / (alone[:, None] + alone[None])
    return found


def _each(models: Sequence[Tree], base: Tree) -> Iterator[tuple[str, tuple[list[Leaf], Leaf]]]:
    """Each weight's path, the models' leaves and the base's, one weight at a time."""
    if not models:
        raise ShapeError("no model: give at least one fine-tune of the base")
    trees = align(keep(), [x if is_lazy(x) else as_params(x).leaves for x in (*models, base)], {}, None)
    for path, spec in trees.specs.items():
        *leaves, start = (source[path] for source in trees.sources)
        yield spec.path, (leaves, start)


def _deltas(leaves: Sequence[Leaf], start: Leaf) -> list[Array]:
    return [working(x) - working(start) for x in leaves]


@jax.jit
def _products(leaves: Sequence[Leaf], start: Leaf) -> Array:
    """All inner products, [n, n]."""
    deltas = _deltas(leaves, start)
    return jnp.stack([jnp.stack([jnp.sum(a * b) for b in deltas]) for a in deltas])


@jax.jit
def _lengths_of_sums(leaves: Sequence[Leaf], start: Leaf) -> Array:
    """L1 length of the sum of every two, [n, n]."""
    deltas = _deltas(leaves, start)
    return jnp.stack([jnp.stack([jnp.sum(jnp.abs(a + b)) for b in deltas]) for a in deltas])
