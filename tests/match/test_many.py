"""If this were deleted, matching several models, or training the midpoint, could do worse than matching each to one."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from tests.match.nets import loss, pair
from wspace.core.errors import NonFinite, WspaceError
from wspace.data import digits, tasks
from wspace.match.floats import mean

KEY = jax.random.key(0)
BOTH = [ws.match.merge_many, ws.match.cycle_consistent]


@pytest.mark.parametrize("match", BOTH)
def test_planted_copies_are_found(match: Any) -> None:
    _, (net, _), axes = pair(32)
    gs = [ws.match.random_element(axes, key=jax.random.key(k)) for k in range(3)]
    trees = [ws.match.act(net, axes, ws.match.inverse(axes, g)) for g in gs]
    found = match(trees, axes, key=KEY)
    for g, h in zip(gs, found, strict=True):  # up to what all share: the first is the reference
        want = ws.match.compose(axes, ws.match.inverse(axes, gs[0]), g)
        assert all((h[n] == want[n]).all() for n in want)
    assert all((found[0][n] == jnp.arange(p.size)).all() for n, p in found[0].items())


@pytest.mark.parametrize("match", BOTH)
def test_the_mean_of_three_nets_is_a_net_again(match: Any) -> None:
    model, nets, axes = pair(32, 3)
    found = match(nets, axes, key=KEY)
    moved = [ws.match.act(net, axes, g) for net, g in zip(nets, found, strict=True)]
    for a, b in itertools.pairwise(zip(nets, moved, strict=True)):
        np.testing.assert_allclose(loss(model, a[0]), loss(model, a[1]), rtol=1e-3)
        assert ws.match.objective(a[1], b[1], axes) > 3 * abs(ws.match.objective(a[0], b[0], axes))
    assert loss(model, mean(moved)) < 0.5 * loss(model, mean(nets))


def test_one_tree_is_refused() -> None:
    _, (net, _), axes = pair(32)
    for match in BOTH:
        with pytest.raises(WspaceError, match="two trees or more"):
            match([net], axes, key=KEY)


def test_straight_through_lowers_the_midpoint() -> None:
    model, (a, b), axes = pair(64)
    images, labels = digits.load("train")
    seen: list[float] = []
    found = ws.match.ste(
        lambda p, _: tasks.loss(model.apply, p, images, labels),
        a,
        b,
        axes,
        key=KEY,
        steps=40,
        lr=0.1,
        on_step=lambda _, value: seen.append(value),
    )
    after = loss(model, ws.match.midpoint(a, ws.match.act(b, axes, found)))
    assert after == pytest.approx(min(seen), rel=1e-4) and after < seen[0]  # the first step is weight matching


def test_straight_through_stops_at_nan() -> None:
    _, (a, b), axes = pair(32)
    with pytest.raises(NonFinite, match="step 0"):
        ws.match.ste(lambda p, _: jnp.float32(jnp.nan), a, b, axes, key=KEY, steps=1)
