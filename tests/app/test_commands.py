"""Deleted, a command could lose a leaf on conversion, call different checkpoints equal, or show an empty table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import wspace as ws
from wspace.app import forecast
from wspace.app.cli import main
from wspace.app.forecast import peak
from wspace.core.plan import Row
from wspace.io import open_checkpoint, write_tree

LEAVES = {
    "layers.0.weight": np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32),
    "layers.0.bias": np.arange(6).astype(ml_dtypes.bfloat16),
    "ids": np.arange(5, dtype=np.int64) + 2**40,
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "a").mkdir()
    save_file(LEAVES, "a/model.safetensors")
    (tmp_path / "a" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return tmp_path


def test_convert_there_and_back_is_bit_exact(here: Path) -> None:
    assert main(["convert", "a", "b"]) == 0
    assert main(["convert", "b", "c"]) == 0
    assert main(["convert", "a", "d", "--to", "safetensors", "--shard-size", "100"]) == 0
    for name in "bcd":
        made = open_checkpoint(here / name)
        assert made.keys() == LEAVES.keys()
        for leaf, values in LEAVES.items():
            assert made[leaf].dtype == values.dtype
            np.testing.assert_array_equal(made[leaf], values)
        assert main(["verify", name]) == 0
    assert len(list((here / "d").glob("model-*.safetensors"))) > 1
    assert (here / "d" / "config.json").exists()


def test_diff_says_what_differs_and_by_its_exit_code(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "a", "a"]) == 0
    assert "3 of 3 shared leaves have equal values" in capsys.readouterr().out
    (here / "b").mkdir()
    flipped = {**LEAVES, "layers.0.weight": -LEAVES["layers.0.weight"], "extra": np.ones(1, np.float32)}
    flipped.pop("ids")
    save_file(flipped, "b/model.safetensors")
    assert main(["diff", "a", "b"]) == 1
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if "layers.0.weight" in line).split()
    assert row[-4:] == ["2", "-1", "24", "0"]  # relative error, cosine, sign flips, zeros
    assert "only in a: ids" in out and "only in b: extra" in out


def test_inspect_lists_every_leaf_with_its_statistics(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "a"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in LEAVES) and "3 leaves, 35 numbers" in out
    assert f"{LEAVES['layers.0.weight'].std():.3g}" in out
    save_file({"w": np.array([1.0, np.nan], np.float32)}, "a/model.safetensors")
    assert main(["inspect", "a"]) == 0
    assert "1 with NaN or infinity" in capsys.readouterr().out


def test_plan_reads_no_leaf_and_shows_every_one(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from wspace.io import SafetensorsFolder

    monkeypatch.setattr(SafetensorsFolder, "_read", lambda self, name: pytest.fail(f"{name} was read"))
    text = "sources: {a: ./a}\nmodels: [a]\nsteps:\n  - prune.magnitude: {sparsity: 0.5}\n    where: weight\n"
    (here / "r.yml").write_text(text)
    assert main(["plan", "r.yml"]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip().startswith(("layers", "ids"))}
    assert rows.keys() == LEAVES.keys()
    assert "magnitude" in rows["layers.0.weight"] and "keep" in rows["layers.0.bias"] and "pass" in rows["ids"]


RUNS = {
    "passes": "  - prune.magnitude: {sparsity: 0.5, scope: global}\n",
    "cast": "output: {dtype: bfloat16}\n",
    "codes": "  - quant.rtn: {bits: 4}\n    where: weight\n",
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("bare", [True, False])
def test_what_was_predicted_is_read_and_written(
    here: Path, name: str, bare: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wspace.app.execute import run_recipe
    from wspace.app.load import load
    from wspace.io import SafetensorsFile

    for model in ("a", "b"):
        write_tree(here / f"{model}2", {k: v for k, v in LEAVES.items() if k != "ids"} | {"n": np.arange(3)})
    text = "sources: {a: ./a2, b: ./b2, base: ./a2}\nmodels: [a, b]\nbase: base\nsteps:\n"
    (here / "r.yml").write_text(f"{text}  - merge.task_arithmetic: {{weights: [0.5, 0.5]}}\n{RUNS[name]}")
    read, count = SafetensorsFile._read, [0]

    def counting(self: SafetensorsFile, leaf: str) -> Any:
        found = read(self, leaf)
        count[0] += found.nbytes
        return found

    monkeypatch.setattr(SafetensorsFile, "_read", counting)
    recipe, out = load("r.yml"), here / "out"
    _, result = run_recipe(recipe, out, lambda label: lambda done, total, what: None, bare=bare)
    assert result.predicted is not None and result.actual is not None
    assert result.predicted[:3] == result.actual[:3]
    assert result.actual.read == count[0]
    assert result.actual.written == sum(spec.nbytes for spec in open_checkpoint(out).specs.values())
    assert result.actual.passes == (4 if name == "passes" else 1)


def test_seconds_count_the_orbax_step(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wspace.app.execute import open_recipe, planned
    from wspace.app.load import load

    monkeypatch.setattr(forecast, "TIMED", 0)
    found = []
    for formats in ("safetensors", "safetensors, orbax"):
        (here / "r.yml").write_text(
            "sources: {a: ./a}\nmodels: [a]\nsteps: [prune.magnitude: {sparsity: 0.5}]\n"
            f"output: {{formats: [{formats}]}}\n"
        )
        job = open_recipe(load("r.yml"), lambda label: lambda *told: None)
        found.append(forecast.forecast(job, planned(job)).seconds or 0.0)
    begins = forecast.ORBAX_BEGINS + forecast.ORBAX_LEAF * len(LEAVES)
    assert 0 < found[0] < begins <= found[1]


def test_methods_come_from_the_docstrings(capsys: pytest.CaptureFixture[str]) -> None:
    import wspace as ws

    assert main(["methods", "merge"]) == 0
    assert "merge.ties" in capsys.readouterr().out
    assert main(["methods", "merge.ties"]) == 0
    out = capsys.readouterr().out
    assert str(ws.merge.ties.__doc__).splitlines()[0] in out and "Yadav" in out and "density" in out
    assert main(["methods", "ties"]) == 0
    assert capsys.readouterr().out == out
    assert main(["methods", "tise"]) == 2
    assert "Did you mean 'ties'?" in capsys.readouterr().err


def test_a_run_is_told_in_the_bytes_of_its_plan() -> None:
    from wspace.app.execute import by_bytes

    t = ws.chain(ws.average.uniform_soup(), ws.prune.magnitude(0.5, scope="global"))
    trees = [{"a": np.ones((8, 4), np.float32), "b": np.ones(3, np.float32), "n": np.int32(1)} for _ in range(2)]
    told: list[tuple[int, int, str]] = []
    table = ws.plan(t, *trees)
    ws.stream(t, trees, {}, progress=by_bytes(table, lambda *row: told.append(row)))
    numbers = 8 * 4 + 3
    total = t.passes * 2 * 4 * numbers + 4 * numbers
    assert len(told) == 2 * t.passes and told[-1][:2] == (total, total)
    assert [done for done, *_ in told] == sorted(done for done, *_ in told)


def test_memory_that_waits_for_another_large_leaf_is_counted() -> None:
    def row(holds: int, writes: int) -> Row:
        return Row("", (), (), "", "", 0, 0, holds << 20, writes << 20)

    large, small, alike = row(375, 125), row(96, 32), row(96, 32)
    found = [
        peak([large, small, alike]),
        peak([large, small, alike], spare=0),
        peak([row(125, 125), *[row(32, 32)] * 2]),
    ]
    assert [n >> 20 for n in found] == [96 + 125 + (375 - 125), 375, 32 + 32 + 125]  # 500 was measured of the first
    assert peak([small, alike, alike]) >> 20 == 96 + 32
