"""LAWA: the mean of the latest checkpoints of a run, far apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wspace.average.read import in_dtypes_of, only
from wspace.core.containers import is_weight
from wspace.core.errors import SideTreeError, WspaceError
from wspace.core.transform import working_dtype
from wspace.core.typing import Array, Tree


class LawaState(NamedTuple):
    """step: updates seen, int32. latest: the k latest checkpoints, newest first, trees like the parameters. every:
    updates from one checkpoint to the next, int32."""

    step: Array
    latest: tuple[Tree, ...]
    every: Array


@jax.jit
def lawa_array(latest: Sequence[Array], present: Array) -> Array:
    """The mean of the first `present` of n arrays of one shape and dtype, in float32 (float64 if they are)."""
    wide = [x.astype(working_dtype(x.dtype)) for x in latest]
    kept = [jnp.where(i < present, x, 0) for i, x in enumerate(wide)]
    return sum(kept[1:], kept[0]) / present.astype(wide[0].dtype)


def lawa(k: int = 5, every: int = 1) -> optax.GradientTransformation:
    """Keep the k latest checkpoints of a run, one each `every` updates; updates pass through unchanged.

        avg_t = (1/k) sum_{i=0..k-1} theta_{T - i every},   T the latest multiple of `every`

    theta_t are the parameters after update t, so this has to be the last link of the chain. Read the mean with
    `lawa_params`; it is for evaluation, training goes on from the raw parameters. The method's recipe is a high rate
    and a large spacing.

    Scope: leaf. Needs: `update` must be given params. Random: no. Memory: k copies of the parameters.

    Args:
      k: checkpoints in the mean, up to about 16. Static. every: updates from one checkpoint to the next. Static.
    Returns:
      optax.GradientTransformation with the state LawaState.
    Raises:
      WspaceError: k or every below 1. SideTreeError: update without params.
    Example:
      >>> optimizer = optax.chain(optax.sgd(1.0), lawa(k=2))
      >>> params = {"w": jnp.array([9.0])}
      >>> state = optimizer.init(params)
      >>> for _ in range(3):
      ...     updates, state = optimizer.update({"w": jnp.array([2.0])}, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> params["w"], lawa_params(state)["w"]
      (Array([3.], dtype=float32), Array([4.], dtype=float32))

    Reference: Sanyal, Neerkaje, Kaddour, Kumar, Sanghavi, 2023, "Early Weight Averaging meets High Learning Rates for
      LLM Pre-training"; Kaddour, 2022, "Stop Wasting My Time! Saving Days of ImageNet and BERT Training with Latest
      Weight Averaging".
    Differs from the paper: none. The script released with it averages disjoint groups of 5 files; this window slides.
    """
    if k < 1 or every < 1:
        raise WspaceError(f"lawa: k is {k} and every is {every}, but both count from 1")

    def init(params: Tree) -> LawaState:
        def copied(w: Any) -> Any:
            return jnp.array(w, copy=True) if is_weight(w) else w

        latest = tuple(jax.tree.map(copied, params) for _ in range(k))
        return LawaState(jnp.zeros((), jnp.int32), latest, jnp.asarray(every, jnp.int32))

    def update(updates: Any, state: LawaState, params: Tree | None = None) -> tuple[Any, LawaState]:
        if params is None:
            raise SideTreeError("lawa needs the parameters; call it as update(updates, state, params)")
        step = optax.safe_increment(state.step)
        now = optax.apply_updates(params, updates)
        latest = jax.lax.cond(step % every == 0, lambda: (now, *state.latest[:-1]), lambda: state.latest)
        return updates, LawaState(step, latest, state.every)

    return optax.GradientTransformation(init, update)


def lawa_params(state: Any, like: Tree | None = None) -> Tree:
    """The mean of the checkpoints in an optimizer's state: of those present while there are fewer than k.

    Before the first checkpoint, the initial parameters.

    Args:
      state: LawaState, or the state of a chain that has one in it.
      like: a tree of the parameters; the mean is cast to its dtypes. None leaves it in float32.
    Raises:
      TreeMismatch: no LawaState in the state, or several.
    """
    found = only(LawaState, state, "lawa_params")
    seen = jnp.maximum(found.step // found.every, 1)

    present = jnp.minimum(seen, len(found.latest))

    def one(*each: Any) -> Any:
        return lawa_array(each, present) if is_weight(each[0]) else each[0]

    return in_dtypes_of(like, jax.tree.map(one, *found.latest))
