"""Deleted, a leaf could be cut into blocks where its entries depend on each other, or be rounded in another way."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import wspace as ws
from wspace.core import blocks, buffers, sweep
from wspace.core.entries import entries_of
from wspace.core.programs import Programs, traced
from wspace.core.select import Spec
from wspace.stats import quantile

RNG = np.random.default_rng(0)
WHOLE = jnp.asarray(RNG.standard_normal((5, 13)), jnp.float32)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 16)


def leaf(dtype: Any = np.float32) -> np.ndarray:
    return RNG.standard_normal((5, 13)).astype(dtype)


def blockwise(apply: Any, leaves: Any) -> Any:
    """What the program makes of the leaves; None if there is none."""
    program = traced(lambda leaves, key: apply(leaves), leaves).program
    return None if program is None else sweep.in_memory(program, leaves)


@jax.jit
def scaled(x: jax.Array, c: jax.Array) -> jax.Array:
    return c * x


@jax.jit
def normed(x: jax.Array) -> jax.Array:
    return x * 2 - jnp.sum(x)


length = jax.jit(jnp.linalg.norm)


@pytest.mark.parametrize(
    "apply",
    [
        lambda xs: jnp.asarray(xs[0]) + scaled(xs[1], jnp.float32(0.3)),  # in one program it would round once
        lambda xs: jnp.asarray(xs[0]).astype(jnp.bfloat16).astype(jnp.float32) - xs[1],  # in one, not at all
        lambda xs: jnp.where(jnp.abs(xs[0]) > xs[1], jax.nn.relu(xs[0]), jnp.float32(0.5)),
        lambda xs: quantile.keep_largest(jnp.asarray(xs[0]), 20) * xs[1],
        lambda xs: (2 * jnp.asarray(xs[0])) / jnp.sum(jnp.asarray(xs[0]) * 3) + length(jnp.asarray(xs[1])),
    ],
    ids=["product and sum", "cast and cast back", "select", "twin on the host", "sums"],
)
def test_blocks_round_as_the_whole_leaf_does(apply: Any) -> None:
    xs = (leaf(), leaf())
    found = blockwise(apply, xs)
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, np.asarray(apply(xs)))


@pytest.mark.parametrize(
    "apply",
    [
        lambda xs: jnp.asarray(xs[0])[::-1],
        lambda xs: jnp.cumsum(xs[0], axis=0),
        lambda xs: xs[0] * jnp.arange(13, dtype=jnp.float32)[None],
        lambda xs: xs[0] + jax.random.uniform(jax.random.key(0), (5, 13)),
        lambda xs: xs[0] @ jnp.ones((13, 13), jnp.float32),
        lambda xs: xs[0] + WHOLE,
        lambda xs: normed(xs[0]),
    ],
    ids=["turned", "scan", "by column", "random", "product", "a whole constant", "a sum inside"],
)
def test_what_is_not_entrywise_stays_whole(apply: Any) -> None:
    assert blockwise(apply, (leaf(),)) is None


def test_leaves_of_other_shapes_share_programs_but_not_numbers() -> None:
    def apply(c: float) -> Any:
        return lambda xs: xs[0] * jnp.float32(c)

    x, before = leaf(ml_dtypes.bfloat16).astype(np.float32), len(sweep._KNOWN)
    for shape, c in (((5, 13), 2.0), ((65,), 3.0), ((13, 5, 1), -1.0)):
        np.testing.assert_array_equal(blockwise(apply(c), (x.reshape(shape),)), x.reshape(shape) * np.float32(c))
    assert len(sweep._KNOWN) - before <= 1


def test_small_device_and_strided_leaves_stay_whole() -> None:
    assert blockwise(lambda xs: xs[0] * jnp.float32(2), (np.ones(15, np.float32),)) is None
    programs = Programs(ws.leafwise("twice", lambda leaves, ctx: 2 * leaves[0]))
    for x in (jnp.ones((16, 16)), np.ones((16, 16), np.float32).T):
        assert programs.of(Spec("w", (16, 16), np.dtype("float32"), ()), ((x,), {}), None) is None


@pytest.mark.parametrize("k", [0, 1, 7, 64, 65])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
def test_the_largest_of_a_leaf_in_blocks(k: int, dtype: Any) -> None:
    w = np.round(RNG.standard_normal((5, 13)), 1).astype(dtype)  # many ties
    w[0, 3], w[2, 9] = np.inf, -0.0
    order = np.argsort(-np.abs(w.astype(np.float64)), axis=None, kind="stable")
    expected = np.zeros(65, bool)
    expected[order[:k]] = True
    with jax.enable_x64(dtype is np.float64):
        found = blockwise(lambda xs: quantile.largest_mask(jnp.asarray(xs[0]), k), (w,))
    np.testing.assert_array_equal(found.reshape(-1), expected)


def test_a_stream_of_files_goes_through_blocks() -> None:
    base, a, b = ({"w": leaf(ml_dtypes.bfloat16)} for _ in range(3))
    out: dict[str, Any] = {}
    ws.stream(ws.merge.ties(density=0.3), [a, b], out, base=base)
    assert isinstance(out["w"], np.ndarray) and out["w"].dtype == ml_dtypes.bfloat16


def test_programs_that_differ_inside_a_function_are_not_taken_for_one_another() -> None:
    x = leaf()
    for choose in (jnp.maximum, jnp.minimum):
        inside = jax.jit(lambda a, choose=choose: choose(a, a * 2) * a)
        found = blockwise(lambda xs, inside=inside: inside(xs[0]), (x,))
        np.testing.assert_array_equal(np.asarray(found), inside(x))


def test_memory_is_used_again_only_when_nothing_refers_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "SMALLEST", 0)
    monkeypatch.setattr(buffers, "_FREE", {})
    first = buffers.empty(100, np.float32)
    first[:] = 1
    view, shared = first[10:].reshape(9, 10), jnp.asarray(first)
    del first
    second = buffers.empty(100, np.float32)
    second[:] = 2
    assert view.max() == 1 and shared.max() == 1 and not buffers._FREE
    address = second.ctypes.data
    del second
    assert len(buffers._FREE) == 1
    third = buffers.empty(90, np.float32)
    assert third.ctypes.data == address and address % buffers.ALIGNED == 0


def test_blocks_begin_where_nothing_has_to_be_copied() -> None:
    memory = np.zeros(1000, np.float32)
    ahead = next(k for k in range(1, 17) if memory[k:].ctypes.data % buffers.ALIGNED == 0)
    assert sweep.starts_of(entries_of(memory[ahead:][:100])) == [*range(0, 84, 16), 84]
    starts = sweep.starts_of(entries_of(memory[ahead + 10 :][:100]))
    assert starts == [0, *range(6, 84, 16), 84]


def test_leaves_share_a_program_unless_it_depends_on_their_path() -> None:
    looks: list[str] = []

    def double(leaves: Any, ctx: Any) -> Any:
        looks.append("")
        return 2 * leaves[0]

    def by_path(leaves: Any, ctx: Any) -> Any:
        (path, *_), w = ctx.spec, leaves[0]
        looks.append(path)
        return w * (1 if path == "a" else -1)

    for function, traces, x in ((double, 2, 2), (by_path, 3, -1)):  # leaves of 65 and of 3 entries
        looks.clear()
        out: dict[str, Any] = {}
        shapes = {"a": (5, 13), "x": (5, 13), "y": (3,)}
        ws.stream(ws.leafwise("", function), [{k: np.ones(s, np.float32) for k, s in shapes.items()}], out)
        assert len(looks) == traces and out["x"][0, 0] == x


def test_a_shared_program_draws_other_numbers_for_every_leaf() -> None:
    out: dict[str, Any] = {}
    trees = [{k: np.ones((5, 13), np.float32) for k in "ax"}]
    ws.stream(ws.merge.drop(density=0.5), trees, out, key=jax.random.key(0))
    memory = ws.merge.drop(density=0.5)(jax.tree.map(jnp.asarray, trees[0]), key=jax.random.key(0))
    assert (np.asarray(out["a"]) != np.asarray(out["x"])).any()
    assert all((np.asarray(out[k]) == np.asarray(memory[k])).all() for k in "ax")
