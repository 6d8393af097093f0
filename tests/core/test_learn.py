"""Deleted, learned numbers could be those of another batch or leaf, and every run could compile anew."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import wspace as ws
from tests.laws.test_compiles_once import compilations
from tests.rows import like, tree
from wspace.core.errors import ShapeError, SideTreeError, WspaceError
from wspace.core.learn import by_leaf, descend, learn, spread

RNG = np.random.default_rng(0)
A = tree(RNG)
B, BASE = like(A, RNG), like(A, RNG)
SLOW = optax.sgd(0.1)


def square(values: Any, fixed: Any, batch: Any, key: Any) -> jax.Array:
    return (values["x"] - fixed * batch) ** 2


def test_it_takes_the_batches_in_turn_and_reports_the_loss_before_each_step() -> None:
    x, losses = 1.0, []
    for b in (1.0, 2.0, 4.0, 1.0, 2.0):
        losses.append((x - 3 * b) ** 2)
        x -= 0.1 * 2 * (x - 3 * b)
    got = descend(square, {"x": 1.0}, 3.0, jnp.array([1.0, 2.0, 4.0]), SLOW, steps=5)
    np.testing.assert_allclose(got.values["x"], x, rtol=1e-6)
    np.testing.assert_allclose(got.losses, losses, rtol=1e-5)
    assert descend(square, {"x": 1.0}, 3.0, jnp.array([1.0, 2.0, 4.0]), SLOW).losses.shape == (3,)


def test_progress_changes_nothing_and_tells_all_steps() -> None:
    told: list[tuple[int, int, str]] = []
    batches = jnp.arange(1.0, 4.0)
    quiet = descend(square, {"x": 1.0}, 3.0, batches, SLOW, steps=50)
    loud = descend(square, {"x": 1.0}, 3.0, batches, SLOW, steps=50, progress=lambda *x: told.append(x))
    jax.tree.map(np.testing.assert_array_equal, quiet, loud)
    assert [done for done, _, _ in told] == sorted({-(-50 * k // 20) for k in range(1, 21)})
    assert told[-1] == (50, 50, f"loss {float(loud.losses[-1]):.4g}")
    with compilations() as made:
        descend(square, {"x": 2.0}, 4.0, batches, SLOW, steps=50, progress=lambda *x: None)
    assert not made


def test_a_step_draws_its_own_numbers() -> None:
    def noisy(x: Any, fixed: Any, batch: Any, key: Any) -> jax.Array:
        return x * jax.random.normal(key)

    got = descend(noisy, 1.0, None, None, optax.sgd(0.0), steps=3, key=jax.random.key(5))
    want = [jax.random.normal(jax.random.fold_in(jax.random.key(5), i)) for i in range(3)]
    np.testing.assert_array_equal(got.losses, want)


def test_misuse_is_named() -> None:
    for batches, steps in ((None, None), (None, 0), (jnp.ones(3), 0)):
        with pytest.raises(ShapeError, match="give a number of steps, or batches"):
            descend(square, {"x": 1.0}, 3.0, batches, SLOW, steps=steps)
    with pytest.raises(ShapeError, match="stack all on one first axis"):
        descend(square, {"x": 1.0}, 3.0, (jnp.ones(3), jnp.ones(2)), SLOW)
    with pytest.raises(ShapeError, match="a loss is one number; take its mean"):
        descend(square, {"x": 1.0}, 3.0, jnp.ones((3, 2)), SLOW)


def flat(params: Any) -> jax.Array:
    return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(params) if x.dtype == jnp.float32])


def near(params: Any, target: jax.Array) -> jax.Array:
    return jnp.sum((flat(params) - target) ** 2)


def test_weights_of_a_merge_are_those_of_least_squares() -> None:
    target = 0.3 * flat(A) - 0.2 * flat(B) + flat(like(A, RNG)) * 0.1
    made = [flat(x) - flat(BASE) for x in (A, B)]
    want = np.linalg.lstsq(np.stack(made, 1), np.asarray(target - flat(BASE)), rcond=None)[0]
    got = learn(
        ws.merge.task_arithmetic, jnp.zeros(2), near, [A, B], target[None], optax.adam(0.05), steps=400, base=BASE
    )
    np.testing.assert_allclose(got.values, want, atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, got.params, ws.merge.task_arithmetic(got.values)(A, B, base=BASE))


def test_every_leaf_can_have_its_own_values_in_memory_and_in_a_stream() -> None:
    t = by_leaf(ws.merge.task_arithmetic, jnp.zeros(2))
    values = {
        "dense": {"kernel": jnp.array([1.0, 0.0]), "bias": jnp.array([0.0, 1.0])},
        "layers": {"kernel": jnp.zeros(2)},
    }
    got = t(A, B, base=BASE, values=values)
    for path, want in (("kernel", A), ("bias", B)):
        np.testing.assert_allclose(got["dense"][path], want["dense"][path], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(got["layers"]["kernel"], BASE["layers"]["kernel"])
    assert t.needs == {"base", "values"} and t.scope == "leaf"
    same = t(A, B, base=BASE, values=spread(jnp.array([0.4, 0.5]), A))
    jax.tree.map(np.testing.assert_array_equal, same, ws.merge.task_arithmetic((0.4, 0.5))(A, B, base=BASE))
    with pytest.raises(SideTreeError, match="'values' has nothing for dense/bias"):
        t(A, B, base=BASE, values={"dense": {"kernel": jnp.zeros(2)}})
    with pytest.raises(WspaceError, match="slerp has global scope"):
        by_leaf(lambda t: ws.interpolate.slerp(t, scope="tree"), 0.5)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_sharded_trees_and_batches_stay_where_they_are(kind: AxisType) -> None:
    mesh = jax.make_mesh((8,), ("model",), axis_types=(kind,))
    batches = like({"x": jnp.zeros((3, 16, 8))}, RNG)["x"]

    def loss(params: Any, batch: Any) -> jax.Array:
        return jnp.sum((params["dense"]["kernel"] - batch) ** 2) + jnp.sum(params["layers"]["kernel"] ** 2)

    make, start, adam = ws.merge.task_arithmetic, jnp.zeros(2), optax.adam(0.1)
    want = learn(make, start, loss, [A, B], batches, adam, base=BASE)
    with jax.set_mesh(mesh):
        spread_out = NamedSharding(mesh, P(None, "model"))
        trees = [jax.tree.map(lambda x: x, t) for t in (A, B, BASE)]
        for t in trees:
            t["dense"]["kernel"] = jax.device_put(t["dense"]["kernel"], spread_out)
        placed = jax.device_put(batches, NamedSharding(mesh, P(None, None, "model")))
        got = learn(make, start, loss, trees[:2], placed, adam, base=trees[2])
    assert got.params["dense"]["kernel"].sharding.is_equivalent_to(spread_out, 2)
    np.testing.assert_allclose(got.values, want.values, rtol=1e-4)
