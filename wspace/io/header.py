"""The header of a safetensors file: read behind safetensors' own check, and written by one deterministic rule.

A file is 8 bytes of header length (little-endian), the header (JSON: name -> dtype, shape, byte range), the data.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from wspace.core.errors import FormatError, printable
from wspace.io.dtypes import BITS, BYTE, DTYPES, WORDS, Spec, dtype_named

LONGEST = 100_000_000  # bytes of header that safetensors allows
EXPLAINED = 10_000_000  # bytes of a refused header that are read again to say what is wrong
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
ADVICE = (
    "pickles run code when loaded; convert it where it was made, with safetensors.torch.save_file(state_dict, path)"
)
OURS = "wspace"  # the one key of ours in the file's metadata: JSON
MOST_DIMS = 64  # of a NumPy array


class Entry(NamedTuple):
    """Where a leaf lies in its file, and what it is; `packed` if its bytes stand for codes of another dtype."""

    spec: Spec
    start: int
    stop: int
    packed: bool


class Header(NamedTuple):
    """All that a safetensors file says about itself."""

    entries: dict[str, Entry]
    metadata: dict[str, str]
    extra: dict[str, Any]  # our JSON record, empty in other people's files
    size: int  # bytes of the length and the header together
    stamp: tuple[int, int]  # size and time of the file when it was read


def stamp(file: Path) -> tuple[int, int]:
    """Size in bytes and time of last change in ns."""
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def read_header(path: Path) -> Header:
    """The validated header; FormatError names the file, what is wrong and where it can be found the tensor."""
    shown = printable(path)
    if path.suffix.lower() in PICKLES:
        raise FormatError(f"{shown}: {path.suffix} files are not read: {ADVICE}")
    try:
        now = stamp(path)
        try:
            with safe_open(os.fspath(path), framework="numpy"):
                pass
        except (SafetensorError, ValueError, OverflowError) as error:
            raise FormatError(f"{shown}: {_diagnosis(_head(path, EXPLAINED), now[0], str(error))}") from None
        raw = _head(path, LONGEST)
    except OSError as error:
        raise FormatError(f"{shown}: cannot be read: {error.strerror or error}") from None
    fields = parse_json(raw[8:], shown)
    metadata = fields.pop("__metadata__", {})
    extra = parse_json(metadata.get(OURS, "{}").encode(), f"{shown}: metadata {OURS!r}")
    packed = extra.get("packed", {})
    entries = {name: _entry(name, field, packed, len(raw), shown) for name, field in fields.items()}
    return Header(entries, metadata, extra, len(raw), now)


def header_size(path: Path) -> int:
    """Bytes of the length and the header together, as the file announces it."""
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def _head(path: Path, most: int) -> bytes:
    """The first 8 bytes and the header that they announce, of which at most so many bytes."""
    with path.open("rb") as file:
        head = file.read(8)
        return head + file.read(min(int.from_bytes(head, "little"), most))


def parse_json(raw: bytes, shown: str) -> dict[str, Any]:
    """A JSON object in which no key occurs twice."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, value in items:
            if key in made:
                raise FormatError(f"{shown}: the key '{printable(key)}' occurs twice")
            made[key] = value
        return made

    try:
        parsed = json.loads(raw.decode("utf-8"), object_pairs_hook=pairs)
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else printable(error)
        raise FormatError(f"{shown}: not valid JSON: {reason}") from None
    if not isinstance(parsed, dict):
        raise FormatError(f"{shown}: a JSON object was wanted, not a {type(parsed).__name__}")
    return parsed


def _entry(name: str, field: dict[str, Any], packed: Any, offset: int, shown: str) -> Entry:
    leaf = f"{shown}: leaf '{printable(name)}'"
    word, shape = field["dtype"], tuple(field["shape"])
    if word not in DTYPES:
        raise FormatError(f"{leaf} has dtype {printable(word)}, which is not read; known: {', '.join(DTYPES)}")
    spec = Spec(shape, DTYPES[word])
    start, stop = (offset + n for n in field["data_offsets"])
    kept = packed.get(name) if isinstance(packed, dict) else None
    if kept is not None:
        try:
            spec = Spec(tuple(int(n) for n in kept["shape"]), dtype_named(kept["dtype"]))
        except (TypeError, KeyError, ValueError):
            raise FormatError(f"{leaf}: the record of its packed dtype is damaged") from None
        if min(spec.shape, default=0) < 0 or spec.dtype.name not in BITS or spec.nbytes != stop - start:
            raise FormatError(f"{leaf} is recorded as {spec}, which does not fit its {stop - start} bytes")
    too_big = math.prod(max(n, 1) for n in spec.shape) * spec.dtype.itemsize > np.iinfo(np.intp).max
    if len(spec.shape) > MOST_DIMS or too_big:
        raise FormatError(f"{leaf} has a shape that no array can have: {list(spec.shape[:4])}...")
    return Entry(spec, start, stop, kept is not None)


