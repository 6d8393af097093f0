"""What a leaf takes while it is computed, told from its program; and what the process has taken.

Counted is anonymous memory: what a process has written and the system can't drop. Leaves that lie in a safetensors file
are mapped and cost none; results, copies in a wider dtype and whatever lies between do.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.extend.core as jex
import numpy as np

from wspace.core.align import Aligned
from wspace.core.blocks import BLOCK
from wspace.core.implicit import bit_width, stored_bits
from wspace.core.operations import CALLS, ENTRYWISE
from wspace.core.programs import Traced, traced
from wspace.core.typing import Index, Path

PART = 2**24  # entries of a part at most
PROGRAMS = 32 << 20  # what a run takes beside whole leaves, as a rule: compiled programs, blocks, buffers
RESERVE = 80 << 20  # the same at most
SCANNING = 48 << 20  # bytes that going through parts takes beside them: copies, counts, blocks
FUSED = ENTRYWISE | frozenset({"broadcast_in_dim", "iota", "reshape", "squeeze", "expand_dims"})
REDUCES = frozenset("reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or argmax argmin".split())


class Held(NamedTuple):
    """Bytes of anonymous memory of one leaf, at most at once.

    lift: while it is summarized. whole: while it is computed whole, the result among them. made: of the result alone.
    parted: of all its parts together, if it is computed a part at a time; None if it can't be. rounds: how often all of
    them are read before that.
    """

    lift: int = 0
    whole: int = 0
    made: int = 0
    parted: int | None = None
    rounds: int = 0

    def held(self, parts: int, reading: int) -> int:
        """While one of so many parts is computed and one is written. reading: bytes that reading the whole leaf takes;
        of what was read, too, two parts are there."""
        if parts == 1 or self.parted is None:
            return self.whole + reading
        return 2 * (self.parted + reading) // parts + SCANNING * (self.rounds > 0)

    def beside(self, other: Held | None) -> Held:
        """Of one more pass."""
        if other is None:
            return self
        return Held(max(self.lift, other.lift), *(self if self.made else other)[1:])


def anonymous() -> int:
    """Anonymous bytes of this process now; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            resident, shared = file.read().split()[1:3]
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def weighed(function: Callable[[Any], Any], given: Any, *, lift: bool = False) -> Held:
    """What `function(given)` would hold: a lift, or what makes the leaf. given: a tree of arrays, or abstract ones."""
    return held(traced(lambda given, key: function(given), given), lift=lift)


def held(found: Traced, *, lift: bool = False) -> Held:
    """The same of a function that is traced."""
    program = None if lift else found.program
    if program is not None:
        entries = math.prod(program.shape)
        made = entries * np.dtype(program.whole[program.result]).itemsize
        whole = program.held() * entries + program.passing()
        return Held(0, whole, made, made if program.scans else None, program.rounds)
    total = sum(map(_bytes, found.closed.in_avals)) + _between(found.closed.jaxpr, fused=False)
    return Held(total) if lift else Held(0, total, -(-stored_bits(found.made) // 8))


def parts(shape: tuple[int, ...], cost: Held, reading: int, room: int) -> int:
    """Into how many parts a leaf goes that can be cut, and fits in its smallest. reading: as of `Held.held`."""
    room -= SCANNING * (cost.rounds > 0)
    each = min(PART, room * math.prod(shape) // (4 * max((cost.parted or 0) + reading, 1)))  # half of what fits
    return min(-(-math.prod(shape) // max(each, 1)), _most(shape))


def least(path: Path, work: Aligned, cost: Held, reading: int) -> int | None:
    """Bytes that a leaf takes in the smallest parts; None: it can't be cut. reading: as of `Held.held`."""
    shape = work.specs[path].shape
    if cost.parted is None or not _most(shape) or not all(source.parts(path) for source in work.files(path)):
        return None
    rows = next((n for n in shape if n > 1), 1)
    return 2 * -(-rows // _most(shape)) * (cost.parted + reading) // rows + SCANNING * (cost.rounds > 0)


def _most(shape: tuple[int, ...]) -> int:
    """The most parts of whole rows that have a block each."""
    rows = next((n for n in shape if n > 1), 1)
    return rows // -(-BLOCK * rows // math.prod(shape))


def cut(shape: tuple[int, ...], parts: int) -> Iterator[Index]:
    """A leaf in about so many parts of whole rows: a slice of each of the first axes, up to the first that is not 1.

    >>> list(cut((1, 5, 2), 2))
    [(slice(0, 1, None), slice(0, 3, None)), (slice(0, 1, None), slice(3, 5, None))]
    """
    axis = next((k for k, n in enumerate(shape) if n > 1), len(shape) - 1)
    rows, ones = shape[axis], tuple(slice(0, n) for n in shape[:axis])
    parts = min(parts, rows)
    at = [-(-k * rows // parts) for k in range(parts + 1)]
    return ((*ones, slice(start, stop)) for start, stop in itertools.pairwise(at))


def _bytes(aval: Any) -> int:
    dtype = getattr(aval, "dtype", None)
    return 0 if dtype is None else math.prod(aval.shape) * (1 if dtype == np.bool_ else max(8, bit_width(dtype)) // 8)


def _between(jaxpr: Any, fused: bool) -> int:
    """Bytes of what a program makes, at most at once, each value held until its last use.

    fused: it is compiled as one: then chains of entry-wise operations that only reductions or each other read make no
    array.
    """
    last: dict[Any, int] = {}
    for k, eqn in enumerate(jaxpr.eqns):
        last |= {v: k for v in eqn.invars if not isinstance(v, jex.Literal)}
    last |= {v: len(jaxpr.eqns) for v in jaxpr.outvars if not isinstance(v, jex.Literal)}
    solid = _solid(jaxpr) if fused else None
    live: dict[Any, int] = {}
    peak = 0
    for k, eqn in enumerate(jaxpr.eqns):
        inside = max((_between(inner, fused=True) for inner in _programs(eqn)), default=0)
        peak = max(peak, sum(live.values()) + inside)
        live |= {v: _bytes(v.aval) for v in eqn.outvars if solid is None or v in solid}
        peak = max(peak, sum(live.values()))
        live = {v: n for v, n in live.items() if last.get(v, k) > k}
    return peak


def _solid(jaxpr: Any) -> set[Any]:
    """The values of a compiled program that are arrays in memory: results, and what an operation that is not fused
    makes or reads."""
    found = {v for v in jaxpr.outvars if not isinstance(v, jex.Literal)}
    for eqn in jaxpr.eqns:
        if eqn.primitive.name not in FUSED | CALLS.keys():
            found |= set(eqn.outvars)
            found |= {v for v in eqn.invars if not isinstance(v, jex.Literal) and eqn.primitive.name not in REDUCES}
    return found


def _programs(eqn: Any) -> Iterator[Any]:
    """The programs that an operation runs."""
    for value in eqn.params.values():
        for inner in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield inner
