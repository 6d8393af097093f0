"""Pruning while training: masks that live in the optimizer's state, and updates that make zeros exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wspace.core.axes import Axes
from wspace.core.containers import as_params, show
from wspace.core.errors import ShapeError, TreeMismatch, listed
from wspace.core.implicit import dense
from wspace.core.transform import Transform, working_dtype
from wspace.core.typing import Array, Path, Tree
from wspace.optim.step import after, given, plain, run, touched, towards, when


class PruneState(NamedTuple):
    """step: int32, updates made. masks: the container of the parameters, bool for a leaf to prune, None elsewhere."""

    step: Array
    masks: Tree


def prune(
    score: Callable[[Any], Transform],
    sparsity: Callable[[Array], Any] | Array | float,
    *,
    begin: int = 0,
    end: int | None = None,
    every: int = 1,
    key: Array | None = None,
    axes: Axes | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Prune by any pruning Transform on a schedule; pruned weights are exactly 0 after every `optax.apply_updates`.

        q = p + u                                        the weights as the inner optimizer would leave them
        m <- m & (score(s_t)(m q) != 0)                  at steps t = begin, begin + every, ..., and at end
        u <- m ? u : -p

    It must come last in the chain. A pruned weight stays at zero: it has no magnitude to come back with.

        tx = optax.chain(adamw(1e-3), prune(lambda s: on(matrices, magnitude(s)), polynomial_sparsity(0.9, 0, 900)))

    Args:
      score: from a sparsity (traced) to a pruning Transform, 1 -> 1; only where its result is zero counts.
      sparsity: a schedule from step to fraction of zeros, or a number.
      begin, end: first and last step (from 0) at which masks change; end None is never.
      every: steps between two changes of the masks.
      key: for a random score. axes: roles of the leaves' axes, as for any Transform.
    Returns:
      GradientTransformationExtraArgs; extra arguments of `update` that the score needs (gram=...) are its side trees.
      State: PruneState. Updates: dtype of the updates or of the parameters, whichever is wider. Leaves that the score
      keeps, integer leaves, and Implicit nodes are dense: their updates pass untouched, their mask is None.
    Raises:
      SelectionError: a selector of the score takes no leaf (at init). SideTreeError: update without params.
      ShapeError: every below 1.
    Example:
      >>> from wspace.core.transform import leafwise
      >>> below = lambda s: leafwise("below", lambda w, ctx: jnp.where(jnp.abs(w[0]) < s, 0, w[0]))
      >>> tx = optax.chain(optax.sgd(0.1), prune(below, 0.5))
      >>> p = {"w": jnp.array([0.2, 1.0])}
      >>> u, state = tx.update({"w": jnp.array([1.0, 1.0])}, tx.init(p), p)
      >>> optax.apply_updates(p, u)["w"]
      Array([0. , 0.9], dtype=float32)

    Reference: Zhu, Gupta, 2017, "To prune, or not to prune: exploring the efficacy of pruning for model compression".
    Differs from the paper: any score; a masked weight is set to zero, where the paper keeps its value behind the mask,
      so here it never returns.
    """
    if every < 1:
        raise ShapeError(f"prune needs every >= 1 step between changes of the masks, but got {every}")

    def at(step: Array) -> Transform:
        return score(sparsity(step) if callable(sparsity) else sparsity)

    def init(params: Tree) -> PruneState:
        weights, step = plain(params), jnp.zeros((), jnp.int32)
        masks: dict[Path, Any] = dict.fromkeys(as_params(params).leaves)
        for path in touched(at(step), weights, axes):
            masks[path] = jnp.ones_like(weights[path], dtype=jnp.bool_)
        return PruneState(step, as_params(params).rebuild(masks))

    def update(updates: Tree, state: PruneState, params: Tree = None, **sides: Any) -> tuple[Tree, PruneState]:
        flat = as_params(state.masks)
        masks = {path: m for path, m in flat.leaves.items() if m is not None}
        weights = after(given(params, "prune"), updates)

        def changed() -> list[Array]:
            live = {path: _rankable(weights[path], m) for path, m in masks.items()}
            out = run(at(t), {**weights, **live}, t, key, axes, sides)
            return [m & (dense(out[path]) != 0) for path, m in masks.items()]

        t = state.step
        due = (t >= begin) & ((t - begin) % every == 0)
        if end is not None:
            due = (due & (t <= end)) | (t == end)
        new = dict(zip(masks, when(due, changed, lambda: list(masks.values())), strict=True))
        return _masked(updates, params, new), PruneState(optax.safe_increment(t), flat.rebuild({**flat.leaves, **new}))

    return optax.GradientTransformationExtraArgs(init, update)


