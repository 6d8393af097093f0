"""The loss that tunable weights are trained with: one draw of the mix weighs the kernels and the losses alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from wspace.core.errors import ShapeError
from wspace.core.implicit import materialize
from wspace.core.typing import Array, Tree
from wspace.reparam.tunable import tune

Loss = Callable[[Tree, Tree], Array]


def multi_loss(losses: Sequence[Loss]) -> Callable[..., Array]:
    """A loss that teaches every mix of n objectives to one model with `tunable` weights.

        L(params, batch, key) = sum_i l_i L_i(f(.; W(l))),   W(l) = sum_i l_i k_i,   l uniform on the simplex

    After training, `tune(params, l)` is the model for the trade-off l: at vertex i that of objective i alone.

    Args:
      losses: n functions `(params, batch) -> scalar`, one for each kernel of the Tunable nodes, traceable; they get
        plain arrays. What they have in common, such as the forward pass, is computed once under jit.
    Returns:
      `loss(params, batch, key, mix=None) -> scalar`, traceable. params: with Tunable nodes; their own mix is not read.
      key: of the draw, another one for each step. mix: l, [n], instead of a draw: to measure one trade-off.
    Raises:
      ShapeError: no loss, or (when called) a mix of another length. SelectionError (when called): no Tunable node.
    Example:
      >>> from wspace.reparam import tunable
      >>> params = tunable()({"w": jnp.array(0.0)}, {"w": jnp.array(1.0)})
      >>> loss = multi_loss([lambda p, x: (p["w"] - x) ** 2, lambda p, x: jnp.abs(p["w"] + x)])
      >>> loss(params, 1.0, jax.random.key(0), mix=(0.5, 0.5))  # w is 0.5: (0.25 + 1.5) / 2
      Array(0.875, dtype=float32)

    Reference: Maggioni, Tanay, Babiloni, McDonagh, Leonardis, 2023, "Tunable Convolutions with Parametric Multi-Loss
      Optimization".
    Differs from the paper: the draw is uniform on the simplex and is itself the mix of the kernels; how the paper draws
      its parameters was not checked, and its learned map from them to the mix is left out.
    """
    if not losses:
        raise ShapeError("multi_loss got no loss; give one for each kernel of the tunable weights")

    def loss(params: Tree, batch: Tree, key: Array, mix: Sequence[float] | Array | None = None) -> Array:
        n = len(losses)
        drawn = jax.random.exponential(key, (n,), jnp.float32)  # divided by their sum they are uniform on the simplex
        shares = drawn / jnp.sum(drawn) if mix is None else jnp.asarray(mix, jnp.float32)
        if shares.shape != (n,):
            raise ShapeError(f"multi_loss: the mix has shape {shares.shape}, but there are {n} losses; give [{n}]")
        dense = materialize(tune(params, shares))
        parts = [shares[i] * one(dense, batch) for i, one in enumerate(losses)]
        return sum(parts[1:], parts[0])

    return loss
