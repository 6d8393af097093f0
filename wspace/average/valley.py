"""SWAD while training: the mean of the valley that validation losses show, in an optax chain."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wspace.average.read import in_dtypes_of, only
from wspace.average.tail_average import running_mean_array
from wspace.core.containers import is_weight
from wspace.core.errors import ShapeError, SideTreeError
from wspace.core.transform import working_dtype
from wspace.core.typing import Array, Tree


class Mean(NamedTuple):
    """of: a tree like the parameters; floating leaves float32 (float64 if they are). seen: how many, int32."""

    of: Tree
    seen: Array


class ValleyState(NamedTuple):
    """segment: of the parameters since the last evaluation. window, losses: the latest segments, newest first, and
    their losses, f32. evaluations: how many, int32. limit: the loss that the valley stays below, infinity
    before it begins. average: of the segments in it. pending: of those above the limit since. done: bool, it ended."""

    segment: Mean
    window: tuple[Tree, ...]
    losses: tuple[Array, ...]
    evaluations: Array
    limit: Array
    average: Mean
    pending: Mean
    done: Array


def valley_average(
    converge: int = 3, tolerate: int = 6, ratio: Array | float = 0.3
) -> optax.GradientTransformationExtraArgs:
    """Keep the mean of the parameters in the valley of the validation loss while training; updates pass unchanged.

        start = first i with l_i = min(l_i .. l_{i + converge - 1}),   limit = (1 + ratio) mean of these losses
        end = first j > start with min(l_j .. l_{j + tolerate - 1}) > limit

    An evaluation is an update that is given a loss: `update(updates, state, params, loss=l)`, l the validation loss of
    these params; NaN, the default, is no evaluation. Each one closes a segment: the mean of the params that updates
    were given since the one before. The result is the mean of segments start .. end - 1, as if `swad` had been given
    all of them with their losses. Read it with `valley_average_params`.

    Scope: leaf. Needs: `update` must be given params. Random: no. Memory: converge + 3 copies of the parameters.

    Args:
      converge, tolerate: N_s and N_e, in evaluations. Static. ratio: r. Traced.
    Returns:
      optax.GradientTransformationExtraArgs with the state ValleyState.
    Raises:
      ShapeError: a window below 1. SideTreeError: update without params.
    Example:
      >>> tx = valley_average(converge=2, tolerate=1)
      >>> state = tx.init({"w": jnp.array([0.0])})
      >>> for w, loss in ((9.0, 5.0), (1.0, 2.0), (3.0, 2.1), (8.0, 7.0)):
      ...     _, state = tx.update({"w": jnp.zeros(1)}, state, {"w": jnp.array([w])}, loss=loss)
      >>> valley_average_params(state)["w"], bool(state.done)
      (Array([2.], dtype=float32), True)

    Reference: Cha et al., 2021, "SWAD: Domain Generalization by Seeking Flat Minima".
    Differs from the paper: as `swad_window`. Segments above the limit are kept apart until one below it follows, so no
      queue of them is needed.
    """
    if converge < 1 or tolerate < 1:
        raise ShapeError(f"valley_average: windows of {converge} and {tolerate} evaluations; both are at least 1")

    def init(params: Tree) -> ValleyState:
        def copied(w: Any) -> Any:
            return jnp.array(w, working_dtype(w.dtype), copy=True) if is_weight(w) else w

        def mean() -> Mean:
            return Mean(jax.tree.map(copied, params), jnp.zeros((), jnp.int32))

        window = tuple(mean().of for _ in range(converge))
        top, none = jnp.array(jnp.inf, jnp.float32), jnp.zeros((), jnp.int32)
        return ValleyState(mean(), window, (top,) * converge, none, top, mean(), mean(), jnp.array(False))

    def update(
        updates: Any, state: ValleyState, params: Tree | None = None, *, loss: Array | float = jnp.nan, **extra: Any
    ) -> tuple[Any, ValleyState]:
        if params is None:
            raise SideTreeError("valley_average needs the parameters; call it as update(updates, state, params)")
        state = state._replace(segment=_with(state.segment, params, jnp.array(True)))
        value = jnp.asarray(loss, jnp.float32)
        closed = jax.lax.cond(jnp.isnan(value), lambda: state, lambda: _evaluated(state, value, tolerate, ratio))
        return updates, closed

    return optax.GradientTransformationExtraArgs(init, update)


def _with(mean: Mean, params: Tree, yes: Array) -> Mean:
    """The mean with one more tree, if yes."""
    count = mean.seen + 1

    def one(m: Any, w: Any) -> Any:
        return jnp.where(yes, running_mean_array(m, w, count), m) if is_weight(w) else w

    return Mean(jax.tree.map(one, mean.of, params), jnp.where(yes, count, mean.seen))


def _joined(a: Mean, b: Mean, yes: Array) -> Mean:
    """The mean of what both are of, if yes; a otherwise."""
    count = a.seen + jnp.where(yes, b.seen, 0)

    def one(x: Any, y: Any) -> Any:
        share = b.seen.astype(x.dtype) / jnp.maximum(count, 1).astype(x.dtype)
        return jnp.where(yes & (b.seen > 0), x + share * (y - x), x) if is_weight(x) else x

    return Mean(jax.tree.map(one, a.of, b.of), count)


def _taken(state: ValleyState, segment: Tree, loss: Array, tolerate: int, yes: Array) -> ValleyState:
    """One more segment of a valley that has begun, if yes: below the limit it and all pending ones are in."""
    yes = yes & ~state.done
    low, high = yes & (loss <= state.limit), yes & (loss > state.limit)
    average = _with(_joined(state.average, state.pending, low), segment, low)
    pending = state.pending._replace(seen=jnp.where(low, 0, state.pending.seen))
    pending = _with(pending, segment, high)
    return state._replace(average=average, pending=pending, done=state.done | (pending.seen >= tolerate))


def _evaluated(state: ValleyState, loss: Array, tolerate: int, ratio: Array | float) -> ValleyState:
    """The segment is closed: the valley goes on with it, or begins with the oldest of the window, or neither."""
    window = (state.segment.of, *state.window[:-1])
    losses = (loss, *state.losses[:-1])
    count = state.evaluations + 1
    begun = ~jnp.isinf(state.limit)
    last = jnp.stack(losses)
    begins = ~begun & (count >= len(window)) & (losses[-1] == jnp.min(last)) & jnp.isfinite(last).all()
    limit = jnp.where(begins, (1 + jnp.asarray(ratio, jnp.float32)) * jnp.mean(last), state.limit)
    new = state._replace(
        segment=state.segment._replace(seen=jnp.zeros((), jnp.int32)),
        window=window,
        losses=losses,
        evaluations=count,
        limit=limit,
        average=_with(state.average, window[-1], begins),  # the start is in, wherever the limit is
    )
    for k in reversed(range(len(window) - 1)):
        new = _taken(new, window[k], losses[k], tolerate, begins)
    return _taken(new, window[0], loss, tolerate, begun)


def valley_average_params(state: Any, like: Tree | None = None) -> Tree:
    """The mean of the valley in an optimizer's state, up to the last evaluation.

    Where the loss has risen above the limit and not come back yet, without those segments. Before the valley begins,
    the latest segment; before the first evaluation, the mean of the parameters so far.

    Args:
      state: ValleyState, or the state of a chain that has one in it.
      like: a tree of the parameters; the mean is cast to its dtypes. None leaves it in float32.
    Raises:
      TreeMismatch: no ValleyState in the state, or several.
    """
    found = only(ValleyState, state, "valley_average_params")

    def one(average: Any, latest: Any, segment: Any) -> Any:
        if not is_weight(average):
            return segment
        early = jnp.where(found.evaluations > 0, latest, segment)
        return jnp.where(jnp.isinf(found.limit), early, average)

    return in_dtypes_of(like, jax.tree.map(one, found.average.of, found.window[0], found.segment.of))
