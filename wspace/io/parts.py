"""A part of a leaf is a few runs of bytes in its file: a shard is read and written without the rest of the leaf."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from wspace.core.errors import ShapeError, printable
from wspace.io.dtypes import BITS, Spec, restored, spec_of, stored


def runs(spec: Spec, index: Sequence[slice]) -> Iterator[tuple[int, int]]:
    """Start and stop of each run of neighbouring bytes that a part of a leaf takes in its file, in row-major order.

    index: one slice for each of the first axes, without steps.

    >>> list(runs(Spec((4, 6), np.dtype("float32")), (slice(1, 3), slice(2, 4))))
    [(32, 40), (56, 64)]
    >>> list(runs(Spec((4, 6), np.dtype("float32")), (slice(1, 3),)))
    [(24, 72)]

    Raises:
      ShapeError: codes narrower than a byte, where a run begins or ends inside a byte.
    """
    bounds = bounds_of(spec.shape, index)
    inner = max((axis for axis, (at, n) in enumerate(zip(bounds, spec.shape, strict=True)) if at != (0, n)), default=0)
    bits, tail = BITS.get(spec.dtype.name, 8 * spec.dtype.itemsize), math.prod(spec.shape[inner + 1 :])
    start, stop = bounds[inner] if bounds else (0, 1)
    if math.prod(b - a for a, b in bounds) == 0:
        return
    for outer in np.ndindex(*(b - a for a, b in bounds[:inner])):
        row = 0
        for k, (a, _), n in zip(outer, bounds, spec.shape, strict=False):
            row = row * n + a + k
        row *= spec.shape[inner] if bounds else 1
        first, last = ((row + at) * tail * bits for at in (start, stop))
        if first % 8 or (last % 8 and last != math.prod(spec.shape) * bits):
            raise ShapeError(f"a part {bounds} of {spec} begins or ends inside a byte; split another axis")
        yield first // 8, -(-last // 8)


def bounds_of(shape: Sequence[int], index: Sequence[slice]) -> list[tuple[int, int]]:
    """Start and stop along every axis.

    >>> bounds_of((4, 6), (slice(None, 2),))
    [(0, 2), (0, 6)]
    """
    given = [*index, *(slice(None),) * (len(shape) - len(index))]
    return [at.indices(n)[:2] for at, n in zip(given, shape, strict=True)]


def cut(array: np.ndarray[Any, Any], spec: Spec, index: Sequence[slice]) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
    """What a part of a leaf is written as: where in the leaf's bytes, and the bytes. A whole leaf is one run."""
    data, at = stored(array), 0
    for start, stop in runs(spec, index):
        yield start, data[at : at + stop - start]
        at += stop - start


def part(data: np.ndarray[Any, Any], spec: Spec, index: Sequence[slice]) -> np.ndarray[Any, Any]:
    """A part of the leaf with these bytes; a view of them, but for packed codes, of which only the part is unpacked."""
    if spec.dtype.name not in BITS or BITS[spec.dtype.name] >= 8:
        return restored(data, spec)[tuple(slice(*at) for at in bounds_of(spec.shape, index))]
    taken = [data[start:stop] for start, stop in runs(spec, index)]
    shape = tuple(b - a for a, b in bounds_of(spec.shape, index))
    return restored(np.concatenate(taken) if taken else data[:0], Spec(shape, spec.dtype))


def shards(name: str, leaf: Any, spec: Spec) -> list[tuple[tuple[slice, ...], np.ndarray[Any, Any]]] | None:
    """The parts of a jax array on several devices that this process is to write; of equal ones a single one.

    None for other leaves, and for one that is all here where a cut would fall inside a byte: those are written whole.

    Raises:
      ShapeError: other processes have the rest, and a cut falls inside a byte.
    """
    sharding = getattr(leaf, "sharding", None)
    if sharding is None or len(sharding.device_set) == 1 or spec_of(name, leaf) != spec or leaf.is_deleted():
        return None
    try:
        if BITS.get(spec.dtype.name, 8) < 8:
            for index in sharding.devices_indices_map(spec.shape).values():
                deque(runs(spec, index), maxlen=0)
    except ShapeError as error:
        if leaf.is_fully_addressable:
            return None
        raise ShapeError(f"leaf '{printable(name)}': {error}") from None
    return [(s.index, np.asarray(s.data)) for s in leaf.addressable_shards if s.replica_id == 0]
