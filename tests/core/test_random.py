"""Deleted, a random method's result could depend on the order, number or sharding of leaves, or on the file format."""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp
import numpy as np

import wspace as ws
from tests.core.parts import KEY, noise, times
from wspace.core.transform import leaf_key

ZEROS = {"b": {"kernel": jnp.zeros(5)}, "a": jnp.zeros(5), "c": jnp.zeros((2, 3))}


def test_a_leaf_draws_from_the_key_and_its_path_alone() -> None:
    want = jax.random.normal(jax.random.fold_in(KEY, zlib.crc32(b"b/kernel")), (5,))
    np.testing.assert_array_equal(noise()(ZEROS, key=KEY)["b"]["kernel"], want)
    assert leaf_key(None, "a") is None


def test_order_and_company_change_nothing_the_key_does() -> None:
    whole = noise()(ZEROS, key=KEY)
    turned = noise()(dict(reversed(ZEROS.items())), key=KEY)
    alone = noise()({"a": ZEROS["a"]}, key=KEY)
    np.testing.assert_array_equal(whole["a"], alone["a"])
    jax.tree.map(np.testing.assert_array_equal, turned, whole)
    assert np.abs(whole["a"] - whole["b"]["kernel"]).min() > 0
    assert np.abs(whole["a"] - noise()(ZEROS, key=jax.random.key(1))["a"]).min() > 0


def test_selection_changes_nothing() -> None:
    np.testing.assert_array_equal(ws.on("^a", noise())(ZEROS, key=KEY)["a"], noise()(ZEROS, key=KEY)["a"])
    np.testing.assert_array_equal(
        ws.route([("^a", "n")], {"n": noise()}, times(2.0))(ZEROS, key=KEY)["a"], noise()(ZEROS, key=KEY)["a"]
    )


def test_a_tree_and_a_file_draw_alike() -> None:
    """b/kernel of a tree is b.kernel of a file."""
    sink: dict[str, jax.Array] = {}
    ws.stream(noise(), [{"b.kernel": np.zeros(5, np.float32)}], sink, key=KEY)
    np.testing.assert_array_equal(sink["b.kernel"], noise()(ZEROS, key=KEY)["b"]["kernel"])


def test_jit_and_vmap_over_keys() -> None:
    np.testing.assert_array_equal(
        jax.jit(lambda t, k: noise()(t, key=k))(ZEROS, KEY)["a"], noise()(ZEROS, key=KEY)["a"]
    )
    keys = jax.random.split(KEY, 3)
    mapped = jax.vmap(lambda k: noise()(ZEROS, key=k)["a"])(keys)
    for k, row in zip(keys, mapped, strict=True):
        np.testing.assert_array_equal(row, noise()(ZEROS, key=k)["a"])
