"""Deleted, the codec of L2 compression could miss its edge, or its bits be counted wrong."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from wspace.quant.edge_scale import edge_scale_decode, edge_scale_encode, entropy_bits, soft_bit_count

W = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)


def coded(edge: float, scale: float) -> jax.Array:
    return edge_scale_encode(jnp.asarray(W), jnp.float32(edge), jnp.float32(scale))


def entropy(codes: np.ndarray) -> float:
    counts = np.unique(codes, return_counts=True)[1] / codes.size
    return float(-np.sum(counts * np.log2(counts)))


@pytest.mark.parametrize("edge", [0.02, 0.3, 1.0])
def test_it_prunes_within_the_edge_and_rounds_by_steps_beyond_it(edge: float) -> None:
    c = coded(edge, 0.1)
    back = np.asarray(edge_scale_decode(c, jnp.float32(edge), jnp.float32(0.1)))
    np.testing.assert_allclose(back, W, rtol=1e-5, atol=1e-6)
    made = np.asarray(edge_scale_decode(jnp.round(c), jnp.float32(edge), jnp.float32(0.1)))
    far = np.abs(np.abs(W) - edge) > 1e-5  # not on the edge itself
    np.testing.assert_array_equal((made == 0)[far], (np.abs(W) <= edge)[far])
    beyond = np.abs(W) > edge
    assert np.max(np.abs(made - W)[beyond]) <= 0.05 * (1 + 1e-4)


def test_entropy_falls_with_the_edge_once_it_is_half_a_step() -> None:
    """Gaussian weights, steps of 0.3: the figures were measured apart from this code."""
    found = [float(entropy_bits(jnp.round(coded(e, 0.3)))) for e in (0.05, 0.15, 0.3, 0.6, 1.0)]
    np.testing.assert_allclose(found, [3.84, 3.78, 3.55, 2.89, 1.91], atol=0.03)
    np.testing.assert_allclose(found[2], entropy(np.round(np.asarray(coded(0.3, 0.3)))), rtol=1e-5)


@pytest.mark.parametrize("kernel", ["linear", "cosine"])
def test_the_soft_count_becomes_the_entropy_and_is_the_double_sum(kernel: str) -> None:
    q = np.round(np.asarray(coded(0.3, 0.3)))
    found = float(soft_bit_count(jnp.asarray(q), 1e5, last=31, kernel=kernel))
    np.testing.assert_allclose(found, entropy(q) * q.size, rtol=1e-4)
    c = np.asarray(coded(0.3, 0.3))[:200].astype(np.float64)
    delta = (c.max() - c.min()) / 64

    def rise(u: np.ndarray) -> np.ndarray:
        u = np.clip(u, -1, 1)
        return (u + 1) / 2 if kernel == "linear" else (1 + np.sin(np.pi * u / 2)) / 2

    def bits(q: np.ndarray, c: np.ndarray) -> float:
        total = 0.0
        for x in q:
            total -= np.log2(np.sum(rise((x + 0.5 - c) / delta) - rise((x - 0.5 - c) / delta)) / len(c))
        return total

    soft = lambda c: soft_bit_count(c, 64.0, last=31, kernel=kernel)  # noqa: E731
    value, slope = jax.value_and_grad(soft)(jnp.asarray(c, jnp.float32))
    np.testing.assert_allclose(value, bits(np.round(c), c), rtol=1e-4)
    for k in np.argsort(-np.abs(np.asarray(slope)))[:3]:  # the numeric slope, of the code and of what it is rounded to
        e = np.zeros_like(c)
        e[k] = 1e-5
        want = (bits(np.round(c) + e, c + e) - bits(np.round(c) - e, c - e)) / 2e-5
        np.testing.assert_allclose(slope[k], want, rtol=2e-2, atol=2e-2)


def test_edge_and_scale_are_learned_against_the_count() -> None:
    """Fewer bits cost error; both ends of the codec move."""
    w = jnp.asarray(W[:2000])

    def loss(p: dict[str, jax.Array], rate: float) -> jax.Array:
        c = edge_scale_encode(w, p["edge"], p["scale"])
        q = jnp.round(c) + c - jax.lax.stop_gradient(c)
        error = jnp.mean(jnp.square(edge_scale_decode(q, p["edge"], p["scale"]) - w))
        return error + rate * soft_bit_count(c, 64.0, last=127) / w.size

    start = {"edge": jnp.float32(0.03), "scale": jnp.float32(0.03)}
    slope = jax.grad(loss)(start, 1.0)
    assert float(slope["scale"]) < 0  # larger steps, fewer bits
    q = ws.quant.rtn(grid="edge_scale8")({"kernel": w[:, None]})["kernel"]
    size = float(jnp.max(w) - jnp.min(w)) / 256
    np.testing.assert_allclose([float(q.scales[n][0, 0]) for n in ("edge", "scale")], size, rtol=1e-6)
    assert float(entropy_bits(q.codes)) < 8
