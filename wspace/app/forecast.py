"""What a run will cost, told beforehand; and beside it, afterwards, what it did cost.

Bytes and memory follow from shapes and programs. Seconds are an estimate: some numbers of the largest leaf's kind are
written, read and transformed here and now, and the rest is multiplied out.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from wspace.app.weights import check_finite
from wspace.core import buffers
from wspace.core.errors import TooLarge
from wspace.core.implicit import Implicit
from wspace.core.memory import PROGRAMS, anonymous
from wspace.core.plan import Plan, Row
from wspace.core.run import stream
from wspace.core.sizes import size
from wspace.core.typing import Path as Keys
from wspace.io import write_folder
from wspace.measure import compare

if TYPE_CHECKING:
    from wspace.app.execute import Opened

SAMPLE = 2**21  # entries that are timed
ORBAX, ORBAX_MORE = 36 << 20, 44 << 20  # bytes that writing Orbax takes, as a rule, and at most beside that
ORBAX_HOLDS, ORBAX_CHUNK = 3, 1 << 24  # how often it holds a leaf, or a chunk of a larger one: to compress and compare
KEPT = 2**25  # bytes of an array below which the C library keeps its memory once it is freed
TIMED = 2**28  # bytes to move from which on it is worth it
ORBAX_BEGINS, ORBAX_LEAF = 0.5, 0.012  # seconds: its libraries, and every leaf
ORBAX_TIMES = 7  # how much longer than as safetensors: chunks are compressed, written, read back and compared


class Cost(NamedTuple):
    """Bytes of leaves read (of all models, in all passes) and written, passes, bytes of memory, seconds.

    memory: anonymous, of the process; 0 where no system says. seconds: None if they were not estimated.
    """

    read: int
    written: int
    passes: int
    memory: int
    seconds: float | None

    def text(self) -> str:
        """One line."""
        memory = f", {size(self.memory)} of memory" if self.memory else ""
        seconds = "" if self.seconds is None else f", {self.seconds:.1f} s"
        passes = f"{self.passes} pass{'es' * (self.passes > 1)}"
        return f"{size(self.read)} read in {passes}, {size(self.written)} written{memory}{seconds}"


def forecast(job: Opened, table: Plan, *, bare: bool = False) -> Cost:
    """What a run will cost; seconds for large models only, and not of a bare run: to time a sample is work too."""
    ledger = 0 if bare else sum(map(_stored, job.reference.specs.values()))  # it reads the reference once more
    moved, taken = (table.bytes_read + ledger, table.bytes_written), anonymous()
    seconds = None if bare or sum(moved) <= TIMED else _seconds(job, table)
    kept = max((row.writes for row in table.rows if row.writes < KEPT), default=0)
    programs = PROGRAMS if seconds is None else anonymous() - taken  # those of the sample
    leaves = programs + peak(table.rows, job.ready.spare) + kept
    return Cost(*moved, table.passes, taken + max(leaves, orbax(job)) if taken else 0, seconds)


def peak(rows: Sequence[Row], spare: int | None = None) -> int:
    """Bytes that leaves take at most: one, the result before it, and what waits to be used again of a far larger one.

    spare: of these not more, if there is a limit to memory.
    """
    most, largest, found = buffers.KEPT if spare is None else min(buffers.KEPT, spare), Row("", (), (), "", "", 0, 0), 0
    for k, row in enumerate(rows):
        last = rows[k - 1] if k else largest
        waits = [largest.holds] * (largest.writes > 2 * row.writes)
        waits += [last.holds - last.writes] * (last.writes > 2 * row.writes)
        found = max(found, row.holds + last.writes * (k > 0) + min(most, max(waits, default=0)))
        largest = max(largest, last, key=lambda row: row.holds)
    return found


def orbax(job: Opened) -> int:
    """Bytes that the last step takes, if it is to write Orbax."""
    largest = max(map(_stored, job.models[0].specs.values()), default=0)
    return ORBAX + ORBAX_HOLDS * min(ORBAX_CHUNK, largest) if "orbax" in job.recipe.output.formats else 0


def check_memory(job: Opened) -> None:
    """Raises TooLarge if the last step does not fit into the memory that the run may take."""
    taken, wanted = anonymous(), orbax(job) + ORBAX_MORE * ("orbax" in job.recipe.output.formats)
    if wanted and job.memory is not None and taken + wanted > job.memory:
        raise TooLarge(
            f"writing Orbax takes {size(wanted)}: {size(job.memory)} are too few beside the {size(taken)} of the "
            f"process; give it memory='{-(-(taken + wanted) // 2**20)}MiB', or leave orbax out of the formats"
        )


def _stored(spec: Any) -> int:
    return spec.stored_bits() // 8 if isinstance(spec, Implicit) else int(spec.nbytes)


def _seconds(job: Opened, table: Plan) -> float | None:
    """Reading, computing and writing go on at once; what takes longest counts, or all that the processor has to do.
    Afterwards files are synchronized, and Orbax is written. A round of folds is taken for half of the work."""
    specs = job.ready.work.specs
    path = max(specs, key=lambda path: math.prod(specs[path].shape), default=None)
    if path is None or math.prod(specs[path].shape) == 0:
        return None
    sample, row = _Sample(job, path), next(row for row in table.rows if row.path == specs[path].path)
    reads, writes = table.bytes_read / sample.bytes, table.bytes_written / sample.bytes
    try:
        with tempfile.TemporaryDirectory() as folder:
            put, end = sample.write(Path(folder) / "sample")
            fixed = sample.write(Path(folder) / "none", rows=0)[1]
        check = np.zeros(2) if job.recipe.allow_nonfinite else _timed(sample.check)
        entered = _timed(sample.enter)
        share = sum(r.bytes_in * (1 + r.rounds / 2) for r in table.rows) / max(1, row.bytes_in)
        sample.run()  # compiles
        computed = _timed(sample.run) * share * math.prod(row.shape) / sample.entries
    except (ValueError, TypeError):  # a transform that does not run on the sample: then nothing is claimed
        return None
    threads = np.stack([check * reads, computed, (put + check + entered) * writes])
    at_once = max(threads[:, 0].max(), threads[:, 1].sum() / (os.cpu_count() or 1))
    after = max(0.0, (end - fixed)[0]) * writes + _orbax_seconds(job, len(table.rows), put[0] * writes)
    return float(at_once + after + sample.compiled)


def _orbax_seconds(job: Opened, leaves: int, put: float) -> float:
    """put: seconds that the bytes take as safetensors."""
    return ORBAX_BEGINS + ORBAX_LEAF * leaves + ORBAX_TIMES * put if orbax(job) else 0.0


def _timed(run: Callable[[], Any]) -> np.ndarray[Any, Any]:
    """Seconds by the clock, and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    run()
    return np.array([time.perf_counter() - clock, time.process_time() - processor])


