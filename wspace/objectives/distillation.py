"""Distillation: losses that make one model answer as another does."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from wspace.core.errors import ShapeError
from wspace.core.transform import working_dtype
from wspace.core.typing import Array


@jax.jit
def kd_loss(student: Array, teacher: Array, temperature: Array | float = 5.0) -> Array:
    """Knowledge distillation: the divergence of the student's softened predictions from the teacher's.

        L = T^2 mean_x KL(softmax(z_t / T) || softmax(z_s / T))

    T^2 keeps the size of the gradient the same at every temperature.

    Args:
      student, teacher: logits z_s, z_t, [..., classes] of one shape; gradients go to the student alone. Traced.
      temperature: T, above 0; 5 in WAKD. Traced.
    Returns:
      scalar >= 0, in the dtype of the student's logits (at least float32); up to rounding.
    Raises:
      ShapeError: the shapes differ.
    Example:
      >>> z = jnp.array([[1.0, 2.0, 3.0]])
      >>> f"{kd_loss(-z, z, 1.0):.4f}"
      '1.1504'

    Reference: Hinton, Vinyals, Dean, 2015, "Distilling the Knowledge in a Neural Network"; the loss of Vorobeevich et
      al., 2024, "Weight Averaging Improves Knowledge Distillation under Domain Shift" (WAKD).
    Differs from the paper: none.
    """
    _check_alike("kd_loss", student, teacher)
    dtype = working_dtype(student.dtype)
    t = jnp.asarray(temperature, dtype)
    log_s = jax.nn.log_softmax(student.astype(dtype) / t)
    log_t = jax.lax.stop_gradient(jax.nn.log_softmax(teacher.astype(dtype) / t))
    return t**2 * jnp.mean(jnp.sum(jnp.exp(log_t) * (log_t - log_s), axis=-1))


@partial(jax.jit, static_argnames="k")
def top_logits(student: Array, teacher: Array, k: int = 5) -> Array:
    """The squared error of the student's logits where the teacher's are largest.

        L = mean_x (1/k) sum_{c among the k largest z_t(x)} (z_s,c - z_t,c)^2

    Args:
      student, teacher: logits, [..., classes] of one shape; gradients go to the student alone. Traced.
      k: classes that count, 1 .. classes; 5 in DAREx. Static.
    Returns:
      scalar >= 0, in the dtype of the student's logits (at least float32).
    Raises:
      ShapeError: the shapes differ, or k is out of range.
    Example:
      >>> top_logits(jnp.array([[9.0, 1.0, 5.0]]), jnp.array([[0.0, 3.0, 4.0]]), k=2)
      Array(2.5, dtype=float32)

    Reference: Deng et al., 2025, "DARE the Extreme: Revisiting Delta-Parameter Pruning For Fine-Tuned Models" (how q
      is learned, `merge.darex_q`; as in its code).
    Differs from the paper: none.
    """
    _check_alike("top_logits", student, teacher)
    if not 1 <= k <= teacher.shape[-1]:
        raise ShapeError(f"top_logits: k is {k}, but there are {teacher.shape[-1]} classes; use 1 to that")
    dtype = working_dtype(student.dtype)
    wanted, where = jax.lax.top_k(jax.lax.stop_gradient(teacher.astype(dtype)), k)
    return jnp.mean((jnp.take_along_axis(student.astype(dtype), where, axis=-1) - wanted) ** 2)


def _check_alike(name: str, student: Array, teacher: Array) -> None:
    if student.shape != teacher.shape or student.ndim == 0:
        raise ShapeError(
            f"{name}: the student's logits are {student.shape} and the teacher's {teacher.shape}; "
            f"give both as [..., classes]"
        )
