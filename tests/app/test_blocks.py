"""Deleted, a calibrated run over a folder could differ from the same in memory, or take more than a block at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import wspace as ws
from wspace.app.cli import main
from wspace.io import verify, write_tree

RECIPE = """
import jax.numpy as jnp, numpy as np
import wspace as ws
from wspace.app import Blocks, Recipe

def dense(p, x):
    return jnp.tanh(x @ p["kernel"] + p["bias"][None])

def blocks(source):
    names = [{"kernel": f"layers.{k}.kernel", "bias": f"layers.{k}.bias"} for k in range(3)]
    x = np.random.default_rng(7).standard_normal((64, 32)).astype(np.float32)
    return Blocks([(dense, tree) for tree in names], [jnp.asarray(x[:40]), jnp.asarray(x[40:])])

def recipe(bits: int = 3, base: bool = False, folds: bool = False):
    t = ws.prune.magnitude(0.5, scope="global") if folds else ws.on(ws.matrices, ws.quant.gptq(bits))
    t = ws.prune.magnitude(0.5) if base else t
    return Recipe({"m": "./m"}, models=("m",), steps=(t,), blocks=blocks)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    shapes = {f"layers.{k}.{part}": shape for k in range(3) for part, shape in (("kernel", (32, 32)), ("bias", (32,)))}
    leaves = {name: rng.standard_normal(shape, np.float32) / 4 for name, shape in {**shapes, "head": (32, 4)}.items()}
    write_tree(tmp_path / "m", {**leaves, "step": np.int64(3)})
    (tmp_path / "m" / "config.json").write_text(json.dumps({"model_type": "dense"}))
    (tmp_path / "r.py").write_text(RECIPE)
    return tmp_path


def test_a_calibrated_run_equals_blockwise_in_memory(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "r.py", "out", "--memory", "64GiB"]) == 0
    said = capsys.readouterr().out
    verify(here / "out")
    read, written = (line.partition(":")[2].split(" of memory")[0] for line in said.splitlines() if "read in" in line)
    assert read.split("written")[0].split() == written.split("written")[0].split()  # predicted and actual bytes

    import runpy

    made = runpy.run_path("r.py")
    source, plan = ws.io.load("m"), made["blocks"]({})
    parts = [(apply, {key: source[name] for key, name in tree.items()}) for apply, tree in plan.parts]
    t = made["recipe"]().steps[0]
    new = ws.calibrate.blockwise(parts, plan.batches, lambda p, found: t(p, axes=found.axes, **found))
    found = ws.io.load("out")
    for (_, tree), block in zip(plan.parts, new, strict=True):
        for key, name in tree.items():
            pairs: Any = zip(jax.tree.leaves(found[name]), jax.tree.leaves(block[key]), strict=True)
            for a, b in pairs:
                np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=name)
    assert type(found["layers.2.kernel"]).__name__ == "QTensor" and found["step"] == 3
    np.testing.assert_array_equal(found["head"], source["head"])
    assert (here / "out" / "config.json").exists() and len(json.loads((here / "out" / "ledger.json").read_text())) == 8
    assert main(["plan", "r.py"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    steps = {row[0]: row[1] for row in rows if row and row[0].startswith(("layers", "head", "step"))}
    assert steps["layers.1.kernel"].startswith("on(") and steps["head"] == "keep" and steps["step"] == "pass"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--memory", "1MiB"], "the block of layers.0"),
        (["--set", "base=true"], "no step that needs statistics don't go together"),
        (["--set", "folds=true"], "folds over leaves don't go together"),
    ],
    ids=["memory", "none", "folds"],
)
def test_what_does_not_go_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["run", "r.py", "out", *options]) == 2
    assert message in capsys.readouterr().err and not (here / "out").exists()