def _diagnosis(raw: bytes, size: int, reason: str) -> str:
    """What is wrong with a file that safetensors refused, in words that name sizes and tensors."""
    reason = printable(reason.removeprefix("Error while deserializing header: "))
    start = raw[8:9]
    if raw[:1] == b"\x80" and raw[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and start != b"{":
        return f"not a safetensors file but a pickle: {ADVICE}"
    if raw[:4] == b"PK\x03\x04":
        return f"not a safetensors file but a zip archive, perhaps a torch checkpoint: {ADVICE}"
    if size < 8:
        return f"not a safetensors file: {size} bytes, too small for a header ({reason})"
    (length,) = struct.unpack("<Q", raw[:8])
    if length > LONGEST:
        return (
            f"not a safetensors file: it declares a header of {length} bytes, at most {LONGEST} are allowed ({reason})"
        )
    if length > size - 8:
        kind = "truncated" if start == b"{" else "not a safetensors file"
        return f"{kind}: it declares a header of {length} bytes, {size - 8} follow ({reason})"
    try:
        fields = json.loads(raw[8:].decode("utf-8"))
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        return f"not a safetensors file, or one with a damaged header: {reason}"
    return _faulty(fields, size - 8 - length, reason)


def _faulty(fields: dict[str, Any], available: int, reason: str) -> str:
    """The first entry that breaks a rule; the rules are safetensors', in its order."""
    metadata = fields.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        return f"__metadata__ must map names to text ({reason})"
    ranges = []
    for name, field in fields.items():
        leaf = f"leaf '{printable(name)}'"
        try:
            word, shape, (start, stop) = field["dtype"], field["shape"], field["data_offsets"]
            numbers = [*shape, start, stop]
            if word not in DTYPES and word not in ("F4", "F6_E2M3", "F6_E3M2"):
                return f"{leaf} has dtype {printable(word)}, which is unknown; known: {', '.join(DTYPES)}"
            if any(type(n) is not int or n < 0 for n in numbers):
                return f"{leaf} has a dimension or an offset that is negative or not an integer: {field} ({reason})"
        except (TypeError, KeyError, ValueError):
            return f"{leaf} lacks dtype, shape or data_offsets ({reason})"
        wanted = math.prod(shape) * (DTYPES[word].itemsize if word in DTYPES else 0)
        if word in DTYPES and wanted != stop - start:
            return f"{leaf} {word}{shape} takes {wanted} bytes, its range {[start, stop]} has {stop - start} ({reason})"
        ranges.append((start, stop, leaf))
    end = 0
    for start, stop, leaf in sorted(ranges):
        if start != end:
            kind = "overlaps the leaf before it" if start < end else "leaves a hole before it"
            return f"{leaf} at bytes {[start, stop]} {kind}, which ends at {end} ({reason})"
        end = stop
    if end != available:
        kind = "truncated" if end > available else "trailing bytes"
        return f"{kind}: the header declares {end} bytes of data, the file has {available} ({reason})"
    return reason


def as_text(value: Any) -> str:
    """Text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))


def notes_of(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Metadata as a file keeps it: text by name; our own record is made anew."""
    return {str(key): as_text(value) for key, value in metadata.items() if key != OURS}


class Layout(NamedTuple):
    """One file to be written: its header's bytes, and where each leaf goes."""

    header: bytes
    entries: dict[str, Entry]
    size: int


def lay_out(specs: Mapping[str, Spec], metadata: Mapping[str, str], extra: Mapping[str, Any], file: str) -> Layout:
    """The header for these leaves: keys sorted, data ordered by item size and then name, so that all is aligned.

    The same specs give the same bytes, in whatever order they come.
    """
    packed = {
        n: {"dtype": s.dtype.name, "shape": list(s.shape)} for n, s in sorted(specs.items()) if s.dtype.name in BITS
    }
    ours = dict(extra) | ({"packed": packed} if packed else {})
    notes = dict(metadata) | ({OURS: as_text(ours)} if ours else {})
    fields: dict[str, Any] = {"__metadata__": dict(sorted(notes.items()))} if notes else {}
    kept = {name: Spec((spec.nbytes,), BYTE) if name in packed else spec for name, spec in specs.items()}
    ranges: dict[str, tuple[int, int]] = {}
    end = 0
    for name in sorted(kept, key=lambda name: (-kept[name].dtype.itemsize, name)):
        ranges[name] = (end, end := end + kept[name].nbytes)
    for name, spec in sorted(kept.items()):
        word = WORDS[spec.dtype.name]
        fields[name] = {"dtype": word, "shape": list(spec.shape), "data_offsets": list(ranges[name])}
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > LONGEST:
        raise FormatError(
            f"{printable(file)}: a header of {len(text)} bytes; {LONGEST} are allowed; use a smaller shard_size"
        )
    head = struct.pack("<Q", len(text)) + text
    entries = {n: Entry(specs[n], len(head) + a, len(head) + b, n in packed) for n, (a, b) in ranges.items()}
    return Layout(head, entries, len(head) + end)
