"""Blocks on the dynamic map by looking for the nearest number in the whole of it; Adam as in the paper."""

from __future__ import annotations

from typing import Any

import numpy as np
from wspace_kernels.quantize_blockwise import Moments


def dynamic_map(signed: bool) -> Any:
    """Each decade's equal parts, by their middles."""
    found = [0.0, 1.0]
    for i in range(7):
        edges = np.linspace(0.1, 1, 2 ** (i + 1 - signed) + 1)
        middles = 10.0 ** (i - 6) * (edges[:-1] + edges[1:]) / 2
        found += [*middles, *(-middles if signed else ())]
    return np.sort(found)


def _codes(blocks: Any, signed: bool) -> tuple[Any, Any]:
    blocks = blocks.astype(np.float32).astype(np.float64)
    table = dynamic_map(signed)
    most = np.abs(blocks).max(axis=1, keepdims=True)
    share = blocks / np.where(most == 0, 1, most)
    return np.abs(share[..., None] - table).argmin(axis=-1).astype(np.uint8), most


def quantize_blockwise(x: Any, block: int = 256, signed: bool = True) -> tuple[Any, Any]:
    flat = np.asarray(x, np.float64).reshape(-1)
    return _codes(np.pad(flat, (0, -len(flat) % block)).reshape(-1, block), signed)


def adam_8bit(param: Any, grad: Any, moments: Any, step: Any, rate: Any, decay: Any) -> tuple[Any, Any]:
    b1, b2, eps, t = 0.9, 0.999, 1e-8, int(step)
    moments = Moments(*map(np.asarray, moments))
    shape = moments.first.shape
    p, g = (np.asarray(x, np.float64).reshape(shape) for x in (param, grad))
    m = b1 * dynamic_map(True)[moments.first] * moments.first_most + (1 - b1) * g
    v = b2 * dynamic_map(False)[moments.second] * moments.second_most + (1 - b2) * g**2
    towards = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps) + float(decay) * p
    return (p - float(rate) * towards).reshape(param.shape), Moments(*_codes(m, True), *_codes(v, False))
