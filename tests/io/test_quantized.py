"""Deleted, folders that other tools quantized could be read with another module's settings, or written so that only we
read them.

The folders are written by safetensors itself with a config as those tools write it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import wspace as ws
from tests.quant.test_layouts import gptq_arrays, module, nf4_blocks, packed, weight_of
from wspace.core.errors import FormatError
from wspace.quant import QTensor
from wspace.quant.layouts import Reordered

RNG = np.random.default_rng(0)
NORM = RNG.standard_normal(32).astype(np.float16)
THIRDS = np.arange(96) // 32


def folder(path: Path, arrays: dict[str, np.ndarray], config: dict[str, Any], file: str = "config.json") -> Path:
    path.mkdir()
    save_file({n: np.ascontiguousarray(x) for n, x in arrays.items()}, path / "model.safetensors")
    (path / file).write_text(json.dumps({"quantization_config": config} if file == "config.json" else config))
    return path


def under(prefix: str, parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}.{name}": part for name, part in parts.items()}


@pytest.mark.parametrize("old", [False, True])
def test_a_gptq_folder(tmp_path: Path, old: bool) -> None:
    a, b = module(4, 32), module(4, 32)
    mixed = RNG.permutation(THIRDS)
    arrays = under("layers.0.up", gptq_arrays(a, 4, THIRDS, 1)) | under("layers.1.up", gptq_arrays(b, 4, mixed, 1))
    arrays |= {"layers.0.up.bias": NORM, "norm.weight": NORM}
    config = {"bits": 4, "group_size": 32, "desc_act": True, "sym": False}
    path = (
        folder(tmp_path / "q", arrays, config, "quantize_config.json")
        if old
        else folder(tmp_path / "q", arrays, config | {"quant_method": "gptq", "checkpoint_format": "gptq"})
    )
    got = ws.io.load(path)
    assert sorted(got) == ["layers.0.up.bias", "layers.0.up.weight", "layers.1.up.weight", "norm.weight"]
    assert isinstance(got["layers.0.up.weight"], QTensor) and isinstance(got["layers.1.up.weight"], Reordered)
    dense = ws.materialize(got)
    np.testing.assert_array_equal(dense["layers.0.up.weight"], weight_of(a, THIRDS))
    np.testing.assert_array_equal(dense["layers.1.up.weight"], weight_of(b, mixed))
    np.testing.assert_array_equal(dense["norm.weight"], NORM)

    ws.io.save(tmp_path / "ours", got)  # groups of any inputs are a node of their own, in our folders too
    again = ws.io.load(tmp_path / "ours")
    assert isinstance(again["layers.1.up.weight"], Reordered)
    np.testing.assert_array_equal(again["layers.1.up.weight"].materialize(), weight_of(b, mixed))

    ws.io.write_quantized(tmp_path / "back", got, "gptq", like=path)
    made = load_file(tmp_path / "back/model.safetensors")
    assert made.keys() == arrays.keys() and all(np.array_equal(made[n], x) for n, x in arrays.items())
    said = json.loads((tmp_path / "back/config.json").read_text())["quantization_config"]
    assert said == {
        "quant_method": "gptq", "checkpoint_format": "gptq", "bits": 4, "sym": False, "group_size": 32,
        "desc_act": True,
    }  # fmt: skip


def test_a_compressed_tensors_folder_of_two_groups(tmp_path: Path) -> None:
    a, b = module(4, 32), module(8, 96)
    b["zero"][:] = 128
    arrays = under("m.a", {
        "weight_packed": packed(a["codes"], 4), "weight_scale": a["scale"], "weight_shape": np.array([32, 96]),
        "weight_zero_point": packed(a["zero"].T, 4).T,
    }) | under("m.b", {
        "weight_packed": packed(b["codes"], 8), "weight_scale": b["scale"], "weight_shape": np.array([32, 96]),
    })  # fmt: skip
    four = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 32}
    eight = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    config: dict[str, Any] = {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {"targets": ["re:.*a$"], "weights": four}, "group_1": {"targets": ["Linear"], "weights": eight}
        },
    }  # fmt: skip
    path = folder(tmp_path / "q", arrays | {"norm.weight": NORM}, config)
    got = ws.io.load(path)
    assert {n: x.format for n, x in got.items() if isinstance(x, QTensor)} == {
        "m.a.weight": "int4_asymmetric", "m.b.weight": "int8",
    }  # fmt: skip
    np.testing.assert_array_equal(got["m.a.weight"].materialize(), weight_of(a, THIRDS))
    np.testing.assert_array_equal(got["m.b.weight"].materialize(), weight_of(b, np.zeros(96, int)))

    ws.io.write_quantized(tmp_path / "back", got, "compressed-tensors")
    made = load_file(tmp_path / "back/model.safetensors")
    assert all(np.array_equal(made[n], x) and made[n].dtype == x.dtype for n, x in arrays.items())
    groups = json.loads((tmp_path / "back/config.json").read_text())["quantization_config"]["config_groups"]
    assert [g["targets"] for g in groups.values()] == [["m.a"], ["m.b"]]
    for group, said in (("group_0", four), ("group_1", eight)):
        assert groups[group]["weights"].items() >= said.items()
    np.testing.assert_array_equal(ws.io.load(tmp_path / "back")["m.a.weight"].codes, got["m.a.weight"].codes)


def test_awq_and_bitsandbytes_folders_round_trip(tmp_path: Path) -> None:
    m = module(4, 32)
    nibbles = np.array([0, 4, 1, 5, 2, 6, 3, 7])  # where output k of eight lies: the inverse of 0 2 4 6 1 3 5 7
    moved = np.zeros_like(m["codes"].T), np.zeros_like(m["zero"].T)
    for to, codes in zip(moved, (m["codes"].T, m["zero"].T), strict=True):
        for o in range(32):
            to[:, o // 8 * 8 + nibbles[o % 8]] = codes[:, o]
    arrays = under("up", {"qweight": packed(moved[0], 4), "qzeros": packed(moved[1], 4), "scales": m["scale"].T})
    config = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
    got = ws.io.load(folder(tmp_path / "awq", arrays, config))
    np.testing.assert_array_equal(got["up.weight"].materialize(), weight_of(m, THIRDS))
    ws.io.write_quantized(tmp_path / "awq-back", got, "awq")
    made = load_file(tmp_path / "awq-back/model.safetensors")
    assert all(np.array_equal(made[n], x) for n, x in arrays.items())
    assert json.loads((tmp_path / "awq-back/config.json").read_text())["quantization_config"] == config

    parts, w = nf4_blocks((40, 128), nested=False)
    odd, straddling = nf4_blocks((3, 33), nested=False)
    blocks = {name if name == "weight" else f"weight.{name}": x for name, x in parts.items()}
    blocks_odd = {name if name == "weight" else f"weight.{name}": x for name, x in odd.items()}
    both = under("up", blocks) | under("odd", blocks_odd)
    got = ws.io.load(folder(tmp_path / "bnb", both, {"quant_method": "bitsandbytes", "load_in_4bit": True}))
    np.testing.assert_allclose(got["up.weight"].materialize(), w, rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(got["odd.weight"], straddling, rtol=2e-3, atol=1e-4)
    ws.io.write_quantized(tmp_path / "bnb-back", {"up": {"weight": got["up.weight"]}}, "bitsandbytes")
    back = ws.io.load(tmp_path / "bnb-back")["up.weight"]
    np.testing.assert_array_equal(back.materialize(), got["up.weight"].materialize())


def test_what_cannot_be_is_named(tmp_path: Path) -> None:
    arrays = under("up", gptq_arrays(module(4, 32), 4, THIRDS, 1))
    with pytest.raises(FormatError, match=r"up: bits is '4' in its quantization_config"):
        ws.io.load(folder(tmp_path / "a", arrays, {"quant_method": "gptq", "bits": "4"}))
    with pytest.raises(FormatError, match=r"up: .* is its number of bits another"):
        ws.io.load(folder(tmp_path / "b", arrays, {"quant_method": "gptq", "bits": 8}))
    with pytest.raises(FormatError, match=r"has arrays called \.\.\.\.weight_packed"):
        ws.io.load(folder(tmp_path / "c", arrays, {"quant_method": "compressed-tensors"}))
    plain = ws.io.load(folder(tmp_path / "d", arrays, {"quant_method": "some-other"}))
    assert plain.keys() == arrays.keys()
    w = jnp.ones((64, 32))
    mixed = {"a.weight": ws.quant.rtn(4)({"weight": w})["weight"], "b.weight": ws.quant.rtn(8)({"weight": w})["weight"]}
    with pytest.raises(FormatError, match=r"GPTQ has one bits for all modules, not \[4, 8\]"):
        ws.io.write_quantized(tmp_path / "e", mixed, "gptq")
    with pytest.raises(FormatError, match=r"'awg'\. Did you mean 'awq'"):
        ws.io.write_quantized(tmp_path / "e", mixed, "awg")
    with pytest.raises(FormatError, match=r"weights called MODULE\.weight, not kernel"):
        ws.io.write_quantized(tmp_path / "e", {"kernel": mixed["a.weight"]}, "gptq")
    with pytest.raises(FormatError, match="no leaf of the 1 is quantized"):
        ws.io.write_quantized(tmp_path / "e", {"a.weight": w}, "gptq")
    assert not (tmp_path / "e").exists()
