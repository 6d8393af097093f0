"""One door for reading: what lies at a path is found out, opened, and refused by name if it is nothing we read."""

from __future__ import annotations

from pathlib import Path

from wspace.core.errors import FormatError, listed, printable
from wspace.io.header import ADVICE, PICKLES
from wspace.io.orbax import open_orbax
from wspace.io.safetensors import SafetensorsFile, SafetensorsFolder
from wspace.io.source import Checkpoint
from wspace.io.stage import is_hidden, recover


def open_checkpoint(path: str | Path) -> Checkpoint:
    """A safetensors file, a safetensors folder or an Orbax directory as a lazy mapping.

    If a process was killed while it replaced a checkpoint here, the old one is put back first.
    """
    path = Path(path)
    recover(path)
    try:
        return _open(path)
    except OSError as error:  # no permission, or replaced by another process at this moment
        where = printable(error.filename or path)
        raise FormatError(f"{printable(path)}: cannot be read: {error.strerror or error}: {where}") from error


def _open(path: Path) -> Checkpoint:
    shown = printable(path)
    if is_hidden(path.absolute()):
        raise FormatError(f"{shown}: not complete: what a process was writing when it ended; run it again")
    if path.is_file():
        return SafetensorsFile(path)
    if not path.is_dir():
        raise FormatError(f"{shown}: no such file or folder")
    entries = sorted(entry.name for entry in path.iterdir())
    if any(name.endswith((".safetensors", ".safetensors.index.json")) for name in entries):
        return SafetensorsFolder(path)
    if pickles := [name for name in entries if Path(name).suffix.lower() in PICKLES]:
        raise FormatError(f"{shown}: only pickled weights ({listed(pickles)}), which are not read: {ADVICE}")
    return open_orbax(path)
