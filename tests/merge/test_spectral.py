"""Deleted, merges by singular vectors, rotations and input subspaces could lose what their papers prove of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

from tests.merge import closed_rows
from wspace import merge
from wspace.core.errors import ShapeError, WspaceError
from wspace.core.transform import Transform
from wspace.merge.wudi import wudi_array, wudi_exact_array
from wspace.stats.polar import polar

RNG = np.random.default_rng(0)
IN, OUT, N = 12, 9, 3


def f32(x: Any) -> jax.Array:
    return jnp.asarray(x, jnp.float32)


def orthonormal(rows: int, columns: int) -> np.ndarray:
    return np.linalg.qr(RNG.standard_normal((rows, columns)))[0]


def merged(t: Transform, deltas: Sequence[np.ndarray], base: np.ndarray | None = None) -> np.ndarray:
    """The task vector of a merge of models with these task vectors."""
    start = np.zeros(deltas[0].shape) if base is None else base
    models = [{"kernel": f32(start + d)} for d in deltas]
    return np.asarray(t(*models, base={"kernel": f32(start)})["kernel"], np.float64) - start


def apart(rank: int) -> list[np.ndarray]:
    """Task vectors of a rank whose singular vectors are orthogonal to those of the others, on both sides."""
    u, v = orthonormal(IN, N * rank), orthonormal(OUT, N * rank)
    sizes = RNG.uniform(1, 3, (N, rank))
    return [u[:, k::N] @ np.diag(sizes[k]) @ v[:, k::N].T for k in range(N)]


DELTAS = [RNG.standard_normal((IN, OUT)) for _ in range(N)]


def test_tsv_adds_orthogonal_tasks_up_and_turns_others_apart() -> None:
    deltas = apart(rank=3)
    np.testing.assert_allclose(merged(merge.tsv(), deltas), sum(deltas), atol=1e-5)
    u, s, vt = np.linalg.svd(DELTAS[0], full_matrices=False)
    same = merged(merge.tsv(), [DELTAS[0]] * N)  # tasks that share all directions are one task of a third of them
    np.testing.assert_allclose(same, u[:, :3] @ np.diag(s[:3]) @ vt[:3], atol=2e-5)
    values = np.sort(np.concatenate([np.linalg.svd(d)[1][:3] for d in DELTAS]))
    np.testing.assert_allclose(np.sort(np.linalg.svd(merged(merge.tsv(), DELTAS))[1]), values, rtol=1e-5)


@pytest.mark.parametrize("t", [merge.iso_c(), merge.iso_cts(common=0.5)], ids=["iso_c", "iso_cts"])
def test_isotropic_merges_have_one_singular_value(t: Transform) -> None:
    got = np.linalg.svd(merged(t, DELTAS))[1]
    np.testing.assert_allclose(got, got.mean(), rtol=1e-5)


def test_iso_c_keeps_the_nuclear_norm_and_directions_without_length_empty() -> None:
    got = merged(merge.iso_c(), DELTAS)
    np.testing.assert_allclose(np.linalg.svd(got)[1].sum(), np.linalg.svd(sum(DELTAS))[1].sum(), rtol=1e-5)
    low = np.linalg.svd(merged(merge.iso_c(), apart(rank=2)))[1]
    np.testing.assert_allclose(low[:6], low[0], rtol=1e-5)
    assert np.all(low[6:] < 1e-5 * low[0])
    np.testing.assert_allclose(merged(merge.iso_cts(common=1.0), DELTAS), got, atol=1e-4)


@pytest.mark.parametrize("common", [0.0, 0.2, 0.4, 0.95])
def test_iso_cts_rounds_the_directions_of_a_task_to_the_nearest_number(common: float) -> None:
    """Of 9 directions common=0.2 leaves 8, 2 2/3 a task: 3, and none to the sum. As the paper's code does it."""
    want = closed_rows.iso_cts(DELTAS, {"base": np.zeros((IN, OUT))}, None, common=common)
    np.testing.assert_allclose(merged(merge.iso_cts(common=common), DELTAS), want, atol=1e-4)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("name", ["tsv", "iso_c", "iso_cts", "wudi", "ortho_merge", "rotate"])
