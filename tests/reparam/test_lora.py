"""Deleted, an adapter could be added in the wrong layout, train its frozen base, or merge to another function."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wspace as ws
from wspace.core.errors import ShapeError
from wspace.core.implicit import dense
from wspace.core.stored import facts_of, from_parts, parts_of
from wspace.reparam import LoRA

KEY = jax.random.key(0)


def trained(node: LoRA, seed: int = 1) -> LoRA:
    """The node with a random b, as training would leave it."""
    b = np.random.default_rng(seed).standard_normal(node.b.shape)
    return LoRA(node.base, node.a, jnp.asarray(b, jnp.float32), node.scale, node.view)


# Path and shape of a leaf, and its update written out: a is [in, rank], b is [rank, out], by hand in each layout.
LAYOUTS = [
    ("dense/kernel", (6, 4), lambda a, b: np.einsum("ir,ro->io", a, b)),
    ("dense/weight", (4, 6), lambda a, b: np.einsum("ir,ro->oi", a, b)),
    ("conv/kernel", (3, 2, 5, 4), lambda a, b: np.einsum("hwir,ro->hwio", a.reshape(3, 2, 5, -1), b)),
    ("conv/weight", (4, 5, 3, 2), lambda a, b: np.einsum("hwir,ro->oihw", a.reshape(3, 2, 5, -1), b)),
    ("query/kernel", (6, 2, 4), lambda a, b: np.einsum("ir,rhd->ihd", a, b.reshape(-1, 2, 4))),
    ("out/kernel", (2, 4, 6), lambda a, b: np.einsum("hdr,ro->hdo", a.reshape(2, 4, -1), b)),
    ("layers/kernel", (3, 6, 4), lambda a, b: np.einsum("lir,lro->lio", a, b)),
]


@pytest.mark.parametrize(("path", "shape", "by_hand"), LAYOUTS, ids=[p for p, _, _ in LAYOUTS])
def test_the_update_lies_in_the_layout_of_the_leaf(path: str, shape: tuple[int, ...], by_hand: Any) -> None:
    w = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    node = trained(ws.reparam.lora(rank=2, alpha=6.0)({path: w}, key=KEY)[path])
    a, b = np.asarray(node.a, np.float64), np.asarray(node.b, np.float64)
    np.testing.assert_allclose(node.materialize(), w + 3.0 * by_hand(a, b), rtol=1e-5, atol=1e-5)


def test_equals_peft_on_a_torch_weight() -> None:
    """W [out, in] plus alpha / r times lora_B [out, r] times lora_A [r, in], the two factors of an adapter file."""
    w = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    node = trained(ws.reparam.lora(rank=3, alpha=16)({"q.weight": w}, key=KEY)["q.weight"])
    lora_a, lora_b = np.asarray(node.a).T, np.asarray(node.b).T
    assert (lora_a.shape, lora_b.shape) == ((3, 7), (5, 3))
    np.testing.assert_allclose(node.materialize(), w + 16 / 3 * (lora_b @ lora_a), rtol=1e-5, atol=1e-5)


def test_the_start_is_uniform_and_zero() -> None:
    node = ws.reparam.lora(rank=64)({"kernel": jnp.ones((400, 10))}, key=KEY)["kernel"]
    a, bound = np.asarray(node.a), 1 / 20  # 1 / sqrt(in)
    assert np.all(np.abs(a) <= bound) and np.abs(a).max() > 0.999 * bound
    assert abs(a.mean()) < 4 * bound / np.sqrt(3 * a.size)
    assert abs(a.var() / (bound**2 / 3) - 1) < 4 * np.sqrt(0.8 / a.size)  # kurtosis of a uniform is 1.8
    assert not np.any(node.b) and node.scale == 1 and not np.any(np.diff(a[:2]) == 0)


def test_layers_of_a_stack_start_apart() -> None:
    a = ws.reparam.lora(rank=2)({"layers/kernel": jnp.ones((3, 8, 4))}, key=KEY)["layers/kernel"].a
    assert not np.allclose(a[0], a[1]) and not np.allclose(a[1], a[2])


def test_merging_equals_the_two_branches() -> None:
    """x W + scale (x a) b, the way adapters run beside a frozen layer."""
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((6, 4)).astype(np.float32), rng.standard_normal((9, 6)).astype(np.float32)
    node = trained(ws.reparam.lora(rank=2, alpha=1)({"kernel": w}, key=KEY)["kernel"])
    np.testing.assert_allclose(x @ node.materialize(), x @ w + 0.5 * (x @ node.a) @ node.b, rtol=1e-4, atol=1e-5)
    assert np.linalg.matrix_rank(np.asarray(node.materialize() - w), tol=1e-4) == 2


def test_only_the_factors_train_and_they_find_a_low_rank_change() -> None:
    """The target differs from the base by rank 2: LoRA of rank 2 reaches it, and the base does not move."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal((8, 6)).astype(np.float32)
    target = base + rng.standard_normal((8, 2)).astype(np.float32) @ rng.standard_normal((2, 6)).astype(np.float32)
    params = {"kernel": base, "bias": jnp.zeros(6)}
    train, rest = ws.split(ws.on(ws.matrices, ws.reparam.lora(rank=2))(params, key=KEY))
    assert sum(x.size for x in jax.tree.leaves(train)) == 2 * (8 + 6) and train["bias"] is None

    def loss(train: Any) -> jax.Array:
        return jnp.sum((ws.materialize(ws.join(train, rest))["kernel"] - target) ** 2)

    start = jax.grad(loss)(train)["kernel"]
    assert not np.any(start.a) and np.all(start.b != 0)  # b = 0 hides a from the first step
    tx = optax.sgd(1e-2, momentum=0.9)

    @jax.jit
    def step(carry: Any, _: None) -> tuple[Any, None]:
        train, state = carry
        updates, state = tx.update(jax.grad(loss)(train), state)
        return (optax.apply_updates(train, updates), state), None

    (train, _), _ = jax.lax.scan(step, (train, tx.init(train)), None, length=800)
    merged = ws.join(train, rest)
    assert float(loss(train)) < 1e-6 < 1e-1 < float(np.sum((base - target) ** 2))
    np.testing.assert_array_equal(merged["kernel"].base, base)


