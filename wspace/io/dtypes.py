"""What a leaf is on disk: its shape, its dtype, and the little-endian C-order bytes that stand for it.

Codes narrower than a byte, and kinds that safetensors has no word for, are stored as plain bytes beside a record of
what they were. Both formats and the digests go through the same functions: a leaf has one digest wherever it lies.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from wspace.core.errors import FormatError, ShapeError, nearest, printable

CHUNK = 1 << 20  # bytes hashed, compared or written at a time: they stay in the cache


class Spec(NamedTuple):
    """Shape and dtype of a leaf, known without its values.

    >>> Spec((2, 3), np.dtype("float32")).nbytes
    24
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes the values take in a file: packed, where a code is narrower than a byte."""
        return -(-math.prod(self.shape) * BITS.get(self.dtype.name, 8 * self.dtype.itemsize) // 8)

    def __str__(self) -> str:
        return f"{self.dtype.name}[{','.join(map(str, self.shape))}]"


def _named(**words: Any) -> dict[str, np.dtype[Any]]:
    return {word: np.dtype(kind) for word, kind in words.items()}


# safetensors' word -> dtype
DTYPES: Mapping[str, np.dtype[Any]] = _named(
    BOOL=np.bool_, U8=np.uint8, I8=np.int8, U16=np.uint16, I16=np.int16, U32=np.uint32, I32=np.int32,
    U64=np.uint64, I64=np.int64, F16=np.float16, BF16=ml_dtypes.bfloat16, F32=np.float32, F64=np.float64,
    C64=np.complex64, F8_E4M3=ml_dtypes.float8_e4m3fn, F8_E5M2=ml_dtypes.float8_e5m2,
    F8_E8M0=ml_dtypes.float8_e8m0fnu, F8_E4M3FNUZ=ml_dtypes.float8_e4m3fnuz, F8_E5M2FNUZ=ml_dtypes.float8_e5m2fnuz,
)  # fmt: skip
WORDS: Mapping[str, str] = {dtype.name: word for word, dtype in DTYPES.items()}

# Stored as bytes, with the dtype on record: name -> (dtype, bits a value takes)
AS_BYTES: Mapping[str, tuple[np.dtype[Any], int]] = {
    np.dtype(kind).name: (np.dtype(kind), bits)
    for kind, bits in (
        (ml_dtypes.int4, 4), (ml_dtypes.uint4, 4), (ml_dtypes.int2, 2), (ml_dtypes.uint2, 2),
        (ml_dtypes.float4_e2m1fn, 4), (ml_dtypes.float6_e2m3fn, 8), (ml_dtypes.float6_e3m2fn, 8),
        (ml_dtypes.float8_e3m4, 8), (ml_dtypes.float8_e4m3, 8), (ml_dtypes.float8_e4m3b11fnuz, 8), (np.complex128, 128),
    )
}  # fmt: skip
BITS = {name: bits for name, (_, bits) in AS_BYTES.items()}
PACKED = frozenset(name for name, bits in BITS.items() if bits < 8)
BYTE = np.dtype(np.uint8)


def dtype_named(name: str) -> np.dtype[Any]:
    """The dtype with this NumPy name, such as 'bfloat16' or 'int4'."""
    known = {dtype.name: dtype for dtype in DTYPES.values()} | {n: dtype for n, (dtype, _) in AS_BYTES.items()}
    if name not in known:
        raise FormatError(f"unknown dtype '{printable(name)}'.{nearest(name, known)}")
    return known[name]


def spec_of(name: str, leaf: Any) -> Spec:
    """Shape and dtype of an array, of anything that has both, or of a (shape, dtype) pair; errors name the leaf.

    >>> spec_of("w", np.zeros((2, 3), np.float32))
    Spec(shape=(2, 3), dtype=dtype('float32'))
    >>> spec_of("lr", 0.1)
    Traceback (most recent call last):
        ...
    wspace.core.errors.FormatError: leaf 'lr' is a float, not an array; wrap it in numpy.asarray or leave it out
    """
    shown = printable(name)
    shape, dtype = leaf if isinstance(leaf, tuple) and len(leaf) == 2 else (_get(leaf, "shape"), _get(leaf, "dtype"))
    if shape is None or dtype is None:
        word = type(leaf).__name__
        raise FormatError(f"leaf '{shown}' is a {word}, not an array; wrap it in numpy.asarray or leave it out")
    if str(dtype).startswith("key<"):
        raise FormatError(f"leaf '{shown}' is a PRNG key ({dtype}); store jax.random.key_data of it, or leave it out")
    try:
        kind = np.dtype(dtype)
        sizes = tuple(int(n) for n in shape)
    except TypeError:
        raise FormatError(f"leaf '{shown}' has shape {shape!r} and dtype {dtype!r}: not an array's") from None
    if kind.name not in WORDS and kind.name not in AS_BYTES:
        raise FormatError(f"leaf '{shown}' has dtype {kind}, which cannot be stored; cast it or leave it out")
    if any(n < 0 for n in sizes):
        raise FormatError(f"leaf '{shown}' has a negative dimension: {sizes}")
    return Spec(sizes, dtype_named(kind.name))


def _get(leaf: Any, field: str) -> Any:
    return None if isinstance(leaf, type) else getattr(leaf, field, None)


def array_of(name: str, leaf: Any, spec: Spec | None = None) -> np.ndarray[Any, Any]:
    """The leaf as a NumPy array, checked against its spec. A donated or deleted JAX array is named."""
    shown = printable(name)
    got = spec_of(name, leaf)
    if getattr(leaf, "is_deleted", bool)():
        raise FormatError(f"leaf '{shown}' {got} was donated or deleted before it was written; write it first")
    if not getattr(leaf, "is_fully_addressable", True):
        raise FormatError(f"leaf '{shown}' {got} lies on several hosts; gather it before writing")
    if spec is not None and got != spec:
        raise ShapeError(f"leaf '{shown}' is {got}, but {spec} was announced; nothing is cast or reshaped on writing")
    return np.asarray(leaf)


def stored(array: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The bytes of an array as they lie in a file: C order, little-endian, narrow codes packed, lowest bits first.

    >>> stored(np.array([1, -1, 7], ml_dtypes.int4)).tolist()
    [241, 7]
    """
    array = np.ascontiguousarray(array).reshape(-1)
    bits = BITS.get(array.dtype.name, 8)
    if bits < 8:
        return _pack(array.view(np.uint8), bits)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).view(np.uint8)


