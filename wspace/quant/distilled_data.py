"""Data from a model alone: inputs whose statistics are those that its norms remember."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wspace.core.learn import descend
from wspace.core.typing import Array, Progress, Tree

Features = Callable[[Array], Any]  # inputs -> a tree of what the norms see, each [n, ..., channels]


class Distilled(NamedTuple):
    """x: the inputs. losses: float32 [steps], each before its step."""

    x: Array
    losses: Array


class Moments(NamedTuple):
    """mean and std of each channel, `[channels]`."""

    mean: Array
    std: Array


def distill_data(
    features: Features,
    stored: Any,
    shape: tuple[int, ...],
    *,
    key: Array,
    steps: int = 500,
    rate: float = 0.5,
    progress: Progress | None = None,
) -> Distilled:
    """Make inputs on which every norm sees what it saw in training.

        min_x 1/n sum_n [ sum_l |mean_l(x_n) - mu_l|^2 + |std_l(x_n) - sigma_l|^2 + |mean(x_n)|^2 + |std(x_n) - 1|^2 ]

    over positions of each example, from x ~ N(0, 1), by Adam whose rate falls by half at each third of the steps.

    Args:
      features: x -> a tree of arrays `[n, ..., channels]`: the inputs of the norms. Traceable.
      stored: the same tree of `Moments`, from the norms' running statistics.
      shape: of x, `[n, ..., channels]`. key: typed. steps, rate: of Adam; rate traced. progress: as of `descend`.
    Returns:
      Distilled.
    Raises:
      ShapeError: as `descend`.
    Example:
      >>> moments = Moments(jnp.array([1.0]), jnp.array([2.0]))
      >>> found = distill_data(lambda x: 2 * x + 1, moments, (1, 64, 1), key=jax.random.key(0), steps=60)
      >>> bool(found.losses[-1] < 0.05 * found.losses[0])
      True

    Reference: Cai, Yao, Dong, Gholami, Mahoney, Keutzer, 2020, "ZeroQ: A Novel Zero Shot Quantization Framework".
    Differs from the paper: its code lowers the rate where the loss stays, not at fixed steps. Norms that see no
      positions, as those of a plain MLP, have their statistics over the examples instead.
    """
    start = jax.random.normal(key, shape)
    schedule = optax.piecewise_constant_schedule(rate, {steps // 3: 0.5, 2 * steps // 3: 0.5})
    found = descend(
        partial(_distance, features), start, stored, None, optax.adam(schedule), steps=steps, progress=progress
    )
    return Distilled(found.values, found.losses)


def _distance(features: Features, x: Array, stored: Any, batch: Tree, key: Array) -> Array:
    made = jax.tree.leaves(features(x))
    wanted = jax.tree.leaves(stored, is_leaf=lambda m: isinstance(m, Moments))
    own = Moments(jnp.zeros(x.shape[-1]), jnp.ones(x.shape[-1]))
    return sum((_apart(z, m) for z, m in zip([*made, x], [*wanted, own], strict=True)), jnp.zeros(()))


def _apart(z: Array, wanted: Moments) -> Array:
    """Squared distance of the moments of each example over its positions; of all examples, if there are none."""
    over = tuple(range(1, z.ndim - 1)) or (0,)
    mean, std = jnp.mean(z, axis=over), jnp.sqrt(jnp.var(z, axis=over) + 1e-12)
    far = (mean - _beside(wanted.mean, mean)) ** 2 + (std - _beside(wanted.std, std)) ** 2
    return jnp.sum(far) / (far.shape[0] if far.ndim > 1 else 1)


def _beside(x: Array, like: Array) -> Array:
    return jnp.broadcast_to(x.reshape((1,) * (like.ndim - 1) + x.shape), like.shape).astype(like.dtype)
