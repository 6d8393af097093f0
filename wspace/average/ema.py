"""Exponential moving average of the parameters, as the last link of an optax chain."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wspace.average.read import in_dtypes_of, only
from wspace.core.containers import is_weight
from wspace.core.errors import SideTreeError, WspaceError
from wspace.core.transform import working_dtype
from wspace.core.typing import Array, Tree


class EmaState(NamedTuple):
    """step: updates seen, int32. average: tree like the parameters; floating leaves float32 (float64 if they are)."""

    step: Array
    average: Tree


@jax.jit
def ema_array(average: Array, w: Array, share: Array) -> Array:
    """`(1 - share) average + share w`, in the dtype of the average. average, w: one shape. share: scalar."""
    share = share.astype(average.dtype)
    return (1 - share) * average + share * w.astype(average.dtype)


def share_of(step: Array, decay: Array | float, debias: bool) -> Array:
    """The weight of the newest parameters in update number `step` (from 1), float32.

    1 - decay, or with debias (1 - decay) / (1 - decay^step), which makes the recursion the corrected average itself.
    """
    rest = jnp.asarray(1 - decay, jnp.float32)  # from the Python number: float32 of 1 - 0.9999 would lose 3 digits
    if not debias:
        return rest
    return rest / -jnp.expm1(step.astype(jnp.float32) * jnp.log1p(-rest))


def ema(decay: Array | float, debias: bool = False, start: int = 0, every: int = 1) -> optax.GradientTransformation:
    """Keep an exponential moving average of the parameters while training; updates pass through unchanged.

        avg_0 = theta_0,   avg_t = decay avg_{t-1} + (1 - decay) theta_t                              (debias=False)
        avg_t = sum_{s=1..t} (1 - decay) decay^{t-s} theta_s / (1 - decay^t)                          (debias=True)

    theta_t are the parameters after update t, so this has to be the last link of the chain. The average is kept in
    float32 whatever the parameters are: in bfloat16 it would stop moving once its steps are below half a unit in the
    last place. Leaves that are no floating array have their latest value.

    With `start` and `every`, t counts the updates start, start + every, ...; before those the average is the latest
    parameters, so that theta_0 is what the update before `start` left.

    Scope: leaf. Needs: `update` must be given params. Random: no.

    Args:
      decay: at least 0, below 1, per update; half of the weight is on the last log(1/2) / log(decay) updates. Traced.
      debias: forget the initial parameters, and correct for that as Adam does. Static.
      start: first update that counts; 0 counts from the first. every: updates from one that counts to the next. Static.
    Returns:
      optax.GradientTransformation with the state EmaState; read it with `ema_params`.
    Raises:
      WspaceError: a decay out of range (a traced one can't be checked), start below 0 or every below 1.
      SideTreeError: update without params.
    Example:
      >>> import optax
      >>> optimizer = optax.chain(optax.sgd(1.0), ema(decay=0.5))
      >>> params = {"w": jnp.array([4.0])}
      >>> state = optimizer.init(params)
      >>> updates, state = optimizer.update({"w": jnp.array([2.0])}, state, params)
      >>> optax.apply_updates(params, updates)["w"], ema_params(state)["w"]
      (Array([2.], dtype=float32), Array([3.], dtype=float32))

    Reference: Polyak, Juditsky, 1992, "Acceleration of stochastic approximation by averaging"; Kingma, Ba, 2015, "Adam"
      (section 3, the bias correction); WARP's anchor is ema(decay=1 - mu), and the target network of soft actor-critic
      (Haarnoja et al., 2018) is ema(decay=1 - tau), or `optax.incremental_update(params, target, tau)` outside a chain.
    Differs from the paper: computed as a recursion of the corrected average, which is the same in exact arithmetic.
      `optax.ema` averages the updates, this the parameters.
    """
    if isinstance(decay, int | float) and not 0 <= decay < 1:
        raise WspaceError(f"ema: decay is {decay}; it has to be at least 0 and below 1, such as 0.999")

    if start < 0 or every < 1:
        raise WspaceError(f"ema: start is {start} and every is {every}; they are at least 0 and 1")
    first = max(start, 1)

    def init(params: Tree) -> EmaState:
        return EmaState(jnp.zeros((), jnp.int32), jax.tree.map(_start, params))

    def update(updates: Any, state: EmaState, params: Tree | None = None) -> tuple[Any, EmaState]:
        if params is None:
            raise SideTreeError("ema needs the parameters; call it as update(updates, state, params)")
        step = optax.safe_increment(state.step)
        counts = (step - first) % every == 0
        share = jnp.where(counts, share_of(jnp.maximum(step - first, 0) // every + 1, decay, debias), 0)
        share = jnp.where(step < first, 1, share)

        def one(average: Any, w: Any) -> Any:
            return ema_array(average, w, share) if is_weight(w) else w

        return updates, EmaState(step, jax.tree.map(one, state.average, optax.apply_updates(params, updates)))

    return optax.GradientTransformation(init, update)


def _start(w: Any) -> Any:
    """A copy, so that parameters and state can both be donated."""
    return jnp.array(w, working_dtype(w.dtype), copy=True) if is_weight(w) else w


def ema_params(state: Any, like: Tree | None = None) -> Tree:
    """The averaged parameters in an optimizer's state; before the first update, the initial parameters.

    Args:
      state: EmaState, or the state of a chain that has one in it.
      like: a tree of the parameters; the average is cast to its dtypes. None leaves it in float32.
    Raises:
      TreeMismatch: no EmaState in the state, or several.
    """
    return in_dtypes_of(like, only(EmaState, state, "ema_params").average)
