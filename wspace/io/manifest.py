"""The manifest of a checkpoint that we wrote: one digest a leaf, one a file; the last file to be written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wspace.core.errors import FormatError, printable
from wspace.io.dtypes import Spec, dtype_named, sha256
from wspace.io.header import LONGEST, parse_json
from wspace.io.stage import MANIFEST

FORMAT = "wspace checkpoint"
VERSION = 1


class Manifest(NamedTuple):
    """What a checkpoint held when it was written.

    Attributes:
      kind: "safetensors" or "orbax".
      leaves: name -> spec.
      digests: name -> sha256 of the leaf's stored bytes.
      files: relative path -> [bytes, sha256] of every file that is checked as a file; of a file of leaves its header.
      extra: what else was recorded (tree structure, packed dtypes, the caller's own record).
    """

    kind: str
    leaves: dict[str, Spec]
    digests: dict[str, str]
    files: dict[str, tuple[int, str]]
    extra: dict[str, Any]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """The same checkpoint gives the same bytes: no time, no host, keys sorted."""
    leaves = {
        name: {"dtype": spec.dtype.name, "shape": list(spec.shape), "sha256": manifest.digests[name]}
        for name, spec in manifest.leaves.items()
    }
    files = {name: {"bytes": size, "sha256": digest} for name, (size, digest) in manifest.files.items()}
    fields = {"format": FORMAT, "version": VERSION, "kind": manifest.kind, "leaves": leaves, "files": files}
    text = json.dumps(fields | {"extra": manifest.extra}, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, None if it has none; FormatError if it is damaged."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    shown = printable(path)
    if path.stat().st_size > LONGEST:
        raise FormatError(f"{shown}: a manifest of more than {LONGEST} bytes")
    fields = parse_json(path.read_bytes(), shown)
    if fields.get("format") != FORMAT or fields.get("version") != VERSION:
        found = printable(f"{fields.get('format')!r} version {fields.get('version')!r}")
        raise FormatError(
            f"{shown}: not a manifest that this version reads: {found}, wanted {FORMAT!r} version {VERSION}"
        )
    try:
        leaves = {
            name: Spec(tuple(int(n) for n in leaf["shape"]), dtype_named(leaf["dtype"]))
            for name, leaf in fields["leaves"].items()
        }
        digests = {name: str(leaf["sha256"]) for name, leaf in fields["leaves"].items()}
        files = {name: (int(file["bytes"]), str(file["sha256"])) for name, file in fields["files"].items()}
        return Manifest(str(fields["kind"]), leaves, digests, files, dict(fields["extra"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{shown}: the manifest is damaged: {printable(repr(error))}") from None


def digest_of(path: Path, size: int | None = None) -> tuple[int, str]:
    """Bytes and sha256 of a file, or of its first `size` bytes."""
    total = path.stat().st_size
    data = np.memmap(path, np.uint8, mode="r") if total else np.zeros(0, np.uint8)
    return total, sha256(data[:size])


def digests_of(folder: Path, names: Iterable[str]) -> Mapping[str, tuple[int, str]]:
    """Bytes and sha256 of files in a folder, by relative path."""
    return {name: digest_of(folder / name) for name in sorted(names)}


def files_in(folder: Path) -> list[str]:
    """Relative paths of all files in a folder and below, sorted, the manifest left out."""
    found = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    return [name for name in found if name != MANIFEST]
