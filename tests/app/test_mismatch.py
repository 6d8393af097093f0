"""Deleted, a run on models of other vocabularies could go on without a word, or leave config.json behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.app import llama
from wspace.app.cli import main
from wspace.io import open_checkpoint

OURS = (
    "sources: {a: ./a, b: ./b, base: ./base}\nmodels: [a, b]\nbase: base\nsteps:\n- merge.task_arithmetic: {lam: 0.5}\n"
)
KIT = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base of 20 rows, a of 22, b of 20; b has a leaf of its own."""
    monkeypatch.chdir(tmp_path)
    llama.folder(tmp_path / "base", 0, layers=1)
    llama.folder(tmp_path / "a", 1, layers=1, added=["<x>", "<y>"])
    leaves = llama.folder(tmp_path / "b", 2, layers=1)
    from safetensors.numpy import save_file

    save_file({**leaves, "value_head": np.ones(3, np.float32)}, tmp_path / "b" / "model.safetensors")
    return tmp_path


def run(text: str, *args: str) -> int:
    Path("r.yml").write_text(text)
    return main(["run", "r.yml", "out", "--quiet", *args])


@pytest.mark.parametrize(("policy", "rows"), [("intersect", 20), ("base", 20), ("pad", 22)])
def test_our_recipe(here: Path, policy: str, rows: int) -> None:
    assert run(f"{OURS}mismatch: {policy}") == 0
    a, b, base, out = (open_checkpoint(n)["lm_head.weight"] for n in ("a", "b", "base", "out"))
    if policy == "base":
        want = base
    else:
        want = (a[:20] + b) / 2
        want = want if policy == "intersect" else np.concatenate([want, a[20:]])
    np.testing.assert_allclose(out, want, atol=1e-6)
    assert ("value_head" in open_checkpoint("out")) == (policy == "pad")
    assert json.loads(Path("out/config.json").read_text())["vocab_size"] == rows
    report = Path("out/report.html").read_text()
    assert f"mismatch {policy}: lm_head.weight: (22, 8), (20, 8), (20, 8) -&gt; " in report
    assert "value_head: none, (3,), none" in report


def test_mergekit_s_recipe_and_the_flag(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.yml").write_text(KIT)
    assert main(["run", "r.yml", "out", "--mismatch", "pad"]) == 0
    assert "note: mismatch pad: lm_head.weight: (22, 8), (20, 8) -> padded to (22, 8)" in capsys.readouterr().out
    a, out = (open_checkpoint(n)["model.embed_tokens.weight"] for n in ("a", "out"))
    np.testing.assert_allclose(out[20:], a[20:], rtol=1e-6)
    assert json.loads(Path("out/config.json").read_text())["vocab_size"] == 22
    assert main(["plan", "r.yml", "--mismatch", "intersect"]) == 0
    assert "(20, 8)" in capsys.readouterr().out


FAULTS = [
    (OURS, (), ("has also value_head",)),
    (f"{OURS}mismatch: refuse", (), ("tree 2 (b) does not match tree 1 (a)",)),
    (f"{OURS}mismatch: pads", (), ("r.yml:6", "unknown value 'pads'. Did you mean 'pad'")),
    (KIT, ("--mismatch", "base"), ("r.yml: mismatch 'base' takes leaves from a base, and none is named",)),
    (KIT, ("--mismatch", "cut"), ("invalid choice: 'cut'",)),
    ("merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [0, 1]}]}]", ("--mismatch", "pad"),
     ("r.yml:1", "slices put layers together as they say")),
    (f"{OURS}mismatch: base".replace("./b,", "./gone,"), (), ("r.yml:1", "no such folder ./gone")),
]  # fmt: skip


@pytest.mark.parametrize(("text", "args", "words"), FAULTS, ids=range(len(FAULTS)))
def test_faults_are_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], text: str, args: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert run(text, *args) == 2
    error = capsys.readouterr().err
    assert error.startswith("wspace: error: ") and error.count("\n") == 1
    assert [word for word in words if word not in error] == [], error
    assert not Path("out").exists()
