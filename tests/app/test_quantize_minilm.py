"""Deleted, a method of the MiniLM table could be misspelt, or its page lose rows, and nobody would know for an hour."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np

import wspace as ws
from wspace.data import minilm

CONFIG = runpy.run_path(str(Path(__file__).parents[2] / "configs/quantize_minilm.py"))


def test_every_row_is_a_transform_with_statistics_that_calibration_knows() -> None:
    rows = CONFIG["cells"]([], CONFIG["BITS"], CONFIG["GROUPS"])
    assert len(rows) == len(set(rows)) > 100
    known = {"gram", "cross", "abs_mean", "key"}
    for name, make in rows.items():
        t = make()
        assert isinstance(t, ws.Transform) and t.needs <= known, name


def test_the_page_has_every_row_wide_codes_first() -> None:
    row = {"r@1": 0.4, "mrr": 0.5, "cosine": 0.9, "bits": 3.5, "seconds": 1.0}
    names = ["a | int3 | channel", "b | nf4 | group 64", "fp32", "a | int8 | group 32", "c | int3 | channel"]
    made = CONFIG["table"]({name: row | {"r@1": 0.1 * k} for k, name in enumerate(names)})
    assert [r[:3] for r in made.rows] == [
        ("fp32", "", ""), ("a", "int8", "group 32"), ("c", "int3", "channel"), ("a", "int3", "channel"),
        ("b", "nf4", "group 64"),
    ]  # fmt: skip
    assert CONFIG["report"](dict.fromkeys(names, row)).count("<tr>") == 6


def test_blocks_are_quantized_and_bits_are_those_of_codes_and_scales() -> None:
    rng = np.random.default_rng(0)
    params = {
        name: rng.standard_normal(x.shape, np.float32)
        for name, x in minilm.shapes().items()
        if name.startswith("encoder.layer.0.attention.self") or name.startswith("encoder.layer.5.output")
    }
    made = CONFIG["quantized"](params, ws.quant.rtn(3, 32), [])
    assert made.keys() == params.keys()
    assert {name for name, w in made.items() if isinstance(w, ws.quant.QTensor)} == {
        name for name, w in params.items() if w.ndim == 2
    }
    assert CONFIG["encoder_bits"](made) == 3 + 32 / 32
