"""Deleted, a solver could be worse than the code its authors published, or a layout other than the tool's that has it.

The numbers were made by benchmarks/quant_numbers.py with the published torch codes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from tests.quant.problems import output_error, problem
from wspace.quant import QTensor, layouts

HELD = np.load(Path(__file__).with_name("published_numbers.npz"), allow_pickle=False)
ERRORS: dict[str, float] = json.loads(str(HELD["errors"]))
GPTQ: dict[str, dict[str, Any]] = {
    "int4 channel": {"bits": 4, "symmetric": False},
    "int4 channel full": {"grid": "int4_full"},
    "int3 group 128": {"bits": 3, "group": 128, "symmetric": False},
    "int3 group 64 static act-order": {"bits": 3, "group": 64, "symmetric": False, "act_order": True},
}


@pytest.mark.parametrize("name", GPTQ)
def test_gptq_has_the_published_error_to_three_digits(name: str) -> None:
    for kind in range(3):
        p = problem(kind)
        gram = jnp.asarray(p.x.T @ p.x / len(p.x))
        made = ws.quant.gptq(**GPTQ[name])({"kernel": p.w}, gram={"kernel": gram})["kernel"]
        assert output_error(p, np.asarray(made.materialize())) == pytest.approx(
            ERRORS[f"gptq/{name}/{kind}"], rel=1e-3
        ), (name, kind)


def case(prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{prefix}/"): HELD[name] for name in HELD.files if name.startswith(f"{prefix}/")}


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "group"), [(4, 32), (8, None)])
def test_compressed_tensors_own_arrays(bits: int, group: int | None, symmetric: bool) -> None:
    arrays = case(f"compressed/{bits} {group} {symmetric}")
    was, out = arrays.pop("in"), arrays.pop("out")
    q = layouts.compressed_tensors.read(arrays, bits, symmetric)
    np.testing.assert_array_equal(q.materialize(), out)
    back = layouts.compressed_tensors.write(q)
    assert back.keys() == arrays.keys() and all(np.array_equal(back[n], x) for n, x in arrays.items())
    assert all(back[n].dtype == x.dtype for n, x in arrays.items())
    grid = f"int{bits}_full" if symmetric else f"int{bits}_asymmetric"  # and the codes are those of our own rounding
    ours = ws.quant.rtn(grid=grid, group=group)({"a.weight": was})["a.weight"]
    assert isinstance(q, QTensor)
    np.testing.assert_allclose(ours.scale, q.scale, rtol=1e-6)
    parts = np.abs(was).reshape(32, -1, group or 96)
    largest = (parts == parts.max(-1, keepdims=True)).reshape(was.shape).T  # halfway between codes on a full grid
    np.testing.assert_array_equal(np.asarray(ours.codes)[~largest], np.asarray(q.codes)[~largest])


@pytest.mark.parametrize(("rows", "double"), [(24, False), (48, True), (5, False)])
def test_bitsandbytes_own_arrays(rows: int, double: bool) -> None:
    arrays = case(f"nf4/{rows} {double}")
    was, out = arrays.pop("in"), arrays.pop("out")
    q = layouts.bitsandbytes.read(arrays)
    np.testing.assert_allclose(q if isinstance(q, np.ndarray) else q.materialize(), out, rtol=1e-6)
    assert isinstance(q, QTensor) == (rows != 5)  # 49 inputs: blocks of 64 run over the ends of rows
    if isinstance(q, QTensor):
        ours = ws.quant.rtn(grid="nf4", group=64)({"a.weight": was})["a.weight"]
        np.testing.assert_array_equal(ours.codes, q.codes)
        written = layouts.bitsandbytes.write(ours, double=double)
        np.testing.assert_array_equal(written["weight"], arrays["weight"])
        if double:
            np.testing.assert_allclose(written["nested_quant_map"], arrays["nested_quant_map"], atol=1e-7)
            np.testing.assert_allclose(written["nested_absmax"], arrays["nested_absmax"], rtol=1e-5)
            assert np.mean(written["absmax"] != arrays["absmax"]) < 0.01
        else:
            np.testing.assert_allclose(written["absmax"], arrays["absmax"], rtol=1e-6)


QWIX = np.load(Path(__file__).with_name("qwix_numbers.npz"), allow_pickle=False)
GRIDS = {
    "int8": "int8_full", "int4": "int4_full", "nf4": "nf4", "float8_e4m3fn": "fp8_e4m3", "float8_e5m2": "fp8_e5m2",
    "int8 minmax": "int8_asymmetric", "int4 minmax": "int4_asymmetric",
}  # fmt: skip


@pytest.mark.parametrize("tile", [0, 16])
@pytest.mark.parametrize("kind", GRIDS)
def test_codes_are_those_of_qwix(kind: str, tile: int) -> None:
    want = {n: QWIX[f"{kind}/{tile}/{n}"] for n in ("qvalue", "scale") if f"{kind}/{tile}/{n}" in QWIX.files}
    q = ws.quant.rtn(grid=GRIDS[kind], group=tile or None)({"kernel": QWIX["w"]})["kernel"]
    got = layouts.qwix.write(q)
    np.testing.assert_allclose(got["scale"], want["scale"], rtol=1e-6)
    if "minmax" in kind:
        np.testing.assert_array_equal(got["zero_point"].astype(jnp.int8), QWIX[f"{kind}/{tile}/zero_point"])
    parts = np.abs(QWIX["w"]).reshape(-1, tile or 64, 24)
    largest = (parts == parts.max(1, keepdims=True)).reshape(64, 24)  # halfway between codes on a full grid
    same = np.asarray(got["qvalue"].astype(jnp.float32)) == want["qvalue"].astype(np.float32)
    assert np.all(same[~largest]) and (np.all(same) or "_full" in GRIDS[kind])


@pytest.mark.parametrize(("bits", "group"), [(4, 128), (3, 64)])
def test_awq_has_the_published_error_to_three_digits(bits: int, group: int) -> None:
    for kind in range(3):
        p = problem(kind)
        gram, size = jnp.asarray(p.x.T @ p.x / len(p.x)), jnp.asarray(np.abs(p.x).mean(0))
        made = ws.quant.awq(bits, group)({"kernel": p.w}, gram={"kernel": gram}, abs_mean={"kernel": size})["kernel"]
        assert output_error(p, np.asarray(made.materialize())) == pytest.approx(
            ERRORS[f"awq/int{bits} group {group}/{kind}"], rel=1e-3
        ), kind
