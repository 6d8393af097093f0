"""Deleted, a folder of another tool could be read with nibbles, zeros or groups in the wrong places, and still load.

The arrays are made here code by code from the formats' descriptions, and wspace's reading of them is compared with the
weights that they were made to stand for.
"""

from __future__ import annotations

import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from wspace.core.errors import FormatError, ShapeError
from wspace.quant import QTensor, layouts
from wspace.quant.formats import named

RNG = np.random.default_rng(0)


def shift_in(words: list[int], at: int, code: int) -> None:
    """Put a code's bits at a place of a list of 32-bit words; a code may cross a border."""
    for k in range(at, at + 8):
        if code >> (k - at) & 1:
            words[k // 32] |= 1 << k % 32


def packed(codes: np.ndarray, bits: int) -> np.ndarray:
    """Rows of unsigned codes as rows of int32 words, one code after another."""
    rows = []
    for row in codes.tolist():
        words = [0] * -(-len(row) * bits // 32)
        for k, code in enumerate(row):
            shift_in(words, k * bits, code)
        rows.append([w - 2**32 if w >= 2**31 else w for w in words])
    return np.array(rows, np.int32)


def module(bits: int, group: int, inputs: int = 96, outputs: int = 32) -> dict[str, np.ndarray]:
    """Unsigned codes [out, in], float16 scales and zeros [out, in/group]: a module before it is laid out."""
    shape = (outputs, inputs // group)
    return {
        "codes": RNG.integers(0, 2**bits, (outputs, inputs)),
        "scale": (0.01 + RNG.random(shape) / 50).astype(np.float16),
        "zero": RNG.integers(1, 2**bits, shape),
    }


def weight_of(m: dict[str, np.ndarray], group_of: np.ndarray) -> np.ndarray:
    """[out, in], weight by weight."""
    out = np.zeros(m["codes"].shape)
    for o, i in np.ndindex(out.shape):
        out[o, i] = float(m["scale"][o, group_of[i]]) * (int(m["codes"][o, i]) - int(m["zero"][o, group_of[i]]))
    return out.astype(np.float16)


def gptq_arrays(m: dict[str, np.ndarray], bits: int, group_of: np.ndarray, version: int) -> dict[str, np.ndarray]:
    return {
        "qweight": packed(m["codes"], bits).T,
        "qzeros": packed(m["zero"].T - (version == 1), bits),
        "scales": m["scale"].T,
        "g_idx": group_of.astype(np.int32),
    }


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("bits", "group"), [(2, 32), (3, 96), (4, 32), (8, 48)])
def test_gptq(bits: int, group: int, version: int) -> None:
    m, group_of = module(bits, group), np.arange(96) // group
    arrays = gptq_arrays(m, bits, group_of, version)
    q = layouts.gptq.read(arrays, bits, version)
    assert isinstance(q, QTensor) and q.dtype == jnp.float16 and q.bits == bits and q.group == group
    np.testing.assert_array_equal(q.materialize(), weight_of(m, group_of))
    back = layouts.gptq.write(q, version)
    assert all(np.array_equal(back[n], x) and back[n].dtype == x.dtype for n, x in arrays.items())


def test_gptq_of_any_order_of_inputs() -> None:
    """desc_act without static groups: a group is of inputs that were quantized one after another."""
    m, group_of = module(4, 24), RNG.permutation(np.arange(96) // 24)
    arrays = gptq_arrays(m, 4, group_of, 1)
    q = layouts.gptq.read(arrays, 4)
    np.testing.assert_array_equal(q.materialize(), weight_of(m, group_of))
    back = layouts.gptq.write(q)
    assert all(np.array_equal(back[n], x) for n, x in arrays.items())
    with pytest.raises(FormatError, match="AWQ has no g_idx"):
        layouts.awq.write(q)


def test_gptq_symmetric_and_its_limits() -> None:
    m = module(4, 32)
    m["zero"][:] = 8
    q = layouts.gptq.read(gptq_arrays(m, 4, np.arange(96) // 32, 1), 4)
    assert q.format == "int4" and q.zero is None
    m["zero"][:] = 0  # version 1 can't say it
    v2 = layouts.gptq.read(gptq_arrays(m, 4, np.arange(96) // 32, 2), 4, version=2)
    with pytest.raises(FormatError, match="a zero of 0; use version=2"):
        layouts.gptq.write(v2)
    m["zero"][:] = 15  # 15 is stored: version 1 would say 16
    with pytest.raises(FormatError, match="a zero of 16 is no code of 4 bits"):
        layouts.gptq.read(gptq_arrays(m, 4, np.arange(96) // 32, 2), 4, version=1)
    with pytest.raises(FormatError, match="wanted"):
        layouts.gptq.read(gptq_arrays(m, 4, np.arange(96) // 32, 2), 8)
    with pytest.raises(FormatError, match="holds integer codes, not nf4"):
        layouts.gptq.write(ws.quant.rtn(grid="nf4")({"a.weight": jnp.ones((32, 32))})["a.weight"])


def test_awq_keeps_eight_outputs_in_its_own_order() -> None:
    m, group_of = module(4, 32), np.arange(96) // 32
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def words(codes: np.ndarray) -> np.ndarray:
        """[rows, out] codes: nibble k of a word is output 8 j + order[k]."""
        moved = np.zeros_like(codes)
        for j, k in np.ndindex(codes.shape[1] // 8, 8):
            moved[:, 8 * j + k] = codes[:, 8 * j + order[k]]
        return packed(moved, 4)

    arrays = {"qweight": words(m["codes"].T), "qzeros": words(m["zero"].T), "scales": m["scale"].T}
    q = layouts.awq.read(arrays)
    np.testing.assert_array_equal(q.materialize(), weight_of(m, group_of))
    back = layouts.awq.write(q)
    assert all(np.array_equal(back[n], x) for n, x in arrays.items())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 96), (8, 48), (3, 24)])
def test_compressed_tensors(bits: int, group: int, symmetric: bool) -> None:
    m, group_of = module(bits, group), np.arange(96) // group
    if symmetric:
        m["zero"][:] = 2 ** (bits - 1)
    scale = m["scale"].astype(jnp.bfloat16)
    arrays = {
        "weight_packed": packed(m["codes"], bits),
        "weight_shape": np.array([32, 96]),
        "weight_scale": scale,
    }
    if not symmetric:
        arrays["weight_zero_point"] = packed(m["zero"].T, bits).T
    q = layouts.compressed_tensors.read(arrays, bits, symmetric)
    assert q.dtype == jnp.bfloat16 and (q.zero is None) == symmetric
    want = weight_of({**m, "scale": scale.astype(np.float32)}, group_of)
    np.testing.assert_allclose(q.materialize().astype(np.float32), want.astype(np.float32), rtol=2**-8)
    back = layouts.compressed_tensors.write(q)
    assert back.keys() == arrays.keys() and all(np.array_equal(back[n], x) for n, x in arrays.items())
    with pytest.raises(FormatError, match="weight_packed has shape"):
        layouts.compressed_tensors.read(arrays, 5 if bits != 5 else 4, symmetric)


def nf4_blocks(shape: tuple[int, int], nested: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """bitsandbytes' arrays of a weight of this shape, and the weight."""
    count = shape[0] * shape[1]
    codes, table = RNG.integers(0, 16, count), np.array(named("nf4").levels, np.float32)
    blocks = -(-count // 64)
    state: dict[str, Any] = {"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": list(shape)}
    if nested:
        map_, top = np.sort(RNG.standard_normal(256)).astype(np.float32), RNG.random(-(-blocks // 256)).astype("f4")
        held = RNG.integers(0, 256, blocks).astype(np.uint8)
        absmax = [float(map_[c]) * float(top[k // 256]) + 0.25 for k, c in enumerate(held)]
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.25}
        parts = {"absmax": held, "nested_absmax": top, "nested_quant_map": map_}
    else:
        absmax = RNG.random(blocks).astype(np.float32)
        parts = {"absmax": absmax}
    w = [table[c] * np.float32(absmax[k // 64]) for k, c in enumerate(codes)]
    even = [*codes.tolist(), 0]
    parts |= {
        "weight": np.array([[16 * even[k] + even[k + 1]] for k in range(0, count, 2)], np.uint8),
        "quant_map": table,
        "quant_state.bitsandbytes__nf4": np.frombuffer(json.dumps(state).encode(), np.uint8),
    }
    return parts, np.array(w).astype(np.float16).reshape(shape)


@pytest.mark.parametrize("nested", [False, True])
def test_bitsandbytes_blocks_inside_rows_are_groups_of_inputs(nested: bool) -> None:
    parts, w = nf4_blocks((200, 128), nested)
    q = layouts.bitsandbytes.read(parts)
    assert isinstance(q, QTensor) and q.format == "nf4" and q.group == 64
    np.testing.assert_allclose(q.materialize(), w, rtol=2e-3, atol=1e-4)
    back = layouts.bitsandbytes.write(q)
    np.testing.assert_array_equal(back["weight"], parts["weight"])
    if not nested:
        np.testing.assert_array_equal(back["absmax"], parts["absmax"])


def test_bitsandbytes_blocks_over_the_ends_of_rows_are_read_as_an_array() -> None:
    parts, w = nf4_blocks((7, 33), nested=False)
    got = layouts.bitsandbytes.read(parts)
    assert isinstance(got, np.ndarray) and got.dtype == np.float16
    np.testing.assert_allclose(got, w, rtol=2e-3, atol=1e-4)


def test_bitsandbytes_double_quantization_costs_little() -> None:
    w = RNG.standard_normal((64, 256)).astype(np.float32)
    q = ws.quant.rtn(grid="nf4", group=64)({"a.weight": w})["a.weight"]
    back = layouts.bitsandbytes.read(layouts.bitsandbytes.write(q, double=True))
    assert isinstance(back, QTensor)
    np.testing.assert_array_equal(back.codes, q.codes)
    np.testing.assert_allclose(back.scale, q.scale, rtol=0.02)
    with pytest.raises(FormatError, match="use grid='nf4'"):
        layouts.bitsandbytes.write(ws.quant.rtn(4, group=64)({"a.weight": w})["a.weight"])


def repeated(part: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A scale along each axis as often as its tiles are long."""
    for axis, n in enumerate(shape):
        part = np.repeat(part, n // part.shape[axis], axis)
    return part


@pytest.mark.parametrize("kind", ["int8", "int4", "nf4", "float8_e4m3fn", "asymmetric"])
@pytest.mark.parametrize(
    ("path", "shape", "tiles"),
    [
        ("dense/kernel", (64, 6), (2, 6)),
        ("dense/weight", (6, 64), (6, 1)),
        ("query/kernel", (3, 16, 4, 8), (3, 2, 4, 8)),
        ("out/kernel", (4, 8, 10), (4, 1, 10)),
        ("out/kernel", (4, 8, 10), (1, 1, 1)),
    ],
)
def test_qwix(path: str, shape: tuple[int, ...], tiles: tuple[int, ...], kind: str) -> None:
    dtype = jnp.dtype({"nf4": "uint4", "asymmetric": "int8"}.get(kind, kind))
    raw = RNG.integers(-8, 8, shape) % 16 if kind == "nf4" else RNG.integers(-8, 8, shape)
    fields = {"qvalue": jnp.asarray(raw).astype(dtype), "scale": jnp.asarray(RNG.random(tiles), jnp.float32)}
    fields |= {"zero_point": None, "qtype": "nf4" if kind == "nf4" else dtype}
    numbers = np.array(named("nf4").levels)[raw] if kind == "nf4" else raw.astype(np.float64)
    if kind == "asymmetric":
        fields["zero_point"] = jnp.asarray(RNG.integers(-8, 8, tiles), jnp.int8)
        numbers = numbers - repeated(np.asarray(fields["zero_point"], np.float64), shape)
    q = layouts.qwix.read(fields, path)
    np.testing.assert_allclose(q.materialize(), numbers * repeated(np.asarray(fields["scale"]), shape), rtol=1e-6)
    back = layouts.qwix.write(q)
    for name in ("qvalue", "scale", "zero_point"):
        if fields[name] is None:
            assert back[name] is None
        elif name == "qvalue" or back[name].shape == fields[name].shape:
            assert back[name].dtype == fields[name].dtype
            np.testing.assert_array_equal(back[name].astype(jnp.float32), fields[name].astype(jnp.float32))


def test_qwix_tiles_that_are_no_groups() -> None:
    fields = {"qvalue": jnp.zeros((4, 8, 10), jnp.int8), "scale": jnp.ones((1, 2, 10))}
    with pytest.raises(FormatError, match="no groups of consecutive inputs"):
        layouts.qwix.read(fields, "out/kernel")
    with pytest.raises(FormatError, match="'uint16'"):
        layouts.qwix.read({"qvalue": jnp.zeros((4, 8), jnp.uint16), "scale": jnp.ones((1, 8))})
    with pytest.raises(ShapeError, match="is no matrix"):
        layouts.qwix.read({"qvalue": jnp.zeros(4, jnp.int8), "scale": jnp.ones(1)}, "bias")
