"""DARE: drop most entries of a task vector at random and rescale the rest, then merge."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from wspace.core.compose import around_base, chain
from wspace.core.transform import Context, Transform, leafwise, of_model
from wspace.core.typing import Array
from wspace.merge.task_arithmetic import weighted_sum


@jax.jit
def drop_array(w: Array, key: Array, density: Array | float, rescale: Array | bool = True) -> Array:
    """w with each entry kept with probability `density`, on its own, and divided by it; the others are zero.

    w: floating array of any shape. The draws are float32 numbers that depend on key and position alone, so the mask is
    the same on every sharding and in every precision.
    """
    density = jnp.asarray(density, jnp.float32)
    draws = jax.random.uniform(key, w.shape, jnp.float32, out_sharding=jax.typeof(w).sharding)
    scale = jnp.where(rescale & (density > 0), density, 1).astype(w.dtype)
    return jnp.where(draws < density, w / scale, jnp.zeros((), w.dtype))


def drop(density: Array | float | Sequence[float], rescale: Array | bool = True) -> Transform:
    """Keep each entry with probability `density`, divided by `density`, so that the expected value stays.

        m_i ~ Bernoulli(density),   x_i <- m_i x_i / density

    Scope: leaf (1 pass). Needs: key. Random: yes, by leaf path. Output leaf: array, input dtype.

    Args:
      density: probability to stay, 0..1; the paper's drop rate is p = 1 - density. A tuple gives each tree of a chain
        its own. Traced.
      rescale: whether to divide. Traced.
    Returns:
      Transform, 1 -> 1; in a chain before a merge it runs on every tree with a mask of its own. Density 1 changes
      nothing, density 0 leaves zeros.
    Raises:
      SideTreeError: no key.
    Example:
      >>> dropped = drop(0.25)({"w": jnp.ones(1000)}, key=jax.random.key(0))["w"]
      >>> [float(x) for x in jnp.unique(dropped)], bool(abs(dropped.mean() - 1) < 0.2)
      ([0.0, 4.0], True)

    Reference: as `dare`.
    Differs from the paper: none.
    """

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        return drop_array(leaves[0], ctx.key, of_model(density, ctx), rescale)

    return leafwise("drop", apply, needs=frozenset({"key"}))


def dare(
    density: Array | float | Sequence[float],
    weights: Sequence[float] | Array | None = None,
    lam: Array | float = 1.0,
    consensus: Callable[..., Transform] = weighted_sum,
    rescale: Array | bool = True,
) -> Transform:
    """Drop and rescale each task vector, then merge them: by their sum, or by another consensus.

        d_k = theta_k - base,   d_k,i <- m_k,i d_k,i / density,   m_k,i ~ Bernoulli(density)
        theta = base + lam * sum_k w_k d_k

    `consensus=elect` merges by the sign election of TIES instead of the sum: "dare_ties".

    Scope: leaf (1 pass). Needs: base, key. Random: yes, a mask for each model and leaf, from the leaf's path and the
    model's place. Output leaf: array, dtype of the first tree.

    Args:
      density: probability of an entry to stay, 0..1; the paper's drop rate is p = 1 - density. A tuple gives each model
        its own. Traced.
      weights: [n], weight of each model; default all 1. Traced.
      lam: scale of the merged task vector. Traced.
      consensus: `(weights, lam) -> Transform` of n task vectors. Static.
      rescale: whether to divide by density. Traced.
    Returns:
      Transform, n -> 1. Density 1 is the consensus alone: `task_arithmetic`, TIES without trimming.
    Raises:
      SideTreeError: no base or no key. TreeMismatch: trees or base differ in structure.
      ShapeError: another number of weights than of models.
    Example:
      >>> base, tuned = {"w": jnp.zeros(6)}, {"w": jnp.ones(6)}
      >>> dare(density=0.5)(tuned, base=base, key=jax.random.key(1))["w"]
      Array([0., 0., 0., 2., 0., 2.], dtype=float32)

    Reference: Yu, Yu, Yu, Huang, Li, 2024, "Language Models are Super Mario: Absorbing Abilities from Homologous Models
      as a Free Lunch".
    Differs from the paper: weights are an addition. mergekit (read at 0.1.4) rescales each leaf to the L1 norm it had
      instead of dividing by density, and draws its masks in the order of the tensors.
    """
    return around_base(chain(drop(density, rescale), consensus(weights, lam)), name="dare")
