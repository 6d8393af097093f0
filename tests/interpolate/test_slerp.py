"""Deleted, slerp could leave the arc, differ from mergekit's or WARP's, or turn parallel or zero leaves into NaN."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from tests.interpolate import rows
from tests.rows import close, weights
from wspace.core.errors import ShapeError
from wspace.interpolate import lerp, slerp

A = jnp.array([[1.0, -2.0, 0.5], [3.0, 0.25, -1.5]])
B = jnp.array([[0.5, 1.0, -0.75], [2.0, -4.0, 1.25]])

MERGEKIT = [  # printed by the slerp of mergekit 0.1.4 on the same tensors
    (B, 0.25, [[1.0907703638, -1.4441459179, 0.1766878366], [3.4566597939, -1.2481839657, -0.8987607956]]),
    (B, 0.5, [[1.0284936428, -0.6856624484, -0.1714155972], [3.4283123016, -2.5712342262, -0.1714155674]]),
    (2 * A + 0.01, 0.3, [[1.3029999733, -2.5970001221, 0.6529999971], [3.9029998779, 0.3280000091, -1.9470000267]]),
    (-3 * A, 0.3, [[-0.20000005, 0.4000001, -0.10000002], [-0.60000014, -0.05000001, 0.30000007]]),
]


@pytest.mark.parametrize(("b", "t", "want"), MERGEKIT, ids=["quarter", "half", "nearly parallel", "opposite"])
def test_the_numbers_of_mergekit(b: jax.Array, t: float, want: Any) -> None:
    close(slerp(t)({"w": A}, {"w": b}), {"w": np.array(want)}, 1e-6)


def test_warp_keeps_the_length_of_task_vectors_where_the_line_loses_it() -> None:
    """WARP's own check: task vectors of one length, nearly orthogonal."""
    rng = np.random.default_rng(0)
    base, *deltas = rng.standard_normal((3, 64, 32)).astype(np.float32)
    first, second = ({"w": base + d / np.linalg.norm(d)} for d in deltas)

    def length(by: Any, t: float) -> float:
        moved = ws.around_base(by(t))(first, second, base={"w": base})
        return float(np.linalg.norm(weights(moved)["w"] - base))

    for t in (0.0, 0.25, 0.5, 0.75, 1.0):
        assert abs(length(slerp, t) - 1) < 1e-4
    assert length(lerp, 0.5) < 0.75 and length(lerp, 0.25) < 0.85


def test_around_base_is_the_arc_of_the_task_vectors() -> None:
    rng = np.random.default_rng(1)
    base, a, b = rng.standard_normal((3, 16, 8))
    got = ws.around_base(slerp(0.3))({"w": a}, {"w": b}, base={"w": base})
    close(got, {"w": base + rows.slerp([a - base, b - base], {}, None, 0.3)}, 1e-12)  # float64 leaves


@pytest.mark.parametrize("scope", ["leaf", "tree"])
@pytest.mark.parametrize(
    ("a", "b"),
    [(A, A), (A, 2 * A), (A, -A), (A, 0 * A), (0 * A, B), (0 * A, 0 * B), (1e25 * A, 1e25 * B)],
    ids=["equal", "parallel", "opposite", "to zero", "from zero", "zeros", "squares overflow"],
)
def test_where_there_is_no_arc_it_is_the_line_and_gradients_are_finite(scope: Any, a: Any, b: Any) -> None:
    got = slerp(0.3, scope)({"w": a}, {"w": b})["w"]
    np.testing.assert_allclose(got, lerp(0.3)({"w": a}, {"w": b})["w"], rtol=1e-6)

    def total(a: Any, b: Any, t: Any) -> Any:
        return jnp.sum(slerp(t, scope)({"w": a}, {"w": b})["w"])

    for g, x in zip(jax.grad(total, argnums=(0, 1, 2))(a, b, 0.3), (a, b, 0.3), strict=True):
        assert np.isfinite(g).all() and np.shape(g) == np.shape(x)


def test_the_gradient_over_t_is_the_speed_on_the_arc() -> None:
    u, v = (x / jnp.linalg.norm(x) for x in (A, B))
    angle = np.arccos(float(jnp.sum(u * v)))
    for t in (0.0, 0.3, 1.0):
        speed = jax.jacfwd(lambda t: slerp(t)({"w": u}, {"w": v})["w"])(t)
        assert abs(float(jnp.linalg.norm(speed)) - angle) < 1e-5
    mapped = jax.vmap(lambda t: slerp(t)({"w": u}, {"w": v})["w"])(jnp.linspace(0, 1, 7))
    np.testing.assert_allclose(jnp.sum(mapped**2, axis=(1, 2)), 1, rtol=1e-6)


def test_a_tree_of_one_leaf_has_that_leafs_angle_and_a_zero_leaf_moves_with_the_others() -> None:
    one = slerp(0.3)({"w": A}, {"w": B})["w"]
    np.testing.assert_allclose(slerp(0.3, "tree")({"w": A}, {"w": B})["w"], one, rtol=1e-6)
    more = slerp(0.3, "tree")({"w": A, "z": 0 * A}, {"w": B, "z": 0 * B})
    np.testing.assert_allclose(more["w"], one, rtol=1e-6)
    assert not more["z"].any()


def test_leaves_of_several_dtypes_share_the_angle_of_the_tree() -> None:
    dtypes = {"half": np.float16, "single": np.float32, "double": np.float64}
    a, b = ({k: x.astype(d) for k, d in dtypes.items()} for x in np.random.default_rng(2).standard_normal((2, 3, 4)))
    got = slerp(0.3, "tree")(a, b)
    exact = [{k: x.astype(np.float64) for k, x in tree.items()} for tree in (a, b)]
    want = rows.slerp_tree(exact, {}, None, 0.3, "tree")
    assert {k: x.dtype for k, x in got.items()} == {k: x.dtype for k, x in a.items()}
    np.testing.assert_allclose(np.asarray(got["double"]), want["double"], rtol=1e-12)
    np.testing.assert_allclose(np.asarray(got["single"]), want["single"], rtol=1e-6)


def test_an_unknown_scope_is_named() -> None:
    with pytest.raises(ShapeError, match="no scope 'global'"):
        slerp(0.5, scope="global")  # type: ignore[arg-type]
