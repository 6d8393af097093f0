"""Deleted, AdamR could pull to the wrong place, with the wrong strength, or not at all."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wspace.core.errors import ShapeError, SideTreeError
from wspace.optim import adam_r

RNG = np.random.default_rng(0)
START, REFERENCE = (jnp.asarray(RNG.standard_normal((3, 4)), jnp.float32) for _ in range(2))
GRADS = jnp.asarray(RNG.standard_normal((6, 3, 4)), jnp.float32)

ADAM = optax.chain(optax.scale_by_adam(), optax.scale(-0.1))


def run(tx: Any, start: Any = START) -> Any:
    """The parameters after all steps, which are one program."""

    def step(carry: Any, g: Any) -> tuple[Any, None]:
        params, state = carry
        with jax.numpy_dtype_promotion("standard" if tx is ADAM else "strict"):  # optax's own is not strict
            updates, state = tx.update({"w": g}, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = {"w": start}
    (params, _), _ = jax.jit(lambda c, g: jax.lax.scan(step, c, g))(
        (params, tx.init(params)), GRADS.astype(start.dtype)
    )
    return params["w"]


def test_without_a_pull_it_is_adam() -> None:
    with jax.enable_x64(True):
        wide = jnp.asarray(np.asarray(START, np.float64))
        np.testing.assert_allclose(run(adam_r(0.1, decay=0.0), wide), run(ADAM, wide), rtol=1e-10)


def test_without_gradients_of_its_own_it_goes_to_the_reference_and_its_delta_is_smaller() -> None:
    """Its own bar in the paper's entry: a smaller task vector."""
    pulled, free = run(adam_r(0.1, {"w": START}, decay=1.0)), run(ADAM)
    assert jnp.linalg.norm(pulled - START) < 0.9 * jnp.linalg.norm(free - START)
    np.testing.assert_array_equal(pulled, run(adam_r(0.1, decay=1.0)))  # init's parameters are the reference


def test_misuse_is_named() -> None:
    with pytest.raises(ShapeError, match="no norm 'l3'"):
        adam_r(0.1, norm="l3")  # type: ignore[arg-type]
    tx = adam_r(0.1)
    with pytest.raises(SideTreeError, match="needs the parameters"):
        tx.update({"w": START}, tx.init({"w": START}))


def test_learning_rate_is_traced() -> None:
    slope = jax.jit(jax.grad(lambda lr: jnp.sum(run(adam_r(lr, {"w": REFERENCE})))))(0.1)
    assert np.isfinite(slope) and slope != 0
