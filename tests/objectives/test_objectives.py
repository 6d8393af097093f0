"""Deleted, a loss could weigh classes or temperatures wrongly, or send gradients into the teacher."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from wspace.core.errors import ShapeError
from wspace.objectives import entropy, kd_loss, top_logits

RNG = np.random.default_rng(0)
S, T = RNG.standard_normal((2, 6, 5)) * 2


def f32(x: Any) -> jax.Array:
    return jnp.asarray(x, jnp.float32)


def test_entropy_is_the_textbooks() -> None:
    p = softmax(S, axis=-1)
    want = np.mean([-sum(x * np.log(x) for x in row) for row in p])
    np.testing.assert_allclose(entropy(f32(S)), want, rtol=1e-5)
    assert entropy(f32(S).astype(jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_distillation_is_the_textbooks(temperature: float) -> None:
    p, q = softmax(T / temperature, axis=-1), softmax(S / temperature, axis=-1)
    each = [sum(a * np.log(a / b) for a, b in zip(x, y, strict=True)) for x, y in zip(p, q, strict=True)]
    want = temperature**2 * np.mean(each)
    np.testing.assert_allclose(kd_loss(f32(S), f32(T), temperature), want, rtol=1e-5)
    np.testing.assert_allclose(kd_loss(f32(S + 3), f32(S), temperature), 0, atol=1e-5)


def test_at_a_high_temperature_it_is_the_squared_error_of_centered_logits() -> None:
    """Hinton's limit: KL -> sum (z_s - z_t)^2 / (2 classes T^2), so the T^2 in front makes it independent of T."""
    s, t = (x - x.mean(-1, keepdims=True) for x in (S, T))
    np.testing.assert_allclose(kd_loss(f32(s), f32(t), 300.0), np.mean(np.sum((s - t) ** 2, -1)) / 10, rtol=0.02)


def test_the_largest_logits_of_the_teacher_are_matched() -> None:
    want = []
    for s, t in zip(S, T, strict=True):
        top = sorted(range(5), key=lambda c, t=t: -t[c])[:3]
        want.append(np.mean([(s[c] - t[c]) ** 2 for c in top]))
    np.testing.assert_allclose(top_logits(f32(S), f32(T), k=3), np.mean(want), rtol=1e-5)
    np.testing.assert_allclose(top_logits(f32(S), f32(T), k=5), np.mean((S - T) ** 2), rtol=1e-5)


@pytest.mark.parametrize("loss", [kd_loss, top_logits])
def test_gradients_go_to_the_student_alone_and_misuse_is_named(loss: Any) -> None:
    to_student, to_teacher = jax.grad(loss, argnums=(0, 1))(f32(S), f32(T))
    assert jnp.abs(to_student).max() > 0 and not to_teacher.any()
    with pytest.raises(ShapeError, match=r"student's logits are \(6, 5\) and the teacher's \(5, 5\)"):
        loss(f32(S), f32(T[1:]))
    with pytest.raises(ShapeError, match="k is 6, but there are 5 classes"):
        top_logits(f32(S), f32(T), k=6)
