"""Deleted, the counts could lead to another k-th magnitude than counting bit by bit does."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from wspace_kernels.dispatch import target
from wspace_kernels.radix_count.api import fast

from wspace.core.errors import ShapeError
from wspace.core.typing import Array
from wspace.kernels import radix_count
from wspace.stats import quantile


@pytest.mark.parametrize("name", ["tpu", "gpu"])
def test_order_statistics_on_an_accelerator_are_those_of_a_sort(name: str) -> None:
    w = jnp.round(jax.random.normal(jax.random.key(3), (12, 130), jnp.float32), 1)  # with ties
    largest = np.sort(np.abs(np.asarray(w)).reshape(-1))[::-1]

    def found(codes: Array, k: Array) -> quantile.Found:
        assert fast(codes) is not None
        return quantile._by_kernel(codes, k)

    with target(name, interpret=True):
        run = jax.jit(found).lower(quantile.magnitude_bits(w), jnp.uint32(1)).compile()
    for k in (1, 400, w.size):
        code, room, tied = run(quantile.magnitude_bits(w), jnp.uint32(k))
        value = largest[k - 1]
        assert quantile.from_bits(code) == value
        assert (int(tied), int(room)) == (np.sum(largest == value), k - np.sum(largest > value))
    assert fast(w) is None  # a CPU has something better


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_leaves_of_many_devices_are_counted_where_they_are(kind: AxisType) -> None:
    mesh = jax.make_mesh((8,), ("d",), axis_types=(kind,))
    x = jnp.arange(128, dtype=jnp.float32).reshape(16, 8)
    counts = radix_count(jax.device_put(x, NamedSharding(mesh, P("d"))), 0x42, shift=16)
    assert jnp.array_equal(counts, radix_count(x, 0x42, shift=16)) and jnp.sum(counts) == 96  # 32 and above


def test_misuse_is_told_before_any_work() -> None:
    x = jnp.ones((3, 4))
    with pytest.raises(ShapeError, match="int32 has no magnitudes"):
        radix_count(jnp.ones(3, jnp.int32), shift=0)
    with pytest.raises(ShapeError, match="shift=4 is no digit of 32 bits"):
        radix_count(x, shift=4)
    with pytest.raises(ShapeError, match=r"prefix has shape \(4,\); wanted one number, or \(3,\)"):
        radix_count(x, jnp.zeros(4, jnp.uint32), shift=0, rows=True)
    with target("tpu", interpret=True), pytest.raises(ShapeError, match="no float16"):
        radix_count(x.astype(jnp.float16), shift=0, implementation="tpu")
