"""DELLA: drop entries of a task vector at random, small ones rather than large ones, rescale, then merge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp

from wspace.core.compose import around_base, chain
from wspace.core.errors import WspaceError
from wspace.core.transform import Context, Transform, leafwise, of_model
from wspace.core.typing import Array
from wspace.merge.dare import Rescale, rescaling
from wspace.merge.ties import elect
from wspace.stats.norms import with_norm
from wspace.stats.quantile import magnitude_bits
from wspace.stats.sharding import alike, gathered

Fraction = Array | float | Sequence[float]


def row_ranks(w: Array, axis: int) -> Array:
    """The rank of every |w| among those along the axis, from 0 for the smallest to 1; one half in a row of one.

    Ranking needs the row whole on one device; other axes keep their sharding.
    """
    n = w.shape[axis]
    if n < 2:
        return jnp.full_like(w, 0.5, jnp.float32)
    order = jnp.argsort(gathered(magnitude_bits(w), axis), axis=axis)
    return alike(jnp.argsort(order, axis=axis).astype(jnp.float32) / (n - 1), w)


@partial(jax.jit, static_argnames=("norm", "axis"))
def magprune_array(
    w: Array,
    key: Array,
    density: Array | float,
    epsilon: Array | float,
    rescale: Array | bool = True,
    norm: bool = False,
    axis: int = -1,
) -> Array:
    """w with entries kept with probability `density - epsilon` (smallest of a row) to `density + epsilon` (largest).

    w: floating array of at least one axis. rescale: divide each by its own probability. norm: give the rest the L1
    norm that w had instead. density 1 changes nothing, density 0 leaves zeros.
    """
    density, epsilon = jnp.asarray(density, jnp.float32), jnp.asarray(epsilon, jnp.float32)
    chance = jnp.clip(density + epsilon * (2 * row_ranks(w, axis) - 1), 0, 1)
    chance = jnp.where(density >= 1, 1, jnp.where(density <= 0, 0, chance))
    draws = jax.random.uniform(key, w.shape, jnp.float32, out_sharding=jax.typeof(w).sharding)
    if norm:
        return with_norm(w, draws < chance)
    scale = jnp.where(rescale & (chance > 0), chance, 1).astype(w.dtype)
    return jnp.where(draws < chance, w / scale, jnp.zeros((), w.dtype))


def magprune(density: Fraction, epsilon: Fraction = 0.15, rescale: Rescale = True, axis: int = -1) -> Transform:
    """Keep each entry with a probability that grows with its rank in its row: what DELLA does with a task vector.

        p_i = density + epsilon (2 rank_i / (n - 1) - 1),   m_i ~ Bernoulli(p_i),   x_i <- m_i x_i / p_i

    rank_i of |x_i| among the n entries of its row, from 0.

    Scope: leaf (1 pass). Needs: key. Random: yes, by leaf path. Output leaf: array, input dtype.

    Args:
      density: mean probability to stay, 0..1; a tuple gives each tree of a chain its own. Traced, in steps.
      epsilon: by how much it is smaller for a row's smallest entry and larger for its largest, or a tuple. Traced, in
        steps.
      rescale: True divides by each entry's probability, "l1" scales what stays to the L1 norm that the leaf had.
      axis: along which rows lie, -1 for torch's `[out, in]`, -2 for `[in, out]`; vectors are one row. Static.
    Returns:
      Transform, 1 -> 1. Density 1 changes nothing, density 0 leaves zeros, whatever epsilon is.
    Raises:
      SideTreeError: no key. WspaceError: density +- epsilon leaves 0..1, or another word for rescale.
    Example:
      >>> w = {"w": jnp.linspace(0.1, 1.0, 1000)}
      >>> kept = magprune(0.5, 0.4, rescale=False)(w, key=jax.random.key(0))["w"] > 0
      >>> [round(float(part.mean()), 1) for part in jnp.split(kept, 2)]  # of the smaller half, of the larger one
      [0.3, 0.7]

    Reference: as `della`.
    Differs from the paper: as `della`.
    """
    _check(density, epsilon)
    divide, norm = rescaling(rescale, "magprune")

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        (w,) = leaves
        rows = w if w.ndim else w[None]
        along = axis if -rows.ndim <= axis < rows.ndim else -1
        kept = magprune_array(rows, ctx.key, of_model(density, ctx), of_model(epsilon, ctx), divide, norm, along)
        return kept if w.ndim else kept[0]

    return leafwise("magprune", apply, needs=frozenset({"key"}))


def della(
    density: Fraction,
    epsilon: Fraction = 0.15,
    weights: Sequence[float] | Array | None = None,
    lam: Array | float = 1.0,
    consensus: Callable[..., Transform] = elect,
    rescale: Rescale = True,
    axis: int = -1,
) -> Transform:
    """Drop entries of each task vector by rank, rescale, elect signs, and average what agrees.

        d_k = theta_k - base,   d_k <- magprune(density, epsilon)(d_k)
        theta = base + lam * elected mean (see `elect_array`)

    `consensus=weighted_sum` merges by the sum instead: "della_linear".

    Scope: leaf (1 pass). Needs: base, key. Random: yes, a mask for each model and leaf, from the leaf's path and the
    model's place. Output leaf: array, dtype of the first tree.

    Args:
      density: mean probability of an entry to stay, 0..1; the paper's drop rate is p = 1 - density. A tuple gives each
        model its own. Traced, in steps.
      epsilon: half the width of the window of probabilities, or a tuple. Traced, in steps.
      weights: [n], weight of each model; default all 1. Traced.
      lam: scale of the merged task vector. Traced.
      consensus: `(weights, lam) -> Transform` of n task vectors. Static.
      rescale: True divides by each entry's probability, "l1" scales what stays to the L1 norm of the task vector's
        leaf, as mergekit does it.
      axis: along which rows lie that are ranked, -1 for torch's `[out, in]`, -2 for `[in, out]`. Static.
    Returns:
      Transform, n -> 1. Density 1 is the consensus alone.
    Raises:
      SideTreeError: no base or no key. TreeMismatch: trees or base differ in structure.
      ShapeError: another number of weights than of models. WspaceError: density +- epsilon leaves 0..1.
    Example:
      >>> base, tuned = {"w": jnp.zeros(6)}, {"w": jnp.ones(6)}
      >>> della(density=0.5, epsilon=0.0)(tuned, base=base, key=jax.random.key(1))["w"]
      Array([0., 0., 0., 2., 0., 2.], dtype=float32)

    Reference: Deep, Bhardwaj, Poria, 2024, "DELLA-Merging: Reducing Interference in Model Merging through
      Magnitude-Based Sampling".
    Differs from the paper: epsilon is half of the paper's window, and ranks are divided by n - 1, so that the window's
      ends are reached (both as in mergekit). mergekit rescales by the L1 norm, draws masks in the order of the tensors,
      and fails on leaves of one entry and without axes, which have probability density here.
    """
    pruned = magprune(density, epsilon, rescale, axis)
    return around_base(chain(pruned, consensus(weights, lam)), name="della")


def _check(density: Fraction, epsilon: Fraction) -> None:
    """Raises WspaceError if known numbers make a probability outside 0..1. Traced ones are clipped."""
    many = [len(x) for x in (density, epsilon) if isinstance(x, list | tuple)]
    for k in range(max(many, default=1)):
        pair = [x[min(k, len(x) - 1)] if isinstance(x, list | tuple) else x for x in (density, epsilon)]
        if all(isinstance(x, int | float) for x in pair):
            d, e = (float(x) for x in pair)  # type: ignore[arg-type]
            if not 0 <= d <= 1 or (0 < d < 1 and (d - abs(e) < 0 or d + abs(e) > 1)):
                raise WspaceError(f"magprune: density {d} +- epsilon {e} is no window of probabilities; narrow it")
