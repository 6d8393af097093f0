"""Deleted, a recipe on a mesh could give other bits than the plain run, or gather what it was to spread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from wspace.app.cli import main
from wspace.app.mesh import check_finite, spread
from wspace.core.errors import NonFinite, WspaceError
from wspace.io import FolderSink, open_checkpoint, verify, write_tree

RECIPE = """
sources:
  base: {base}
  a: {a}
  noisy: {{perturb: {{of: a, noise: 0.1, seed: 3}}}}
models: [a, noisy]
base: base
steps:
  - merge.dare: {{density: 0.5}}
  - quant.rtn: {{bits: 4, group: 8}}
    where: kernel$
output:
  formats: [safetensors, orbax]
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("base", "a"):
        kernel = jnp.asarray(rng.standard_normal((4, 16, 8)), jnp.bfloat16)
        tree = {"layers": {"kernel": kernel, "bias": np.zeros(6, np.float32)}, "ids": np.arange(7)}
        write_tree(tmp_path / name, tree)
    file = tmp_path / "recipe.yml"
    file.write_text(RECIPE.format(**{name: tmp_path / name for name in ("base", "a")}))
    return file


def test_the_result_is_that_of_the_plain_run(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole: list[int] = []
    original = FolderSink.part

    def counted(self: FolderSink, name: str, index: Any, leaf: Any) -> None:
        whole.append(np.size(leaf) == np.prod(self.specs[name].shape) > 7)
        original(self, name, index, leaf)

    assert main(["run", str(recipe), str(tmp_path / "plain"), "--bare", "--quiet"]) == 0
    monkeypatch.setattr(FolderSink, "part", counted)
    assert main(["run", str(recipe), str(tmp_path / "spread"), "--mesh", "data=2,model=4"]) == 0
    assert len(whole) > 10 and not any(whole), "written in shards"
    verify(tmp_path / "spread")
    files = sorted(p.name for p in (tmp_path / "plain").iterdir() if p.is_file() and "manifest" not in p.name)
    assert "model.safetensors" in files and "recipe.yml" in files
    for file in files:
        assert (tmp_path / "spread" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes(), file
    a, b = (open_checkpoint(tmp_path / where / "orbax") for where in ("plain", "spread"))
    assert a.specs == b.specs and a.structure == b.structure
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_a_plan_tells_what_a_device_holds(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(recipe), "--mesh", "data=16,model=16", "--shard", "kernel=-", "--shard", "bias="]) == 0
    given = 3 * (4 * 16 * 8 * 2 + 6 * 4 + 7 * 8)  # three sources: bfloat16, float32, int64
    assert f"on data=16,model=16, 256 devices: each holds {given / 1024:.1f} KiB of inputs" in capsys.readouterr().out
    assert main(["plan", str(recipe), "--mesh", "model=8", "--shard", "kernel=-,-,model"]) == 0
    given = 3 * (4 * 16 * 8 * 2 // 8 + 6 * 4 + 7 * 8)
    made = 4 * 16 * 8 // 8 + 4 * 2 * 8 * 4 // 8 + 6 * 4 + 7 * 8  # codes in int8, a float32 scale for eight inputs
    assert f"each holds {given} B of inputs and {made} B of the result" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mesh", "data=2,model=3"], "takes 6 devices, jax has 8"),
        (["--mesh", "data=8", "--shard", "kernel=model"], "rule 'kernel': the mesh data=8 has no axis 'model'"),
        (["--mesh", "data=8", "--shard", "bias=-,data"], "layers.bias (6,) has 1 axes"),
        (["--mesh", "data=8", "--shard", "bias=data"], "layers.bias (6,): axis 0 is not divided by 8 = 'data'"),
        (["--mesh", "eight"], "--mesh eight: write NAME=SIZE"),
        (["--shard", "kernel=data"], "--shard and --distributed go with --mesh"),
        (["--mesh", "data=8", "--memory", "4GB"], "no --memory beside it"),
        (["--mesh", "data=8", "--distributed", "1of2"], "--distributed 1of2: write auto, or K/N@HOST:PORT"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_said_first(
    recipe: Path, tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(recipe), str(tmp_path / "out"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_needs_whole_models_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quickstart = str(Path(__file__).parents[2] / "configs/quickstart.py")
    assert main(["run", quickstart, str(tmp_path / "out"), "--mesh", "x=8"]) == 2
    assert "it evaluates whole models, which is not done on a mesh: leave --mesh out" in capsys.readouterr().err


def test_nan_on_a_mesh_is_refused(tmp_path: Path, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = open_checkpoint(tmp_path / "a").tree()
    bad["layers"]["bias"] = np.array([0, 0, np.nan, 0, 0, 0], np.float32)
    write_tree(tmp_path / "a", bad, overwrite=True)
    assert main(["run", str(recipe), str(tmp_path / "out"), "--mesh", "x=8"]) == 2
    assert "a: layers.bias has 1 of 6 values that are NaN or infinite" in capsys.readouterr().err
    with pytest.raises(NonFinite, match="b: w has 2 of 3"):
        check_finite(jnp.array([jnp.nan, 1, -jnp.inf]), "w", "b")
    with pytest.raises(WspaceError, match="write PATTERN=AXIS"):
        spread("x=8", ["kernel"])
    assert ws.placement
