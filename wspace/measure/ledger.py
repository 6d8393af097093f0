"""The ledger: what became of every leaf between two models, in errors, signs, zeros and stored bits.

Numbers are computed in float64 by numpy, a chunk of a leaf at a time: float32 sums would lose the small errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from wspace.core.align import align
from wspace.core.compose import keep
from wspace.core.containers import as_params, show
from wspace.core.errors import TreeMismatch
from wspace.core.implicit import Implicit, stored_bits
from wspace.core.plan import is_lazy
from wspace.core.sizes import size
from wspace.core.table import html, number, text
from wspace.core.typing import Leaf, Tree

CHUNK = 2**16  # entries compared at once: the float64 copies stay in the cache
HALF = 2**14  # the same, of bfloat16


class Entry(NamedTuple):
    """One leaf before and after. What is undefined (a ratio to zero, anything with NaN in it) is None.

    path, shape; dtype: before; made: dtype after, or the name of the Implicit node.
    changed: entries that differ. max_error: max |b - a|. relative: |b - a| / |a|. cosine: <a, b> / (|a| |b|).
    sign_flips: entries that changed sign, zeros aside. sparsity: fraction of zeros after.
    bits_before, bits_after: what storing it takes.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    made: str
    changed: int
    max_error: float | None
    relative: float | None
    cosine: float | None
    sign_flips: int
    sparsity: float | None
    bits_before: int
    bits_after: int

    def cells(self) -> tuple[str, ...]:
        """A row of the table, under HEAD."""
        kind, sizes = f"{self.dtype} -> {self.made}", (size(self.bits_before / 8), size(self.bits_after / 8))
        ratios = (number(self.max_error), number(self.relative), number(self.cosine, 6))
        return (self.path, str(self.shape), kind, *ratios, str(self.sign_flips), number(self.sparsity), *sizes)


