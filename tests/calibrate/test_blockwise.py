"""Without it a later block could be calibrated on what the untransformed model would have fed it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from tests.calibrate.truths import gram, normal
from wspace.core.errors import SelectionError


def block(p: Any, batch: Any) -> Any:
    x, mask = batch
    return jnp.tanh(x @ p["kernel"]), mask


def test_later_blocks_see_the_transformed_earlier_ones() -> None:
    blocks = [(block, {"kernel": normal(k, 4, 4)}) for k in range(3)]
    batches = [(normal(5, 6, 4), jnp.ones(6)), (normal(6, 3, 4), jnp.array([1.0, 0, 1]))]
    seen = []

    def transform(p: Any, found: Any) -> Any:
        seen.append(np.asarray(found["gram"]["kernel"]))
        return ws.reparam.weight_norm()(jax.tree.map(lambda w: w / 2, p))

    new = ws.calibrate.blockwise(blocks, batches, transform, weights=lambda batch: batch[1])
    x, w = np.concatenate([b[0] for b in batches]), np.concatenate([b[1] for b in batches])
    for k, (_, p) in enumerate(blocks):
        np.testing.assert_allclose(seen[k], gram(x, w), atol=1e-5)
        np.testing.assert_allclose(ws.materialize(new[k])["kernel"], p["kernel"] / 2, atol=1e-6)
        x = np.tanh(x @ np.asarray(p["kernel"], np.float64) / 2)


def test_the_untransformed_model_runs_beside() -> None:
    blocks = [(block, {"kernel": normal(k, 4, 4)}) for k in range(2)]
    batches = [(normal(5, 6, 4), jnp.ones(6)), (normal(6, 3, 4), jnp.array([1.0, 0, 1]))]
    seen = []

    def transform(p: Any, found: Any) -> Any:
        seen.append(found)
        return jax.tree.map(lambda w: w / 2, p)

    ws.calibrate.blockwise(blocks, batches, transform, ["gram", "cross"], weights=lambda batch: batch[1], beside=True)
    x, w = np.concatenate([b[0] for b in batches]), np.concatenate([b[1] for b in batches])
    kernel = np.asarray(blocks[0][1]["kernel"], np.float64)
    now, was = np.tanh(x @ kernel / 2), np.tanh(x @ kernel)
    np.testing.assert_allclose(seen[0]["cross"]["kernel"], gram(x, w), atol=1e-5)
    np.testing.assert_allclose(seen[1]["gram"]["kernel"], gram(now, w), atol=1e-5)
    np.testing.assert_allclose(seen[1]["cross"]["kernel"], (now * w[:, None]).T @ was / w.sum(), atol=1e-5)


def test_statistics_of_one_block_are_held_at_a_time() -> None:
    alive: list[Any] = []

    def transform(p: Any, found: Any) -> Any:
        import weakref

        assert all(ref() is None for ref in alive)
        alive.append(weakref.ref(found["gram"]["kernel"]))
        return p

    blocks = [(block, {"kernel": normal(k, 4, 4)}) for k in range(3)]
    ws.calibrate.blockwise(blocks, [(normal(5, 6, 4), jnp.ones(6))], transform)
    assert len(alive) == 3


def test_nothing_to_do_is_an_error() -> None:
    with pytest.raises(SelectionError, match="0 blocks and 1 batches"):
        ws.calibrate.blockwise([], [normal(5, 6, 4)], lambda p, found: p)


def dense(p: Any, x: Any) -> Any:
    return jnp.tanh(x @ p["kernel"] + p["bias"][None])


def model() -> dict[str, Any]:
    leaves = {f"layers.{k}.kernel": normal(k, 8, 8) for k in range(3)}
    return leaves | {f"layers.{k}.bias": normal(9 + k, 8) for k in range(3)} | {"head": normal(20, 8, 2)}


PARTS = [(dense, {"kernel": f"layers.{k}.kernel", "bias": f"layers.{k}.bias"}) for k in range(3)]


def gptq(p: Any, found: Any) -> Any:
    return ws.on(ws.matrices, ws.quant.gptq(bits=3))(p, axes=found.axes, **found)


class Once(dict[str, Any]):
    """Leaves that may each be taken once, and of one block at a time."""

    def __init__(self, leaves: Any, out: dict[str, Any]) -> None:
        super().__init__(leaves)
        self.out, self.taken = out, list[str]()

    def __getitem__(self, name: str) -> Any:
        assert name not in self.taken
        self.taken.append(name)
        assert len([n for n in self.taken if n not in self.out]) <= 2
        return super().__getitem__(name)


def test_from_files_it_is_the_same_to_the_last_bit_a_block_at_a_time() -> None:
    batches, leaves = [normal(5, 16, 8), normal(6, 7, 8)], model()
    blocks = [(apply, {key: leaves[name] for key, name in names.items()}) for apply, names in PARTS]
    expected = ws.calibrate.blockwise(blocks, batches, gptq)
    out: dict[str, Any] = {}
    told: list[tuple[int, int, str]] = []
    source = Once(leaves, out)
    ws.calibrate.stream(PARTS, source, out, batches, gptq, progress=lambda *row: told.append(row))
    for (_, names), made in zip(PARTS, expected, strict=True):
        for key, name in names.items():
            for a, b in zip(jax.tree.leaves(out[name]), jax.tree.leaves(made[key]), strict=True):
                np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(out["head"], leaves["head"])
    assert sorted(source.taken) == sorted(leaves) and [done for done, *_ in told] == list(range(1, 8))


@pytest.mark.parametrize(
    ("parts", "transform", "message"),
    [
        ([], gptq, "0 blocks and 1 batches"),
        ([(dense, {"kernel": "nope"})], gptq, "no leaf nope"),
        ([PARTS[0], PARTS[0]], gptq, "leaves in two blocks: layers.0.bias"),
        (PARTS, lambda p, found: {"kernel": p["kernel"]}, "differ in bias; give back the block's leaves"),
    ],
    ids=["none", "unknown", "twice", "lost"],
)
def test_blocks_that_do_not_fit_the_source(parts: Any, transform: Any, message: str) -> None:
    out: dict[str, Any] = {}
    with pytest.raises(ws.WspaceError, match=message):
        ws.calibrate.stream(parts, model(), out, [normal(5, 16, 8)], transform)
    assert not out
