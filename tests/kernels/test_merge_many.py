"""Deleted, one pass over all leaves could give another merge than the methods of `wspace.merge` do."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from wspace_kernels.dispatch import target

from wspace.core.errors import ShapeError, WspaceError
from wspace.core.typing import Array
from wspace.kernels import merge_many
from wspace.merge.dare import drop_array
from wspace.merge.task_arithmetic import weighted_sum_array
from wspace.merge.ties import elect_array, ties


def models() -> tuple[list[Array], Array, Array]:
    *leaves, base = map(jnp.asarray, np.random.default_rng(5).standard_normal((4, 30, 50)).astype(np.float32))
    return leaves, base, jnp.array([1.0, 0.5, 0.8], jnp.float32)


@cache
def dropped(elect: bool) -> tuple[Array, list[Array], Array]:
    """Keys, the deltas that they leave, and the merge of these."""
    leaves, base, weights = models()
    keys = jax.random.split(jax.random.key(6), len(leaves))
    deltas = [drop_array(x - base, key, 0.3) for x, key in zip(leaves, keys, strict=True)]
    return keys, deltas, base + (elect_array if elect else weighted_sum_array)(deltas, weights, 0.6)


def test_it_is_ties() -> None:
    leaves, base, weights = models()
    density = 0.2
    kept = int(density * base.size)
    least = jnp.asarray([np.sort(np.abs(np.asarray(x) - np.asarray(base)), axis=None)[-kept] for x in leaves])
    got = merge_many(leaves, base, weights, 0.6, consensus="elect", least=least)
    wanted = ties(density, weights, 0.6)(*({"w": x} for x in leaves), base={"w": base})["w"]
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["ref", "tpu", "gpu"])
@pytest.mark.parametrize("elect", [False, True])
def test_it_is_dare_with_the_same_masks(name: str, elect: bool) -> None:
    leaves, base, weights = models()
    keys, deltas, wanted = dropped(elect)
    with target("cpu" if name == "ref" else name, interpret=True):
        how = {"consensus": "elect" if elect else "sum", "implementation": name}
        got = merge_many(leaves, base, weights, 0.6, density=0.3, keys=keys, **how)
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)
    untouched = np.all(np.stack(deltas) == 0, axis=0)
    assert untouched.any()
    np.testing.assert_array_equal(np.asarray(got)[untouched], np.asarray(base)[untouched])


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_leaves_of_many_devices_stay_where_they_are_and_a_shard_map_runs_the_kernel(kind: AxisType) -> None:
    mesh = jax.make_mesh((8,), ("d",), axis_types=(kind,))
    a, b = (jax.device_put(jnp.full((16, 130), x), NamedSharding(mesh, P("d"))) for x in (1.0, 3.0))
    merged = merge_many([a, b], a, lam=0.5)
    assert merged.sharding.is_equivalent_to(a.sharding, 2) and bool(jnp.all(merged == 2))
    with target("tpu", interpret=True):
        part = jax.shard_map(
            lambda a, b: merge_many([a, b], a, lam=0.5, implementation="tpu"),
            mesh=mesh,
            in_specs=P("d"),
            out_specs=P("d"),
            check_vma=False,
        )
        assert bool(jnp.all(jax.jit(part)(a, b) == 2))


def test_misuse_is_told_before_any_work() -> None:
    a = jnp.ones(3)
    with pytest.raises(ShapeError, match="0 leaves"):
        merge_many([])
    with pytest.raises(ShapeError, match=r"weights has shape \(3,\), but there are 2 leaves"):
        merge_many([a, a], weights=jnp.ones(3))
    with pytest.raises(WspaceError, match="no consensus 'mean'"):
        merge_many([a, a], consensus="mean")  # type: ignore[arg-type]
    with pytest.raises(WspaceError, match="density needs 2 keys"):
        merge_many([a, a], density=0.5)
    with target("tpu", interpret=True), pytest.raises(ShapeError, match="'tpu' merges at most 16 leaves, got 17"):
        merge_many([a] * 17, implementation="tpu")
    with target("tpu", interpret=True):
        assert jnp.array_equal(merge_many([a] * 17), 17 * a)
