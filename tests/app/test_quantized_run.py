"""Deleted, a run could write a quantized model that nothing reads back, or count other bits than the file has."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import wspace as ws
from wspace.app.cli import main
from wspace.quant import QTensor

RNG = np.random.default_rng(0)
W = {f"layers.{k}.up.weight": RNG.standard_normal((96, 64)).astype(np.float32) for k in range(3)}
RECIPE = r"""
sources: {a: ./a}
models: [a]
steps:
  - quant.rtn: {bits: 3, group: 32, symmetric: false}
    where: 'layers\.0'
  - quant.rtn: {grid: nf4, group: 32}
    where: 'layers\.1'
  - quant.rtn: {bits: 6}
    where: 'layers\.2'
output: {formats: [safetensors, orbax]}
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("run")
    (here / "a").mkdir()
    save_file({**W, "norm.weight": np.ones(64, np.float32)}, here / "a/model.safetensors")
    (here / "r.yml").write_text(RECIPE.replace("./a", str(here / "a")))
    assert main(["run", str(here / "r.yml"), str(here / "out"), "--quiet"]) == 0
    return here / "out"


@pytest.mark.parametrize("place", [".", "orbax"])
def test_what_was_quantized_is_read_back_and_stands_for_the_same_weights(out: Path, place: str) -> None:
    got = ws.io.load(out / place)
    settings = ({"bits": 3, "group": 32, "symmetric": False}, {"grid": "nf4", "group": 32}, {"bits": 6})
    for (name, w), how in zip(W.items(), settings, strict=True):
        want = ws.quant.rtn(**how)({name: w})[name]
        assert isinstance(got[name], QTensor) and got[name].format == want.format
        np.testing.assert_array_equal(got[name].materialize(), want.materialize())
    np.testing.assert_array_equal(got["norm.weight"], np.ones(64))


def test_bits_are_those_of_the_file(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups = 2 * 96
    bits = {  # codes, scales, zeros
        "layers.0.up.weight": 96 * 64 * 3 + groups * 32 + groups * 3,
        "layers.1.up.weight": 96 * 64 * 4 + groups * 32,
        "layers.2.up.weight": 96 * 64 * 6 + 96 * 32,
        "norm.weight": 64 * 32,
    }
    ledger = {row["path"]: row["bits_after"] for row in json.loads((out / "ledger.json").read_text())}
    assert ledger == bits
    raw = (out / "model.safetensors").read_bytes()
    assert len(raw) - 8 - int.from_bytes(raw[:8], "little") == sum(bits.values()) / 8

    assert main(["inspect", str(out)]) == 0
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if "layers.0.up.weight" in line)
    assert "int3_asymmetric, 4.09 bits" in row and "96x64" in row
    assert "4 leaves, 18,496 numbers" in shown


def test_codes_of_another_tool_are_not_taken_for_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    w = {"up.weight": ws.quant.rtn(4, 32)({"up.weight": RNG.standard_normal((96, 64)).astype(np.float32)})["up.weight"]}
    ws.io.write_quantized(tmp_path / "a", w, "gptq")
    (tmp_path / "r.yml").write_text(f"sources: {{a: {tmp_path / 'a'}}}\nmodels: [a]\n")
    assert main(["run", str(tmp_path / "r.yml"), str(tmp_path / "out")]) != 0
    assert "holds gptq codes, which a run would take for weights" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out").exists()
