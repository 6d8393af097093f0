"""Deleted, training could move frozen weights or forget trainable ones, and a selector could take other leaves."""

from __future__ import annotations

import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import FrozenDict

import wspace as ws
from tests.core.parts import KEY
from wspace.core.containers import as_params
from wspace.core.errors import SelectionError, TreeMismatch
from wspace.core.select import Spec, describe, matches, matrices, selected

SPECS = {
    ("enc", "kernel"): Spec("enc/kernel", (2, 3), "float32", ws.Axes().of(("enc", "kernel"), (2, 3))),
    ("enc", "bias"): Spec("enc/bias", (3,), "float32", ws.Axes().of(("enc", "bias"), (3,))),
}


@pytest.mark.parametrize(
    ("where", "taken", "words"),
    [
        ("kernel", ["enc/kernel"], "'kernel'"),
        ("enc/", ["enc/kernel", "enc/bias"], "'enc/'"),
        (re.compile("S$", re.I), ["enc/bias"], "'S$'"),
        (matrices, ["enc/kernel"], "matrices"),
        (lambda path, spec: len(spec.shape) == 1, ["enc/bias"], "<lambda>"),
    ],
)
def test_selectors(where: Any, taken: list[str], words: str) -> None:
    assert [SPECS[p].path for p in selected(where, SPECS)] == taken
    assert [s.path for s in SPECS.values() if matches(where, s)] == taken
    assert describe(where) == words


def adapted(tree: Any) -> Any:
    return ws.on("kernel|weight", ws.reparam.lora(rank=1))(tree, key=KEY)


def equal(a: Any, b: Any) -> bool:
    a, b = as_params(a).leaves, as_params(b).leaves
    same = jax.tree.map(lambda x, y: x is y or np.array_equal(x, y), list(a.values()), list(b.values()))
    return list(a) == list(b) and all(jax.tree.leaves(same))


CONTAINERS = {
    "dict": lambda: {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2), "n": 3, "none": None},
    "frozen dict": lambda: FrozenDict({"a": {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}}),
    "int and str keys": lambda: {"kernel": jnp.ones((2, 2)), 3: jnp.zeros(2)},
    "tuple": lambda: ({"kernel": jnp.ones((2, 2))}, [jnp.zeros(2)]),
    "nnx": lambda: nnx.state(nnx.Linear(2, 2, rngs=nnx.Rngs(0))),
    "equinox": lambda: eqx.nn.MLP(2, 2, 2, 1, key=KEY),
}


@pytest.mark.parametrize("make", CONTAINERS.values(), ids=CONTAINERS.keys())
def test_join_undoes_split_in_every_container(make: Any) -> None:
    tree = adapted(make())
    train, rest = ws.split(tree)
    assert equal(ws.join(train, rest), tree) and type(train) is type(rest) is type(tree)
    arrays = [x for x in jax.tree.leaves(list(as_params(train).leaves.values())) if hasattr(x, "shape")]
    nodes = [x for x in as_params(tree).leaves.values() if isinstance(x, ws.Implicit)]
    assert len(arrays) == 2 * len(nodes) > 0
    assert equal(ws.materialize(ws.join(train, rest)), ws.materialize(tree))


def test_where_adds_plain_leaves_and_only_floating_ones() -> None:
    train, rest = ws.split({"a": jnp.ones(2), "b": jnp.ones(3), "n": jnp.arange(3)}, where="a|n")
    assert train["b"] is None and train["n"] is None and rest["a"] is None
    assert train["a"].shape == (2,) and rest["n"].tolist() == [0, 1, 2]


def test_where_may_ask_for_matrices() -> None:
    train, _ = ws.split({"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, where=ws.matrices)
    assert train["kernel"].shape == (2, 2) and train["bias"] is None


def test_a_training_step_moves_what_trains_and_nothing_else() -> None:
    tree = adapted({"kernel": jnp.eye(2), "bias": jnp.zeros(2), "frozen": jnp.ones(2)})
    train, rest = ws.split(tree, where="bias")
    tx = optax.sgd(0.5)

    @jax.jit
    def step(train: Any, rest: Any) -> Any:
        def loss(train: Any) -> jax.Array:
            p = ws.materialize(ws.join(train, rest))
            return jnp.sum((p["kernel"].sum(0) + p["bias"] + p["frozen"]) ** 2)

        updates, _ = tx.update(jax.grad(loss)(train), tx.init(train))
        return optax.apply_updates(train, updates)

    after = ws.join(step(train, rest), rest)
    assert after["bias"].tolist() == [-2, -2] and np.any(after["kernel"].b != 0)
    np.testing.assert_array_equal(after["kernel"].base, jnp.eye(2))
    np.testing.assert_array_equal(after["frozen"], jnp.ones(2))


def test_nothing_trainable_is_an_error() -> None:
    with pytest.raises(
        SelectionError, match=r"split found nothing trainable \(where='zz'\); name plain leaves with where="
    ):
        ws.split({"a": jnp.ones(2)}, where="zz")


def test_trees_of_two_splits_do_not_join() -> None:
    with pytest.raises(TreeMismatch, match="join needs the two trees that split returned; only one of these has a, b"):
        ws.join({"a": None}, {"b": jnp.ones(2)})
