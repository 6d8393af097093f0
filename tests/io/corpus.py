"""The bad safetensors files, each made by hand: name, bytes, what the message must say."""

from __future__ import annotations

import json
import struct
from typing import Any, NamedTuple


class Bad(NamedTuple):
    name: str
    data: bytes
    says: tuple[str, ...]


def file_bytes(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """Length, header (JSON unless it is bytes already), data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def leaf(dtype: str = "F32", shape: Any = (2,), at: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(at)}


def ours(record: str, **leaves: Any) -> bytes:
    """Eight bytes of data under a header with a record of ours."""
    return file_bytes({"__metadata__": {"wspace": record}, **leaves}, bytes(8))


GOOD = file_bytes(
    {"__metadata__": {"format": "pt"}, "a": leaf(), "b.c": leaf("I64", (1, 2), (8, 24))}, bytes(range(24))
)
TWICE_LAST = (
    b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
)
TWICE_BOTH = (
    b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}'
)
DEEP = b'{"a":' * 20_000 + b"1" + b"}" * 20_000
# protocol-2 pickle of a call to os.system, written out: a loader that ran it would leave a file behind
PICKLE = b"\x80\x02cos\nsystem\nX\x14\x00\x00\x00touch wspace-was-hereq\x00\x85R."
Z8 = bytes(8)
PACKED_9 = '{"packed":{"a":{"dtype":"int4","shape":[9]}}}'

BAD = (
    Bad("empty", b"", ("0 bytes", "too small")),
    Bad("seven", b"1234567", ("7 bytes", "too small")),
    Bad("length-2e63", struct.pack("<Q", 2**63) + b"{}", ("9223372036854775808", "header too large")),
    Bad("length-100MB", struct.pack("<Q", 100_000_001) + b"{}", ("100000001", "100000000 are allowed")),
    Bad("length-past-end", file_bytes(b"{}", length=1000), ("1000 bytes", "2 follow", "truncated")),
    Bad("length-garbage", file_bytes(b"hello", length=1000), ("not a safetensors file", "1000 bytes")),
    Bad("not-json", file_bytes(b"hello world"), ("invalid JSON",)),
    Bad("bad-utf8", file_bytes(b'{"\xff\xfe":1}'), ("UTF-8",)),
    Bad("deep-lists", file_bytes(b"[" * 20_000 + b"]" * 20_000), ("invalid JSON",)),
    Bad("deep-dicts", file_bytes(DEEP), ("recursion limit",)),
    Bad("a-list", file_bytes(b"[]"), ("invalid JSON",)),
    Bad("pickle", PICKLE, ("pickle", "safetensors.torch.save_file")),
    Bad("zip", b"PK\x03\x04" + bytes(100), ("zip archive", "safetensors.torch.save_file")),
    Bad("overlap", file_bytes({"a": leaf(), "b": leaf(at=(4, 12))}, bytes(12)), ("'b'", "overlaps")),
    Bad("same-range", file_bytes({"a": leaf(), "b": leaf()}, Z8), ("overlaps",)),
    Bad("hole", file_bytes({"a": leaf(), "b": leaf(at=(12, 20))}, bytes(20)), ("'b'", "hole")),
    Bad("trailing", file_bytes({"a": leaf()}, bytes(12)), ("trailing", "8 bytes", "12")),
    Bad("truncated", file_bytes({"a": leaf()}, bytes(5)), ("truncated", "8 bytes", "5")),
    Bad("no-data", file_bytes({"a": leaf()}), ("truncated", "8 bytes", "0")),
    Bad("past-end", file_bytes({"a": leaf(at=(8, 16))}, Z8), ("'a'", "hole")),
    Bad("negative-offset", file_bytes({"a": leaf(at=(-8, 0))}, Z8), ("'a'", "negative")),
    Bad("reversed", file_bytes({"a": leaf(at=(8, 0))}, Z8), ("'a'", "8 bytes", "-8")),
    Bad("shape-too-big", file_bytes({"a": leaf(shape=(3,))}, Z8), ("'a'", "12 bytes", "has 8")),
    Bad("shape-too-small", file_bytes({"a": leaf(shape=(1,))}, Z8), ("'a'", "4 bytes", "has 8")),
    Bad("overflow", file_bytes({"a": leaf(shape=(2**40, 2**40))}, Z8), ("'a'", "overflow")),
    Bad("negative-dim", file_bytes({"a": leaf(shape=(-2,))}, Z8), ("'a'", "negative")),
    Bad("float-offset", file_bytes({"a": leaf(at=(0.0, 8.0))}, Z8), ("'a'", "not an integer")),
    Bad("huge-zero-size", file_bytes({"a": leaf(shape=(2**63 - 1, 0), at=(0, 0))}), ("'a'", "no array can have")),
    Bad("65-dims", file_bytes({"a": leaf(shape=(0,) * 65, at=(0, 0))}), ("'a'", "no array can have")),
    Bad("key-twice-last-wins", file_bytes(TWICE_LAST, Z8), ("'a'", "twice")),
    Bad("key-twice", file_bytes(TWICE_BOTH, Z8), ("invalid offset",)),
    Bad("note-twice", file_bytes(b'{"__metadata__":{"x":"1","x":"2"}}'), ("'x'", "twice")),
    Bad("note-number", file_bytes({"__metadata__": {"x": 1}, "a": leaf()}, Z8), ("__metadata__", "text")),
    Bad("note-object", file_bytes({"__metadata__": {"x": {}}, "a": leaf()}, Z8), ("__metadata__", "text")),
    Bad("notes-text", file_bytes({"__metadata__": "x", "a": leaf()}, Z8), ("__metadata__", "text")),
    Bad("no-shape", file_bytes({"a": {"dtype": "F32"}}, Z8), ("'a'", "lacks")),
    Bad("dtype-i4", file_bytes({"a": leaf("I4", (16,))}, Z8), ("'a'", "I4", "BF16")),
    Bad("dtype-unknown", file_bytes({"a": leaf("Q9")}, Z8), ("'a'", "Q9", "BF16")),
    Bad("dtype-f4", file_bytes({"a": leaf("F4", (16,))}, Z8), ("'a'", "F4", "not read")),
    Bad("dtype-f6", file_bytes({"a": leaf("F6_E2M3", (4,), (0, 3))}, bytes(3)), ("'a'", "F6_E2M3", "not read")),
    Bad("ansi-name", file_bytes({"\x1b[31m\n": leaf(shape=(3,))}, Z8), (r"\x1b[31m\n", "12 bytes")),
    Bad("our-record", ours("{", a=leaf()), ("wspace", "JSON")),
    Bad("our-packing", ours(PACKED_9, a=leaf("U8", (8,))), ("'a'", "int4[9]", "8 bytes")),
    Bad("our-packing-negative", ours(PACKED_9.replace("9", "-1"), a=leaf("U8", (8,))), ("'a'", "int4[-1]")),
    Bad("our-packing-unknown", ours(PACKED_9.replace("int4", "int3"), a=leaf("U8", (8,))), ("'a'", "packed")),
    Bad("our-structure", ours('{"tree":{"tree":{"dict":[["x","b"]]},"tied":[]}}', a=leaf()), ("not there", "b")),
    Bad("our-structure-odd", ours('{"tree":{"tree":{"x":3},"tied":[]}}', a=leaf()), ("structure is damaged",)),
    Bad("our-structure-deep", ours('{"tree":' * 100_000 + "{}" + "}" * 100_000, a=leaf()), ("deep",)),
)  # fmt: skip
