"""Deleted, an initialization could stretch signals, favour some rotations, or repeat one matrix in every layer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import wspace as ws
from wspace.core.errors import ShapeError
from wspace.init.orthogonal import orthogonal_array

KEY = jax.random.key(0)


def made(path: str, shape: tuple[int, ...], gain: float = 1.0, key: jax.Array = KEY) -> np.ndarray:
    return np.asarray(ws.init.orthogonal(gain)({path: jnp.zeros(shape)}, key=key)[path])


LAYOUTS = [  # path, shape, and the leaf as [in, out] by hand
    ("kernel", (12, 5), lambda w: w),
    ("kernel", (5, 12), lambda w: w),
    ("weight", (5, 12), lambda w: w.T),
    ("conv/kernel", (3, 3, 4, 8), lambda w: w.reshape(36, 8)),
    ("conv/weight", (8, 4, 3, 3), lambda w: w.transpose(2, 3, 1, 0).reshape(36, 8)),
    ("query/kernel", (12, 2, 3), lambda w: w.reshape(12, 6)),
    ("out/kernel", (2, 3, 12), lambda w: w.reshape(6, 12)),
]


@pytest.mark.parametrize(("path", "shape", "matrix"), LAYOUTS, ids=[f"{p}{s}" for p, s, _ in LAYOUTS])
def test_rows_or_columns_are_orthonormal_in_every_layout(path: str, shape: tuple[int, ...], matrix: object) -> None:
    m = matrix(made(path, shape, gain=3.0)).astype(np.float64)  # type: ignore[operator]
    gram = m.T @ m if m.shape[0] >= m.shape[1] else m @ m.T
    np.testing.assert_allclose(gram, 9 * np.eye(min(m.shape)), atol=1e-5)


def test_layers_of_a_stack_are_orthogonal_and_different() -> None:
    q = made("layers/kernel", (4, 6, 6)).astype(np.float64)
    np.testing.assert_allclose(q @ q.transpose(0, 2, 1), np.broadcast_to(np.eye(6), (4, 6, 6)), atol=1e-5)
    assert all(np.abs(q[i] - q[j]).max() > 0.1 for i in range(4) for j in range(i))


def test_is_haar_distributed() -> None:
    """Of 4000 draws from O(3): the trace has mean 0 and variance 1, half are reflections, and every entry has mean 0.

    QR without the sign fails this: Householder's R has a negative diagonal more often than not.
    """
    q = np.asarray(orthogonal_array(jax.random.normal(KEY, (4000, 3, 3))), np.float64)
    trace = np.trace(q, axis1=1, axis2=2)
    sigma = 1 / np.sqrt(4000)
    assert abs(trace.mean()) < 4 * sigma and abs(trace.var() - 1) < 4 * sigma * np.sqrt(2)
    assert abs((np.linalg.det(q) > 0).mean() - 0.5) < 4 * sigma / 2
    assert np.abs(q.mean(0)).max() < 4 * sigma / np.sqrt(3) and np.abs(q.var(0) - 1 / 3).max() < 4 * sigma / 3
    raw = np.linalg.qr(np.asarray(jax.random.normal(KEY, (4000, 3, 3)), np.float64))[0]
    assert abs(np.trace(raw, axis1=1, axis2=2).mean()) > 20 * sigma


def test_a_deep_linear_net_neither_grows_nor_shrinks() -> None:
    """Saxe et al.: the singular values of 50 orthogonal layers of gain g are all g^50; Gaussian layers spread them."""
    layers = made("layers/kernel", (50, 64, 64), gain=1.1).astype(np.float64)
    spectrum = np.linalg.svd(np.linalg.multi_dot(layers), compute_uv=False)
    np.testing.assert_allclose(spectrum, 1.1**50, rtol=1e-4)
    gaussian = np.random.default_rng(0).standard_normal((50, 64, 64)) / 8
    spectrum = np.linalg.svd(np.linalg.multi_dot(gaussian), compute_uv=False)
    assert spectrum[0] / np.median(spectrum) > 1e6


def test_values_of_the_leaf_do_not_matter_its_path_does() -> None:
    t = ws.init.orthogonal()
    one = t({"kernel": jnp.full((4, 4), jnp.nan), "b/kernel": jnp.ones((4, 4))}, key=KEY)
    np.testing.assert_array_equal(one["kernel"], made("kernel", (4, 4)))
    assert np.abs(one["kernel"] - one["b/kernel"]).max() > 0.1


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_an_eager_call_keeps_the_sharding(kind: AxisType) -> None:
    mesh = jax.make_mesh((8,), ("model",), axis_types=(kind,))
    sharding = NamedSharding(mesh, P(None, "model"))
    leaf = jax.device_put(jnp.zeros((16, 8)), sharding)
    out = ws.init.orthogonal()({"kernel": leaf}, key=KEY)["kernel"]
    assert out.sharding.is_equivalent_to(sharding, 2)
    np.testing.assert_allclose(out, made("kernel", (16, 8)), rtol=0, atol=1e-6)


def test_a_bias_has_no_rotation() -> None:
    with pytest.raises(ShapeError, match=r"head/bias with shape \(3,\) is no matrix"):
        made("head/bias", (3,))
