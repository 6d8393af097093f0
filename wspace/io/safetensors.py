"""safetensors in: one file, or a folder of shards with an index, as a lazy mapping of memory-mapped arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wspace.core.errors import FormatError, listed, printable
from wspace.io.dtypes import PACKED, Spec
from wspace.io.header import LONGEST, OURS, Header, parse_json, read_header, stamp
from wspace.io.names import checked_structure, names_in
from wspace.io.parts import part
from wspace.io.source import Checkpoint, unchanged

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class SafetensorsFile(Checkpoint):
    """One safetensors file. Every rule of the format is checked when it is opened; no data is read then."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.header: Header = read_header(self.path)
        self._stamps = {self.path: self.header.stamp}
        self.metadata = self.header.metadata
        self.specs = {name: self.header.entries[name].spec for name in sorted(self.header.entries)}
        self.structure = _structure(self.header.extra.get("tree"), self.specs, self.path)
        self._bytes = np.asarray(np.memmap(self.path, np.uint8, mode="r"))

    def raw(self, name: str) -> np.ndarray[Any, Any]:
        """The bytes of a leaf as they lie in the file."""
        unchanged(self.path, self._stamps[self.path])
        entry = self.header.entries[name]
        return self._bytes[entry.start : entry.stop]

    def _read(self, name: str) -> np.ndarray[Any, Any]:
        return self.part(name, ())

    def part(self, name: str, index: Sequence[slice]) -> np.ndarray[Any, Any]:
        found = part(self.raw(name), self.specs[name], index)
        if found.dtype == np.bool_ and found.size and found.view(np.uint8).max() > 1:
            raise FormatError(f"{printable(self.path)}: leaf '{printable(name)}' BOOL has a byte that is not 0 or 1")
        return found

    def parts(self, name: str) -> bool:
        return self.specs[name].dtype.name not in PACKED

    def reading(self, name: str) -> int:
        return 0 if self.parts(name) else math.prod(self.specs[name].shape)

    def stored_at(self, name: str) -> Path:
        return self.path


class SafetensorsFolder(Checkpoint):
    """A folder with `model.safetensors`, or with shards and `model.safetensors.index.json`; checked whole."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        index = _index_of(self.path)
        if index is None:
            only = SafetensorsFile(_single(self.path))
            self.files = {only.path.name: only}
            self._where = dict.fromkeys(only, only.path.name)
            self._stamps = dict(only._stamps)
        else:
            self._stamps = {index: stamp(index)}
            self._where, notes = _read_index(index)
            extra = parse_json(str(notes.get(OURS, "{}")).encode(), f"{printable(index)}: metadata {OURS!r}")
            self.files = _open_shards(self.path, index, self._where)
            self._stamps |= {file: was for shard in self.files.values() for file, was in shard._stamps.items()}
        self.metadata = next((shard.metadata for shard in self.files.values()), {})
        self.specs = {name: self.files[self._where[name]].specs[name] for name in sorted(self._where)}
        self.structure = only.structure if index is None else _structure(extra.get("tree"), self.specs, self.path)

    def raw(self, name: str) -> np.ndarray[Any, Any]:
        """The bytes of a leaf as they lie in its file."""
        return self.files[self._where[name]].raw(name)

    def _read(self, name: str) -> np.ndarray[Any, Any]:
        return self.files[self._where[name]][name]

    def part(self, name: str, index: Sequence[slice]) -> np.ndarray[Any, Any]:
        return self.files[self._where[name]].part(name, index)

    def parts(self, name: str) -> bool:
        return self.files[self._where[name]].parts(name)

    def reading(self, name: str) -> int:
        return self.files[self._where[name]].reading(name)

    def stored_at(self, name: str) -> Path:
        return self.path / self._where[name]


def _structure(raw: Any, specs: dict[str, Spec], path: Path) -> Any:
    structure = checked_structure(raw, str(path))
    absent = [] if structure is None else [name for name in names_in(structure) if name not in specs]
    if absent:
        raise FormatError(f"{printable(path)}: the recorded tree names leaves that are not there: {listed(absent)}")
    return structure


def inside(folder: Path, name: str) -> Path:
    """The path of a file that lies in the folder itself; a path, a URL or a link out of it is refused."""
    shown = f"{printable(folder)}: '{printable(name)}'"
    if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise FormatError(f"{shown} is not a plain file name; a checkpoint's files lie inside its folder")
    path = folder / name
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        raise FormatError(f"{shown} is a link out of the folder; copy the files themselves (cp -rL) and open the copy")
    return path


def _index_of(folder: Path) -> Path | None:
    found = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".safetensors.index.json"))
    if not found:
        return None
    if len(found) > 1 and INDEX not in found:
        raise FormatError(f"{printable(folder)}: several index files: {listed(found)}; open the folder of one model")
    index = inside(folder, INDEX if INDEX in found else found[0])
    if (folder / SINGLE).exists() and SINGLE not in set(_read_index(index)[0].values()):
        raise FormatError(
            f"{printable(folder)}: has {SINGLE} and also {index.name}, which does not name it; remove one"
        )
    return index


def _single(folder: Path) -> Path:
    found = sorted(entry.name for entry in folder.iterdir() if entry.suffix == ".safetensors")
    if SINGLE in found:
        found = [SINGLE]
    if len(found) != 1:
        what = f"{len(found)} safetensors files and no {INDEX}: {listed(found)}" if found else "no safetensors file"
        raise FormatError(f"{printable(folder)}: {what}")
    return inside(folder, found[0])


def _read_index(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """The index's map from leaf to file name, and its metadata."""
    try:
        if path.stat().st_size > LONGEST:
            raise FormatError(f"{printable(path)}: an index of more than {LONGEST} bytes")
        fields = parse_json(path.read_bytes(), printable(path))
    except OSError as error:
        raise FormatError(f"{printable(path)}: cannot be read: {error.strerror or error}") from None
    where, notes = fields.get("weight_map"), fields.get("metadata") or {}
    if not isinstance(where, dict) or not all(isinstance(file, str) for file in where.values()):
        raise FormatError(f"{printable(path)}: weight_map must map leaf names to file names")
    if not isinstance(notes, dict):
        raise FormatError(f"{printable(path)}: metadata must be a JSON object")
    return where, notes


def _open_shards(folder: Path, index: Path, where: dict[str, str]) -> dict[str, SafetensorsFile]:
    names = sorted(set(where.values()))
    paths = {name: inside(folder, name) for name in names}
    absent = [name for name, path in paths.items() if not path.is_file()]
    shards = {name: SafetensorsFile(path) for name, path in paths.items() if name not in absent}
    faults = list(_disagreements(where, shards))
    if absent:
        faults.insert(0, f"missing shards ({len(absent)}): {listed(absent)}")
    if faults:
        raise FormatError(f"{printable(index)} does not agree with its shards: {'; '.join(faults)}")
    return shards


def _disagreements(where: dict[str, str], shards: dict[str, SafetensorsFile]) -> Iterator[str]:
    absent = [f"{name} (in {file})" for name, file in where.items() if file in shards and name not in shards[file]]
    holders: dict[str, list[str]] = {}
    for file, shard in shards.items():
        for name in shard:
            holders.setdefault(name, []).append(file)
    twice = [f"{name} (in {', '.join(files)})" for name, files in holders.items() if len(files) > 1]
    unlisted = [f"{name} (in {files[0]})" for name, files in holders.items() if name not in where]
    for found, what in ((absent, "not in their shard"), (twice, "in several shards"), (unlisted, "not in the index")):
        if found:
            yield f"leaves {what} ({len(found)}): {listed(found)}"