class Ledger(NamedTuple):
    """entries: one a leaf. total: the same numbers for all leaves as if they were one long leaf."""

    entries: tuple[Entry, ...]
    total: Entry

    def __str__(self) -> str:
        return text(self.title(), HEAD, self.cells())

    def _repr_html_(self) -> str:
        return html(self.title(), HEAD, self.cells())

    def title(self) -> str:
        """One line on the whole."""
        t = self.total
        return (
            f"{len(self.entries)} leaves, {t.changed} of {t.shape[0]} entries changed, "
            f"relative error {number(t.relative)}, {size(t.bits_before / 8)} -> {size(t.bits_after / 8)}"
        )

    def cells(self) -> list[tuple[str, ...]]:
        """The rows of the table as text, the total last."""
        return [e.cells() for e in (*self.entries, self.total)]

    def json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, for a file."""
        return {"entries": [e._asdict() for e in self.entries], "total": self.total._asdict()}


HEAD = ("path", "shape", "dtype", "max error", "relative", "cosine", "sign flips", "zeros", "before", "after")


class Sums(NamedTuple):
    """What the numbers of an entry are made of, of one chunk or many; d = b - a.

    counts: entries, changed, sign flips, zeros after; int64. largest: max |d|. products: dd, aa, bb, ab.
    """

    counts: np.ndarray[Any, Any] = np.zeros(4, np.int64)
    largest: float = 0.0
    products: np.ndarray[Any, Any] = np.zeros(4)

    def plus(self, other: Sums) -> Sums:
        """Of two chunks, or two leaves."""
        largest = float(np.maximum(self.largest, other.largest))  # NaN stays visible
        return Sums(self.counts + other.counts, largest, self.products + other.products)


def compare(path: str, before: Leaf, after: Leaf) -> Entry:
    """The ledger's entry of one leaf.

    Args:
      path: its name. before, after: arrays of one shape, jax or numpy, any dtype, or Implicit nodes.
    Raises:
      TreeMismatch: the shapes differ.
    Example:
      >>> e = compare("w", np.array([3.0, -4.0]), np.array([3.0, 0.0]))
      >>> e.max_error, e.relative, e.cosine, e.sign_flips, e.sparsity
      (4.0, 0.8, 0.6, 0, 0.5)
    """
    return _entry(path, before, after, _sums(path, before, after))


def ledger(before: Tree, after: Tree) -> Ledger:
    """What became of every leaf: errors, signs, zeros and bits, in a table that prints itself.

    Args:
      before, after: trees of one structure, or checkpoints (mappings with `.specs`), read a leaf at a time. Implicit
        leaves are materialized. Leaves that are no arrays are left out.
    Returns:
      Ledger; `str`, a notebook and `.json()` show it.
    Raises:
      TreeMismatch: other leaves or shapes.
    Example:
      >>> a, b = {"w": jnp.array([3.0, -4.0])}, {"w": jnp.array([3.0, 0.0])}
      >>> print(ledger(a, b))
      1 leaves, 1 of 2 entries changed, relative error 0.8, 8 B -> 8 B
      path   shape  dtype               max error  relative  cosine  sign flips  zeros  before  after
      w      (2,)   float32 -> float32  4          0.8       0.6     0           0.5    8 B     8 B
      total  (2,)   float32 -> float32  4          0.8       0.6     0           0.5    8 B     8 B
    """
    sources: list[Mapping[Any, Leaf]] = [x if is_lazy(x) else as_params(x).leaves for x in (before, after)]
    pair = align(keep(), sources, {}, None).sources
    entries, total = [], Sums()
    for path in pair[0]:
        a, b = (source[path] for source in pair)
        if hasattr(a, "dtype") and hasattr(b, "dtype"):
            sums = _sums(show(path), a, b)
            entries.append(_entry(show(path), a, b, sums))
            total = total.plus(sums)
    dtypes, made = (" ".join(sorted(kinds)) for kinds in ({e.dtype for e in entries}, {e.made for e in entries}))
    bits = sum(e.bits_before for e in entries), sum(e.bits_after for e in entries)
    return Ledger(tuple(entries), Entry("total", (int(total.counts[0]),), dtypes, made, *_numbers(total), *bits))


def _entry(path: str, a: Leaf, b: Leaf, sums: Sums) -> Entry:
    made = type(b).__name__ if isinstance(b, Implicit) else str(b.dtype)
    return Entry(path, tuple(a.shape), str(a.dtype), made, *_numbers(sums), stored_bits(a), stored_bits(b))


def _numbers(s: Sums) -> tuple[int, float | None, float | None, float | None, int, float | None]:
    """changed, max_error, relative, cosine, sign_flips, sparsity."""
    entries, changed, flips, zeros = map(int, s.counts)
    dd, aa, bb, ab = map(float, s.products)
    relative = 0.0 if dd == 0 else _ratio(math.sqrt(dd), math.sqrt(aa))
    cosine = _ratio(ab, math.sqrt(aa) * math.sqrt(bb))
    cosine = None if cosine is None else max(-1.0, min(1.0, cosine))
    return changed, _ratio(s.largest, 1.0), relative, cosine, flips, _ratio(zeros, entries)


def _ratio(x: float, y: float) -> float | None:
    return x / y if y and math.isfinite(x) and math.isfinite(y) else None


def _sums(path: str, before: Leaf, after: Leaf) -> Sums:
    a, b = _host(before), _host(after)
    if a.shape != b.shape:
        raise TreeMismatch(f"{path} is {a.shape} before and {b.shape} after; compare leaves of one shape")
    a, b, total = a.reshape(-1), b.reshape(-1), Sums()
    chunk, size = (_chunk_of_bfloat16, HALF) if a.dtype == b.dtype == ml_dtypes.bfloat16 else (_chunk, CHUNK)
    for start in range(0, a.size, size):
        total = total.plus(chunk(a[start : start + size], b[start : start + size]))
    return total


def _host(leaf: Leaf) -> np.ndarray[Any, Any]:
    """A leaf as a numpy array of its own dtype: never through a jax array, which would narrow 64 bits."""
    array = leaf.materialize() if isinstance(leaf, Implicit) else leaf
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return np.asarray(array)


def _chunk(raw_a: np.ndarray[Any, Any], raw_b: np.ndarray[Any, Any]) -> Sums:
    a, b = _float64(raw_a), _float64(raw_b)
    with np.errstate(all="ignore"):
        exact = raw_a.dtype.kind in "iub" and raw_a.dtype == raw_b.dtype
        same = raw_a == raw_b if exact else (a == b) | (np.isnan(a) & np.isnan(b))
        d = np.where(same, 0, b - a)
        flips = ((a > 0) & (b < 0)) | ((a < 0) & (b > 0))
        counts = [a.size, *(np.count_nonzero(x) for x in (~same, flips, b == 0))]
        products = [np.sum(d * d), np.sum(a * a), np.sum(b * b), np.sum(a * b)]
        return Sums(np.array(counts, np.int64), float(np.max(np.abs(d))), np.array(products))


def _chunk_of_bfloat16(raw_a: np.ndarray[Any, Any], raw_b: np.ndarray[Any, Any]) -> Sums:
    """The same for what most checkpoints hold, five times faster: float32 holds the numbers and their products exactly,
    so of a chunk that is small only the sums round, by about 1e-7. <a, b> comes from |b - a|, which keeps the angle of
    two models that are near."""
    a, b = raw_a.astype(np.float32), raw_b.astype(np.float32)
    with np.errstate(all="ignore"):
        d = b - a
        dd, aa, bb = (float(np.dot(x, x)) for x in (d, a, b))
        if not math.isfinite(aa + bb + dd):
            return _chunk(raw_a, raw_b)
        unequal, zeros = np.count_nonzero(d != 0), np.count_nonzero(b == 0)
        turned = (raw_a.view(np.uint16) ^ raw_b.view(np.uint16)).view(np.int16) < 0  # sign bits differ
        if zeros or not a.all():
            turned &= (a != 0) & (b != 0)
        counts = np.array([a.size, unequal, np.count_nonzero(turned), zeros], np.int64)
        largest = max(float(d.max()), -float(d.min()))
    return Sums(counts, largest, np.array([dd, aa, bb, (aa + bb - dd) / 2]))


def _float64(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Complex numbers become pairs."""
    return x.astype(np.complex128).view(np.float64) if x.dtype.kind == "c" else x.astype(np.float64)
