"""Deleted, a model's size, its zeros or what of it trains could be misstated."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import wspace as ws
from tests.rows import tree
from wspace.measure import summary

MODEL = tree(np.random.default_rng(0))


def test_counts_bytes_and_zeros_by_part() -> None:
    found = summary(ws.prune.magnitude(0.25)(MODEL))
    parts = {p.name: p for p in found.parts}
    assert parts.keys() == {"dense", "layers", "step"}
    assert (parts["dense"].leaves, parts["dense"].parameters, parts["dense"].bits) == (2, 136, 136 * 32)
    assert (parts["step"].parameters, parts["step"].bits, parts["step"].kinds) == (0, 32, ("int32",))
    assert found.total.parameters == 136 + 256 and found.total.sparsity == 0.25
    assert found.total.bits == (136 + 256 + 1) * 32 and found.total.trainable == 0
    assert "392 parameters" in str(found) and "layers" in found._repr_html_()


def test_the_trainable_share_of_an_adapter_is_what_split_hands_to_training() -> None:
    adapted = ws.on("kernel$", ws.reparam.lora(rank=2))(MODEL, key=jax.random.key(0))
    train, _ = ws.split(adapted)
    wanted = sum(x.size for x in jax.tree.leaves(train))
    found = summary(adapted).total
    assert found.trainable == wanted > 0
    assert found.parameters == 392 and found.kinds == ("LoRA", "float32", "int32")
    assert f"{wanted:,} trainable ({wanted / 392:.2%})" in str(summary(adapted))


def test_names_of_a_checkpoint_are_grouped_by_their_words() -> None:
    flat = {f"layers.{i}.{part}.weight": np.ones((2, 2)) for i in range(2) for part in ("attn", "mlp")}
    assert [p.name for p in summary(flat, depth=2).parts] == ["layers/0", "layers/1"]
    assert summary(flat).parts[0].bits == 4 * 4 * 64


def test_shapes_alone_will_do() -> None:
    found = summary({"w": jax.ShapeDtypeStruct((1000, 1000), jnp.bfloat16)})
    assert (found.total.parameters, found.total.bits, found.total.sparsity) == (10**6, 16 * 10**6, None)
    assert summary({}).total.parameters == 0 and "0 parameters" in str(summary({}))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_zeros_of_a_sharded_leaf_are_counted(kind: AxisType) -> None:
    mesh = jax.make_mesh((8,), ("model",), axis_types=(kind,))
    w = jax.device_put(jnp.arange(64.0).reshape(16, 4) % 4, NamedSharding(mesh, P("model", None)))
    assert summary({"w": w}).total.sparsity == 0.25
