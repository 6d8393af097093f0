"""Deleted, the k-th magnitude could be wrong where histograms replace passes, in columns, or for none and all."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import wspace as ws
from tests import refs
from wspace.stats import quantile
from wspace.stats.quantile import count_of, largest_in_columns


def sample(kind: str, dtype: Any = np.float32) -> np.ndarray:
    rng = np.random.default_rng(3)
    if kind == "ties":
        return rng.integers(-2, 3, (16, 24)).astype(dtype)
    wild = rng.standard_normal((16, 24)) * 10.0 ** rng.integers(-30, 30, (16, 24))
    return (wild if kind == "wild" else np.zeros((16, 24))).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["ties", "wild", "zero"])
@pytest.mark.parametrize("large", [1, 10**9], ids=["digits", "bits"])
def test_any_number_of_largest(monkeypatch: pytest.MonkeyPatch, kind: str, dtype: Any, large: int) -> None:
    """By digits (what large leaves take on CPU) and by bits: the same entries as a stable sort keeps."""
    monkeypatch.setattr(quantile, "LARGE", large)
    with jax.enable_x64(dtype == np.float64):
        w = sample(kind, dtype)
        mask = jax.jit(
            lambda w, k: quantile.wspace_largest_codes.__wrapped__(
                quantile.magnitude_bits(w), jnp.asarray(k, jnp.uint32)
            )
        )
        for k in (0, 1, 2, 100, 383, 384):
            kept = np.where(np.asarray(mask(w, jnp.uint32(k))), w, 0)
            assert int(np.sum(np.asarray(mask(w, jnp.uint32(k))))) == k
            np.testing.assert_array_equal(kept, refs.keep_largest(w, k))


@pytest.mark.parametrize("last", [P("model", None), P(None, "model")], ids=["in", "out"])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_digits_gather_nothing(monkeypatch: pytest.MonkeyPatch, kind: AxisType, last: P) -> None:
    monkeypatch.setattr(quantile, "LARGE", 1)
    mesh = jax.make_mesh((8,), ("model",), axis_types=(kind,))
    ties = sample("ties")[:, :16]  # of another shape than above: largest_mask is compiled once a shape
    w = jax.device_put(ties, NamedSharding(mesh, last))
    with jax.set_mesh(mesh):
        compiled = jax.jit(lambda w: quantile.keep_largest(w, 100)).lower(w).compile()
        out = compiled(w)
    assert "all-gather" not in compiled.as_text()
    assert out.sharding.is_equivalent_to(w.sharding, 2)
    np.testing.assert_array_equal(out, refs.keep_largest(ties, 100))


@pytest.mark.parametrize("keep", [0, 1, 7, 16])
def test_columns_are_ranked_apart(keep: int) -> None:
    w = sample("ties")
    got = np.where(np.asarray(largest_in_columns(w, keep)), w, 0)
    for j in range(w.shape[1]):
        np.testing.assert_array_equal(got[:, j], refs.keep_largest(w[:, j], keep))


def test_counts_of_fractions() -> None:
    assert [count_of(0.5, 5), count_of(0.5, 7), count_of(0.99, 5, floor=True)] == [2, 4, 4]
    assert int(count_of(jnp.float32(1), 2**25 + 3)) <= 2**25 + 3  # rounded to float32 it would be one more
    with pytest.raises(ws.WspaceError, match=r"1\.5 is no fraction"):
        ws.prune.magnitude(1.5)({"w": jnp.ones(4)})


def test_a_computed_score_is_ranked_as_one_array() -> None:
    """Without LLVM's optimizer XLA's recomputed variance rounds otherwise than the counted one: entries got lost."""
    from wspace.stats.quantile import largest_mask, settled

    x = jnp.asarray(np.random.default_rng(0).standard_normal((64, 3, 8)), jnp.float32)

    def select(d: jax.Array) -> jax.Array:
        mean = (d[0] + d[1] + d[2]) / 3
        return largest_mask(settled(((d[0] - mean) ** 2 + (d[1] - mean) ** 2 + (d[2] - mean) ** 2) / 3), 3)

    run = jax.jit(jax.vmap(select)).lower(x).compile(compiler_options={"xla_backend_optimization_level": 0})
    np.testing.assert_array_equal(np.sum(run(x), axis=1), 3)
