"""Digits, counted one by one."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np


def radix_count(x: Any, prefix: Any = 0, shift: int = 24, rows: bool = False) -> Any:
    x = np.asarray(x)
    table = x.reshape(-1, x.shape[-1]) if rows else x.reshape(1, -1)
    above = np.broadcast_to(np.asarray(prefix), x.shape[:-1] if rows else (1,)).reshape(-1)
    counts = np.zeros((len(table), 256), np.uint32)
    for row, over, c in zip(table, above, counts, strict=True):
        for entry in row:
            if x.dtype == np.uint32:
                (word,) = (int(entry),)
            else:
                (word,) = struct.unpack("<I", struct.pack("<f", abs(float(entry))))
            if word >> (shift + 8) == over:
                c[(word >> shift) % 256] += 1
    return counts.reshape(*x.shape[:-1], 256) if rows else counts[0]
