"""Deleted, an optax transformation could work eagerly and fail under jit or scan, change its state's type between two
steps, compile at every step, or gather a sharded model."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.laws.test_compiles_once import compilations
from tests.optax_rows import OPTAX_ROWS, OptaxRow
from tests.rows import close, weights
from wspace.core.errors import SideTreeError

each = pytest.mark.parametrize("row", OPTAX_ROWS, ids=str)


def at(grads: Any, t: int) -> Any:
    return jax.tree.map(lambda g: jnp.asarray(np.asarray(g)[t]), grads)  # nothing to compile


def loop(row: OptaxRow, params: Any, grads: Any, wrap: Any = lambda f: f) -> tuple[Any, Any]:
    """The run, one call of `update` a step."""
    tx = row.chain()
    update = wrap(tx.update)
    state = tx.init(params)
    for t in range(row.steps):
        updates, state = update(at(grads, t), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def types(tree: Any) -> Any:
    return jax.tree.structure(tree), [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(tree)]


@each
def test_equals_the_slow_truth(row: OptaxRow) -> None:
    params, grads = row.example()
    close(loop(row, params, grads)[0], row.expected(params, grads), row.tolerance)


@each
def test_state_and_updates_keep_their_types(row: OptaxRow) -> None:
    params, grads = row.example()
    tx = row.chain()
    state = tx.init(params)
    first = types(state)
    for t in range(row.steps):
        updates, state = tx.update(at(grads, t), state, params)
        assert types(state) == first
        assert types(updates) == types(params)
        params = optax.apply_updates(params, updates)


@each
def test_jit_equals_eager(row: OptaxRow) -> None:
    params, grads = row.example()
    eager, state = loop(row, params, grads)
    jitted, jitted_state = loop(row, params, grads, jax.jit)
    close(jitted, weights(eager), 1e-6)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(jitted_state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@each
def test_scan_equals_a_loop(row: OptaxRow) -> None:
    params, grads = row.example()
    tx = row.chain()

    def step(carry: Any, g: Any) -> tuple[Any, None]:
        params, state = carry
        updates, state = tx.update(g, state, params)
        return (optax.apply_updates(params, updates), state), None

    (scanned, _), _ = jax.jit(lambda c, g: jax.lax.scan(step, c, g))((params, tx.init(params)), grads)
    close(scanned, row.expected(params, grads), row.tolerance)


@each
def test_init_works_under_jit(row: OptaxRow) -> None:
    params, _ = row.example()
    assert types(jax.jit(row.chain().init)(params)) == types(row.chain().init(params))
    assert jax.tree.structure(jax.eval_shape(row.chain().init, params)) == jax.tree.structure(row.chain().init(params))


@each
def test_a_longer_run_compiles_nothing_more(row: OptaxRow) -> None:
    params, grads = row.example()
    tx = row.chain()
    update = jax.jit(tx.update)
    state = tx.init(params)
    slices = [at(grads, t) for t in range(row.steps)]
    _, state = update(slices[0], state, params)
    with compilations() as made:
        for g in slices[1:]:
            _, state = update(g, state, params)
    assert not made


@each
def test_bfloat16_parameters_keep_their_dtype(row: OptaxRow) -> None:
    params, grads = row.example(dtype=jnp.bfloat16)
    after, _ = loop(row, params, grads)
    assert {x.dtype for x in jax.tree.leaves(after)} == {jnp.dtype(jnp.bfloat16)}
    assert all(np.isfinite(x).all() for x in weights(after).values())


@each
def test_inputs_stay_as_they_were(row: OptaxRow) -> None:
    params, grads = row.example()
    kept = jax.tree.map(np.array, (params, grads))
    loop(row, params, grads)
    jax.tree.map(np.testing.assert_array_equal, kept, (params, grads))


@each
def test_update_without_params_says_what_to_do(row: OptaxRow) -> None:
    params, grads = row.example()
    tx = row.make()
    with pytest.raises(SideTreeError, match=r"needs the parameters; call it as update\(updates, state, params\)"):
        tx.update(at(grads, 0), tx.init(params))


@pytest.mark.parametrize("last", [("model", None), (None, "model")], ids=["in", "out"])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@each
def test_sharded_weights_and_state_stay_sharded(row: OptaxRow, kind: AxisType, last: tuple[str | None, ...]) -> None:
    mesh = jax.make_mesh((8,), ("model",), axis_types=(kind,))

    def spec(x: Any) -> NamedSharding:
        parts = ("model",) if x.ndim == 1 else (*(None,) * (x.ndim - 2), *last)
        return NamedSharding(mesh, P(*parts))

    params, grads = row.example()
    params = jax.tree.map(lambda x: jax.device_put(x, spec(x)), params)
    tx = row.chain()
    with jax.set_mesh(mesh):
        state = tx.init(params)
        assert all(same(x, spec(x)) for x in jax.tree.leaves(state) if x.ndim)
        g = jax.tree.map(lambda x: jax.device_put(x[0], spec(x[0])), grads)
        compiled = jax.jit(tx.update).lower(g, state, params).compile()
        updates, state = compiled(g, state, params)
    assert all(same(x, spec(x)) for x in jax.tree.leaves(updates))
    assert all(same(x, spec(x)) for x in jax.tree.leaves(state) if x.ndim)
    assert "all-gather" not in compiled.as_text()


def same(x: Any, sharding: NamedSharding) -> bool:
    return bool(x.sharding.is_equivalent_to(sharding, x.ndim))
