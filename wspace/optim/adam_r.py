"""AdamR: Adam with a decoupled pull towards reference parameters, so that a fine-tune stays close to its base."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wspace.core.errors import ShapeError, SideTreeError
from wspace.core.transform import working_dtype
from wspace.core.typing import Array, Tree


class AdamRState(NamedTuple):
    """step: updates seen, int32. mean, square: Adam's moments, float32 (float64 if the parameters are).

    reference: the parameters to stay close to.
    """

    step: Array
    mean: Tree
    square: Tree
    reference: Tree


def _blend(fresh: Array | float, old: Array, new: Array) -> Array:
    """Adam's moving average; fresh: share of the new number."""
    share = jnp.asarray(fresh, old.dtype)
    return (1 - share) * old + share * new


def _corrected(fresh: Array | float, moment: Array, step: Array) -> Array:
    """`moment / (1 - decay^step)`, by expm1: 1 - 0.999 in float32 would lose 4 digits."""
    log = jnp.log1p(-jnp.asarray(fresh, moment.dtype))
    return moment / -jnp.expm1(step.astype(moment.dtype) * log)


def adam_r(
    learning_rate: Array | float,
    reference: Tree | None = None,
    decay: Array | float = 0.01,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    norm: Literal["l2", "l1"] = "l2",
) -> optax.GradientTransformation:
    """Adam, with weights pulled towards a reference by steps of Adam's own size.

        u = -lr ( m^ / (sqrt(v^) + eps) + decay / (sqrt(mean v^) + eps) (theta - reference) )      (l2)
        u = -lr ( m^ / (sqrt(v^) + eps) + decay / (sqrt(mean v^) + eps) sign(theta - reference) )  (l1)

    m^, v^ are Adam's corrected moments, mean v^ over the entries of a leaf.

    Scope: leaf. Needs: `update` must be given params. Random: no.

    Args:
      learning_rate: traced. reference: a tree of the parameters; None takes those that `init` is given.
      decay: strength of the pull. Traced. b1, b2, eps: Adam's. norm: "l2" or "l1". Static.
    Returns:
      optax.GradientTransformation with the state AdamRState.
    Raises:
      ShapeError: another word for norm. SideTreeError: update without params.
    Example:
      >>> tx = adam_r(0.1, reference={"w": jnp.array([0.0])}, decay=0.0)
      >>> params = {"w": jnp.array([1.0])}
      >>> updates, state = tx.update({"w": jnp.array([3.0])}, tx.init(params), params)
      >>> f"{updates['w'][0]:.4f}"
      '-0.1000'

    Reference: Deng et al., 2025, "DARE the Extreme: Revisiting Delta-Parameter Pruning For Fine-Tuned Models"
      (DAREx-L2, DAREx-L1).
    Differs from the paper: the pull and Adam's step are one update from the same weights, where the paper pulls first;
      eps is added to the pull's divisor too.
    """
    if norm not in ("l2", "l1"):
        raise ShapeError(f"adam_r has no norm {norm!r}; use 'l2' or 'l1'")

    def init(params: Tree) -> AdamRState:
        def zeros(w: Array) -> Array:
            return jnp.zeros_like(w, working_dtype(w.dtype))

        anchor = params if reference is None else reference
        copied = jax.tree.map(lambda r: jnp.array(r, copy=True), anchor)
        return AdamRState(jnp.zeros((), jnp.int32), jax.tree.map(zeros, params), jax.tree.map(zeros, params), copied)

    def update(updates: Any, state: AdamRState, params: Tree | None = None) -> tuple[Any, AdamRState]:
        if params is None:
            raise SideTreeError("adam_r needs the parameters; call it as update(updates, state, params)")
        step = optax.safe_increment(state.step)
        mean = jax.tree.map(lambda m, g: _blend(1 - b1, m, g.astype(m.dtype)), state.mean, updates)
        square = jax.tree.map(lambda v, g: _blend(1 - b2, v, g.astype(v.dtype) ** 2), state.square, updates)

        def one(m: Array, v: Array, w: Array, r: Array) -> Array:
            lr, strength, small = (jnp.asarray(x, m.dtype) for x in (learning_rate, decay, eps))
            m, v = _corrected(1 - b1, m, step), _corrected(1 - b2, v, step)
            away = w.astype(m.dtype) - r.astype(m.dtype)
            pull = strength * (away if norm == "l2" else jnp.sign(away)) / (jnp.sqrt(jnp.mean(v)) + small)
            return (-lr * (m / (jnp.sqrt(v) + small) + pull)).astype(w.dtype)

        moved = jax.tree.map(one, mean, square, params, state.reference)
        return moved, AdamRState(step, mean, square, state.reference)

    return optax.GradientTransformation(init, update)