class _Sample:
    """The first rows of a leaf's shape, filled with random numbers, in every model and side tree."""

    def __init__(self, job: Opened, path: Keys) -> None:
        work, self.job = job.ready.work, job
        self.name = work.names[path]
        self.shape = work.specs[path].shape
        rng = np.random.default_rng(0)
        axis = next((k for k, n in enumerate(self.shape) if n > 1), 0)
        rows = max(1, SAMPLE * self.shape[axis] // math.prod(self.shape))
        self.small = (*self.shape[:axis], min(rows, self.shape[axis]), *self.shape[axis + 1 :])
        self.entries, self.compiled = math.prod(self.small), 0.0

        def drawn(leaf: Any) -> Any:
            if isinstance(leaf, tuple):
                return tuple(map(drawn, leaf))
            if leaf is None or isinstance(leaf, Implicit):
                raise ValueError("no array")
            shape = self.small if leaf.shape == self.shape else leaf.shape
            return rng.standard_normal(shape, np.float32).astype(leaf.dtype)

        self.drawn = drawn
        given = tuple(source.abstract(path) for source in work.sources), work.side(path, read=False)
        self.given = given
        self.leaf = rng.standard_normal(self.small, np.float32).astype(work.specs[path].dtype)
        self.bytes = self.leaf.nbytes
        self.trees: Any = None

    def run(self) -> None:
        t, began = self.job.work.transform, time.perf_counter()
        first = self.trees is None
        if first:
            leaves, sides = self.given
            self.trees = [{self.name: self.drawn(x)} for x in leaves]
            self.sides = {name: _beside(self.name, self.drawn(x)) for name, x in sides.items()}
        out: dict[Any, Any] = {}
        stream(t, self.trees, out, key=self.job.key(t), **self.sides)
        jax.block_until_ready(list(out.values()))
        self.compiled += time.perf_counter() - began if first else 0

    def write(self, folder: Path, rows: int | None = None) -> tuple[Any, Any]:
        """How long it takes to write so many rows, and then until the folder is there."""
        leaf = self.leaf[:rows]
        with ExitStack() as stack:
            sink = stack.enter_context(write_folder(folder, {"w": leaf}))
            return _timed(lambda: sink.__setitem__("w", leaf)), _timed(stack.close)

    def check(self) -> None:
        check_finite(self.leaf, "w", "sample")

    def enter(self) -> None:
        compare("w", self.leaf, self.leaf[::-1])


def _beside(name: Any, drawn: Any) -> Any:
    return tuple({name: x} for x in drawn) if isinstance(drawn, tuple) else {name: drawn}
