"""Projection while training: any array-valued Transform after the optimizer's step, inside the optax chain."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from wspace.core.axes import Axes
from wspace.core.containers import as_params
from wspace.core.errors import ShapeError
from wspace.core.implicit import dense
from wspace.core.transform import Transform
from wspace.core.typing import Array, Path, Tree
from wspace.optim.step import after, given, plain, run, touched, towards, when, wider


class ProjectState(NamedTuple):
    """step: int32, updates made."""

    step: Array


def project(
    t: Transform, every: int = 1, *, key: Array | None = None, axes: Axes | None = None
) -> optax.GradientTransformationExtraArgs:
    """Put the weights back into a set after the optimizer's step: rounded, sparse, orthogonal, of unit norm.

        u <- t(p + u) - p    at every `every`-th update

    It must come last in the chain. Leaves that `t` keeps get their updates untouched.

    Args:
      t: Transform, 1 -> 1; an Implicit result (a QTensor) counts as the array it stands for.
      every: updates from one projection to the next.
      key: for a random t. axes: roles of the leaves' axes, as for any Transform.
    Returns:
      GradientTransformationExtraArgs; extra arguments of `update` that t needs are its side trees. State: ProjectState.
      Updates: dtype of the updates or of the parameters, whichever is wider.
    Raises:
      SelectionError: a selector of t takes no leaf (at init). SideTreeError: update without params.
      ShapeError: every below 1.
    Error: an optax update is added, so p + u is the projected weight only up to the rounding of t(p + u) - p:
      |p + u - target| <= eps |p - target|, eps = 2^-23 for float32, 2^-7 for bfloat16 updates. It is exact where the
      target is 0, and where target and p are within a factor 2 of each other.
    Example:
      >>> from wspace.core.transform import leafwise
      >>> grid = leafwise("grid", lambda w, ctx: jnp.round(w[0]))
      >>> tx = optax.chain(optax.sgd(0.1), project(grid))
      >>> p = {"w": jnp.array([0.2, 1.0])}
      >>> u, state = tx.update({"w": jnp.array([1.0, 1.0])}, tx.init(p), p)
      >>> optax.apply_updates(p, u)["w"]
      Array([0., 1.], dtype=float32)

    Reference: projected gradient descent, Goldstein, 1964, "Convex programming in Hilbert space".
    Differs from the paper: t may be any map, and is applied every few steps.
    """
    if every < 1:
        raise ShapeError(f"project needs every >= 1 update between projections, but got {every}")

    def init(params: Tree) -> ProjectState:
        touched(t, plain(params), axes)
        return ProjectState(jnp.zeros((), jnp.int32))

    def update(updates: Tree, state: ProjectState, params: Tree = None, **sides: Any) -> tuple[Tree, ProjectState]:
        now, moves = plain(given(params, "project")), as_params(updates)
        paths = [path for path in touched(t, now, axes) if moves.leaves.get(path) is not None]

        def projected() -> list[Array]:
            out = run(t, after(params, updates), state.step, key, axes, sides)
            return [towards(dense(out[p]), now[p], moves.leaves[p]) for p in paths]

        def as_they_are() -> list[Array]:
            return [u.astype(wider(now[p].dtype, u.dtype)) for p in paths for u in [moves.leaves[p]]]

        step = optax.safe_increment(state.step)
        new: dict[Path, Array] = dict(zip(paths, when(step % every == 0, projected, as_they_are), strict=True))
        return moves.rebuild({**moves.leaves, **new}), ProjectState(step)

    return optax.GradientTransformationExtraArgs(init, update)
