"""Rounding to integers times a step in one pass, and the gradients of training through it in another."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax

from wspace.core.errors import ShapeError, WspaceError
from wspace.core.typing import Array
from wspace_kernels.dispatch import Choice, Implementation, choose


def fake_quant(
    w: Array,
    step: Array | None = None,
    bits: int = 4,
    group: int | None = None,
    implementation: Implementation = None,
) -> Array:
    """Weights on integers times a step, with gradients that pass through the rounding.

    With a step it is learned (LSQ), N weights sharing one:

        v = clip(w / s, -2^(b-1), 2^(b-1) - 1),   out = s round(v)
        d out / d w = [w / s is not clipped],   d out / d s = g (round(v) - v [not clipped])
        g = 1 / sqrt(N (2^(b-1) - 1))

    Without one, s = max|w| / (2^(b-1) - 1) of each group, and the gradient is that of the identity.

    Args:
      w: `[in, out]`, floating. step: `[in/group, out]`. Traced, with gradients.
      bits: 2..8. group: inputs that share a step; None: all, or what the shape of step says. Static.
      implementation: None, "ref", "tpu" or "gpu". Static.
    Returns:
      `[in, out]` of w's dtype, computed in float32. A group of zeros stays; one with a NaN or an infinity is all NaN.
    Raises:
      ShapeError: w is no matrix, a group that does not divide the inputs, a step of another shape.
      WspaceError: bits outside 2..8. As `dispatch.choose` for a named implementation.
    Example:
      >>> import jax.numpy as jnp
      >>> w = jnp.array([[1.0], [-0.4], [0.2]])
      >>> fake_quant(w, bits=2).ravel(), fake_quant(w, jnp.array([[0.5]]), bits=2).ravel()
      (Array([1., 0., 0.], dtype=float32), Array([ 0.5, -0.5,  0. ], dtype=float32))

    Reference: Esser, McKinstry, Bablani, Appuswamy, Modha, 2020, "Learned Step Size Quantization".
    Differs from the paper: none; on a border of the range a weight counts as not clipped.
    """
    if w.ndim != 2 or not 2 <= bits <= 8:
        raise (ShapeError if w.ndim != 2 else WspaceError)(f"fake_quant: w {w.shape} is a matrix, bits={bits} is 2..8")
    size = group or max(w.shape[0] // max(1 if step is None else step.shape[0], 1), 1)
    if size < 1 or w.shape[0] % size or (step is not None and step.shape != (w.shape[0] // size, w.shape[1])):
        raise ShapeError(
            f"fake_quant: w {w.shape}, group {size} and step {None if step is None else step.shape} do not fit; "
            f"wanted [in, out], a divisor of in, [in/group, out]"
        )
    args = (w, step)
    static = {"bits": bits, "group": size}
    return _run(*args, choice=choose("fake_quant", implementation, *args, **static), **static)


@partial(jax.jit, static_argnames=("choice", "bits", "group"))
def _run(w: Array, step: Array | None, choice: Choice, bits: int, group: int) -> Array:
    static = {"bits": bits, "group": group}
    forward = choice.function("fake_quant", **static)
    if choice.name == "ref":
        return forward(w, step)

    @jax.custom_vjp
    def run(w: Array, step: Array | None) -> Array:
        return forward(w, step)

    def back(held: tuple[Array, Array | None], slope: Array) -> tuple[Any, Any]:
        w, step = held
        return (slope, None) if step is None else choice.function("slopes", **static)(w, step, slope)

    run.defvjp(lambda w, step: (forward(w, step), (w, step)), back)
    return run(w, step)
