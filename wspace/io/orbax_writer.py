"""Orbax out: a tree, or a checkpoint, leaf after leaf, whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from wspace.core.errors import IntegrityError, WspaceError, listed, printable
from wspace.io import zarr
from wspace.io.dtypes import Spec, array_of, chunks, sha256, spec_of, stored
from wspace.io.header import notes_of
from wspace.io.manifest import Manifest, digests_of, files_in, write_manifest
from wspace.io.names import Structure, flatten_names, nest_names
from wspace.io.orbax import OrbaxCheckpoint, kept_as, quiet
from wspace.io.placed import placed_leaves
from wspace.io.processes import ALONE, Processes, processes_of
from wspace.io.source import Checkpoint
from wspace.io.stage import staged

Index = tuple[slice, ...]
BLOCK = 1 << 24  # bytes of a leaf from which on it is written and compared chunk by chunk
EMPTY = "empty"  # Orbax refuses a tree with nothing in it


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
      >>> OrbaxCheckpoint(folder).tree()
      {'layers': [array([0, 1]), (array([], shape=(0, 3), dtype=float64),)]}
    """
    if isinstance(tree, Checkpoint):
        leaves: Mapping[str, Any] = {name: _lazy(tree, name) for name in tree.specs}
        specs, structure, inputs = tree.specs, tree.structure, [tree, *inputs]
        metadata = tree.metadata if metadata is None else metadata
    else:
        leaves, structure = flatten_names(tree)
        specs = {name: spec_of(name, leaf) for name, leaf in leaves.items()}
    crew = ALONE if isinstance(tree, Checkpoint) else processes_of(iter(leaves.values()))
    with staged(crew, path, overwrite=overwrite, inputs=inputs, needs=_bytes(specs)) as folder:
        split = {name: leaf for name, leaf in leaves.items() if _is_split(leaf) and kept_as(specs[name]) == specs[name]}
        here = {name: host(name, leaves[name], spec) for name, spec in specs.items() if name not in split}
        whole = {name: leaf.digest() for name, leaf in here.items()}
        kept = {name: split[name] if name in split else here[name].for_orbax(leaves[name]) for name in specs}
        crew.first(folder.rmdir)  # Orbax wants to make it itself
        _save(folder, _orbax_tree(kept, structure))
        crew.first(partial(_fill, folder, kept))
        digests = whole | _digests_of_split(folder, split, crew)
        extra = {"tree": structure, "metadata": notes_of(metadata or {}), "record": dict(record or {})}

        def finish() -> None:
            files = digests_of(folder, files_in(folder))
            write_manifest(folder, Manifest("orbax", specs, digests, dict(files), extra))
            again = OrbaxCheckpoint(folder)
            _refuse_other(path, [name for name in whole if _lazy(again, name).digest() != whole[name]])

        crew.first(finish)


class Host:
    """A leaf on the host, or in a file that is read when its turn comes, with shape and dtype as Orbax gets it.

    large: Orbax only makes room for it, and the values are written chunk by chunk.
    """

    def __init__(self, spec: Spec, part: Callable[[Index], Any], cuts: bool = True) -> None:
        self.spec, self._part = spec, part
        kept = kept_as(spec)
        self.shape, self.dtype = kept or spec
        self.nbytes = spec.nbytes
        self.as_is = kept in (spec, None)
        self.large = self.as_is and spec.nbytes > BLOCK
        self.rows = spec.shape[zarr.first_axis(spec.shape)] if self.large and cuts else 1

    def __getitem__(self, index: Index) -> np.ndarray[Any, Any]:
        return np.asarray(self._part(index))

    def whole(self) -> np.ndarray[Any, Any]:
        """The array that Orbax is given."""
        return self[()] if self.as_is else stored(self[()])

    def digest(self) -> str:
        """sha256 of the stored bytes."""
        ones, step = (slice(None),) * zarr.first_axis(self.spec.shape), max(1, BLOCK * self.rows // max(1, self.nbytes))
        digest = hashlib.sha256()
        for start in range(0, self.rows, step):
            index = (*ones, slice(start, start + step)) if self.rows > 1 else ()
            for piece in chunks(stored(self[index])):
                digest.update(piece.data)
        return digest.hexdigest()

    def for_orbax(self, leaf: Any) -> Any:
        """What Orbax is given for this leaf: an array on a device as it is; None for one without entries."""
        if kept_as(self.spec) is None:
            return None
        on_device = not isinstance(leaf, Host | np.ndarray | np.generic)
        return leaf if on_device and self.as_is else self


def _lazy(source: Checkpoint, name: str) -> Host:
    return Host(source.specs[name], partial(source.part, name), source.parts(name))


def host(name: str, leaf: Any, spec: Spec) -> Host:
    """Raises FormatError for a deleted array, one on other hosts, or none."""
    return leaf if isinstance(leaf, Host) else Host(spec, array_of(name, leaf, spec).__getitem__)


def _fill(folder: Path, kept: Mapping[str, Any]) -> None:
    for name, leaf in kept.items():
        if isinstance(leaf, Host) and leaf.large:
            zarr.write(zarr.opened(folder, name), leaf)


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
    jax, ocp = import_module("jax"), import_module("orbax.checkpoint")

    def how(leaf: Any) -> Any:
        return ocp.SaveArgs(**(zarr.chunking(leaf.spec) if isinstance(leaf, Host) and leaf.large else {}))

    kinds = ocp.type_handlers.create_type_handler_registry(
        (Host, _one_by_one(ocp)), (jax.Array, ocp.type_handlers.ArrayHandler())
    )
    try:
        with quiet(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler(type_handler_registry=kinds)) as writer:
            writer.save(folder, args=ocp.args.PyTreeSave(tree, save_args=jax.tree.map(how, tree)))
    except (OSError, WspaceError):
        raise
    except Exception as error:
        reason = printable((str(error).splitlines() or [repr(error)])[0][:300])
        raise WspaceError(f"Orbax cannot write {printable(folder)}: {reason}; nothing was left behind") from error


def _one_by_one(ocp: Any) -> Any:
    """Orbax's own handler of NumPy arrays, given one after the other and uncopied: by itself it would hold a copy of
    the whole tree, and all of it compressed (its byte limits are for jax arrays)."""

    class OneByOne(ocp.type_handlers.NumpyHandler):
        async def serialize(self, values: Any, infos: Any, args: Any = None) -> list[Any]:
            for leaf, info, arg in zip(values, infos, args or [ocp.SaveArgs()] * len(values), strict=True):
                array = np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape) if leaf.large else leaf.whole()
                for written in await super().serialize([array], [info], [arg]):
                    written.result()
            return []

    return OneByOne(deepcopy_host_arrays=False)


def _orbax_tree(kept: Mapping[str, Any], structure: Structure | None) -> Any:
    """What Orbax is given: keys as text, tuples as lists, None in the place of what it cannot hold."""
    tree = dict(kept) if structure is None else nest_names(kept, structure | {"tied": []})
    return _plain(tree) or {EMPTY: None}


def _plain(node: Any) -> Any:
    if isinstance(node, dict):
        return {str(key): _plain(value) for key, value in node.items()}
    return [_plain(value) for value in node] if isinstance(node, list | tuple) else node


def _bytes(specs: Mapping[str, Spec]) -> int:
    return sum(spec.nbytes for spec in specs.values())
