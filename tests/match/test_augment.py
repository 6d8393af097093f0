"""If this were deleted, augmentations of weights could change the function they promise to keep, or mix unaligned nets.

Also holds the checks of the paper on linear mode connectivity: what matching does to singular vectors.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from tests.match.nets import loss, pair
from wspace.core.errors import ShapeError, TreeMismatch
from wspace.match import augment

OMEGA = 30.0


def siren() -> list[tuple[Any, Any]]:
    rng = np.random.default_rng(0)
    sizes = (2, 16, 12, 1)
    return [
        (jnp.asarray(rng.uniform(-1, 1, (n, m)) / n, jnp.float32), jnp.asarray(rng.uniform(-0.1, 0.1, m), jnp.float32))
        for n, m in itertools.pairwise(sizes)
    ]


def run(layers: Any, x: np.ndarray) -> np.ndarray:
    """sin(omega (x W + b)) in float64."""
    for kernel, bias in layers[:-1]:
        x = np.sin(OMEGA * (x @ np.float64(kernel) + np.float64(bias)))
    return x @ np.float64(layers[-1][0]) + np.float64(layers[-1][1])


POINTS = np.random.default_rng(1).uniform(-1, 1, (20, 2))


@pytest.mark.parametrize("change", [augment.siren_negate, augment.siren_shift])
def test_symmetries_keep_the_function(change: Callable[..., Any]) -> None:
    net = siren()
    for seed in range(5):
        new = change(net, jax.random.key(seed))
        assert any((a != b).any() for x, y in zip(net, new, strict=True) for a, b in zip(x, y, strict=True))
        np.testing.assert_allclose(run(new, POINTS), run(net, POINTS), atol=2e-4)  # f32 phases of up to 4 pi


@pytest.mark.parametrize("seed", range(3))
def test_input_changes_are_changes_of_the_input(seed: int) -> None:
    """Some input moved, turned or scaled gives what the changed net gives: by least squares on the first layer."""
    net, key = siren(), jax.random.key(seed)
    kernel, bias = (np.float64(z) for z in net[0])
    for change in (augment.rotate, augment.scale, augment.translate):
        new = change(net, key)
        matrix = np.linalg.lstsq(kernel.T, np.float64(new[0][0]).T, rcond=None)[0].T  # new kernel = matrix @ kernel
        shift = np.linalg.lstsq(kernel.T, np.float64(new[0][1]) - bias, rcond=None)[0]
        np.testing.assert_allclose(run(new, POINTS), run(net, POINTS @ matrix + shift), atol=1e-4)
        turned = matrix.T @ matrix
        np.testing.assert_allclose(turned, turned[0, 0] * np.eye(2), atol=1e-5)
        angle = abs(np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0])))
        assert (angle > 0.1 and angle <= 30) == (change is augment.rotate)
        assert (abs(turned[0, 0] - 1) > 1e-3) == (change is augment.scale) and abs(np.sqrt(turned[0, 0]) - 1) <= 0.2
        assert (np.abs(shift).max() > 1e-3) == (change is augment.translate) and np.abs(shift).max() <= 0.25


def test_rotation_needs_a_plane() -> None:
    with pytest.raises(ShapeError, match=r"\(3, 4\)"):
        augment.rotate([(jnp.ones((3, 4)), jnp.ones(4))], jax.random.key(0))


def test_noise_has_a_third_of_the_spread() -> None:
    big = [(jnp.asarray(np.random.default_rng(2).normal(1, 2, (200, 200)), jnp.float32), jnp.full(200, 5.0))]
    ((kernel, bias),) = augment.noise(big, jax.random.key(0))
    assert float(jnp.std(kernel - big[0][0])) == pytest.approx(0.32 * 2, rel=0.02)
    np.testing.assert_allclose(bias, 5.0, atol=1e-5)  # no spread, no noise


def test_smallest_are_dropped_from_the_whole_net() -> None:
    net = siren()
    flat = np.concatenate([np.ravel(x) for layer in net for x in layer])
    counts = []
    for seed in range(6):
        new = np.concatenate([np.ravel(x) for layer in augment.drop_smallest(net, jax.random.key(seed)) for x in layer])
        gone = new == 0
        counts.append(gone.sum())
        assert (new[~gone] == flat[~gone]).all() and np.abs(flat[gone]).max(initial=0) < np.abs(flat[~gone]).min()
    assert 0 < max(counts) <= 0.1 * flat.size and len(set(counts)) > 2


def test_dropout_keeps_the_mean() -> None:
    ((kernel, _),) = augment.drop([(jnp.ones((300, 300)), jnp.ones(3))], jax.random.key(0))
    assert float((kernel == 0).mean()) == pytest.approx(0.1, abs=0.005) and float(kernel.max()) == pytest.approx(
        1 / 0.9
    )


@pytest.mark.parametrize("name", ["translate", "noise", "drop_smallest", "siren_shift"])
def test_same_key_same_draw_and_jit_equals_eager(name: str) -> None:
    change, net = getattr(augment, name), siren()
    one, again, other = (change(net, jax.random.key(k)) for k in (3, 3, 4))
    flat = lambda t: np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)])  # noqa: E731
    assert (flat(one) == flat(again)).all() and (flat(one) != flat(other)).any()
    np.testing.assert_allclose(flat(jax.jit(change)(net, jax.random.key(3))), flat(one), rtol=1e-5, atol=1e-7)


def test_aligned_mixup_is_better_than_naive() -> None:
    model, (a, b), axes = pair(64)
    key = jax.random.key(0)
    ways: dict[str, Any] = {
        "direct": None,
        "permuted": lambda b: ws.match.act(b, axes, ws.match.random_element(axes, key=key)),
        "aligned": lambda b: ws.match.act(b, axes, ws.match.weight(a, b, axes, key=key)),
    }
    found = {name: loss(model, ws.match.weight_mixup(a, b, 0.5, align=way)) for name, way in ways.items()}
    assert found["aligned"] < 0.4 * min(found["direct"], found["permuted"]), found
    assert loss(model, ws.match.weight_mixup(a, b, 1.0, align=ways["aligned"])) == pytest.approx(
        loss(model, a), rel=1e-4
    )
    with pytest.raises(TreeMismatch, match="tree 2"):
        ws.match.weight_mixup(a, {"w": jnp.ones(3)}, 0.5)


def test_matching_turns_singular_vectors_and_leaves_values() -> None:
    """The claim of the paper, on digits: little distance gained, much of the barrier gone, large directions aligned."""
    model, (a, b), axes = pair(64)
    moved = ws.match.act(b, axes, ws.match.weight(a, b, axes, key=jax.random.key(0)))
    before, after = ws.match.l2_decomposition(a, b), ws.match.l2_decomposition(a, moved)
    for path, layer in after.items():
        w, v = (np.float64(t["params"][path.split("/")[1]]["kernel"]) for t in (a, moved))
        assert float(layer.distance) == pytest.approx(np.square(w - v).sum(), rel=1e-4)
        assert float(layer.b) == pytest.approx(float(before[path].b), rel=1e-5)  # sum of squares of b's values
    lengths = [np.sqrt(sum(float(x.distance) for x in found.values())) for found in (before, after)]
    assert 0.7 < lengths[1] / lengths[0] < 0.95
    middle = [loss(model, ws.match.midpoint(a, net)) for net in (b, moved)]
    assert middle[1] < 0.3 * middle[0]
    r = {(g, k): float(ws.match.singular_alignment(a, n, g)) for g in (0.0, 0.3) for k, n in ((0, b), (1, moved))}
    assert r[0.0, 1] > 5 * abs(r[0.0, 0]) and r[0.3, 1] > 5 * abs(r[0.3, 0]) and r[0.3, 1] > r[0.0, 1], r


def test_alignment_is_one_for_a_model_with_itself() -> None:
    _, (a, b), _ = pair(64)
    assert float(ws.match.singular_alignment(a, a, 0.3)) == pytest.approx(1.0, abs=1e-4)
    assert abs(float(ws.match.singular_alignment(a, b))) < 0.1
    with pytest.raises(ShapeError, match="no leaf is a matrix"):
        ws.match.singular_alignment({"bias": jnp.ones(3)}, {"bias": jnp.ones(3)})