def restored(data: np.ndarray[Any, Any], spec: Spec) -> np.ndarray[Any, Any]:
    """The array that `stored` gave these bytes for; a view of them, except for packed codes."""
    bits = BITS.get(spec.dtype.name, 8)
    if bits < 8:
        data = _unpack(data, bits, math.prod(spec.shape))
        data.flags.writeable = False
    return data.view(spec.dtype.newbyteorder("<")).reshape(spec.shape)


def _pack(codes: np.ndarray[Any, Any], bits: int) -> np.ndarray[Any, Any]:
    per = 8 // bits
    out = np.zeros(-(-codes.size // per), np.uint8)
    for lane in range(per):
        part = codes[lane::per] & np.uint8(2**bits - 1)
        out[: part.size] |= part << np.uint8(bits * lane)
    return out


def _unpack(data: np.ndarray[Any, Any], bits: int, size: int) -> np.ndarray[Any, Any]:
    per = 8 // bits
    out = np.empty((data.size, per), np.uint8)
    for lane in range(per):
        out[:, lane] = (data >> np.uint8(bits * lane)) & np.uint8(2**bits - 1)
    return out.reshape(-1)[:size]


def chunks(data: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    """Pieces of at most CHUNK bytes."""
    return (data[start : start + CHUNK] for start in range(0, data.size, CHUNK))


def sha256(data: np.ndarray[Any, Any]) -> str:
    """Hex digest of bytes that may lie in a file, read a piece at a time."""
    digest = hashlib.sha256()
    for piece in chunks(data):
        digest.update(piece.data)
    return digest.hexdigest()
