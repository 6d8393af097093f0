"""Orbax in and out: nested trees, read lazily, written whole or not at all.

Orbax keeps no digests, casts silently, joins keys with "." without looking, and has no place for zero-size leaves, some
narrow dtypes, tuples and integer keys: all that is in our manifest, a file beside Orbax's own. What we write any Orbax
reader opens; what others wrote opens here, as the nested dicts and lists that Orbax knows.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from wspace.core.errors import FormatError, IntegrityError, WspaceError, listed, printable
from wspace.io.dtypes import BYTE, Spec, array_of, restored, sha256, spec_of, stored
from wspace.io.header import LONGEST, notes_of, parse_json, stamp
from wspace.io.manifest import Manifest, digests_of, files_in, read_manifest, write_manifest
from wspace.io.names import Structure, checked_structure, flatten_names, nest_names
from wspace.io.placed import placed_leaves
from wspace.io.processes import ALONE, Processes, processes_of
from wspace.io.source import Checkpoint
from wspace.io.stage import staged

METADATA = "_METADATA"
UNKNOWN_TO_ORBAX = frozenset(("uint4", "uint2", "float6_e2m3fn", "float6_e3m2fn", "float8_e4m3"))
BLOCK = 1 << 26  # bytes of neighbouring leaves restored together: opening costs more than reading
EMPTY = "empty"  # Orbax refuses a tree with nothing in it


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
        absent = [name for name, spec in self.specs.items() if _kept_as(spec) and held.get(name) != _kept_as(spec)]
        if absent:
            raise FormatError(
                f"{printable(self.path)}: incomplete or damaged: leaves of the manifest: {listed(absent)}"
            )
        self._blocks = _blocks(held)
        self._block: dict[str, np.ndarray[Any, Any]] = {}

    def _read(self, name: str) -> np.ndarray[Any, Any]:
        spec = self.specs[name]
        if _kept_as(spec) is None:
            return restored(np.zeros(0, np.uint8), spec)
        block = self._block
        if name not in block:
            self.check_unchanged()
            try:
                block = self._block = self._restore(self._blocks[name])
            except FormatError:  # a neighbour may be the damaged one
                block = self._restore([name])
        array = block[name]
        array.flags.writeable = False
        return array if array.dtype == spec.dtype else restored(array, spec)

    def placed(self, shardings: Mapping[str, Any]) -> dict[str, Any]:
        """Orbax reads the shards of what it holds as it is; but it would narrow 64 bits."""
        own = {
            n: s for n, s in shardings.items() if _kept_as(spec := self.specs[n]) == spec and spec.dtype.itemsize < 8
        }
        found = self._restore(own, own) if own else {}
        return found | super().placed({name: where for name, where in shardings.items() if name not in own})

    def _restore(self, names: Iterable[str], shardings: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Leaves by name: NumPy arrays, or jax arrays in their shardings."""
        ocp = import_module("orbax.checkpoint")

        def how(name: str) -> Any:
            if shardings and name in shardings:
                return ocp.ArrayRestoreArgs(sharding=shardings[name])
            return ocp.RestoreArgs(restore_type=np.ndarray)

        wanted = set(names)
        marked = _map_tree(self._meta, lambda name: 0 if name in wanted else ocp.PLACEHOLDER)
        args = _map_tree(self._meta, how)
        try:
            with _quiet(), ocp.PyTreeCheckpointer() as reader:
                tree = reader.restore(self.path, args=ocp.args.PyTreeRestore(item=marked, restore_args=args))
        except Exception as error:
            raise FormatError(self._damage(error, sorted(wanted))) from error
        found = {name: leaf for name, leaf in flatten_names(tree).leaves.items() if name in wanted}
        if shardings is None:
            found = {name: np.array(leaf) for name, leaf in found.items()}
        for name, array in found.items():
            got = Spec(array.shape, array.dtype)
            if got != self._kept[name]:
                raise IntegrityError(
                    f"{printable(self.path)}: leaf '{printable(name)}' is {got}, not {self._kept[name]}"
                )
        return found

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


