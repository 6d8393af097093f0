"""SGLD: gradient descent with noise that makes its iterates samples of a posterior."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wspace.core.containers import as_params, is_weight, show
from wspace.core.transform import leaf_key, narrow, working_dtype
from wspace.core.typing import Array, Tree
from wspace.optim.step import given


class SgldState(NamedTuple):
    """step: updates made, int32."""

    step: Array


@jax.jit
def sgld_array(gradient: Array, key: Array, step_size: Array | float, temperature: Array | float) -> Array:
    """`-(eta / 2) g + sqrt(eta T) xi`, xi standard normal; the draws do not depend on how the array is sharded."""
    eta, t = (jnp.asarray(x, gradient.dtype) for x in (step_size, temperature))
    noise = jax.random.normal(key, gradient.shape, jnp.float32, out_sharding=jax.typeof(gradient).sharding)
    return jnp.sqrt(eta * t) * noise.astype(gradient.dtype) - eta / 2 * gradient


def sgld(
    step_size: optax.ScalarOrSchedule, temperature: Array | float = 1.0, *, key: Array
) -> optax.GradientTransformation:
    """Sample from a posterior by noisy gradient steps: theta ~ exp(-U / T), approximately, once the chain has settled.

        theta <- theta - (eta / 2) dU/dtheta + sqrt(eta T) N(0, I)

    Average what the samples predict (`average.bayes_mixture`), not the samples.

    Scope: leaf. Needs: `update` must be given params. Random: yes, by leaf path and step.

    Args:
      step_size: eta, or a schedule of it. Traced. The error of the samples shrinks with it.
      temperature: T; 0 is gradient descent of rate eta / 2. Traced.
      key: `jax.random.key`, of the noise.
    Returns:
      optax.GradientTransformation with the state SgldState. It takes gradients of U, the negative log posterior of the
      whole data set: a mean loss times the number of examples, plus the negative log prior. Updates in the dtype of
      the parameters, which bfloat16 rounds to nothing where they are small.
    Raises:
      SideTreeError: update without params.
    Example:
      >>> tx = sgld(0.5, temperature=0.0, key=jax.random.key(0))
      >>> params = {"w": jnp.array([1.0])}
      >>> updates, state = tx.update({"w": jnp.array([4.0])}, tx.init(params), params)
      >>> updates["w"]
      Array([-1.], dtype=float32)

    Reference: Welling, Teh, 2011, "Bayesian Learning via Stochastic Gradient Langevin Dynamics".
    Differs from the paper: the temperature is an addition. `optax.noisy_sgd` adds noise of another schedule.
    """

    def init(params: Tree) -> SgldState:
        return SgldState(jnp.zeros((), jnp.int32))

    def update(updates: Any, state: SgldState, params: Tree | None = None) -> tuple[Any, SgldState]:
        weights, flat = as_params(given(params, "sgld")).leaves, as_params(updates)
        eta = step_size(state.step) if callable(step_size) else step_size
        now = jax.random.fold_in(key, state.step)

        def one(path: Any, g: Any) -> Any:
            if not is_weight(g):
                return g
            wide = g.astype(working_dtype(g.dtype, weights[path].dtype))
            return narrow(sgld_array(wide, leaf_key(now, show(path)), eta, temperature), weights[path].dtype)

        moved = flat.rebuild({path: one(path, g) for path, g in flat.leaves.items()})
        return moved, SgldState(optax.safe_increment(state.step))

    return optax.GradientTransformation(init, update)