@ws.implicit
class Halves(ws.Implicit):
    """A compressed leaf: integers that count halves."""

    codes: jax.Array

    def materialize(self) -> jax.Array:
        return self.codes.astype(jnp.float32) / 2


def test_the_base_may_be_a_node() -> None:
    quantize = ws.Transform(lambda leaves, ctx: Halves(jnp.round(2 * dense(leaves[0])).astype(jnp.int8)), "halves")
    w = jnp.asarray([[0.6, -1.4], [2.2, 0.1]])
    node = ws.chain(quantize, ws.reparam.lora(rank=1))({"kernel": w}, key=KEY)["kernel"]
    assert isinstance(node.base, Halves) and node.base.codes.dtype == jnp.int8
    np.testing.assert_array_equal(node.materialize(), [[0.5, -1.5], [2.0, 0.0]])
    train, rest = ws.split({"kernel": node})
    assert train["kernel"].base is None and rest["kernel"].a is None
    grads = jax.grad(lambda t: ws.materialize(ws.join(t, rest))["kernel"].sum())(train)
    np.testing.assert_allclose(grads["kernel"].b, np.asarray(node.a).sum(0)[:, None] * np.ones((1, 2)), rtol=1e-6)


def test_a_scan_takes_one_layer_at_a_time() -> None:
    """Layers of a stack run under lax.scan as a loop over them would."""
    w = np.random.default_rng(0).standard_normal((3, 4, 4)).astype(np.float32)
    node = trained(ws.reparam.lora(rank=2, alpha=4)({"layers/kernel": w}, key=KEY)["layers/kernel"])
    x = jnp.ones((2, 4))
    scanned, _ = jax.lax.scan(lambda h, layer: (jnp.tanh(h @ layer.materialize()), None), x, node)
    looped = x
    for layer in np.asarray(node.materialize()):
        looped = jnp.tanh(looped @ layer)
    np.testing.assert_allclose(scanned, looped, rtol=1e-5, atol=1e-6)


def test_a_narrow_base_gets_its_update_in_float32() -> None:
    w = jnp.asarray(np.random.default_rng(0).standard_normal((16, 8)), jnp.bfloat16)
    node = trained(ws.reparam.lora(rank=2)({"kernel": w}, key=KEY)["kernel"])
    wide = np.asarray(w, np.float64) + np.asarray(node.a, np.float64) @ np.asarray(node.b, np.float64)
    merged = node.materialize()
    assert merged.dtype == jnp.bfloat16 and node.a.dtype == jnp.float32
    np.testing.assert_array_equal(np.asarray(merged), np.asarray(jnp.asarray(wide, jnp.float32).astype(jnp.bfloat16)))


def test_a_node_comes_back_from_its_stored_parts() -> None:
    node = trained(ws.reparam.lora(rank=2)({"conv/kernel": jnp.ones((2, 2, 3, 4))}, key=KEY)["conv/kernel"])
    again = from_parts(parts_of(node), facts_of(node))
    assert jax.tree.structure(again) == jax.tree.structure(node)
    np.testing.assert_array_equal(again.materialize(), node.materialize())


def test_errors_name_the_leaf_and_the_number() -> None:
    with pytest.raises(ShapeError, match="rank of at least 1, but got 0"):
        ws.reparam.lora(rank=0)
    with pytest.raises(ShapeError, match=r"head/bias with shape \(3,\) is no matrix.*on\(matrices"):
        ws.reparam.lora(rank=1)({"head": {"bias": jnp.ones(3)}}, key=KEY)