def write_orbax(
    path: str | Path,
    tree: Any,
    *,
    metadata: Mapping[str, Any] | None = None,
    record: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    inputs: Iterable[Any] = (),
) -> None:
    """Writes a tree of arrays, or a whole checkpoint, as an Orbax directory.

    Args:
      path: the directory to be; relative is fine.
      tree: nested dicts, lists and tuples of NumPy or JAX arrays; or an open checkpoint.
      metadata: text by name, given back as the checkpoint's `metadata`; that of an open checkpoint unless given.
      record: JSON-ready facts for the manifest, such as the recipe.
      overwrite: replace the checkpoint that is there. It stays whole until the new one is.
      inputs: paths or checkpoints read meanwhile, never written over.

    Every leaf is read back and compared before anything becomes visible. Leaves on a mesh are written and compared
    shard by shard, and not gathered; if some lie on the devices of other processes, all processes call this.

    Example:
      >>> import tempfile
      >>> folder = tempfile.mkdtemp() + "/out"
      >>> write_orbax(folder, {"layers": [np.arange(2), (np.zeros((0, 3)),)]})
      >>> open_orbax(folder).tree()
      {'layers': [array([0, 1]), (array([], shape=(0, 3), dtype=float64),)]}
    """
    if isinstance(tree, Checkpoint):
        leaves: Mapping[str, Any] = tree
        specs, structure, inputs = tree.specs, tree.structure, [tree, *inputs]
        metadata = tree.metadata if metadata is None else metadata
    else:
        leaves, structure = flatten_names(tree)
        specs = {name: spec_of(name, leaf) for name, leaf in leaves.items()}
    crew = ALONE if isinstance(tree, Checkpoint) else processes_of(iter(leaves.values()))
    with staged(crew, path, overwrite=overwrite, inputs=inputs, needs=_bytes(specs)) as folder:
        digests: dict[str, str] = {}
        kept, split = {}, {}
        for name, spec in specs.items():
            if _kept_as(spec) == spec and _is_split(leaves[name]):
                kept[name] = split[name] = leaves[name]
                continue
            array = array_of(name, leaves[name], spec)
            digests[name] = sha256(stored(array))
            as_is = array if isinstance(leaves[name], np.ndarray | np.generic) else leaves[name]
            kept[name] = None if _kept_as(spec) is None else stored(array) if _kept_as(spec) != spec else as_is
        crew.first(folder.rmdir)  # Orbax wants to make it itself
        _save(folder, _orbax_tree(kept, structure))
        whole = dict(digests)
        digests |= _digests_of_split(folder, split, crew)
        extra = {"tree": structure, "metadata": notes_of(metadata or {}), "record": dict(record or {})}

        def finish() -> None:
            files = digests_of(folder, files_in(folder))
            write_manifest(folder, Manifest("orbax", specs, digests, dict(files), extra))
            again = OrbaxCheckpoint(folder)
            _refuse_other(path, [name for name in whole if sha256(stored(again[name])) != whole[name]])

        crew.first(finish)


def _refuse_other(path: str | Path, wrong: list[str]) -> None:
    if wrong:
        raise IntegrityError(f"{printable(path)}: leaves read back other than they were written: {listed(wrong)}")


def _is_split(leaf: Any) -> bool:
    return len(getattr(getattr(leaf, "sharding", None), "device_set", ())) > 1


def _digests_of_split(folder: Path, split: Mapping[str, Any], crew: Processes) -> dict[str, str]:
    """Digests of leaves on a mesh, each taken by one of the processes, after all have compared their shards."""
    if not split:
        return {}
    with crew.all_well():
        again = OrbaxCheckpoint(folder)
        found = placed_leaves(again, {name: leaf.sharding for name, leaf in split.items()})
        _refuse_other(folder, [name for name, leaf in split.items() if not _same_shards(leaf, found[name])])
    with crew.all_well():
        mine = {name: sha256(stored(again[name])) for name in list(split)[crew.index :: crew.count]}
    return {name: digest for found in crew.told(mine) for name, digest in found.items()}


def _same_shards(a: Any, b: Any) -> bool:
    pairs = zip(a.addressable_shards, b.addressable_shards, strict=True)
    return all(np.asarray(x.data).tobytes() == np.asarray(y.data).tobytes() for x, y in pairs)


def _save(folder: Path, tree: Any) -> None:
    ocp = import_module("orbax.checkpoint")

    try:
        with _quiet(), ocp.PyTreeCheckpointer() as writer:
            writer.save(folder, tree)
    except OSError:
        raise
    except Exception as error:
        reason = printable((str(error).splitlines() or [repr(error)])[0][:300])
        raise WspaceError(f"Orbax cannot write {printable(folder)}: {reason}; nothing was left behind") from error


def _orbax_tree(kept: Mapping[str, Any], structure: Structure | None) -> Any:
    """What Orbax is given: keys as text, tuples as lists, None in the place of what it cannot hold."""
    tree = dict(kept) if structure is None else nest_names(kept, structure | {"tied": []})
    return _plain(tree) or {EMPTY: None}


def _plain(node: Any) -> Any:
    if isinstance(node, dict):
        return {str(key): _plain(value) for key, value in node.items()}
    return [_plain(value) for value in node] if isinstance(node, list | tuple) else node


def _kept_as(spec: Spec) -> Spec | None:
    """How Orbax holds a leaf: as it is, as bytes, or (no values) not at all."""
    if math.prod(spec.shape) == 0:
        return None
    return Spec((spec.nbytes,), BYTE) if spec.dtype.name in UNKNOWN_TO_ORBAX else spec


def _bytes(specs: Mapping[str, Spec]) -> int:
    return sum(spec.nbytes for spec in specs.values())


def _blocks(specs: Mapping[str, Spec]) -> dict[str, list[str]]:
    """For each leaf the neighbours that are restored with it."""
    blocks: list[list[str]] = []
    size = BLOCK
    for name, spec in specs.items():
        if size + spec.nbytes > BLOCK:
            blocks.append([])
            size = 0
        blocks[-1].append(name)
        size += spec.nbytes
    return {name: block for block in blocks for name in block}


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
        with _quiet(), ocp.PyTreeCheckpointer() as reader:
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
def _quiet() -> Iterator[None]:
    """Orbax logs warnings about its defaults and whole tracebacks of what it raises anyway."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
