"""bitsandbytes' 4-bit layout (QLoRA folders): blocks of the flattened weight, on NF4 or FP4.

A module's `weight` is uint8 [n/2, 1], two codes a byte, the first in the high half, over the weight [out, in] read row
by row; beside it `weight.absmax`, one number a block of 64, `weight.quant_map` float32 [16], and a JSON record as
bytes, `weight.quant_state.bitsandbytes__nf4` (blocksize, dtype, shape). Double quantization: absmax is uint8,

    absmax = nested_quant_map[code] nested_absmax + nested_offset,   blocks of 256

Where the block size divides the inputs, blocks lie inside rows: a QTensor with groups of inputs. Else blocks run over
the ends of rows, which no groups of a matrix do: such a weight is read as the array that it stands for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from wspace.core.axes import MatrixView
from wspace.core.errors import FormatError, ShapeError
from wspace.quant.formats import named
from wspace.quant.layouts.matrix import Numbers, wanted
from wspace.quant.levels import Levels
from wspace.quant.qtensor import QTensor

STATE = "quant_state.bitsandbytes__"
PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", f"{STATE}nf4", f"{STATE}fp4")
NESTED = 256  # absmaxes in a block of their own


def read(parts: Mapping[str, Numbers], name: str = "a 4-bit module") -> QTensor | Numbers:
    """The weight of a module: `parts` has "weight" and what lies beside it, without the "weight." in front.

    Returns:
      QTensor of a torch weight [out, in], or its array where blocks run over the ends of rows.
    Raises:
      FormatError: missing arrays, a damaged record, sizes that don't fit each other.
    """
    record = next((key for key in parts if key.startswith(STATE)), None)
    if record is None:
        raise FormatError(f"{name}: there is no {STATE}... beside its weight, so its shape is not known")
    try:
        state = json.loads(parts[record].tobytes().decode())
        block, shape, dtype = int(state["blocksize"]), tuple(map(int, state["shape"])), jnp.dtype(state["dtype"])
    except (ValueError, KeyError, TypeError) as problem:
        raise FormatError(f"{name}: its {record} is damaged: {problem}") from problem
    count, table = math.prod(shape), parts.get("quant_map", np.zeros(0))
    blocks = -(-count // block)
    packed = parts["weight"].reshape(-1)
    if packed.size != -(-count // 2) or table.shape != (16,) or parts["absmax"].shape != (blocks,):
        raise FormatError(
            f"{name}: {packed.size} bytes, {parts['absmax'].shape} blocks and a table {table.shape} are no {shape}"
        )
    flat = np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)[:count]
    absmax = _absmax(parts, state, name)
    levels = np.unique(table.astype(np.float32))
    codes = np.searchsorted(levels, table.astype(np.float32))[flat].astype(np.uint8)
    grid = "nf4" if _is(levels, "nf4") else "levels:" + ",".join(repr(float(x)) for x in levels)
    if len(shape) != 2 or shape[1] % block:
        return (levels[codes] * np.repeat(absmax, block)[:count]).astype(dtype).reshape(shape)
    scale = jnp.asarray(absmax.reshape(shape[0], -1).T)
    return QTensor(
        jnp.asarray(codes.reshape(shape).T), {"scale": scale},
        format=grid, view=MatrixView((1, 0), shape, 0, 1), weight_dtype=np.dtype(dtype),
    )  # fmt: skip


def _absmax(parts: Mapping[str, Numbers], state: Mapping[str, Any], name: str) -> Numbers:
    """One scale a block, float32."""
    codes = parts["absmax"]
    if codes.dtype != np.uint8:
        return codes.astype(np.float32)
    block = int(state.get("nested_blocksize", NESTED))
    wanted(dict(parts), {"nested_quant_map": (256,), "nested_absmax": (-(-codes.size // block),)}, name)
    scale = np.repeat(parts["nested_absmax"], block)[: codes.size]
    return (parts["nested_quant_map"][codes] * scale + np.float32(state["nested_offset"])).astype(np.float32)


def write(q: QTensor, double: bool = False) -> dict[str, Numbers]:
    """The arrays of one module, "weight" among them. double: scales are quantized to 8 bits, which changes them.

    Raises:
      FormatError: a grid of other than 16 levels up to 1. ShapeError: scales that are not of groups of inputs.
    """
    grid = q.grid
    if not isinstance(grid, Levels) or len(grid.levels) > 16 or grid.top != 1.0 or set(q.scales) != {"scale"}:
        raise FormatError(
            f"bitsandbytes has up to 16 levels in [-1, 1] under one scale, not {q.format}; use grid='nf4'"
        )
    if q.codes.ndim != 2 or q.scale.shape[-1] != q.codes.shape[-1]:
        raise ShapeError(f"bitsandbytes has blocks of one output's inputs in one matrix, not scales {q.scale.shape}")
    flat = np.asarray(q.codes).T.reshape(-1)
    flat = np.pad(flat, (0, flat.size % 2))
    absmax = np.asarray(q.scale, np.float32).T.reshape(-1)
    kind = "nf4" if _is(np.array(grid.levels), "nf4") else "fp4"
    state: dict[str, Any] = {
        "quant_type": kind, "blocksize": q.group, "dtype": q.weight_dtype.name, "shape": list(q.codes.shape[::-1]),
    }  # fmt: skip
    table = np.zeros(16, np.float32)
    table[: len(grid.levels)] = grid.levels
    parts = {"weight": (flat[::2] << 4 | flat[1::2])[:, None], "absmax": absmax, "quant_map": table}
    if double:
        offset = np.float32(absmax.mean())
        parts |= _nested(absmax - offset)
        state |= {"nested_blocksize": NESTED, "nested_dtype": "float32", "nested_offset": float(offset)}
    return parts | {f"{STATE}{kind}": np.frombuffer(json.dumps(state).encode(), np.uint8)}


def _nested(absmax: Numbers) -> dict[str, Numbers]:
    """Scales less their mean, in blocks of 256, on the dynamic map."""
    size = -(-absmax.size // NESTED)
    blocks = np.pad(absmax, (0, size * NESTED - absmax.size)).reshape(size, NESTED)
    most = np.abs(blocks).max(axis=1).astype(np.float32)
    table = dynamic_map()
    steps = blocks / np.where(most == 0, 1, most)[:, None]
    codes = np.searchsorted((table[:-1] + table[1:]) / 2, steps).astype(np.uint8)
    return {"absmax": codes.reshape(-1)[: absmax.size], "nested_absmax": most, "nested_quant_map": table}


def dynamic_map() -> Numbers:
    """The 256 numbers of 8-bit dynamic quantization, rising: decades of 10^-6 to 1, each with twice as many as the one
    below, at the middles of equal parts of [0.1, 1]; both signs; 0 and 1.

    Dettmers, 2015, "8-Bit Approximations for Parallelism in Deep Learning".
    """
    found = [0.0, 1.0]
    for k in range(7):
        edges = np.linspace(0.1, 1, 2**k + 1, dtype=np.float32)
        middles = 10.0 ** (k - 6) * ((edges[:-1] + edges[1:]) / 2).astype(np.float64)
        found += [*middles, *-middles]
    return np.sort(np.array(found)).astype(np.float32)


def _is(levels: Numbers, name: str) -> bool:
    known = np.array(named(name).levels)  # type: ignore[attr-defined]
    return levels.shape == known.shape and bool(np.allclose(levels, known, atol=1e-6))
