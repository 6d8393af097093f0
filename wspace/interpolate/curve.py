"""Curves that connect two models through low loss: paths with control points between the ends that are trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import optax

from wspace.core.containers import as_params, is_weight
from wspace.core.errors import ShapeError
from wspace.core.learn import Loss, descend
from wspace.core.transform import Transform, working
from wspace.core.typing import Array, Progress, Tree
from wspace.interpolate.bezier import bezier
from wspace.interpolate.lerp import lerp

By = Callable[[Any], Transform]


def curve(points: Sequence[Tree], by: By = bezier) -> Callable[[Array | float], Tree]:
    """The path through or along several models: `t -> by(t)(*points)`.

    Args:
      points: trees of one structure: the start, what is between, the end.
      by: position -> Transform of that many trees: `bezier` or `polygon`.
    Returns:
      callable: t, a scalar, traced or not -> parameters. `measure.along` evaluates a metric on it.
    Raises (when called):
      TreeMismatch: the points differ in structure.
    Example:
      >>> import jax.numpy as jnp
      >>> path = curve([{"w": jnp.array([x])} for x in (0.0, 4.0, 2.0)])
      >>> path(0.0)["w"], path(0.5)["w"], path(1.0)["w"]
      (Array([0.], dtype=float32), Array([2.5], dtype=float32), Array([2.], dtype=float32))

    Reference: Garipov et al., 2018, "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs".
    """
    return lambda t: by(t)(*points)


class Connection(NamedTuple):
    """path: position -> parameters. bends: the trees between the ends. losses: f32 [steps], at random positions."""

    path: Callable[[Array | float], Tree]
    bends: tuple[Tree, ...]
    losses: Array


def connect(
    loss: Loss,
    a: Tree,
    b: Tree,
    batches: Tree,
    optimizer: optax.GradientTransformation,
    *,
    by: By = bezier,
    bends: int = 1,
    steps: int | None = None,
    key: Array | None = None,
    progress: Progress | None = None,
) -> Connection:
    """Find a curve of low loss from a to b: train what is between, at a new random position in every step.

        min over the bends of  E_{t ~ U(0, 1)} loss(by(t)(a, *bends, b))

    The bends begin on the straight line from a to b, in equal steps. The ends never move.

    Args:
      loss: (params, batch) -> scalar, traceable. A penalty on the weights belongs in it.
      a, b: trained models of one structure. batches: a tree stacked on a first axis; step i takes batch i modulo its
        length; None if the loss takes none.
      optimizer: of the bends, which are kept in float32 (float64 if a is).
      by: `bezier` or `polygon`. bends: trees between the ends, at least 1; the paper has 1. Static.
      steps: default one pass over the batches. Static. key: of the positions; default `jax.random.key(0)`.
      progress: called as (steps done, steps, the loss in words).
    Returns:
      Connection. `measure.along(found.path, metric, ts)` is a metric along the curve, `measure.barrier` what is left of
      the barrier. The statistics of batch normalization have to be estimated anew at each position.
    Raises:
      ShapeError: no bend, the loss is no scalar. TreeMismatch: a and b differ in structure.
    Example:
      >>> import jax.numpy as jnp
      >>> a, b = {"w": jnp.array([-1.0, 0.0])}, {"w": jnp.array([1.0, 0.0])}
      >>> valley = lambda p, _: (p["w"][1] - 1 + p["w"][0] ** 2) ** 2  # its floor is a parabola
      >>> found = connect(valley, a, b, None, optax.adam(0.05), steps=300)
      >>> f"{valley(curve([a, b])(0.5), None):.3f}", f"{valley(found.path(0.5), None):.3f}"
      ('1.000', '0.000')

    Reference: Garipov, Izmailov, Podoprikhin, Vetrov, Wilson, 2018, "Loss Surfaces, Mode Connectivity, and Fast
      Ensembling of DNNs".
    Differs from the paper: any number of bends and any optimizer; the expectation is over t (its equation 2), not over
      the length of the curve (equation 1), as in its experiments.
    """
    if bends < 1:
        raise ShapeError(f"connect: bends is {bends}; a curve has at least one, and segment(a, b) is the line")
    start = tuple(_weights(lerp((k + 1) / (bends + 1))(a, b)) for k in range(bends))
    found = descend(_Objective(loss, by), start, (a, b), batches, optimizer, steps=steps, key=key, progress=progress)
    points = tuple(_tree(values, a) for values in found.values)
    return Connection(curve([a, *points, b], by), points, found.losses)


@dataclass(frozen=True)
class _Objective:
    """Equal if its parts are, so that a second curve with the same loss compiles nothing."""

    loss: Loss
    by: By

    def __call__(self, values: Any, ends: tuple[Tree, Tree], batch: Any, key: Array) -> Array:
        a, b = ends
        points = [a, *(_tree(bend, a) for bend in values), b]
        return self.loss(curve(points, self.by)(jax.random.uniform(key)), batch)


def _weights(params: Tree) -> Tree:
    """What trains: the weights as arrays in their working dtype, None for other leaves."""
    flat = as_params(params)
    return flat.rebuild({path: working(x) if is_weight(x) else None for path, x in flat.leaves.items()})


def _tree(bend: Tree, like: Tree) -> Tree:
    """The weights of a bend, with the other leaves of an end."""
    flat, values = as_params(like), as_params(bend).leaves
    return flat.rebuild({path: values[path] if is_weight(x) else x for path, x in flat.leaves.items()})
