"""PACT: activations clipped at a level that is learned."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.typing import Array


@partial(jax.jit, static_argnames="bits")
def pact(x: Array, alpha: Array, bits: int = 4) -> Array:
    """A clipped ReLU, rounded to 2^b levels between 0 and alpha.

        y = clip(x, 0, alpha),   out = round(y (2^b - 1) / alpha) alpha / (2^b - 1)
        d out / d x = [0 < x < alpha],   d out / d alpha = [x >= alpha]

    Args:
      x: floating, any shape. alpha: scalar above 0, to be learned with a decay of its own. bits: 1..8. Static.
    Returns:
      x's shape and dtype.
    Example:
      >>> pact(jnp.array([-1.0, 0.4, 3.0]), jnp.array(1.5), bits=2)
      Array([0. , 0.5, 1.5], dtype=float32)
      >>> jax.grad(lambda a: pact(jnp.array([-1.0, 0.4, 3.0, 9.0]), a, bits=2).sum())(1.5)
      Array(2., dtype=float32, weak_type=True)

    Reference: Choi, Wang, Venkataramani, Chuang, Srinivasan, Gopalakrishnan, 2018, "PACT: Parameterized Clipping
      Activation for Quantized Neural Networks".
    """
    top = jnp.broadcast_to(jnp.asarray(alpha, x.dtype), x.shape)
    y = jnp.where(x >= top, top, jnp.where(x > 0, x, 0))
    steps = lax.stop_gradient(y * (2**bits - 1) / top)
    return y + lax.stop_gradient(jnp.round(steps) * top / (2**bits - 1) - y)
