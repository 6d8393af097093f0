"""A Lagrange multiplier that learns how much a constraint has to weigh in a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wspace.core.errors import WspaceError
from wspace.core.typing import Array

ADAM = optax.adam(3e-4)  # the rate of the paper's appendix


class DualState(NamedTuple):
    """log_value: log of the multiplier, f32. inner: the optimizer's state."""

    log_value: Array
    inner: Any

    @property
    def value(self) -> Array:
        """The multiplier, above 0."""
        return jnp.exp(self.log_value)


class DualVariable(NamedTuple):
    """init: value to begin with -> DualState. update: (measured, state) -> (multiplier, state)."""

    init: Callable[..., DualState]
    update: Callable[[Array | float, DualState], tuple[Array, DualState]]


def dual_variable(target: Array | float, optimizer: optax.GradientTransformation = ADAM) -> DualVariable:
    """The multiplier of a constraint `c(theta) <= target`, by dual ascent on its logarithm.

        min_theta max_{l > 0}  loss(theta) + l (c(theta) - target):   log l <- log l - optimizer(-l (c - target))

    Where the constraint is broken l grows, where it is kept with room to spare l falls towards 0; at rest c = target.
    In soft actor-critic c is the mean of log pi(a|s), the target minus the wanted entropy, and l the temperature alpha.
    Sparsity, FLOPs, a distance from a base model are constraints in the same way.

    Scope: one scalar. Random: no.

    Args:
      target: what c may be at most. Traced.
      optimizer: of log l.
    Returns:
      DualVariable, two functions to call beside an optimizer's own: `state = init(1.0)`, then each step
      `l, state = update(measured c, state)`, and the next loss is `loss + l * c`. Both are traceable; nothing flows
      back into what was measured.
    Raises:
      WspaceError: init with a value that is not positive.
    Example:
      >>> dual = dual_variable(target=1.0, optimizer=optax.sgd(0.5))
      >>> state = dual.init(2.0)
      >>> high, state = dual.update(2.0, state)  # broken by 1: log l grows by 0.5 * 2 * 1
      >>> f"{jnp.log(high / 2):.4f}"
      '1.0000'

    Reference: Haarnoja et al., 2018, "Soft Actor-Critic Algorithms and Applications" (its temperature); Boyd,
      Vandenberghe, 2004, "Convex Optimization" (dual ascent).
    Differs from the paper: any constraint. The gradient is that of J(alpha) in log alpha; some code has log alpha in
      the place of alpha in J, which leaves out the factor l.
    """

    def init(value: Array | float = 1.0) -> DualState:
        if not isinstance(value, jax.core.Tracer) and not value > 0:
            raise WspaceError(f"dual_variable: a multiplier begins above 0, but got {value}")
        log = jnp.log(jnp.asarray(value, jnp.float32))
        return DualState(log, optimizer.init(log))

    def update(measured: Array | float, state: DualState) -> tuple[Array, DualState]:
        broken_by = jax.lax.stop_gradient(jnp.asarray(measured, jnp.float32) - jnp.asarray(target, jnp.float32))
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer count
            moved, inner = optimizer.update(-state.value * broken_by, state.inner, state.log_value)
        new = DualState(optax.apply_updates(state.log_value, moved), inner)
        return new.value, new

    return DualVariable(init, update)
