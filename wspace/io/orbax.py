"""Orbax in: nested trees, read lazily.

Orbax keeps no digests, casts silently, joins keys with "." without looking, and has no place for zero-size leaves, some
narrow dtypes, tuples and integer keys: all that is in our manifest, a file beside Orbax's own. What we write any Orbax
reader opens; what others wrote opens here, as the nested dicts and lists that Orbax knows.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from wspace.core.errors import FormatError, IntegrityError, WspaceError, listed, printable
from wspace.io import zarr
from wspace.io.dtypes import BYTE, Spec, restored
from wspace.io.header import LONGEST, notes_of, parse_json, stamp
from wspace.io.manifest import Manifest, files_in, read_manifest
from wspace.io.names import checked_structure, flatten_names
from wspace.io.source import Checkpoint

METADATA = "_METADATA"
UNKNOWN_TO_ORBAX = frozenset(("uint4", "uint2", "float6_e2m3fn", "float6_e3m2fn", "float8_e4m3"))


class OrbaxCheckpoint(Checkpoint):
    """An Orbax PyTree checkpoint. Leaves that are no arrays (text) are in `others` by name; the tree has None there."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        if not (self.path / METADATA).is_file():
            raise FormatError(_not_orbax(self.path))
        files = {name: self.path / name for name in files_in(self.path)}
        self._stamps = {file: stamp(file) for file in files.values()}
        manifest = read_manifest(self.path)
        _check_files(self.path, manifest, self._stamps)
        self._meta = _read_metadata(self.path)
        try:
            leaves = flatten_names(self._meta).leaves
        except WspaceError as error:
            raise FormatError(f"{printable(self.path)}: {error}") from None
        held = {name: Spec(tuple(m.shape), np.dtype(m.dtype)) for name, m in leaves.items() if hasattr(m, "dtype")}
        self.others = {name: type(m).__name__ for name, m in leaves.items() if name not in held}
        self._kept = held
        self.metadata = {} if manifest is None else notes_of(manifest.extra.get("metadata") or {})
        self.specs = held if manifest is None else manifest.leaves
        if manifest is None:
            self.structure = flatten_names(_map_tree(self._meta, lambda name: name if name in held else None)).structure
        else:
            self.structure = checked_structure(manifest.extra.get("tree"), str(self.path))
        absent = [name for name, spec in self.specs.items() if kept_as(spec) and held.get(name) != kept_as(spec)]
        if absent:
            raise FormatError(
                f"{printable(self.path)}: incomplete or damaged: leaves of the manifest: {listed(absent)}"
            )

    def _read(self, name: str) -> np.ndarray[Any, Any]:
        spec = self.specs[name]
        if kept_as(spec) is None:
            return restored(np.zeros(0, np.uint8), spec)
        found = self._array(name)
        found.flags.writeable = False
        return found if found.dtype == spec.dtype else restored(found, spec)

    def _array(self, name: str, index: Sequence[slice] = ()) -> np.ndarray[Any, Any]:
        """What Orbax holds of a leaf, read by its chunks."""
        self.check_unchanged()
        try:
            array = zarr.opened(self.path, name)
            got = Spec(array.shape, array.dtype.numpy_dtype)
            found = zarr.read(array, index) if got == self._kept[name] else None
        except Exception as error:
            raise FormatError(self._damage(error, [name])) from error
        if found is None:
            raise self._other(name, got)
        return found

    def part(self, name: str, index: Sequence[slice]) -> np.ndarray[Any, Any]:
        return self._array(name, index) if self.parts(name) else super().part(name, index)

    def parts(self, name: str) -> bool:
        """Of a leaf in chunks of whole rows, as we write most large ones."""
        return kept_as(self.specs[name]) == self.specs[name] and zarr.by_rows(zarr.opened(self.path, name))

    def placed(self, shardings: Mapping[str, Any]) -> dict[str, Any]:
        """Orbax reads the shards of what it holds as it is; but it would narrow 64 bits."""
        own = {n: s for n, s in shardings.items() if kept_as(spec := self.specs[n]) == spec and spec.dtype.itemsize < 8}
        found = self._restore(own) if own else {}
        return found | super().placed({name: where for name, where in shardings.items() if name not in own})

    def _restore(self, shardings: Mapping[str, Any]) -> dict[str, Any]:
        """Leaves by name as jax arrays in their shardings, by Orbax itself: each process reads its shards."""
        ocp = import_module("orbax.checkpoint")

        def how(name: str) -> Any:
            return ocp.ArrayRestoreArgs(sharding=shardings[name]) if name in shardings else ocp.RestoreArgs()

        marked = _map_tree(self._meta, lambda name: 0 if name in shardings else ocp.PLACEHOLDER)
        args = _map_tree(self._meta, how)
        try:
            with quiet(), ocp.PyTreeCheckpointer() as reader:
                tree = reader.restore(self.path, args=ocp.args.PyTreeRestore(item=marked, restore_args=args))
        except Exception as error:
            raise FormatError(self._damage(error, sorted(shardings))) from error
        found = {name: leaf for name, leaf in flatten_names(tree).leaves.items() if name in shardings}
        for name, array in found.items():
            got = Spec(array.shape, array.dtype)
            if got != self._kept[name]:
                raise self._other(name, got)
        return found

    def _other(self, name: str, got: Spec) -> IntegrityError:
        return IntegrityError(f"{printable(self.path)}: leaf '{printable(name)}' is {got}, not {self._kept[name]}")

    def _damage(self, error: Exception, names: list[str]) -> str:
        """Orbax's errors run to kilobytes and don't always name the leaf: one line, with the leaf where it is known."""
        first = str(error).split("[tensorstore_spec")[0].splitlines() or [repr(error)]
        inside = re.search(r'reading "(.*)/[0-9.]*" in', str(error))
        leaf = inside[1] if inside and inside[1] in names else listed(names, most=3)
        return f"{printable(self.path)}: leaf {printable(leaf)}: incomplete or damaged: {printable(first[0][:300])}"

    def stored_at(self, name: str) -> Path:
        return self.path


