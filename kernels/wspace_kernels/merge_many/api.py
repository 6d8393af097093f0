"""The sum, or the sign election, of many task vectors: each leaf is read once, the result written once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from wspace.core.errors import ShapeError, WspaceError
from wspace.core.typing import Array
from wspace_kernels.dispatch import Choice, Implementation, choose, with_gradient_of

Numbers = Array | Sequence[float] | float


def merge_many(
    leaves: Sequence[Array],
    base: Array | None = None,
    weights: Numbers = 1.0,
    lam: Array | float = 1.0,
    *,
    consensus: Literal["sum", "elect"] = "sum",
    normalize: bool = True,
    least: Numbers | None = None,
    density: Numbers | None = None,
    keys: Array | None = None,
    implementation: Implementation = None,
) -> Array:
    """Merge n leaves of one shape, or their differences from a base.

        d_k = theta_k - base,   d_k <- d_k [|d_k| >= least_k],   d_k <- d_k m_k / density_k, m_k ~ Bernoulli(density_k)
        "sum":    theta = base + lam sum_k w_k d_k
        "elect":  theta = base + lam sum_A w_k d_k / sum_A w_k,   A = {k: sgn(w_k d_k) = sgn(sum_t w_t d_t) != 0}

    With the defaults it is task arithmetic (without a base: a weighted sum); with density DARE, whose masks are those
    of `wspace.merge.dare` for the same keys; "elect" with the thresholds of a trim is TIES, with density DARE-TIES.

    Args:
      leaves: n arrays of one shape, floating. base: one more; None: the leaves are merged as they are.
      weights: [n] or one number. lam: a number. Traced, with gradients.
      consensus: "sum" or "elect". normalize: whether "elect" divides by the agreeing weights. Static.
      least: [n] or one number: smaller magnitudes are dropped. Traced, in steps.
      density, keys: [n] or one number, the probability to stay; and n typed keys. Traced, in steps.
      implementation: None (what the platform is best at), "ref", "tpu" or "gpu". Static.
    Returns:
      Array of the first leaf's dtype; computed in float32 (float64 if a leaf is). Gradients are those of the formula
      with its masks held fixed.
    Raises:
      ShapeError: no leaf, shapes that differ, another number of weights or keys than of leaves.
      WspaceError: another word for consensus; density without keys. As `dispatch.choose` for a named implementation.
    Example:
      >>> a, b, base = jnp.array([4.0, 1.0]), jnp.array([2.0, -3.0]), jnp.zeros(2)
      >>> merge_many([a, b], base, lam=0.5), merge_many([a, b], base, consensus="elect")
      (Array([ 3., -1.], dtype=float32), Array([ 3., -3.], dtype=float32))
    """
    n = len(leaves)
    shapes = {jnp.shape(x) for x in (*leaves, *(() if base is None else (base,)))}
    if len(shapes) != 1 or not n:
        raise ShapeError(
            f"merge_many got {n} leaves, of shapes {sorted(shapes)} with their base; give one or more alike"
        )
    if consensus not in ("sum", "elect"):
        raise WspaceError(f"merge_many: there is no consensus {consensus!r}; use 'sum' or 'elect'")
    if (density is None) != (keys is None) or (keys is not None and keys.shape != (n,)):
        raise WspaceError(
            f"merge_many: density needs {n} keys, and keys need a density; keys=jax.random.split(key, {n})"
        )
    rows = (weights, 0.0 if least is None else least, 1.0 if density is None else density, lam)
    numbers = jnp.stack(
        [_each(row, n, name) for row, name in zip(rows, ("weights", "least", "density", "lam"), strict=True)]
    )
    static = {"elect": consensus == "elect", "normalize": normalize, "trims": least is not None}
    args = (tuple(leaves), base, numbers, keys)
    return _run(*args, choice=choose("merge_many", implementation, *args, **static), **static)


def _each(x: Numbers, n: int, name: str) -> Array:
    """A number for each of n leaves.

    Raises:
      ShapeError: there are others than 1 or n.
    """
    values = jnp.asarray(x, jnp.float32)
    if values.shape not in ((), (n,)):
        raise ShapeError(f"merge_many: {name} has shape {values.shape}, but there are {n} leaves")
    return jnp.broadcast_to(values, (n,))


@partial(jax.jit, static_argnames=("choice", "elect", "normalize", "trims"))
def _run(
    leaves: tuple[Array, ...], base: Array | None, numbers: Array, keys: Array | None, choice: Choice, **static: bool
) -> Array:
    reference = choice._replace(name="ref").function("merge_many", **static)
    if choice.name == "ref":
        return reference(leaves, base, numbers, keys)
    return with_gradient_of(reference, choice.function("merge_many", **static))(leaves, base, numbers, keys)