def test_a_layer_with_an_infinity_comes_back_as_nan_and_the_others_as_they_are(name: str, bad: float) -> None:
    """The SVD of an infinity runs for ever on a CPU, and so did the merge."""
    t = merge.wudi(steps=None) if name == "wudi" else getattr(merge, name)()
    base, a, b = (f32(x) for x in np.random.default_rng(1).standard_normal((3, 2, 6, 4)))
    sides = {"base": {"kernel": base}} if "base" in t.needs else {}
    models = [base + 0.1 * a, base + 0.1 * b]
    sick = [models[0].at[0, 0, 0].set(bad), models[1]]
    want, got = (np.asarray(t(*({"kernel": x} for x in xs), **sides)["kernel"]) for xs in (models, sick))
    assert not np.isfinite(got[0]).any()
    np.testing.assert_allclose(got[1], want[1], rtol=1e-5, atol=1e-5)


def test_iso_cts_has_every_tasks_own_direction() -> None:
    """A direction that only the weakest task has is lost in the sum's leading ones, and is kept as that task's own."""
    u, v = orthonormal(IN, 9), orthonormal(OUT, 9)
    common = u[:, :6] @ np.diag([9.0, 8, 7, 6, 5, 4]) @ v[:, :6].T
    deltas = [common + size * np.outer(u[:, 6 + k], v[:, 6 + k]) for k, size in enumerate((1.0, 0.5, 0.01))]
    got = merged(merge.iso_cts(common=0.6), deltas)
    sizes = [u[:, 6 + k] @ got @ v[:, 6 + k] for k in range(N)]
    np.testing.assert_allclose(sizes, np.linalg.svd(got)[1][0], rtol=1e-4)
    with pytest.raises(WspaceError, match="common is 2"):
        merge.iso_cts(common=2.0)


def interference(m: jax.Array, deltas: Sequence[jax.Array]) -> jax.Array:
    return sum(jnp.sum((d.T @ (m - d)) ** 2) / jnp.sum(d**2) for d in deltas)


def test_wudi_ends_at_its_minimum_and_every_step_goes_there() -> None:
    deltas = [f32(d) for d in DELTAS]
    best = wudi_exact_array(deltas)
    slope = jax.grad(interference)(best, deltas)
    assert jnp.max(jnp.abs(slope)) < 1e-4 * jnp.max(jnp.abs(jax.grad(interference)(sum(deltas), deltas)))
    losses = [float(interference(wudi_array(deltas, 100, lr), deltas)) for lr in (0.0, 1e-3, 1e-2)]
    assert losses[0] > losses[1] > losses[2] > float(interference(best, deltas))
    np.testing.assert_allclose(losses[0], interference(sum(deltas), deltas), rtol=1e-6)


def test_wudi_of_tall_matrices_never_makes_their_square() -> None:
    tall = [f32(RNG.standard_normal((60, 2))) for _ in range(N)]
    want = sum(tall) - 1e-2 * jnp.sign(jax.grad(interference)(sum(tall), tall))  # what Adam's first step is
    np.testing.assert_allclose(wudi_array(tall, 1, 1e-2), want, atol=1e-5)
    jaxpr = str(jax.make_jaxpr(lambda *ds: wudi_array(ds, 3, 1e-2))(*tall))
    assert "60,60" not in jaxpr and "60,6" in jaxpr


