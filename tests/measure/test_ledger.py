"""Deleted, the error that a report states could be wrong, lost to rounding, or hide NaN, zeros and changed bits."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import wspace as ws
from tests.rows import like, tree
from wspace.core.errors import TreeMismatch
from wspace.measure import Entry, compare, ledger
from wspace.measure.ledger import CHUNK, HALF

RNG = np.random.default_rng(0)


def slow(path: str, a: np.ndarray, b: np.ndarray, bits: tuple[int, int]) -> Entry:
    """One entry at a time, summed exactly."""
    x, y = [float(v) for v in a.ravel()], [float(v) for v in b.ravel()]
    pairs = list(zip(x, y, strict=True))
    length = {k: math.sqrt(math.fsum(v * v for v in vs)) for k, vs in (("x", x), ("y", y))}
    off = math.sqrt(math.fsum((q - p) ** 2 for p, q in pairs))
    return Entry(
        path,
        a.shape,
        str(a.dtype),
        str(b.dtype),
        sum(p != q for p, q in pairs),
        max(abs(q - p) for p, q in pairs),
        off / length["x"],
        math.fsum(p * q for p, q in pairs) / (length["x"] * length["y"]),
        sum(p * q < 0 for p, q in pairs),
        sum(q == 0 for q in y) / len(y),
        *bits,
    )


def agree(got: Entry, want: Entry) -> None:
    for name, g, w in zip(Entry._fields, got, want, strict=True):
        assert g == (pytest.approx(w, rel=1e-12) if isinstance(w, float) else w), name


BITS = {"float32": 32, "float64": 64, "bfloat16": 16, "float8_e4m3fn": 8}


@pytest.mark.parametrize(
    ("dtype", "make"),
    [(d, make) for d in BITS for make in (np.asarray, jnp.asarray) if (d, make) != ("float64", jnp.asarray)],
)
def test_the_numbers_are_those_of_the_definitions(dtype: str, make: Any) -> None:
    a, b = (RNG.standard_normal((9, 7)).astype(ml_dtypes.bfloat16).astype(np.float64) for _ in range(2))
    b[b > 0.5] = 0
    a, b = a.astype(dtype), b.astype("float32")
    agree(compare("w", make(a), make(b)), slow("w", a, b, (BITS[dtype] * 63, 32 * 63)))


def test_a_leaf_of_many_chunks_keeps_what_float32_sums_would_lose() -> None:
    """131 075 ones, a seventh of them off by e = 2^-14: 1 - cosine is 2e-10, which float32 cannot tell from 0."""
    a, e = np.ones(2 * CHUNK + 3, np.float32), 2.0**-14
    b = a.copy()
    b[::7] += np.float32(e)
    n, changed = a.size, len(b[::7])
    got = compare("w", a, b)
    assert (got.changed, got.max_error) == (changed, e)
    assert got.relative == pytest.approx(e * math.sqrt(changed / n), rel=1e-12)
    length = math.sqrt(n) * math.sqrt(n + 2 * changed * e + changed * e**2)
    assert got.cosine == pytest.approx((n + changed * e) / length, abs=1e-14)
    assert 1e-10 < 1 - got.cosine < 1e-9


def test_undefined_numbers_are_none_and_changes_are_still_counted() -> None:
    zeros, ones = np.zeros(4, np.float32), np.ones(4, np.float32)
    same = compare("w", zeros, zeros)
    assert (same.changed, same.max_error, same.relative, same.cosine, same.sparsity) == (0, 0.0, 0.0, None, 1.0)
    from_zero = compare("w", zeros, ones)
    assert (from_zero.changed, from_zero.max_error, from_zero.relative, from_zero.cosine) == (4, 1.0, None, None)
    sick = np.array([1, np.nan, np.inf, 1], np.float32)
    broken = compare("w", ones, sick)
    assert (broken.changed, broken.max_error, broken.relative, broken.cosine) == (2, None, None, None)
    kept = compare("w", sick, sick)
    assert (kept.changed, kept.max_error, kept.relative, kept.cosine) == (0, 0.0, 0.0, None)
    empty = compare("w", np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32))
    assert (empty.changed, empty.max_error, empty.relative, empty.sparsity) == (0, 0.0, 0.0, None)
    json.dumps([same, from_zero, broken, empty], allow_nan=False)


def test_other_kinds_of_leaves() -> None:
    big = np.array([2**60, 5], np.int64)
    assert compare("ids", big, np.array([2**60 + 1, 5])).changed == 1  # float64 alone could not tell
    assert compare("mask", np.array([True, False]), np.array([True, True])).max_error == 1
    rotated = compare("c", np.array([3 + 4j], np.complex64), np.array([4 + 4j], np.complex64))
    assert rotated.max_error == 1 and rotated.relative == pytest.approx(0.2)
    keys = jax.random.key(0), jax.random.key(1)
    assert compare("key", keys[0], keys[0]).changed == 0 and compare("key", *keys).changed > 0
    assert compare("scalar", np.float32(2), np.float32(3)).relative == 0.5


def test_a_tree_has_an_entry_a_leaf_and_a_total_as_if_it_were_one() -> None:
    before = tree(RNG)
    after = ws.prune.magnitude(0.5)(before)
    found = ledger(before, after)
    assert [e.path for e in found.entries] == ["dense/kernel", "dense/bias", "layers/kernel", "step"]
    flat = [np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(t)]) for t in (before, after)]
    bits = sum(e.bits_before for e in found.entries), sum(e.bits_after for e in found.entries)
    agree(found.total, slow("total", *flat, bits)._replace(dtype="float32 int32", made="float32 int32"))
    assert all(e.sparsity == 0.5 and e.cosine > 0 for e in found.entries if e.path != "step")
    assert all(e.path in str(found) and e.path in found._repr_html_() for e in found.entries)
    json.dumps(found.json(), allow_nan=False)


class Checkpoint(Mapping[str, Any]):
    """Leaves by name, and a count of those that are held at once."""

    def __init__(self, leaves: dict[str, np.ndarray]) -> None:
        self.leaves, self.reads = leaves, 0
        self.specs = {name: (x.shape, x.dtype) for name, x in leaves.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        self.reads += 1
        return self.leaves[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.leaves)

    def __len__(self) -> int:
        return len(self.leaves)


def test_checkpoints_are_read_once_a_leaf() -> None:
    names = ("a.weight", "b.weight")
    one, two = (Checkpoint({n: RNG.standard_normal((3, 3)) for n in names}) for _ in range(2))
    found = ledger(one, two)
    assert (one.reads, two.reads) == (2, 2)
    for e in found.entries:
        agree(e, slow(e.path, one.leaves[e.path], two.leaves[e.path], (9 * 64, 9 * 64)))


def test_implicit_leaves_are_compared_by_what_they_stand_for() -> None:
    before = {"kernel": jnp.asarray(RNG.standard_normal((8, 4)), jnp.float32)}
    adapted = ws.reparam.lora(rank=2)(before, key=jax.random.key(0))
    (entry,) = ledger(before, adapted).entries
    assert entry.made == "LoRA" and entry.relative == 0 and entry.bits_after > entry.bits_before


def test_sharded_leaves_are_compared_like_others() -> None:
    mesh = jax.make_mesh((8,), ("model",))
    a, b = (jnp.asarray(RNG.standard_normal((16, 8)), jnp.float32) for _ in range(2))
    spread = [jax.device_put(x, NamedSharding(mesh, P("model", None))) for x in (a, b)]
    assert compare("w", *spread) == compare("w", a, b)


def test_trees_that_do_not_match_are_refused() -> None:
    before = tree(RNG)
    with pytest.raises(TreeMismatch, match="tree 2 does not match tree 1: it lacks dense/bias"):
        ledger(before, {**like(before, RNG), "dense": {"kernel": before["dense"]["kernel"]}})
    with pytest.raises(TreeMismatch, match=r"w is \(2,\) before and \(1,\) after"):
        compare("w", np.ones(2), np.ones(1))


def test_bfloat16_has_a_way_of_its_own_with_the_same_numbers() -> None:
    """Zeros of both signs, sign flips, many chunks, an odd rest; NaN goes the long way."""
    a, b = (RNG.standard_normal(3 * HALF + 5).astype(ml_dtypes.bfloat16) for _ in range(2))
    a[::11], b[::7], b[1::77], b[2::5] = 0, 0, -0.0, a[2::5]
    want = slow("w", a, b, (16 * a.size, 16 * a.size))
    got = compare("w", a, b)
    assert (got.changed, got.max_error, got.sign_flips, got.sparsity) == (
        want.changed,
        want.max_error,
        want.sign_flips,
        want.sparsity,
    )
    assert got.relative == pytest.approx(want.relative, rel=1e-6) and got.cosine == pytest.approx(want.cosine, abs=1e-6)
    near = (a.astype(np.float32) * (1 + 2.0**-6)).astype(ml_dtypes.bfloat16)
    tight = slow("w", a, near, (0, 0)).cosine
    assert 1 - (compare("w", a, near).cosine or 0) == pytest.approx(1 - (tight or 0), rel=1e-2)
    b[4] = np.nan
    assert compare("w", a, b).relative is None and compare("w", b, b).changed == 0
