"""Deleted, weight norm could normalize over the wrong axes, or its gradient lose the paper's identities."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from wspace.core.errors import ShapeError
from wspace.core.stored import facts_of, from_parts, parts_of
from wspace.reparam import WeightNorm

RNG = np.random.default_rng(0)
W = RNG.standard_normal((5, 3)).astype(np.float32)
SLOPE = RNG.standard_normal((5, 3)).astype(np.float32)  # dL/dw of a linear loss


def node(path: str = "kernel", w: np.ndarray = W, axis: int | tuple[int, ...] | None = None) -> WeightNorm:
    return ws.reparam.weight_norm(axis)({path: w})[path]


def gradients(at: WeightNorm) -> WeightNorm:
    return jax.grad(lambda n: jnp.sum(SLOPE * n.materialize()))(at)


LAYOUTS = [
    ("kernel", (6, 4), (0,)),
    ("weight", (4, 6), (1,)),
    ("conv/kernel", (3, 2, 5, 4), (0, 1, 2)),
    ("conv/weight", (4, 5, 3, 2), (1, 2, 3)),
    ("query/kernel", (6, 2, 4), (0,)),
    ("out/kernel", (2, 4, 6), (0, 1)),
    ("layers/kernel", (3, 6, 4), (1,)),
]


@pytest.mark.parametrize(("path", "shape", "over"), LAYOUTS, ids=[p for p, _, _ in LAYOUTS])
def test_one_norm_an_output_unit_in_every_layout(path: str, shape: tuple[int, ...], over: tuple[int, ...]) -> None:
    w = RNG.standard_normal(shape).astype(np.float32)
    made = node(path, w)
    np.testing.assert_allclose(made.g, np.sqrt((w.astype(np.float64) ** 2).sum(over, keepdims=True)), rtol=1e-6)
    np.testing.assert_allclose(made.materialize(), w, rtol=1e-6)
    doubled = WeightNorm(made.v, 2 * made.g, made.axes)
    np.testing.assert_allclose(doubled.materialize(), 2 * w, rtol=1e-6)


def test_an_axis_of_ones_own() -> None:
    np.testing.assert_allclose(node(axis=0).g[:, 0], np.linalg.norm(W, axis=1), rtol=1e-6)
    np.testing.assert_allclose(node(axis=()).g, [[np.linalg.norm(W)]], rtol=1e-6)
    np.testing.assert_allclose(node("bias", W[0], axis=()).g, [np.linalg.norm(W[0])], rtol=1e-6)


def test_equals_flax() -> None:
    """flax.linen.WeightNorm around a Dense layer has the same function of v and g."""
    layer = nn.WeightNorm(nn.Dense(3, use_bias=False))
    x = RNG.standard_normal((4, 5)).astype(np.float32)
    g = RNG.uniform(0.5, 2, 3).astype(np.float32)
    variables = {"params": {"layer_instance": {"kernel": W}, "layer_instance/kernel/scale": g}}
    ours = WeightNorm(jnp.asarray(W), jnp.asarray(g)[None], (-2,))
    np.testing.assert_allclose(x @ ours.materialize(), layer.apply(variables, x), rtol=1e-5, atol=1e-6)


def test_the_gradients_are_the_papers() -> None:
    """dg = dw . v/|v|, dv = g/|v| (I - v v'/|v|^2) dw, written out in float64; so dv is orthogonal to v."""
    v, g = W.astype(np.float64), RNG.uniform(0.5, 2, (1, 3))
    got = gradients(WeightNorm(jnp.asarray(W), jnp.asarray(g, jnp.float32), (-2,)))
    length = np.linalg.norm(v, axis=0, keepdims=True)
    unit = v / length
    along = (SLOPE * unit).sum(0, keepdims=True)
    np.testing.assert_allclose(got.g, along, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got.v, g / length * (SLOPE - unit * along), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose((np.asarray(got.v, np.float64) * unit).sum(0), 0, atol=1e-6)


def test_descent_lengthens_v_by_pythagoras() -> None:
    """|v - eta dv|^2 = |v|^2 + eta^2 |dv|^2, so |v| never falls."""
    start = node()
    dv = np.asarray(gradients(start).v, np.float64)
    moved = W - 0.7 * dv
    np.testing.assert_allclose((moved**2).sum(0), (W.astype(np.float64) ** 2).sum(0) + 0.49 * (dv**2).sum(0), rtol=1e-5)


def test_a_longer_v_is_the_same_function_with_a_smaller_gradient() -> None:
    start = node()
    longer = WeightNorm(4 * start.v, start.g, start.axes)
    np.testing.assert_allclose(longer.materialize(), start.materialize(), rtol=1e-6)
    np.testing.assert_allclose(4 * gradients(longer).v, gradients(start).v, rtol=1e-5, atol=1e-7)


def test_a_dead_unit_stays_dead_and_finite() -> None:
    made = node(w=W * np.array([1, 0, 1], np.float32))
    slopes = gradients(made)
    assert not np.any(made.materialize()[:, 1]) and np.all(np.isfinite(slopes.v)) and np.all(np.isfinite(slopes.g))


def test_both_fields_train() -> None:
    train, rest = ws.split({"kernel": node()})
    assert len(jax.tree.leaves(train)) == 2 and not jax.tree.leaves(rest)


@pytest.mark.parametrize(("path", "shape"), [("kernel", (6, 4)), ("conv/kernel", (3, 3, 2, 4))])
def test_the_start_from_data_gives_mean_0_and_variance_1(path: str, shape: tuple[int, ...]) -> None:
    v = 0.05 * RNG.standard_normal(shape).astype(np.float32)  # the paper's draw, with g = 1
    made = node(path, v)
    made = WeightNorm(made.v, jnp.ones_like(made.g), made.axes)
    x = (3 * RNG.standard_normal((16, 5, 5, 2)[: len(shape)] if len(shape) > 2 else (64, 6)) + 1).astype(np.float32)

    def layer(n: WeightNorm) -> jax.Array:
        w = n.materialize()
        if w.ndim == 2:
            return x @ w
        return jax.lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    made, bias = ws.reparam.weight_norm_data_init(made, layer(made))
    out = np.asarray(layer(made), np.float64).reshape(-1, 4) + np.asarray(bias, np.float64)
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(out.var(0), 1, rtol=1e-5)


def test_the_start_from_data_is_the_papers_formula_and_keeps_constant_units() -> None:
    t = np.stack([RNG.standard_normal(50) * 3 + 2, np.full(50, 7.0), RNG.standard_normal(50)], 1).astype(np.float32)
    start = node()
    made, bias = ws.reparam.weight_norm_data_init(start, jnp.asarray(t))
    sigma = np.array([t[:, 0].std(), 1, t[:, 2].std()])
    np.testing.assert_allclose(made.g[0], np.asarray(start.g[0]) / sigma, rtol=1e-5)
    np.testing.assert_allclose(bias, -t.mean(0) / sigma, rtol=1e-5)


def test_a_scan_takes_one_layer_at_a_time() -> None:
    w = RNG.standard_normal((3, 4, 4)).astype(np.float32)
    made = node("layers/kernel", w)
    _, layers = jax.lax.scan(lambda c, layer: (c, layer.materialize()), None, made)
    np.testing.assert_allclose(layers, w, rtol=1e-6)


def test_a_node_comes_back_from_its_stored_parts() -> None:
    made = node()
    again = from_parts(parts_of(made), facts_of(made))
    assert jax.tree.structure(again) == jax.tree.structure(made)
    np.testing.assert_array_equal(again.materialize(), made.materialize())


def test_errors_name_the_leaf() -> None:
    with pytest.raises(ShapeError, match=r"bias with shape \(3,\) is no matrix"):
        node("bias", W[0])
    with pytest.raises(ShapeError, match=r"weight_norm\(axis=2\): kernel has shape \(5, 3\); name axes from -2 to 1"):
        node(axis=2)
    with pytest.raises(ShapeError, match=r"preactivations have shape \(7, 4\).*must end in \(3,\)"):
        ws.reparam.weight_norm_data_init(node(), jnp.ones((7, 4)))
