"""Whether a checkpoint still is what it was when it was written; digests of what came from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from wspace.core.errors import FormatError, IntegrityError, listed, printable
from wspace.io.checkpoint import open_checkpoint
from wspace.io.dtypes import sha256, stored
from wspace.io.header import header_size
from wspace.io.manifest import Manifest, digest_of, digests_of, files_in, read_manifest
from wspace.io.safetensors import SafetensorsFolder
from wspace.io.source import Checkpoint
from wspace.io.stage import MANIFEST


class Report(NamedTuple):
    """What `verify` looked at: all of it unchanged."""

    path: Path
    leaves: int
    bytes: int
    files: int
    unlisted: tuple[str, ...]  # files that are there now and were not when the checkpoint was written


Progress = Callable[[int, int, str], None]  # done, of how many, which


def verify(path: str | Path, progress: Progress | None = None) -> Report:
    """Reads every leaf and compares its digest with the manifest; IntegrityError names each leaf that differs."""
    source = open_checkpoint(path)
    folder = source.path
    manifest = read_manifest(folder) if folder.is_dir() else None
    if manifest is None:
        raise FormatError(f"{printable(folder)}: no {MANIFEST}, so there is nothing to compare with")
    faults = [*_changed_files(source, manifest), *_changed_leaves(source, manifest, progress or _silent)]
    if faults:
        raise IntegrityError(f"{printable(folder)} is not what was written: {listed(faults)}")
    unlisted = tuple(name for name in files_in(folder) if name not in manifest.files)
    total = sum(spec.nbytes for spec in manifest.leaves.values())
    return Report(folder, len(manifest.leaves), total, len(manifest.files), unlisted)


def _silent(done: int, total: int, name: str) -> None: ...


def _changed_leaves(source: Checkpoint, manifest: Manifest, tell: Progress) -> Iterator[str]:
    names = sorted(set(source) | set(manifest.leaves))
    for n, name in enumerate(names, start=1):
        leaf = f"leaf {name!r}"
        tell(n, len(names), name)
        if name not in source:
            yield f"{leaf} is gone"
        elif name not in manifest.leaves:
            yield f"{leaf} was not there"
        elif source.specs[name] != manifest.leaves[name]:
            yield f"{leaf} is {source.specs[name]}, was {manifest.leaves[name]}"
        else:
            try:
                data = source.raw(name) if isinstance(source, SafetensorsFolder) else stored(source[name])
            except FormatError as error:
                yield f"{leaf} cannot be read ({error})"
                continue
            if sha256(data) != manifest.digests[name]:
                yield f"{leaf} in {source.stored_at(name).name} has other values"


def _changed_files(source: Checkpoint, manifest: Manifest) -> Iterator[str]:
    heads = {}
    if isinstance(source, SafetensorsFolder):
        heads = {name: shard.header.size for name, shard in source.files.items()}
    for name, was in manifest.files.items():
        file = source.path / name
        if not file.is_file():
            yield f"file {name!r} is gone"
        elif digest_of(file, heads.get(name)) != was:
            yield f"{'header of ' if name in heads else ''}file {name!r} changed"


def digest(path: str | Path, whole: bool = True) -> dict[str, str]:
    """sha256 of each file of an input, by its path inside the folder (by its name, for a single file).

    whole: False takes of safetensors files the header and the number of bytes, and says so: which leaves of which
      shapes they are, not which values. To hash the values takes more time than to merge them.
    """
    path = Path(path)
    folder, names = (path, files_in(path)) if path.is_dir() else (path.parent, [path.name])
    short = [] if whole else [name for name in names if name.endswith(".safetensors")]
    heads = {name: digest_of(folder / name, header_size(folder / name)) for name in short}
    full = digests_of(folder, set(names) - heads.keys())
    found = {name: value for name, (_, value) in full.items()}
    found |= {name: f"{value} of the header, {size} bytes in all" for name, (size, value) in heads.items()}
    return dict(sorted(found.items()))
