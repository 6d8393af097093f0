"""Deleted, an iteration of WARP could shrink task vectors, turn by the wrong angle, or miss its two ends."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wspace.core.errors import ShapeError
from wspace.interpolate import segment, warp
from wspace.measure import along

RNG = np.random.default_rng(0)
INIT = {"w": jnp.asarray(RNG.standard_normal((8, 6)), jnp.float32)}
AXES = np.linalg.qr(RNG.standard_normal((48, 4)))[0].T.reshape(4, 8, 6)  # orthogonal, of length 1
TRAINED = [{"w": INIT["w"] + jnp.asarray(3 * d, jnp.float32)} for d in AXES]


@pytest.mark.parametrize("models", [1, 2, 3, 4])
def test_orthogonal_task_vectors_keep_their_length_and_turn_by_their_share(models: int) -> None:
    """Number m turns the merge of those before it by 1/m of a right angle."""
    delta = np.asarray(warp(INIT, TRAINED[:models], eta=1.0)["w"] - INIT["w"], np.float64)
    assert abs(np.linalg.norm(delta) - 3) < 1e-5
    shares = np.ones(1)
    for m in range(2, models + 1):
        shares = np.append(np.cos(np.pi / (2 * m)) * shares, np.sin(np.pi / (2 * m)))
    np.testing.assert_allclose([np.sum(delta * d) / 3 for d in AXES[:models]], shares, rtol=1e-5)


def test_liti_is_the_segment_from_the_start() -> None:
    merged = warp(INIT, TRAINED, 1.0)
    np.testing.assert_array_equal(warp(INIT, TRAINED, 0.0)["w"], INIT["w"])
    np.testing.assert_allclose(warp(INIT, TRAINED)["w"], 0.7 * INIT["w"] + 0.3 * merged["w"], rtol=1e-5, atol=1e-6)


def test_parallel_task_vectors_are_on_the_line() -> None:
    far = {"w": INIT["w"] + 5 * jnp.asarray(AXES[0], jnp.float32)}
    got = warp(INIT, [TRAINED[0], far], 1.0)["w"] - INIT["w"]
    np.testing.assert_allclose(got, 4 * AXES[0], atol=1e-5)


def test_nothing_to_merge_is_an_error() -> None:
    with pytest.raises(ShapeError, match="at least one"):
        warp(INIT, [])


def test_a_wise_ft_curve_has_a_column_a_task_and_the_two_models_at_its_ends() -> None:
    """The whole of the weight part of mu-Bench: one curve, several tasks."""
    pre, tuned = TRAINED[:2]
    tasks = {"special": lambda p: jnp.sum(p["w"] ** 2), "general": lambda p: jnp.max(p["w"])}
    curve = along(segment(pre, tuned), lambda p: {name: f(p) for name, f in tasks.items()}, jnp.linspace(0, 1, 5))
    for name, f in tasks.items():
        assert curve[name].shape == (5,)
        np.testing.assert_array_equal(curve[name][jnp.array([0, 4])], jax.numpy.stack([f(pre), f(tuned)]))