def open_orbax(path: str | Path) -> OrbaxCheckpoint:
    """An Orbax directory as a lazy mapping; FormatError says what was found if it is not complete or not recognised."""
    return OrbaxCheckpoint(path)


def kept_as(spec: Spec) -> Spec | None:
    """How Orbax holds a leaf: as it is, as bytes, or (no values) not at all."""
    if math.prod(spec.shape) == 0:
        return None
    return Spec((spec.nbytes,), BYTE) if spec.dtype.name in UNKNOWN_TO_ORBAX else spec


def _map_tree(node: Any, of: Callable[[str], Any], path: tuple[str, ...] = ()) -> Any:
    """The same nested dicts and lists with `of(name)` for each leaf."""
    if isinstance(node, Mapping):
        return {key: _map_tree(value, of, (*path, str(key))) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_map_tree(value, of, (*path, str(i))) for i, value in enumerate(node)]
    return None if node is None else of(".".join(path))


def _read_metadata(path: Path) -> Any:
    """The tree of Orbax's own leaf descriptions."""
    ocp = import_module("orbax.checkpoint")

    if (path / METADATA).stat().st_size > LONGEST:
        raise FormatError(f"{printable(path / METADATA)}: more than {LONGEST} bytes")
    parse_json((path / METADATA).read_bytes(), printable(path / METADATA))
    try:
        with quiet(), ocp.PyTreeCheckpointer() as reader:
            item = reader.metadata(path).item_metadata
    except Exception as error:
        reason = (str(error).splitlines() or [repr(error)])[0][:300]
        raise FormatError(f"{printable(path)}: incomplete or damaged Orbax checkpoint: {printable(reason)}") from error
    if item is None:
        raise FormatError(f"{printable(path)}: incomplete or damaged Orbax checkpoint; found: {_found(path)}")
    return item.tree


def _check_files(path: Path, manifest: Manifest | None, stamps: Mapping[Path, tuple[int, int]]) -> None:
    faults = []
    for name, (size, _) in ({} if manifest is None else manifest.files).items():
        now = stamps.get(path / name, (None, 0))[0]
        if now != size:
            faults.append(f"{name} is gone" if now is None else f"{name} has {now} bytes, {size} were written")
    if faults:
        raise FormatError(f"{printable(path)}: incomplete or damaged Orbax checkpoint: {listed(faults)}")


def _not_orbax(path: Path) -> str:
    shown = printable(path)
    if not path.is_dir():
        return f"{shown}: no such folder"
    entries = sorted(path.iterdir())
    names = [entry.name for entry in entries]
    items = [entry.name for entry in entries if (entry / METADATA).is_file()]
    steps = [entry for entry in entries if entry.name.isdigit() and entry.is_dir()]
    unfinished = [name for name in names if ".orbax-checkpoint-tmp" in name]
    if ".orbax-checkpoint-tmp" in path.name or "manifest.ocdbt" in names:
        return f"{shown}: not complete: an Orbax save that did not end; found: {_found(path)}"
    if items:
        return (
            f"{shown}: holds {len(items)} Orbax checkpoints: {listed(items)}; open one of them, as {shown}/{items[0]}"
        )
    if steps:
        last = max(steps, key=lambda entry: int(entry.name))
        inner = next((entry.name for entry in sorted(last.iterdir()) if (entry / METADATA).is_file()), "")
        which = f"{len(steps)} steps, the last {last.name}"
        return f"{shown}: holds {which}; open one of them, as {printable(Path(path, last.name, inner))}"
    if unfinished:
        return f"{shown}: not complete: an Orbax save that did not end: {listed(unfinished)}"
    return f"{shown}: not recognised as a safetensors folder or an Orbax checkpoint; found: {_found(path)}"


def _found(path: Path) -> str:
    return listed(sorted(entry.name for entry in path.iterdir())) or "nothing"


@contextmanager
def quiet() -> Iterator[None]:
    """Orbax logs warnings about its defaults and whole tracebacks of what it raises anyway."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
