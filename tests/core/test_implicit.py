"""Deleted, a compressed or adapted leaf could lose its shape, its gradient or its true size inside a tree."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from tests.core.parts import mean, times
from wspace.core.implicit import bit_width, dense, static, stored_bits
from wspace.core.stored import facts_of, from_parts, parts_of


@ws.implicit
class Scaled(ws.Implicit):
    """base times gain plus shift; base may be a node."""

    base: jax.Array
    gain: jax.Array
    shift: int = static(default=0)

    trainable = frozenset({"gain"})

    def materialize(self) -> jax.Array:
        return self.gain * dense(self.base) + self.shift


def node(gain: float = 2.0, shift: int = 0) -> Scaled:
    return Scaled(jnp.arange(6.0).reshape(2, 3), jnp.float32(gain), shift)


def test_a_node_has_the_shape_and_dtype_of_what_it_stands_for() -> None:
    assert (node().shape, node().dtype, node().ndim, node().size) == ((2, 3), jnp.float32, 2, 6)
    nested = Scaled(node(), jnp.float32(3.0))
    np.testing.assert_array_equal(nested.materialize(), 6 * np.arange(6.0).reshape(2, 3))
    assert nested.shape == (2, 3)


def test_transforms_take_nodes_as_the_arrays_they_stand_for() -> None:
    out = mean()({"w": node(2.0)}, {"w": jnp.zeros((2, 3))})
    np.testing.assert_array_equal(out["w"], np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(
        ws.around_base(times(2.0))({"w": node(3.0)}, base={"w": node(1.0)})["w"], node(5.0).materialize()
    )


def test_keep_keeps_the_node_itself() -> None:
    tree = {"w": node(), "v": jnp.ones(2)}
    assert ws.on("v", times(2.0))(tree)["w"] is tree["w"]


def test_materialize_reaches_every_node_and_nothing_else() -> None:
    out = ws.materialize({"a": [node(), None], "n": 3, "v": jnp.ones(1)})
    np.testing.assert_array_equal(out["a"][0], node().materialize())
    assert out["a"][1] is None and out["n"] == 3
    assert ws.materialize({3: node(), "a": None})[3].shape == (2, 3)  # a dict that jax can't sort
    assert jax.jit(ws.materialize)({"a": node()})["a"].shape == (2, 3)


def test_gradients_reach_the_fields() -> None:
    slope = jax.grad(lambda p: ws.materialize(p)["w"].sum())({"w": node()})["w"]
    assert slope.gain == 15 and slope.base.tolist() == [[2, 2, 2]] * 2


def test_static_fields_are_part_of_the_type() -> None:
    assert jax.tree.structure(node(shift=1)) != jax.tree.structure(node(shift=2))
    assert len(jax.tree.leaves(node(shift=1))) == 2


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        *(("float32", 32), ("bfloat16", 16), ("float8_e4m3fn", 8), ("int8", 8), ("bool", 8)),
        *(("int4", 4), ("uint4", 4), ("int2", 2), ("float4_e2m1fn", 4), ("float6_e2m3fn", 6), ("int64", 64)),
    ],
)
def test_bits_are_those_of_the_type_not_of_the_backend(dtype: str, bits: int) -> None:
    assert bit_width(jnp.dtype(dtype)) == bits
    assert stored_bits(jax.ShapeDtypeStruct((3, 5), dtype)) == 15 * bits


def test_bits_of_nodes_keys_and_nothing() -> None:
    assert stored_bits(node()) == 7 * 32 and stored_bits(Scaled(node(), jnp.float32(1))) == 8 * 32
    assert stored_bits(jax.random.key(0)) == 64 and stored_bits(None) == stored_bits("x") == 0


def test_a_nested_node_comes_back_from_its_stored_parts() -> None:
    made = Scaled(node(2.0, shift=1), jnp.float32(3.0), 5)
    parts = parts_of(made)
    assert parts.keys() == {"base", "gain"} and parts["base"].keys() == {"base", "gain"}
    again = from_parts(parts, facts_of(made))
    assert jax.tree.structure(again) == jax.tree.structure(made)
    np.testing.assert_array_equal(again.materialize(), made.materialize())