def test_wudi_brings_tasks_together_whose_inputs_are_apart() -> None:
    """No interference is left: on the inputs of each task the merge is that task's vector."""
    u = orthonormal(IN, 12)
    deltas = [u[:, 4 * k : 4 * k + 4] @ RNG.standard_normal((4, OUT)) for k in range(N)]
    got = merged(merge.wudi(steps=None), deltas)
    np.testing.assert_allclose(got, sum(deltas), atol=1e-5)
    low = [d[:, :2] @ np.ones((2, OUT)) for d in deltas]  # fewer directions than inputs: the rest stays at base
    np.testing.assert_allclose(merged(merge.wudi(steps=None), low), sum(low), atol=1e-5)
    with pytest.raises(WspaceError, match="steps is 0"):
        merge.wudi(steps=0)


def rotation(angle: float, seed: int = 0) -> np.ndarray:
    skew = np.random.default_rng(seed).standard_normal((OUT, OUT))
    return expm(angle * (skew - skew.T))


def test_ortho_merge_brings_one_model_back_and_keeps_the_bases_spectrum() -> None:
    base = RNG.standard_normal((IN, OUT))
    near = [0.1 * d for d in DELTAS]
    np.testing.assert_allclose(merged(merge.ortho_merge(lam=1.0), near[:1], base), near[0], atol=2e-5)
    turned = [base @ rotation(0.05, k) - base for k in range(N)]
    got = base + merged(merge.ortho_merge(lam=1.0), turned, base)  # pure rotations leave no residual to add
    np.testing.assert_allclose(np.linalg.svd(got)[1], np.linalg.svd(base)[1], rtol=1e-5)
    gram = np.linalg.norm(got @ got.T - base @ base.T) / np.linalg.norm(base @ base.T)
    assert gram < 1e-5  # angles between the inputs' rows: the paper's hyperspherical energy
    assert np.linalg.norm(base + np.mean(turned, axis=0)) < 0.99 * np.linalg.norm(base)  # a mean shrinks


def test_ortho_merge_takes_the_mean_of_turns_around_one_axis() -> None:
    """About one axis the algebra is a line: tan(angle / 2) of the mean is the mean of theirs."""
    base = RNG.standard_normal((3, 5))

    def about(angle: float) -> np.ndarray:
        return np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])

    got = base + merged(merge.ortho_merge(), [about(a) @ base - base for a in (0.4, 1.2)], base)
    angle = 2 * np.arctan((np.tan(0.2) + np.tan(0.6)) / 2)
    np.testing.assert_allclose(got, about(angle) @ base, atol=1e-5)
    with pytest.raises(ShapeError, match="one pass"):
        merge.ortho_merge(multi=merge.drop(0.5))


def test_rotate_finds_a_turn_and_comes_nearer_than_the_mean() -> None:
    a = RNG.standard_normal((5, 8))
    b = expm(0.3 * (DELTAS[0][:5, :5] - DELTAS[0][:5, :5].T)) @ (a - a.mean(axis=1, keepdims=True)) + 2.0

    def turned(alpha: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray(merge.rotate(alpha)({"kernel": f32(x)}, {"kernel": f32(y)})["kernel"])

    np.testing.assert_allclose(turned(0.0, a, b), b, atol=1e-5)  # b is a turn of a, moved
    other = RNG.standard_normal((5, 8))
    got = turned(0.0, a, other)
    values = [np.linalg.svd(x - x.mean(axis=1, keepdims=True))[1] for x in (got, a)]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-5)
    nearer = [np.linalg.norm(turned(t, a, other) - other) for t in (0.0, 0.5, 1.0)]
    assert np.linalg.norm(a - other) > nearer[0] > nearer[1] > 1e-6 > nearer[2]


def test_the_polar_factor_has_the_directions_that_are_there() -> None:
    m = f32(RNG.standard_normal((6, 4)))
    np.testing.assert_allclose(polar(m).T @ polar(m), np.eye(4), atol=1e-5)
    low = f32(RNG.standard_normal((6, 2)) @ RNG.standard_normal((2, 4)))
    np.testing.assert_allclose(np.linalg.svd(polar(low))[1], [1, 1, 0, 0], atol=1e-5)
    np.testing.assert_array_equal(polar(jnp.zeros((3, 2))), jnp.zeros((3, 2)))
