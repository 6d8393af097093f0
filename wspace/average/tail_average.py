"""Uniform averages of one run: of its tail from a fixed step, or of the valley that validation losses show (SWAD)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wspace.average.read import in_dtypes_of, only
from wspace.average.uniform_soup import uniform_soup
from wspace.core.containers import is_weight
from wspace.core.errors import NonFinite, ShapeError, SideTreeError, WspaceError
from wspace.core.transform import working_dtype
from wspace.core.typing import Array, Tree


class TailState(NamedTuple):
    """step, seen: updates made and iterates averaged, int32. average: tree like the parameters; floating leaves
    float32 (float64 if they are)."""

    step: Array
    seen: Array
    average: Tree


@jax.jit
def running_mean_array(mean: Array, w: Array, count: Array) -> Array:
    """`mean + (w - mean) / count`, in the dtype of the mean; w itself at count 1. mean, w: one shape."""
    w = w.astype(mean.dtype)
    return jnp.where(count == 1, w, mean + (w - mean) / count.astype(mean.dtype))


def tail_average(start: int = 0, every: int = 1) -> optax.GradientTransformation:
    """Keep the mean of all parameters from a step on while training; updates pass through unchanged.

        avg_t = avg_{t-1} + (theta_t - avg_{t-1}) / n_t,   n_t = number of the steps start, start + every, ... <= t

    theta_t are the parameters after update t = 1, 2, ..., so this has to be the last link of the chain. Before `start`
    the average is the latest parameters. Read it with `tail_average_params`.

    Scope: leaf. Needs: `update` must be given params. Random: no.

    Args:
      start: first update that counts; 0 counts from the first. The paper: 5000 of 50000. Static.
      every: updates from one that counts to the next. Static.
    Returns:
      optax.GradientTransformation with the state TailState.
    Raises:
      WspaceError: start below 0 or every below 1. SideTreeError: update without params.
    Example:
      >>> optimizer = optax.chain(optax.sgd(1.0), tail_average(start=2))
      >>> params = {"w": jnp.array([9.0])}
      >>> state = optimizer.init(params)
      >>> for _ in range(3):
      ...     updates, state = optimizer.update({"w": jnp.array([2.0])}, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> params["w"], tail_average_params(state)["w"]
      (Array([3.], dtype=float32), Array([4.], dtype=float32))

    Reference: Vorobeevich et al., 2024, "Weight Averaging Improves Knowledge Distillation under Domain Shift"; Arpit,
      Wang, Zhou, Xiong, 2022, "Ensemble of Averages" (the simple moving average); Izmailov et al., 2018 (SWA, with
      every = an epoch).
    Differs from the paper: none. Freezing the statistics of batch normalization is the caller's.
    """
    if start < 0 or every < 1:
        raise WspaceError(f"tail_average: start is {start} and every is {every}; they are at least 0 and 1")
    first = max(start, 1)

    def init(params: Tree) -> TailState:
        def copied(w: Any) -> Any:
            return jnp.array(w, working_dtype(w.dtype), copy=True) if is_weight(w) else w

        return TailState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), jax.tree.map(copied, params))

    def update(updates: Any, state: TailState, params: Tree | None = None) -> tuple[Any, TailState]:
        if params is None:
            raise SideTreeError("tail_average needs the parameters; call it as update(updates, state, params)")
        step = optax.safe_increment(state.step)
        counts = (step >= first) & ((step - first) % every == 0)
        count = state.seen + counts.astype(jnp.int32)

        def one(mean: Any, w: Any) -> Any:
            if not is_weight(w):
                return w
            stays = (count > 0) & ~counts
            return jnp.where(stays, mean, running_mean_array(mean, w, jnp.maximum(count, 1)))

        return updates, TailState(step, count, jax.tree.map(one, state.average, optax.apply_updates(params, updates)))

    return optax.GradientTransformation(init, update)


def tail_average_params(state: Any, like: Tree | None = None) -> Tree:
    """The average in an optimizer's state.

    Args:
      state: TailState, or the state of a chain that has one in it.
      like: a tree of the parameters; the average is cast to its dtypes. None leaves it in float32.
    Raises:
      TreeMismatch: no TailState in the state, or several.
    """
    return in_dtypes_of(like, only(TailState, state, "tail_average_params").average)


def swad_window(losses: Sequence[float], converge: int = 3, tolerate: int = 6, ratio: float = 0.3) -> tuple[int, int]:
    """The valley of a run: the evaluations from the first minimum of the loss until it has risen for good.

        start = first i with l_i = min(l_i .. l_{i + converge - 1}), all finite;   limit = (1 + ratio) mean of them
        end = first j > start with min(l_j .. l_{j + tolerate - 1}) > limit (windows stop at the last evaluation)

    Args:
      losses: [n] of evaluations in order. converge, tolerate: N_s and N_e. ratio: r.
    Returns:
      (start, end): average the evaluations start .. end - 1. Without such a start, the last evaluation alone; without
      such an end, all from start on.
    Raises:
      ShapeError: no losses, or a window below 1. NonFinite: a loss is NaN.
    Example:
      >>> swad_window([9, 5, 3, 3.1, 3.2, 3.0, 8, 9, 9], tolerate=2)
      (2, 6)

    Reference: Cha et al., 2021, "SWAD: Domain Generalization by Seeking Flat Minima".
    Differs from the paper: with tolerate > converge its code also takes in some evaluations before the start; here
      the average begins at the start, as its equations say (from memory).
    """
    curve = np.asarray(losses, np.float64)
    if curve.size == 0 or converge < 1 or tolerate < 1:
        raise ShapeError(
            f"swad_window got {curve.size} losses, windows of {converge} and {tolerate}; all are at least 1"
        )
    if np.isnan(curve).any():
        raise NonFinite(f"swad_window: loss {int(np.isnan(curve).argmax())} is NaN; leave that evaluation out")
    n = len(curve)
    for start in range(n - converge + 1):
        window = curve[start : start + converge]
        if window[0] == window.min() and np.isfinite(window).all():
            limit = (1 + ratio) * window.mean()
            gone = (j for j in range(start + 1, n) if curve[j : j + tolerate].min() > limit)
            return start, next(gone, n)
    return n - 1, n


def swad(
    losses: Sequence[float], checkpoints: Sequence[Tree], converge: int = 3, tolerate: int = 6, ratio: float = 0.3
) -> Tree:
    """The mean of the checkpoints in the valley that their validation losses show.

    Args:
      losses: [n], of the n checkpoints in order. In the paper a checkpoint is itself the mean of all parameters since
        the evaluation before: that of `tail_average`, begun anew. Others: as in `swad_window`.
    Raises:
      ShapeError: not one loss for each checkpoint.
    Example:
      >>> swad([9, 2, 2, 2.1, 9, 9], [{"w": jnp.float32(i)} for i in range(6)], tolerate=1)["w"]
      Array(2., dtype=float32)

    Reference: as `swad_window`.
    """
    if len(losses) != len(checkpoints):
        raise ShapeError(f"swad got {len(losses)} losses for {len(checkpoints)} checkpoints; give one each")
    start, end = swad_window(losses, converge, tolerate, ratio)
    return uniform_soup()(*checkpoints[start:end])
