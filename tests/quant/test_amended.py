"""Deleted, what is kept beside codes could be lost in a file, be counted as nothing, or not train."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from tests.stats.grams import activations, gram
from wspace.core.implicit import stored_bits
from wspace.core.stored import facts_of, from_parts, parts_of

RNG = np.random.default_rng(0)
TOKENS = [activations(RNG, 100, 16) for _ in range(2)]
SIDES = {
    "gram": np.stack([gram(x) for x in TOKENS]),
    "abs_mean": np.stack([np.abs(x).mean(0) for x in TOKENS]),
}


def made(make: Any, dtype: Any = jnp.bfloat16) -> Any:
    w = jnp.asarray(RNG.standard_normal((2, 16, 6)), dtype)
    t = make()
    sides = {n: {"layers": {"kernel": s}} for n, s in SIDES.items() if n in t.needs}
    return t({"layers": {"kernel": w}}, **sides)["layers"]["kernel"]


CASES = {
    "inputs": (lambda: ws.quant.owq(4, group=8, keep=3), 2 * 3 * (6 * 16 + 16)),
    "entries": (lambda: ws.quant.quantease(4, group=8, sweeps=1, outliers=0.1), 2 * 10 * (16 + 2 * 16)),
    "gains": (lambda: ws.quant.awq(4, group=8, symmetric=True), 2 * 16 * 32),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_gives_the_node_back_and_all_its_bits_are_counted(name: str) -> None:
    make, beside = CASES[name]
    node = made(make)
    assert (node.shape, node.dtype) == ((2, 16, 6), jnp.bfloat16)
    assert stored_bits(node) == 2 * 16 * 6 * 4 + 2 * 2 * 6 * 32 + beside
    parts = jax.tree.map(np.asarray, parts_of(node))
    back = from_parts(parts, json.loads(json.dumps(facts_of(node))))
    assert jax.tree.structure(back) == jax.tree.structure(node)
    np.testing.assert_array_equal(back.materialize(), node.materialize())


def test_weak_column_tuning_trains_the_kept_inputs_alone() -> None:
    node = made(CASES["inputs"][0], jnp.float32)
    trained, frozen = ws.split({"kernel": node})
    assert [x.shape for x in jax.tree.leaves(trained)] == [(2, 3, 6)]

    def loss(trained: Any) -> Any:
        return jnp.sum(jnp.square(ws.join(trained, frozen)["kernel"].materialize()))

    slope = jax.grad(loss)(trained)["kernel"].rows
    np.testing.assert_allclose(slope, 2 * node.rows, rtol=1e-6)


def test_layouts_of_torch() -> None:
    w = RNG.standard_normal((16, 6)).astype(np.float32)
    for make, _ in CASES.values():
        t = make()
        sides = {n: s[0] for n, s in SIDES.items() if n in t.needs}
        flax = t({"kernel": w}, **{n: {"kernel": s} for n, s in sides.items()})["kernel"]
        torch = t({"weight": w.T}, **{n: {"weight": s} for n, s in sides.items()})["weight"]
        np.testing.assert_array_equal(flax.materialize(), torch.materialize().T)
