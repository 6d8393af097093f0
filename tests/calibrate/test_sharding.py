"""Without it a calibration of a sharded model could gather its activations, or leave them in memory."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import wspace as ws
from tests.calibrate.truths import close, filled, gram, normal
from wspace.calibrate.program import summaries, survey, taken_apart
from wspace.core.axes import Axes

FOLDS = (("gram", ws.stats.gram()), ("variance", ws.stats.variance()), ("abs_max", ws.stats.abs_max()))
SHAPES = {"up": {"kernel": (8, 32)}, "layers": {"kernel": (3, 32, 32)}, "down": {"kernel": (32, 8)}}


def model(p: Any, x: Any) -> Any:
    x = jnp.tanh(x @ p["up"]["kernel"])
    x = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, p["layers"]["kernel"])[0]
    return x @ p["down"]["kernel"]


def rows(p: Any, x: Any) -> dict[str, np.ndarray]:
    h = [np.tanh(np.asarray(x, np.float64) @ np.asarray(p["up"]["kernel"], np.float64))]
    for w in np.asarray(p["layers"]["kernel"], np.float64):
        h.append(np.tanh(h[-1] @ w))
    return {"up/kernel": gram(x), "layers/kernel": np.stack([gram(r) for r in h[:3]]), "down/kernel": gram(h[3])}


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_sharded_batches_give_replicated_summaries_without_gathering(kind: AxisType) -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    p, x = filled(SHAPES), normal(1, 16, 5, 8)
    with jax.set_mesh(mesh):
        params = jax.device_put(p, NamedSharding(mesh, P()))
        batch = jax.device_put(x, NamedSharding(mesh, P("data")))
        found = ws.calibrate(model, params, [batch, batch], dict(FOLDS))
        close(found["gram"], rows(p, x))
        assert all(g.sharding.is_fully_replicated for g in jax.tree.leaves(found["gram"]))
        program, leaves = taken_apart(model, params)
        plan = survey(program, leaves, batch, Axes())
        auto = mesh if kind == AxisType.Auto else None
        lowered = summaries.lower(program, plan.layouts, FOLDS, (leaves,), (batch,), None, auto)
        text = lowered.compile().as_text()
    assert "all-gather" not in text
    assert "all-reduce" in text


def test_only_summaries_leave_the_device() -> None:
    p, x = filled(SHAPES), normal(1, 4096, 5, 8)
    program, leaves = taken_apart(model, p)
    plan = survey(program, leaves, x, Axes())
    compiled = summaries.lower(program, plan.layouts, FOLDS[:1], (leaves,), (x,), None, None).compile()
    size = sum(n * 4 for n in (8 * 8 + 8, 3 * (32 * 32 + 32), 32 * 32 + 32))
    assert compiled.memory_analysis().output_size_in_bytes <= size + 64 * 8


def test_a_second_calibration_compiles_nothing() -> None:
    p, x = filled(SHAPES), normal(1, 16, 5, 8)
    first = ws.calibrate(model, p, [x], ["gram", "mean"])
    compiled = summaries._cache_size()
    second = ws.calibrate(model, jax.tree.map(lambda w: 2 * w, p), [x, 2 * x], ["gram", "mean"])
    assert summaries._cache_size() == compiled
    assert not np.allclose(first["gram"]["down"]["kernel"], second["gram"]["down"]["kernel"])


def test_sharded_parameters() -> None:
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    p, x = filled(SHAPES), normal(1, 16, 5, 8)
    params = jax.tree.map(lambda w: jax.device_put(w, NamedSharding(mesh, P(*(None,) * (w.ndim - 1), "model"))), p)
    found = ws.calibrate(model, params, [jax.device_put(x, NamedSharding(mesh, P("data")))], "gram")
    close(found["gram"], rows(p, x))
    assert all(g.sharding.is_fully_replicated for g in jax.tree.leaves(found["gram"]))


def test_an_apply_that_does_not_hash() -> None:
    class Model:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, p: Any, x: Any) -> Any:
            return x @ p["kernel"]

    x = normal(1, 6, 4)
    close(ws.calibrate(Model(), {"kernel": normal(2, 4, 3)}, [x], "gram")["gram"], {"kernel": gram(x)})
