"""safetensors out: a sink that takes leaves in any order and becomes a checkpoint only when it is whole.

    with write_folder("out", specs, inputs=[source]) as sink:
        for name in specs:
            sink[name] = transform(source[name])

The headers are known from the specs, so each leaf goes straight to its place: one leaf in memory, nothing rewritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from wspace.core.errors import FormatError, IntegrityError, TreeMismatch, listed, nearest, printable
from wspace.core.sizes import bytes_in
from wspace.io.dtypes import CHUNK, Spec, array_of, chunks, restored, spec_of, stored
from wspace.io.header import OURS, Layout, as_text, lay_out, notes_of
from wspace.io.journal import Journal
from wspace.io.manifest import Manifest, digests_of, files_in, write_manifest
from wspace.io.names import Structure, flatten_names
from wspace.io.parts import bounds_of, cut, shards
from wspace.io.processes import ALONE, Processes, processes_of
from wspace.io.safetensors import INDEX, SINGLE, SafetensorsFolder
from wspace.io.source import Checkpoint
from wspace.io.stage import staged, sync
from wspace.io.uncached import read_at, write_at


class FolderSink:
    """Takes each leaf once, whole or in parts, in any order, and may be used from several threads.

    A jax array that lies on several devices is written shard by shard, each by the process that holds it: nothing is
    gathered. What lies on one device, or on the host, the first process writes.

    Attributes:
      specs: what was announced; nothing is cast to fit it.
      directory: the folder while it is hidden. Files put there (config, recipe, report) become visible with the leaves.
      record: JSON-ready facts for the manifest, such as the recipe and the digests of the inputs.
      done: leaves that a killed run left whole; they are not written again.
      streams: it takes large leaves in parts, as they are computed.
      journal: what is whole so far, if the write can be resumed.
      moved: bytes of leaves written so far, by this process.
    """

    def __init__(
        self,
        directory: Path,
        specs: dict[str, Spec],
        files: dict[str, Layout],
        structure: Structure | None,
        processes: Processes = ALONE,
        key: str | None = None,
    ) -> None:
        self.directory = directory
        self.specs = specs
        self.record: dict[str, Any] = {}
        self._files = files
        self._structure = structure
        self._processes = processes
        self.streams = processes.count == 1
        self._where = {name: file for file, layout in files.items() for name in layout.entries}
        self.moved = 0
        self._written: Counter[str] = Counter()  # bytes of each leaf
        self._digests: dict[str, str] = {}
        self._hashing: dict[str, tuple[int, Any]] = {}  # leaves of which the first bytes are there, in order
        self.journal = None if key is None else Journal(directory, key)
        self._digests |= self._left()
        self.done = frozenset(self._digests)
        self._written |= {name: specs[name].nbytes for name in self.done}
        processes.first(self._write_headers)

    def _left(self) -> dict[str, str]:
        """Leaves of a killed run whose bytes have the digest in its journal, in a file with the right header."""
        sound: dict[str, bool] = {}
        found: dict[str, str] = {}
        for fact in () if self.journal is None else self.journal.facts:
            name = str(fact.get("leaf"))
            if name not in self.specs:
                continue
            file, header = self.directory / self._where[name], self._files[self._where[name]].header
            if file.name not in sound:
                sound[file.name] = file.is_file() and file.open("rb").read(len(header)) == header
            if sound[file.name] and self._digest(name) == fact.get("sha256"):
                found[name] = fact["sha256"]
        return found

    def __setitem__(self, name: str, leaf: Any) -> None:
        self._check_announced(name)
        if name in self._written:
            raise TreeMismatch(f"leaf '{printable(name)}' was written already; each leaf is written once")
        split = shards(name, leaf, self.specs[name])
        if split is not None:
            for index, shard in split:
                self.part(name, index, shard)
        elif self._processes.index == 0:
            self._put(name, [(0, stored(array_of(name, leaf, self.specs[name])))])

    def part(self, name: str, index: Sequence[slice], leaf: Any) -> None:
        """Takes a part of a leaf: one slice for each of its first axes. Parts may not overlap.

        Raises:
          ShapeError: another shape or dtype than that part of what was announced.
        """
        self._check_announced(name)
        spec = self.specs[name]
        shape = tuple(stop - start for start, stop in bounds_of(spec.shape, index))
        array = array_of(name, leaf, Spec(shape, spec.dtype))
        self._put(name, cut(array, spec, index))

    def leaf(self, name: str) -> np.ndarray[Any, Any]:
        """A leaf that was written, mapped from the hidden file."""
        spec, entry = self.specs[name], self._files[self._where[name]].entries[name]
        file = np.memmap(self.directory / self._where[name], np.uint8, mode="r")
        return restored(np.asarray(file)[entry.start : entry.stop], spec)

    def _put(self, name: str, pieces: Iterable[tuple[int, np.ndarray[Any, Any]]]) -> None:
        """Bytes to their place in the leaf, compared with what the file gives back.

        That is what is hashed, while parts come in order; what doesn't is read again at the end.
        """
        path, nbytes = self.directory / self._where[name], self.specs[name].nbytes
        start = self._files[self._where[name]].entries[name].start
        hashed, digest = self._hashing.pop(name, (0, None if self._written[name] else hashlib.sha256()))
        back, count = np.empty(min(CHUNK, nbytes), np.uint8), 0
        handle = os.open(path, os.O_RDWR)
        try:
            for begin, data in pieces:
                in_order = digest is not None and begin == hashed
                for at, piece in zip(range(start + begin, start + begin + data.size, CHUNK), chunks(data), strict=True):
                    write_at(handle, piece, at)
                    found = back[: piece.size]
                    if not read_at(handle, found, at) or not _same(found, piece):
                        raise IntegrityError(
                            f"{printable(path)}: leaf '{printable(name)}' reads back other than it was written"
                        )
                    if in_order:
                        digest.update(found.data)
                count, hashed = count + data.size, hashed + in_order * data.size
        finally:
            os.close(handle)
        self._written[name] += count
        self.moved += count
        if self._written[name] > nbytes:
            raise TreeMismatch(f"parts of leaf '{printable(name)}' overlap; each part is written once")
        if digest is not None and hashed == nbytes:
            self._digests[name] = digest.hexdigest()
            if self.journal is not None:
                self.journal.add({"leaf": name, "sha256": self._digests[name]})
        elif digest is not None and hashed == self._written[name]:
            self._hashing[name] = (hashed, digest)

    def _check_announced(self, name: str) -> None:
        if name not in self.specs:
            raise TreeMismatch(f"leaf '{printable(name)}' was not announced.{nearest(name, self.specs)}")

    def __contains__(self, name: object) -> bool:
        """Whether a leaf is whole."""
        return name in self._written and self._written[str(name)] == self.specs[str(name)].nbytes

    def missing(self) -> list[str]:
        """Leaves that were announced and not yet written, or not yet whole."""
        return [name for name in self.specs if name not in self]

    def checkpoint(self) -> SafetensorsFolder:
        """What was written, to be read while the folder is still hidden; every leaf must be there."""
        if missing := self.missing():
            raise TreeMismatch(f"{len(missing)} of {len(self.specs)} leaves were not written: {listed(missing)}")
        if list(self._files) != [SINGLE]:
            self._write_index()
        source = SafetensorsFolder(self.directory)
        if source.specs != self.specs:
            raise IntegrityError(f"{printable(self.directory)}: the headers read back other than they were written")
        return source

    def _finish(self) -> None:
        """Everybody's leaves are there: an index, digests (each process takes its share), the manifest last."""
        crew = self._processes
        with crew.all_well():
            for file in {self._where[name] for name in self._written} if crew.index else ():
                sync(self.directory / file)  # another host reads it
        self._written = sum((Counter(found) for found in crew.told(self._written)), Counter())
        for name in self.specs:
            self._written[name] += 0  # a sum of counters drops what has no bytes
        crew.first(self.checkpoint)
        left = [name for name in self.specs if name not in set(crew.told(list(self._digests))[0])]
        with crew.all_well():
            self._digests |= {name: self._digest(name) for name in left[crew.index :: crew.count]}
        for found in crew.told(self._digests):
            self._digests |= found
        crew.first(self._write_manifest)

    def _digest(self, name: str) -> str:
        entry = self._files[self._where[name]].entries[name]
        return _digest_at(self.directory / self._where[name], entry.start, entry.stop - entry.start)

    def _write_manifest(self) -> None:
        heads = {f: (lay.size, _digest_at(self.directory / f, 0, len(lay.header))) for f, lay in self._files.items()}
        others = digests_of(self.directory, [name for name in files_in(self.directory) if name not in heads])
        extra = {"record": self.record} if self.record else {}
        write_manifest(self.directory, Manifest("safetensors", self.specs, self._digests, {**heads, **others}, extra))

    def _write_headers(self) -> None:
        kept = {self._where[name] for name in self.done}
        for entry in self.directory.iterdir():
            if entry.name not in kept:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        for file in self._files.keys() - kept:
            layout = self._files[file]
            handle = os.open(self.directory / file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                write_at(handle, np.frombuffer(layout.header, np.uint8), 0)
            finally:
                os.close(handle)

    def _write_index(self) -> None:
        total = sum(spec.nbytes for spec in self.specs.values())
        notes = {"total_size": total} | ({OURS: as_text({"tree": self._structure})} if self._structure else {})
        fields = {"metadata": notes, "weight_map": dict(sorted(self._where.items()))}
        (self.directory / INDEX).write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def write_folder(
    path: str | Path,
    specs: Mapping[str, Any],
    *,
    structure: Structure | None = None,
    metadata: Mapping[str, Any] | None = None,
    shard_size: int | str = "5GB",
    overwrite: bool = False,
    inputs: Iterable[Any] = (),
    processes: Processes = ALONE,
    resume: str | None = None,
) -> Iterator[FolderSink]:
    """A safetensors folder as a sink; it becomes visible when the block ends and every leaf is there.

    Args:
      path: the folder to be.
      specs: name -> Spec, (shape, dtype), or anything with both, such as an array or a ShapeDtypeStruct.
      structure: how the names nest, from `flatten_names` or a checkpoint's `structure`.
      metadata: text by name for the files' own metadata; other values become JSON. "format" is "pt" unless given.
      shard_size: most bytes of data in one file, as 5GB (10^9), 5GiB (2^30) or a number. A larger leaf is alone.
      overwrite: replace the checkpoint that is there. It stays whole until the new one is.
      inputs: paths or checkpoints read meanwhile, never written over.
      processes: `Together()` if all processes of jax.distributed write this one folder, each its own shards, on one
        file system. They all come here with the same specs; an error in one is raised in all.
      resume: a text that is the same for runs that write the same. If a run with it was killed (an error or a signal
        cleans up), the leaves that it left whole, by their digests, are taken over: they are in `sink.done`, and
        `stream` leaves them out. For one process.

    Example:
      >>> import tempfile
      >>> folder = tempfile.mkdtemp() + "/out"
      >>> with write_folder(folder, {"w": ((2,), "float32")}) as sink:
      ...     sink["w"] = np.ones(2, np.float32)
      >>> SafetensorsFolder(folder)["w"]
      array([1., 1.], dtype=float32)
    """
    known = {name: spec_of(name, specs[name]) for name in sorted(_checked_names(specs))}
    notes = {"format": "pt"} | notes_of(metadata or {})
    files = _cut(known, bytes_in(shard_size), notes, structure)
    needs = sum(layout.size for layout in files.values())
    key = None if resume is None or processes.count > 1 else _key(resume, files)
    options: dict[str, Any] = {"overwrite": overwrite, "inputs": inputs, "needs": needs, "resume": key}
    with staged(processes, path, **options) as folder, ExitStack() as ended:
        sink = FolderSink(folder, known, files, structure, processes, key)
        if sink.journal is not None:
            ended.callback(sink.journal.close)
        with processes.all_well():
            yield sink
        sink._finish()


def _key(resume: str, files: Mapping[str, Layout]) -> str:
    """Equal only for runs that say so and lay their files out in the same way."""
    digest = hashlib.sha256(resume.encode())
    for file, layout in files.items():
        digest.update(f"\n{file}\n".encode() + layout.header)
    return digest.hexdigest()


def write_tree(path: str | Path, tree: Any, **options: Any) -> None:
    """Writes a tree of arrays, or a whole checkpoint leaf by leaf, as a safetensors folder; options as `write_folder`.

    Example:
      >>> import tempfile
      >>> folder = tempfile.mkdtemp() + "/out"
      >>> write_tree(folder, {"a": [np.ones(1), (np.zeros((0, 3)),)]})
      >>> SafetensorsFolder(folder).tree()
      {'a': [array([1.]), (array([], shape=(0, 3), dtype=float64),)]}
    """
    if isinstance(tree, Checkpoint):
        leaves: Mapping[str, Any] = tree
        specs, structure = tree.specs, tree.structure
        options = {"inputs": [tree], "metadata": notes_of(tree.metadata)} | options
    else:
        leaves, structure = flatten_names(tree)
        specs = {name: spec_of(name, leaf) for name, leaf in leaves.items()}
    crew = processes_of(leaves[name] for name in specs) if not isinstance(tree, Checkpoint) else ALONE
    with write_folder(path, specs, structure=structure, **{"processes": crew, **options}) as sink:
        for name in specs:
            sink[name] = leaves[name]


def _checked_names(specs: Mapping[str, Any]) -> list[str]:
    for name in specs:
        if not isinstance(name, str):
            raise FormatError(
                f"leaf name {name!r} is a {type(name).__name__}, not text; flatten_names makes names of keys"
            )
        if name == "__metadata__":
            raise FormatError("a leaf cannot be named '__metadata__': safetensors keeps its own notes there; rename it")
        if any("\ud800" <= c <= "\udfff" for c in name):
            raise FormatError(f"leaf name '{printable(name)}' is not valid unicode; rename it")
    return list(specs)


def _cut(specs: dict[str, Spec], most: int, notes: Mapping[str, str], structure: Structure | None) -> dict[str, Layout]:
    """Leaves to files, in the order of their names."""
    shards: list[dict[str, Spec]] = [{}]
    size = 0
    for name, spec in specs.items():
        if shards[-1] and size + spec.nbytes > most:
            shards.append({})
            size = 0
        shards[-1][name] = spec
        size += spec.nbytes
    if len(shards) == 1:
        return {SINGLE: lay_out(specs, notes, {"tree": structure} if structure else {}, SINGLE)}
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    return {name: lay_out(shard, notes, {}, name) for name, shard in zip(names, shards, strict=True)}


def _digest_at(path: Path, start: int, size: int) -> str:
    """sha256 of a part of a file, read and not mapped: what is hashed is what the file gives back."""
    digest = hashlib.sha256()
    handle = os.open(path, os.O_RDONLY)
    try:
        for at in range(start, start + size, CHUNK):
            digest.update(os.pread(handle, min(CHUNK, start + size - at), at))
    finally:
        os.close(handle)
    return digest.hexdigest()


def _same(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    """Whether bytes are equal, eight at a time as far as they go."""
    whole = a.size & ~7
    wide = np.array_equal(a[:whole].view(np.uint64), b[:whole].view(np.uint64))
    return wide and np.array_equal(a[whole:], b[whole:])
