"""Codes in words of 32 bits: one stream of bits along an axis, the lowest first, across the borders of words."""

from __future__ import annotations

from typing import Any

import numpy as np

Numbers = np.ndarray[Any, Any]


def to_words(codes: Numbers, bits: int, axis: int) -> Numbers:
    """Unsigned codes below 2^bits as int32 words: n codes along `axis` become ceil(n bits / 32) words.

    >>> to_words(np.arange(1, 9, dtype=np.uint8), 4, axis=0)
    array([-2023406815], dtype=int32)
    """
    rows = np.moveaxis(codes, axis, -1).astype(np.uint8)
    lanes = np.unpackbits(rows[..., None], axis=-1, count=bits, bitorder="little")
    stream = lanes.reshape(*rows.shape[:-1], -1)
    full = np.pad(stream, [(0, 0)] * (stream.ndim - 1) + [(0, -stream.shape[-1] % 32)])
    words = np.packbits(full, axis=-1, bitorder="little").view("<i4").astype(np.int32)
    return np.ascontiguousarray(np.moveaxis(words, -1, axis))


def from_words(words: Numbers, bits: int, count: int, axis: int) -> Numbers:
    """The inverse of `to_words`: `count` codes along `axis`, uint8.

    >>> from_words(np.array([-2023406815], np.int32), 4, 8, axis=0)
    array([1, 2, 3, 4, 5, 6, 7, 8], dtype=uint8)
    """
    rows = np.ascontiguousarray(np.moveaxis(words, axis, -1)).astype("<i4").view(np.uint8)
    stream = np.unpackbits(rows, axis=-1, bitorder="little")[..., : count * bits]
    lanes = stream.reshape(*stream.shape[:-1], count, bits)
    codes = np.packbits(lanes, axis=-1, bitorder="little")[..., 0]
    return np.ascontiguousarray(np.moveaxis(codes, -1, axis))


def words_of(count: int, bits: int) -> int:
    """How many words that many codes take.

    >>> words_of(96, 3), words_of(5, 8)
    (9, 2)
    """
    return -(-count * bits // 32)
