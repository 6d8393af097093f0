"""The barrier between two models: how far the loss on a path between them rises above that of its ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wspace.core.errors import ShapeError
from wspace.core.transform import working_dtype
from wspace.core.typing import Array, Tree

POINTS = 25  # positions on a path unless told otherwise, ends included


def along(path: Callable[[Array], Tree], metric: Callable[[Tree], Any], ts: Sequence[float] | Array) -> Any:
    """A metric at every position of a path, one call of it after another.

    Args:
      path: position -> parameters, such as `interpolate.segment(a, b)`.
      metric: parameters -> a number, an array, or a tree of them (a dict of metrics). It need not be traceable; jit it
        to make it fast. A traceable one is one program as `jax.lax.map(lambda t: metric(path(t)), ts)`.
      ts: [n] positions.
    Returns:
      what the metric returns, every leaf stacked on a new first axis [n].
    Example:
      >>> along(lambda t: {"w": t}, lambda p: {"square": p["w"] ** 2}, [0.0, 1.0, 2.0])
      {'square': Array([0., 1., 4.], dtype=float32)}
    """
    values = [metric(path(t)) for t in jnp.asarray(ts, jnp.float32)]
    return jax.tree.map(lambda *each: jnp.stack([jnp.asarray(x) for x in each]), *values)


class Barrier(NamedTuple):
    """value: the barrier, a scalar >= 0. at: the position where it is.

    ts, losses, chord: [n] positions, the loss there, and the line between the losses of the two ends.
    """

    value: Array
    at: Array
    ts: Array
    losses: Array
    chord: Array


def barrier(
    loss: Callable[[Tree], Array], path: Callable[[Array], Tree], ts: Sequence[float] | Array | None = None
) -> Barrier:
    """How far the loss on a path rises above the line between the losses of its ends.

        B = max_t L(path(t)) - [(1 - t) L(path(0)) + t L(path(1))]

    On `interpolate.segment(a, b)` it is the linear barrier between a and b. Two models are linearly mode connected if
    it is about zero; it is exactly zero where the loss never rises above the chord. Traceable, and differentiable in
    what the path is made of.

    Args:
      loss: parameters -> scalar, smaller is better. Jit it: it is called once a position.
      path: position in 0..1 -> parameters.
      ts: positions to try, default 25 in equal steps; the ends are always among them.
    Returns:
      Barrier, in units of the loss.
    Raises:
      ShapeError: the loss is no scalar.
    Example:
      >>> hill = lambda params: jnp.sin(jnp.pi * params["w"])
      >>> found = barrier(hill, lambda t: {"w": t})
      >>> round(float(found.value), 4), float(found.at)
      (1.0, 0.5)

    Reference: Frankle, Dziugaite, Roy, Carbin, 2020, "Linear Mode Connectivity and the Lottery Ticket Hypothesis";
      Entezari, Sedghi, Saukh, Neyshabur, 2022, "The Role of Permutation Invariance in Linear Mode Connectivity of
      Neural Networks" (the chord).
    Differs from the paper: Frankle et al. subtract the mean of the two ends instead of the chord; any path is allowed.
    """
    points = np.linspace(0, 1, POINTS) if ts is None else np.asarray(ts, np.float64)
    positions = jnp.asarray(np.unique([0.0, *points, 1.0]), jnp.float32)

    def checked(params: Tree) -> Array:
        value = jnp.asarray(loss(params))
        if value.shape != ():
            raise ShapeError(f"barrier: the loss has shape {value.shape}, but a loss is one number; take its mean")
        return value.astype(working_dtype(value.dtype))

    losses = along(path, checked, positions)
    t = positions.astype(losses.dtype)
    chord = (1 - t) * losses[0] + t * losses[-1]
    above = losses - chord
    return Barrier(jnp.max(above), positions[jnp.argmax(above)], positions, losses, chord)
