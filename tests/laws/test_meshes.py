"""Deleted, a method could hold on one axis of one mesh and gather, move or change numbers on two or three.

A few rows that stand for all (a random merge, a threshold of a leaf and of the tree, codes, a solver, an optimizer's
transformation) on meshes of one, two and three axes, Auto and Explicit, with stacked layers and
experts. `test_sharding.py` has every row on one mesh, and on all of them by `make meshes`.
"""

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

MESHES = [((8,), AxisType.Explicit), ((4, 2), AxisType.Auto), ((2, 2, 2), AxisType.Explicit)]
NAMES = ("model", "data", "expert")
SHAPES = {"bias": (8,), "layers": {"kernel": (4, 16, 8)}, "experts": {"kernel": (2, 8, 16)}}
SPECS = {  # inputs over model, where a solver walks along them
    "bias": ("model",), "layers/kernel": (None, "model", "data"), "experts/kernel": ("expert", "model", "data"),
}  # fmt: skip


def tree(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda s: jnp.asarray(rng.standard_normal(s), jnp.float32), SHAPES, is_leaf=lambda x: isinstance(x, tuple)
    )


def place(mesh: jax.sharding.Mesh) -> Any:
    """The rules above, without the axes that this mesh lacks."""
    return ws.placement(mesh, lambda path, shape: P(*(n if n in mesh.shape else None for n in SPECS[path])))


def put(tree: Any, where: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jax.device_put(x, where("/".join(k.key for k in path), x.shape)), tree
    )


def stacked(where: Any) -> Any:
    """For Gram matrices: split over the stack as their leaf is, and whole."""
    return lambda path, shape: NamedSharding((at := where(path, shape)).mesh, P(*at.spec[: len(shape) - 2]))


def grams() -> Any:
    """Of a positive definite matrix each, stacked as the leaf is."""

    def gram(shape: tuple[int, ...]) -> Any:
        x = np.random.default_rng(9).standard_normal((*shape[:-2], 64, shape[-2])).astype(np.float32)
        return jnp.asarray(np.swapaxes(x, -1, -2) @ x / 64)

    return {name: {"kernel": gram(SHAPES[name]["kernel"])} for name in ("layers", "experts")}


CASES: dict[str, tuple[Any, int, dict[str, Any], bool]] = {  # transform, trees, sides, whether nothing may be gathered
    "dare": (ws.merge.dare(density=0.5), 2, {"base": tree(8), "key": jax.random.key(1)}, True),
    "ties": (ws.merge.ties(density=0.3), 2, {"base": tree(8)}, True),
    "magnitude(global)": (ws.prune.magnitude(0.5, scope="global"), 1, {}, True),
    "rtn": (ws.on("kernel$", ws.quant.rtn(bits=4, group=1)), 1, {}, True),
    "gptq": (ws.on("kernel$", ws.quant.gptq(bits=4)), 1, {"gram": grams()}, False),
}
each_mesh = pytest.mark.parametrize(("sizes", "kind"), MESHES, ids=["8-explicit", "4x2-auto", "2x2x2-explicit"])
CLOSE = {"gptq": 2e-6}
ONE = {}


def alone(name: str) -> Any:
    """The result on one device, under jit as well."""
    if name not in ONE:
        t, count, sides, _ = CASES[name]
        trees = tuple(tree(k) for k in range(count))
        ONE[name] = jax.jit(lambda trees, sides: ws.materialize(t(*trees, **sides)))(trees, sides)
    return ONE[name]


@each_mesh
@pytest.mark.parametrize("name", CASES)
def test_the_result_lies_as_the_input_and_is_that_of_one_device(
    name: str, sizes: tuple[int, ...], kind: AxisType
) -> None:
    mesh = jax.make_mesh(sizes, NAMES[: len(sizes)], axis_types=(kind,) * len(sizes))
    t, count, sides, apart = CASES[name]
    where = place(mesh)
    trees = tuple(put(tree(k), where) for k in range(count))
    given = {k: put(v, where if k == "base" else stacked(where)) for k, v in sides.items() if k != "key"}
    given |= {k: jax.device_put(v, NamedSharding(mesh, P())) for k, v in sides.items() if k == "key"}
    with jax.set_mesh(mesh):
        program = jax.jit(lambda trees, sides: t(*trees, **sides)).lower(trees, given).compile()
        out = program(trees, given)
        found = ws.materialize(out)
    leaves = map(jax.tree.leaves, (found, alone(name), trees[0]))
    for a, b, start in zip(*leaves, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=CLOSE.get(name, 1e-6) * float(jnp.max(jnp.abs(b))))
        if apart:
            assert a.sharding.is_equivalent_to(start.sharding, a.ndim), f"{start.sharding} became {a.sharding}"
    if apart:
        text = program.as_text()
        assert not [word for word in ("all-gather", "all-to-all", "collective-permute") if word in text]
        assert ("all-reduce" in text) == (name in ("ties", "magnitude(global)"))


@each_mesh
def test_an_optimizer_keeps_shardings_and_gathers_nothing(sizes: tuple[int, ...], kind: AxisType) -> None:
    mesh = jax.make_mesh(sizes, NAMES[: len(sizes)], axis_types=(kind,) * len(sizes))
    where = place(mesh)
    params, grads = put(tree(0), where), put(tree(1), where)
    tx = optax.chain(optax.sgd(0.1), ws.optim.prune(ws.prune.magnitude, 0.5))

    def step(params: Any, grads: Any) -> Any:
        updates, _ = tx.update(grads, tx.init(params), params)
        return optax.apply_updates(params, updates)

    with jax.set_mesh(mesh):
        program = jax.jit(step).lower(params, grads).compile()
        found = program(params, grads)
    assert "all-gather" not in program.as_text()
    leaves = map(jax.tree.leaves, (found, step(tree(0), tree(1)), params))
    for a, b, start in zip(*leaves, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
        assert a.sharding.is_equivalent_to(start.sharding, a.ndim)
