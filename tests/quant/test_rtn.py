"""Deleted, rounding could miss its half step, make NaN of zeros or huge values, or forget a leaf's layout or dtype."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import wspace as ws
from wspace.core.implicit import stored_bits
from wspace.core.stored import facts_of, from_parts, parts_of
from wspace.quant import QTensor


def quantized(w: Any, **settings: Any) -> QTensor:
    return ws.quant.rtn(**settings)({"kernel": w})["kernel"]


def sample(kind: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "lattice":  # multiples of a power of two: many lie on the border of two codes
        return rng.integers(-12, 13, (8, 6)).astype(np.float32) / 8
    return (rng.standard_normal((8, 6)) * 10.0 ** rng.integers(-30, 30, (1, 6))).astype(np.float32)


settings = st.tuples(st.integers(2, 8), st.sampled_from([1, 2, 4, 8, None]), st.booleans())


@given(settings, st.sampled_from(["lattice", "wild"]), st.integers(0, 2**31))
def test_the_error_is_half_a_step_and_rounding_twice_is_rounding_once(
    how: tuple[int, int | None, bool], kind: str, seed: int
) -> None:
    bits, group, symmetric = how
    w = sample(kind, seed)
    q = quantized(w, bits=bits, group=group, symmetric=symmetric)
    step = np.repeat(np.asarray(q.scale, np.float64), q.group, axis=0)
    made = np.asarray(q.materialize(), np.float64)
    assert np.all(np.abs(w - made) <= step / 2 * (1 + 1e-5))
    assert np.all(made[w == 0] == 0)
    if kind == "lattice" and not symmetric:
        return  # its zero may lie halfway between two codes
    again = quantized(q.materialize(), bits=bits, group=group, symmetric=symmetric)
    np.testing.assert_array_equal(again.codes, q.codes)
    np.testing.assert_allclose(again.scale, q.scale, rtol=3e-7)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize(
    "column",
    [[0, 0, 0, 0], [3, 3, 3, 3], [-5, -5, -5, -5], [1e38, -1e38, 1, 0], [1e-40, -2e-40, 0, 1e-41], [1e-38, 0, 0, 0]],
    ids=["zero", "constant", "negative", "huge", "subnormal", "least"],
)
def test_odd_columns(column: list[float], bits: int, symmetric: bool) -> None:
    w = np.array([column], np.float32).T
    q = quantized(w, bits=bits, symmetric=symmetric)
    assert np.isfinite(q.scale).all() and np.all(np.asarray(q.scale) > 0)
    error = np.abs(np.asarray(q.materialize(), np.float64) - w)
    assert np.all(error <= np.asarray(q.scale, np.float64) / 2 * (1 + 1e-5))


@pytest.mark.parametrize("sick", [np.nan, np.inf])
@pytest.mark.parametrize("symmetric", [True, False])
def test_what_is_not_finite_is_seen_in_its_group_and_nowhere_else(sick: float, symmetric: bool) -> None:
    w = np.ones((4, 2), np.float32)
    w[1, 0] = sick
    made = np.asarray(quantized(w, group=2, symmetric=symmetric).materialize())
    np.testing.assert_array_equal(np.isnan(made), [[True, False], [True, False], [False, False], [False, False]])


@pytest.mark.parametrize(("bits", "stored"), [(2, "int2"), (3, "uint8"), (4, "int4"), (5, "uint8"), (8, "int8")])
def test_size_is_counted_in_bits_and_a_file_gives_the_node_back(bits: int, stored: str) -> None:
    w = jnp.asarray(np.random.default_rng(0).standard_normal((3, 16, 6)), jnp.bfloat16)
    for symmetric in (True, False):
        q = ws.quant.rtn(bits, group=4, symmetric=symmetric)({"layers": {"kernel": w}})["layers"]["kernel"]
        scales = 3 * 4 * 6
        assert stored_bits(q) == 3 * 16 * 6 * bits + scales * 32 + (0 if symmetric else scales * bits)
        assert (q.shape, q.dtype, q.group) == ((3, 16, 6), jnp.bfloat16, 4)
        parts = {name: np.asarray(part) for name, part in parts_of(q).items()}
        assert parts["codes"].dtype.name == stored and ("zero" in parts) != symmetric
        back = from_parts(parts, json.loads(json.dumps(facts_of(q))))
        assert jax.tree.structure(back) == jax.tree.structure(q)
        np.testing.assert_array_equal(back.materialize(), q.materialize())


def test_layouts_of_flax_and_torch() -> None:
    rng = np.random.default_rng(1)
    kernel = rng.standard_normal((8, 6)).astype(np.float32)
    torch = ws.quant.rtn(3, group=4)({"weight": kernel.T})["weight"]
    np.testing.assert_array_equal(torch.materialize(), quantized(kernel, bits=3, group=4).materialize().T)
    query = rng.standard_normal((8, 2, 3)).astype(np.float32)  # [in, heads, head_dim]
    node = ws.quant.rtn(3, group=4)({"query": {"kernel": query}})["query"]["kernel"]
    assert (node.codes.shape, node.scale.shape, node.shape) == ((8, 6), (2, 6), (8, 2, 3))
    np.testing.assert_array_equal(
        node.materialize(), quantized(query.reshape(8, 6), bits=3, group=4).materialize().reshape(8, 2, 3)
    )


def test_float64_leaves_keep_their_precision() -> None:
    w = np.array([[1e300], [-3e299]])
    q = quantized(w, bits=8)
    assert q.scale.dtype == np.float64 and q.dtype == np.float64
    np.testing.assert_allclose(np.asarray(q.codes).ravel(), [127, -38])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"group": 3}, "layer/kernel has 8 inputs, which group=3"),
        ({"group": 0}, "layer/kernel has 8 inputs, which group=0"),
        ({"bits": 1}, "bits=1 is not supported"),
        ({"bits": 9}, "bits=9 is not supported"),
    ],
)
def test_misuse_is_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ws.WspaceError, match=words):
        ws.quant.rtn(**given)({"layer": {"kernel": jnp.ones((8, 4))}})


def test_a_group_that_spans_devices_is_named() -> None:
    mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Explicit,))
    w = jax.device_put(jnp.ones((16, 8)), NamedSharding(mesh, P("model", None)))
    with jax.set_mesh(mesh), pytest.raises(ws.WspaceError, match="kernel has 2 of its 16 inputs on each device"):
        quantized(w, group=4)
    assert quantized(w).codes.sharding.is_equivalent_to(w.sharding, 2)  # one scale for all inputs is fine
