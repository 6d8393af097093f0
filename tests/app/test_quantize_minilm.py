"""Deleted, a method of the MiniLM table could be misspelt, or its page lose rows, and nobody would know for an hour."""

from __future__ import annotations

import inspect
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import wspace as ws
from wspace.data import minilm

CONFIG = runpy.run_path(str(Path(__file__).parents[2] / "configs/quantize_minilm.py"))


def test_every_row_is_a_transform_with_statistics_that_calibration_knows_or_a_function() -> None:
    rows = CONFIG["cells"]((), CONFIG["BITS"], CONFIG["GROUPS"])
    assert len(rows) > 100
    known = {"gram", "cross", "abs_mean", "abs_max", "key", "score"}
    for name, make in rows.items():
        t = make()
        assert (isinstance(t, ws.Transform) and t.needs <= known) or inspect.isfunction(t.func), name


def test_without_bits_a_method_has_rows_at_a_few_points_and_three_of_them_everywhere() -> None:
    rows = [name.split(" | ") for name in CONFIG["cells"]()]
    own = {m: {(int(c[3:]), s) for n, c, s in rows if n == m and c[:3] == "int"} for m, *_ in rows}
    points = {(b, CONFIG["scales"](group)) for b, group in CONFIG["POINTS"]}
    assert {m for m, at in own.items() if at - points} == set(CONFIG["EVERYWHERE"])
    assert own["rtn"] == {(b, CONFIG["scales"](g)) for b in CONFIG["BITS"] for g in CONFIG["GROUPS"]}
    assert all(at == points for m, at in own.items() if m in CONFIG["METHODS"] and m not in CONFIG["EVERYWHERE"])
    assert rows[0][1:] == rows[20][1:] == ["int3", "group 32"]  # methods at one point follow each other
    assert [*CONFIG["cells"](["rtn"], (3,), (0,))] == ["rtn | int3 | channel"]
    assert all("int" not in name for name in CONFIG["cells"](["rtn"], ()))


def test_the_page_has_every_row_wide_codes_first() -> None:
    row = {"r@1": 0.4, "mrr": 0.5, "cosine": 0.9, "bits": 3.5, "seconds": 1.0}
    names = ["a | int3 | channel", "b | nf4 | group 64", "fp32", "a | int8 | group 32", "c | int3 | channel"]
    made = CONFIG["table"]({name: row | {"r@1": 0.1 * k} for k, name in enumerate(names)})
    assert [r[:3] for r in made.rows] == [
        ("fp32", "", ""), ("a", "int8", "group 32"), ("c", "int3", "channel"), ("a", "int3", "channel"),
        ("b", "nf4", "group 64"),
    ]  # fmt: skip
    text = CONFIG["markdown"](made).splitlines()
    assert len(text) == 7 and {line.count("|") for line in text} == {9}
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


def test_activations_of_a_linear_layer_go_through_its_entries() -> None:
    rng = np.random.default_rng(1)
    own = {name: x for name, x in minilm.shapes().items() if name.startswith("encoder.layer.0.attention.self")}
    step, part = minilm.blocks({name: rng.standard_normal(x.shape, np.float32) / 20 for name, x in own.items()})[0]
    state = (jnp.asarray(rng.standard_normal((1, 3, minilm.WIDTH)), jnp.float32), jnp.ones((1, 3), bool))
    run = jax.jit(lambda part: step(part, state)[1])
    plain, rounded = run(part), CONFIG["Rounded"](None, None, "int8")
    off = np.abs(run(part | {f"attention.self.{name}.input": rounded for name in ("query", "key", "value")}) - plain)
    assert 0 < off.max() < 0.02 * np.abs(plain).max()
    few = run(part | {"attention.self.value.output": CONFIG["Cached"](2, 32)})
    assert 0.02 < np.abs(few - plain).max() / np.abs(plain).max() < 0.5
