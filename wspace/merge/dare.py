"""DARE: drop most entries of a task vector at random and rescale the rest, then merge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.compose import around_base, chain
from wspace.core.errors import WspaceError
from wspace.core.transform import Context, Transform, leafwise, of_model
from wspace.core.twins import by_position
from wspace.core.typing import Array
from wspace.merge.task_arithmetic import weighted_sum
from wspace.stats.norms import with_norm
from wspace.stats.quantile import COUNTABLE, check_fraction

Rescale = Array | bool | Literal["l1"]


def drop_array(
    w: Array, key: Array | None, density: Array | float, rescale: Array | bool = True, norm: bool = False
) -> Array:
    """w with each entry kept with probability `density`, on its own, and divided by it; the others are zero.

    With `norm` what stays is scaled to the L1 norm that w had instead.

    w: floating array of any shape. The draws are float32 numbers that depend on key and position alone, so the mask is
    the same on every sharding and in every precision.
    """
    density = jnp.asarray(density, jnp.float32)
    return with_norm(w, _stays(w, key, density)) if norm else _dropped(w, key, density, rescale)


@jax.jit
def _stays(w: Array, key: Array, density: Array) -> Array:
    return wspace_draws(key, w) < density


@jax.jit
def _dropped(w: Array, key: Array, density: Array, rescale: Array | bool) -> Array:
    scale = jnp.where(rescale & (density > 0), density, 1).astype(w.dtype)
    return jnp.where(_stays(w, key, density), w / scale, jnp.zeros((), w.dtype))


@jax.jit
def wspace_draws(key: Array, like: Array) -> Array:
    """A number in 0..1 for each entry, by key and position: its own function, so that blocks know it by name."""
    return jax.random.uniform(key, like.shape, jnp.float32, out_sharding=jax.typeof(like).sharding)


def _known(key: Any, like: Any) -> bool:
    fry = str(key.dtype) == "key<fry>" and jax.config.jax_threefry_partitionable  # type: ignore[attr-defined]
    return bool(fry) and like.size <= COUNTABLE


@by_position("wspace_draws", _known)
def _draws_from(start: Array, key: Array, like: Array) -> Array:
    """The same numbers for a block: Threefry-2x32 of (0, start), (0, start + 1), ..., its two words joined by xor.

    jax's own generator keeps its rounds in a loop on CPU, which takes five times as long.
    """
    first, second = jax.random.key_data(key)
    keys = (first, second, first ^ second ^ jnp.uint32(0x1BD11BDA))
    x = jnp.broadcast_to(keys[0], like.shape)
    y = start + jnp.arange(like.size, dtype=jnp.uint32) + keys[1]
    for group in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            x = x + y
            y = ((y << turn) | (y >> (32 - turn))) ^ x
        x, y = x + keys[(group + 1) % 3], y + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return lax.bitcast_convert_type(((x ^ y) >> 9) | jnp.uint32(0x3F800000), jnp.float32) - 1


def rescaling(rescale: Rescale, name: str) -> tuple[Array | bool, bool]:
    """Whether to divide by the probability, and whether to restore the L1 norm.

    Raises:
      WspaceError: another word.
    """
    if not isinstance(rescale, str):
        return rescale, False
    if rescale != "l1":
        raise WspaceError(f"{name} has no rescale={rescale!r}; use True (by the probability), 'l1' (the norm) or False")
    return False, True


def check_density(density: Array | float | Sequence[float]) -> None:
    """Raises WspaceError if a known probability is not within 0..1; an array's can't be looked at."""
    for each in density if isinstance(density, list | tuple) else (density,):
        if isinstance(each, int | float):
            check_fraction(each)


def drop(density: Array | float | Sequence[float], rescale: Rescale = True) -> Transform:
    """Keep each entry with probability `density`, divided by `density`, so that the expected value stays.

        m_i ~ Bernoulli(density),   x_i <- m_i x_i / density

    Scope: leaf (1 pass). Needs: key. Random: yes, by leaf path. Output leaf: array, input dtype.

    Args:
      density: probability to stay, 0..1; the paper's drop rate is p = 1 - density. A tuple gives each tree of a chain
        its own. Traced, in steps.
      rescale: whether to divide, traced; or "l1" to scale what stays to the L1 norm that the leaf had.
    Returns:
      Transform, 1 -> 1; in a chain before a merge it runs on every tree with a mask of its own. Density 1 changes
      nothing, density 0 leaves zeros.
    Raises:
      SideTreeError: no key. WspaceError: a density outside 0..1, another word for rescale.
    Example:
      >>> dropped = drop(0.25)({"w": jnp.ones(1000)}, key=jax.random.key(0))["w"]
      >>> [float(x) for x in jnp.unique(dropped)], bool(abs(dropped.mean() - 1) < 0.2)
      ([0.0, 4.0], True)

    Reference: as `dare`.
    Differs from the paper: none.
    """
    check_density(density)
    divide, norm = rescaling(rescale, "drop")

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        return drop_array(leaves[0], ctx.key, of_model(density, ctx), divide, norm)

    return leafwise("drop", apply, needs=frozenset({"key"}))


def dare(
    density: Array | float | Sequence[float],
    weights: Sequence[float] | Array | None = None,
    lam: Array | float = 1.0,
    consensus: Callable[..., Transform] = weighted_sum,
    rescale: Rescale = True,
) -> Transform:
    """Drop and rescale each task vector, then merge them: by their sum, or by another consensus.

        d_k = theta_k - base,   d_k,i <- m_k,i d_k,i / density,   m_k,i ~ Bernoulli(density)
        theta = base + lam * sum_k w_k d_k

    `consensus=elect` merges by the sign election of TIES instead of the sum: "dare_ties".

    Scope: leaf (1 pass). Needs: base, key. Random: yes, a mask for each model and leaf, from the leaf's path and the
    model's place. Output leaf: array, dtype of the first tree.

    Args:
      density: probability of an entry to stay, 0..1; the paper's drop rate is p = 1 - density. A tuple gives each model
        its own. Traced, in steps.
      weights: [n], weight of each model; default all 1. Traced.
      lam: scale of the merged task vector. Traced.
      consensus: `(weights, lam) -> Transform` of n task vectors. Static.
      rescale: whether to divide by density, traced; or "l1" to scale what stays to the L1 norm that the task vector's
        leaf had, as mergekit does it.
    Returns:
      Transform, n -> 1. Density 1 is the consensus alone: `task_arithmetic`, TIES without trimming.
    Raises:
      SideTreeError: no base or no key. TreeMismatch: trees or base differ in structure.
      ShapeError: another number of weights than of models. WspaceError: a density outside 0..1.
    Example:
      >>> base, tuned = {"w": jnp.zeros(6)}, {"w": jnp.ones(6)}
      >>> dare(density=0.5)(tuned, base=base, key=jax.random.key(1))["w"]
      Array([0., 0., 0., 2., 0., 2.], dtype=float32)

    Reference: Yu, Yu, Yu, Huang, Li, 2024, "Language Models are Super Mario: Absorbing Abilities from Homologous Models
      as a Free Lunch".
    Differs from the paper: weights, and to rescale by the L1 norm, are additions. mergekit draws its masks in the order
      of the tensors.
    """
    return around_base(chain(drop(density, rescale), consensus(weights, lam)), name="dare")
