"""Deleted, a barrier could miss its ends, its maximum or its sign, or not tell one basin from two."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.average import trained
from wspace.core.errors import ShapeError
from wspace.interpolate import segment, slerp
from wspace.measure import along, barrier

RNG = np.random.default_rng(0)
A, B = ({"w": jnp.asarray(w)} for w in RNG.standard_normal((2, 6)).astype(np.float32))


def test_a_quadratic_has_the_curve_of_its_hessian_and_no_barrier() -> None:
    """L - chord = -t (1 - t) d'Hd / 2, whatever the gradients at the ends are."""
    root = RNG.standard_normal((6, 6))
    hessian = root @ root.T
    d = np.asarray(B["w"] - A["w"], np.float64)

    def loss(params: Any) -> jax.Array:
        w = params["w"]
        return 0.5 * w @ jnp.asarray(hessian, jnp.float32) @ w + w[0]

    found = barrier(loss, segment(A, B))
    ts = np.linspace(0, 1, 25)
    np.testing.assert_allclose(found.ts, ts, atol=1e-7)
    want = -0.5 * ts * (1 - ts) * (d @ hessian @ d)
    np.testing.assert_allclose(found.losses - found.chord, want, atol=1e-5 * float(np.max(found.losses)))
    assert found.value == 0 and found.at in (0, 1)


def test_the_top_of_a_hill_is_found_and_the_ends_are_always_tried() -> None:
    hill = lambda p: jnp.exp(-20 * (p - 0.7) ** 2) + 3 * p  # noqa: E731
    found = barrier(hill, lambda t: t, [0.4, 0.7])
    np.testing.assert_allclose(found.ts, [0, 0.4, 0.7, 1])
    np.testing.assert_allclose(found.losses, [hill(t) for t in (0, 0.4, 0.7, 1)], rtol=1e-6)
    chord = 0.3 * hill(0.0) + 0.7 * hill(1.0)
    np.testing.assert_allclose(found.value, hill(0.7) - chord, rtol=1e-6)
    assert float(found.at) == pytest.approx(0.7)


def test_it_can_be_compiled_and_differentiated() -> None:
    def value(a: Any) -> jax.Array:
        return barrier(lambda p: jnp.sum(jnp.sin(3 * p["w"])), segment(a, B), [0.25, 0.5, 0.75]).value

    assert value(A) > 0
    np.testing.assert_allclose(jax.jit(value)(A), value(A), rtol=1e-5)
    slope, step = jax.grad(value)(A)["w"], 1e-2
    for i in range(6):
        moved = [value({"w": A["w"].at[i].add(h)}) for h in (step, -step)]
        np.testing.assert_allclose((moved[0] - moved[1]) / (2 * step), slope[i], atol=5e-3)


def test_host_metrics_of_any_shape_go_along_a_path() -> None:
    seen = []

    def metrics(params: Any) -> dict[str, Any]:
        seen.append(np.asarray(params["w"]))
        return {"norm": float(np.linalg.norm(seen[-1])), "w": params["w"]}

    found = along(segment(A, B, slerp), metrics, [0.0, 0.3, 1.0])
    assert len(seen) == 3 and found["norm"].shape == (3,) and found["w"].shape == (3, 6)
    np.testing.assert_array_equal(found["w"], seen)
    np.testing.assert_array_equal(found["w"][0], A["w"])
    np.testing.assert_array_equal(found["w"][-1], B["w"])


def test_a_loss_of_one_number_per_example_is_refused_at_its_first_call() -> None:
    calls = []

    def loss(params: Any) -> jax.Array:
        calls.append(1)
        return params["w"]

    with pytest.raises(ShapeError, match=r"the loss has shape \(6,\), but a loss is one number"):
        barrier(loss, segment(A, B))
    assert len(calls) == 1


def test_children_of_one_network_are_connected_and_strangers_are_not() -> None:
    """Linear mode connectivity on digits. Measured on the training loss, 11 positions: children 0.000, strangers 1.168
    at t = 0.5 (their own loss is 0.06 to 0.13)."""
    ts = np.linspace(0, 1, 11)
    family = barrier(trained.loss, segment(trained.child(0), trained.child(1)), ts)
    strangers = barrier(trained.loss, segment(trained.base(1), trained.base(2)), ts)
    assert family.value < 0.01 and strangers.value > 0.5
    assert 0.3 <= strangers.at <= 0.7
    for found, ends in (
        (family, (trained.child(0), trained.child(1))),
        (strangers, (trained.base(1), trained.base(2))),
    ):
        assert [found.losses[0], found.losses[-1]] == [trained.loss(p) for p in ends]