def _rankable(w: Array, mask: Array) -> Array:
    """The weights to score: 0 where pruned. A live weight that happens to be 0 becomes the least positive number, so
    that it ranks last among the live ones but a score that keeps it does not return a 0."""
    w = w.astype(working_dtype(w.dtype))
    return jnp.where(mask, jnp.where(w == 0, jnp.finfo(w.dtype).tiny, w), 0)


def _masked(updates: Tree, params: Tree, masks: dict[Path, Array]) -> Tree:
    """Updates that take pruned weights to 0 and leave all others as they are."""
    moves, weights = as_params(updates), plain(params)

    def one(path: Path, u: Any) -> Any:
        if u is None or path not in masks:
            return u
        to_zero = towards(jnp.zeros_like(u), weights[path], u)
        return jnp.where(masks[path], u.astype(to_zero.dtype), to_zero)

    return moves.rebuild({path: one(path, u) for path, u in moves.leaves.items()})


class MaskState(NamedTuple):
    """masks: the container of the masks, bool or None."""

    masks: Tree


def mask(masks: Tree) -> optax.GradientTransformation:
    """Keep the weights outside fixed masks at exactly 0: u <- m ? u : -p. It must come last in the chain.

    Args:
      masks: the parameters' structure; True, or 1, stays; None leaves a leaf dense.
    Returns:
      GradientTransformation. State: MaskState.
    Raises (at init):
      TreeMismatch: masks and parameters differ in paths or shapes. ShapeError: a mask is not binary.
    Example:
      >>> tx = optax.chain(optax.sgd(0.1), mask({"w": jnp.array([True, False]), "b": None}))
      >>> p = {"w": jnp.ones(2), "b": jnp.ones(1)}
      >>> u, state = tx.update(p, tx.init(p), p)
      >>> optax.apply_updates(p, u)
      {'b': Array([0.9], dtype=float32), 'w': Array([0.9, 0. ], dtype=float32)}

    Reference: Frankle, Carbin, 2019, "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks".
    Differs from the paper: none; the mask comes from outside, the reset to the first weights is the caller's.
    """

    def init(params: Tree) -> MaskState:
        entries, leaves = as_params(masks), as_params(params).leaves
        _check_masks(entries.leaves, leaves)

        def placed(path: Path, m: Any) -> Array | None:  # with the sharding of its leaf
            return None if m is None else _binary(path, m) & jnp.ones_like(leaves[path], dtype=jnp.bool_)

        return MaskState(entries.rebuild({path: placed(path, m) for path, m in entries.leaves.items()}))

    def update(updates: Tree, state: MaskState, params: Tree = None) -> tuple[Tree, MaskState]:
        kept = {path: m for path, m in as_params(state.masks).leaves.items() if m is not None}
        return _masked(updates, given(params, "mask"), kept), state

    return optax.GradientTransformation(init, update)


def _check_masks(masks: dict[Path, Any], params: dict[Path, Any]) -> None:
    missing, stray = [show(p) for p in params.keys() - masks.keys()], [show(p) for p in masks.keys() - params.keys()]
    if missing or stray:
        parts = [f"{w} {listed(sorted(x))}" for w, x in (("they lack", missing), ("they have also", stray)) if x]
        raise TreeMismatch(f"masks do not fit the parameters: {'; '.join(parts)} (give None to leave a leaf dense)")
    wrong = [
        f"{show(p)} is {np.shape(m)} in the masks and {np.shape(params[p])} in the parameters"
        for p, m in masks.items()
        if m is not None and np.shape(m) != np.shape(params[p])
    ]
    if wrong:
        raise TreeMismatch(f"masks do not fit the parameters: {listed(wrong)}")


def _binary(path: Path, m: Any) -> Array:
    m = jnp.asarray(m)
    if m.dtype != jnp.bool_ and (isinstance(m, jax.core.Tracer) or not bool(((m == 0) | (m == 1)).all())):
        raise ShapeError(
            f"the mask of {show(path)} ({m.dtype}) is not binary; give booleans: True stays, False is pruned"
        )
    return m.astype(jnp.bool_)
