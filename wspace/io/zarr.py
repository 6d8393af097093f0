"""One array of an Orbax checkpoint a chunk at a time: Orbax restores and writes whole ones, and holds them twice.

Orbax keeps arrays as zarr in a database that tensorstore opens by the name of the leaf.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from wspace.io.dtypes import Spec
from wspace.io.header import parse_json
from wspace.io.parts import bounds_of

CHUNK = 1 << 22  # bytes of a chunk that we write, at most


def opened(folder: Path, name: str) -> Any:
    """The array of a leaf, nothing read. Chunks are decoded one at a time and not kept."""
    ts = import_module("tensorstore")
    store = {"driver": "file", "path": f"{folder}/{name}/"}
    if (folder / "manifest.ocdbt").is_file():
        store = {"driver": "ocdbt", "base": f"file://{folder}/", "path": f"{name}/"}
    limits = {"cache_pool": {"total_bytes_limit": 0}, "data_copy_concurrency": {"limit": 1}}
    metadata = folder / "_METADATA"
    spec = {"driver": _driver(metadata, metadata.stat().st_mtime_ns), "kvstore": store}
    return ts.open(spec, open=True, context=ts.Context(limits)).result()


@lru_cache(maxsize=8)
def _driver(metadata: Path, changed: int) -> str:
    """Which zarr; asked for every leaf of a checkpoint, whose metadata grow with its leaves. changed: ns."""
    return "zarr3" if parse_json(metadata.read_bytes(), str(metadata)).get("use_zarr3") else "zarr"


def chunking(spec: Spec) -> dict[str, Any]:
    """How Orbax is to cut a large array. It halves the longest axis first; named axes it cuts into single entries."""
    axis = first_axis(spec.shape)
    row = spec.nbytes // spec.shape[axis]
    return {"chunk_byte_size": CHUNK, "shard_axes": (axis,) if 2 * row > CHUNK else ()}


def by_rows(array: Any) -> bool:
    """Whether rows can be read without decoding those around them again and again."""
    chunk, axis = array.chunk_layout.read_chunk.shape or (), first_axis(array.shape)
    if chunk == array.shape:
        return False
    return chunk[axis] == 1 or chunk[axis + 1 :] == array.shape[axis + 1 :]


def first_axis(shape: Sequence[int]) -> int:
    """The axis of rows: the first that is not 1."""
    return next((k for k, n in enumerate(shape) if n > 1), 0)


def read(array: Any, index: Sequence[slice] = ()) -> np.ndarray[Any, Any]:
    """A part of the array: one slice for each of its first axes."""
    bounds = bounds_of(array.shape, index)
    out = np.empty([b - a for a, b in bounds], array.dtype.numpy_dtype)
    for piece in _pieces(array.chunk_layout.read_chunk.shape, bounds):
        here = tuple(slice(at.start - a, at.stop - a) for at, (a, _) in zip(piece, bounds, strict=True))
        out[here] = array[piece].read().result()
    return out


def write(array: Any, values: Any) -> None:
    """All of it. values: an array, or what gives the parts of one."""
    for piece in _pieces(array.chunk_layout.write_chunk.shape, bounds_of(array.shape, ())):
        array[piece].write(values[piece]).result()


def _pieces(chunk: Sequence[int] | None, bounds: Sequence[tuple[int, int]]) -> Iterator[tuple[slice, ...]]:
    """The share of each chunk in what lies within bounds."""
    starts = [range(a - a % n, b, n) for n, (a, b) in zip(chunk or (), bounds, strict=True)]
    for corner in itertools.product(*starts):
        yield tuple(slice(max(c, a), min(c + n, b)) for c, n, (a, b) in zip(corner, chunk or (), bounds, strict=True))
