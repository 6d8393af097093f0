"""Deleted, a recipe or a conversion with a PEFT adapter could merge it wrongly, or fail after an hour of work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import wspace as ws
from tests.app import llama
from wspace.app.cli import main
from wspace.io import load_adapter, open_checkpoint

Arrays = dict[str, np.ndarray]
MODULES = [f"model.layers.{i}.self_attn.{p}_proj" for i in range(4) for p in "qv"]
SCALE = 2.0


def adapter(path: Path, seed: int, **config: object) -> dict[str, np.ndarray]:
    """A LoRA of rank 2 on the queries and values; returns its updates by leaf."""
    rng = np.random.default_rng(seed)
    factors, updates = {}, {}
    for module in MODULES:
        a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 8), (8, 2)))
        factors |= {f"base_model.model.{module}.lora_A.weight": a, f"base_model.model.{module}.lora_B.weight": b}
        updates[f"{module}.weight"] = SCALE * b @ a
    path.mkdir()
    save_file(factors, path / "adapter_model.safetensors")
    facts = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]}
    (path / "adapter_config.json").write_text(json.dumps(facts | config))
    return updates


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(text: str, *args: str) -> int:
    Path("r.yml").write_text(text)
    return main(["run", "r.yml", "out", "--quiet", "--overwrite", *args])


def equal(folder: str, want: Arrays, tolerance: float = 1e-5) -> None:
    found = open_checkpoint(folder)
    assert found.keys() == want.keys()
    for name, leaf in want.items():
        np.testing.assert_allclose(found[name], leaf, rtol=0, atol=tolerance, err_msg=name)


def added(base: Arrays, *updates: Arrays) -> Arrays:
    return {name: sum((u[name] for u in updates if name in u), leaf) for name, leaf in base.items()}


def test_convert_merges_an_adapter_into_its_base(here: Path) -> None:
    base, update = llama.folder(here / "base", 0), adapter(here / "lora", 1)
    assert main(["convert", "lora", "merged", "--base", "base", "--quiet"]) == 0
    equal("merged", added(base, update))
    assert json.loads(Path("merged/config.json").read_text())["model_type"] == "llama"
    assert not Path("merged/adapter_config.json").exists()
    assert main(["convert", "lora", "orbax", "--base", "base", "--to", "orbax", "--quiet"]) == 0
    equal("orbax", added(base, update))


def test_a_recipe_combines_adapters_and_writes_one_for_peft(here: Path) -> None:
    base = llama.folder(here / "base", 0)
    updates = [adapter(here / name, k) for k, name in enumerate("ab")]
    text = """
sources:
  base: ./base
  a: {adapter: {path: ./a, of: base}}
  b: {adapter: {path: ./b, of: base}}
models: [a, b]
steps:
  - reparam.combine_adapters: {how: cat, weights: [0.5, 1.0]}
output: {formats: [safetensors, peft]}
"""
    assert run(text) == 0
    want = added(base, {n: 0.5 * u for n, u in updates[0].items()}, updates[1])
    tree = ws.io.load("out")
    assert tree[f"{MODULES[0]}.weight"].a.shape == (8, 4)
    for name, leaf in ws.materialize(tree).items():
        np.testing.assert_allclose(leaf, want[name], atol=1e-5, err_msg=name)
    again = ws.materialize(load_adapter("out/adapter", "base"))
    for name, leaf in again.items():
        np.testing.assert_allclose(leaf, want[name], atol=1e-5, err_msg=name)
    assert ws.io.verify("out").leaves > len(base)
    assert "adapter_model.safetensors" in Path("out/report.html").read_text()  # the digests of what was read
    assert main(["convert", "out", "once-more", "--to", "peft", "--quiet"]) == 0
    ours, first = (load_file(f"{d}/adapter_model.safetensors") for d in ("once-more", "out/adapter"))
    assert all(np.array_equal(ours[n], x) for n, x in first.items())


def test_what_a_run_extracts_is_a_peft_folder(here: Path) -> None:
    """A fine-tune that differs from its base by rank 2 comes back as an adapter, and merges to itself."""
    base, update = llama.folder(here / "base", 0), adapter(here / "lora", 1)
    assert main(["convert", "lora", "tuned", "--base", "base", "--quiet"]) == 0
    text = """
sources: {tuned: ./tuned, base: ./base}
models: [tuned]
base: base
steps:
  - reparam.extract_lora: {rank: 2}
    where: '(q|v)_proj'
output: {formats: [peft]}
"""
    assert run(text) == 0
    for name, leaf in ws.materialize(load_adapter("out/adapter", "base")).items():
        np.testing.assert_allclose(leaf, added(base, update)[name], atol=1e-5, err_msg=name)
    changed = {n: x + 1 if n == "model.norm.weight" else x for n, x in open_checkpoint("tuned").items()}
    save_file(changed, here / "tuned" / "model.safetensors")


def test_mergekit_s_model_plus_adapter(here: Path) -> None:
    base, update = llama.folder(here / "base", 0), adapter(here / "lora", 1)
    other = llama.folder(here / "other", 5)
    merged = added(base, update)
    want = {name: 0.25 * leaf + 0.75 * other[name] for name, leaf in merged.items()}
    for model in ("base+lora", "{model: {path: base}, lora: {path: ./lora}}"):
        own = f"{{model: {model}, parameters: {{weight: 0.25}}}}"
        text = f"merge_method: linear\nmodels: [{own}, {{model: other, parameters: {{weight: 0.75}}}}]\n"
        assert run(text) == 0
        equal("out", want)


FAULTS = [
    ("models: [a]\nsteps:\n- quant.rtn:\nsources: {a: ./lora}\n", ("r.yml:4", "./lora is a PEFT adapter, no model")),
    ("sources: {b: ./base, a: {adapter: {path: ./base, of: b}}}\nmodels: [a]\nsteps:\n- quant.rtn:\n",
     ("r.yml:1", "./base is no PEFT adapter")),
    ("sources: {b: ./base, a: {adapter: {path: ./lora, of: c}}}\nmodels: [a]\n", ("r.yml:1", "no source 'c'")),
    ("sources: {a: {adapter: {path: ./lora, of: a}}}\nmodels: [a]\n", ("r.yml:1", "'a' is made of itself")),
    ("sources: {b: ./base, a: {adapter: {path: ./lora}}}\nmodels: [a]\n", ("r.yml:1", "needs 'of'")),
    ("sources: {b: ./base, a: {adapter: {path: ./gone, of: b}}}\nmodels: [a]\n", ("r.yml:1", "no such folder ./gone")),
    ("sources: {b: ./base, a: {adapter: {path: ./dora, of: b}}}\nmodels: [a]\nsteps:\n- prune.magnitude: {sparsity: 0}",
     ("dora/adapter_config.json", "use_dora is not supported")),
    ("sources: {b: ./small, a: {adapter: {path: ./lora, of: b}}}\nmodels: [a]\nsteps:\n- quant.rtn:",
     ("adapts leaves that the base does not have (4)", "model.layers.2.self_attn.q_proj.weight")),
    ("merge_method: linear\nmodels: [{model: base+lora+lora}]\nparameters: {weight: 1}",
     ("r.yml:2", "takes one adapter on one model")),
    ("sources: {b: ./base}\nmergekit:\n  merge_method: linear\n  models: [{model: b+lora}]\n  parameters: {weight: 1}",
     ("r.yml:4", "an adapter is put in 'sources'")),
    ("sources: {b: ./base, t: ./other}\nmodels: [t]\nbase: b\nsteps:\n- reparam.extract_lora: {rank: 2}\n"
     "  where: q_proj\noutput: {formats: [peft]}", ("leaves that are no adapters changed", "keep the base's")),
    ("sources: {b: ./base}\nmodels: [b]\nsteps:\n- prune.magnitude: {sparsity: 0}\noutput: {formats: [peft]}",
     ("no LoRA leaf",)),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), FAULTS, ids=range(len(FAULTS)))
def test_faults_are_one_line(here: Path, capsys: pytest.CaptureFixture[str], text: str, words: tuple[str, ...]) -> None:
    llama.folder(here / "base", 0)
    llama.folder(here / "other", 1)
    llama.folder(here / "small", 0, layers=2)
    adapter(here / "lora", 1)
    adapter(here / "dora", 1, use_dora=True)
    assert run(text) == 2
    error = capsys.readouterr().err
    assert error.startswith("wspace: error: ") and error.count("\n") == 1
    assert [word for word in words if word not in error] == [], error
    assert not Path("out").exists() and not [p for p in here.iterdir() if p.name.startswith(".")]


CONVERSIONS = [
    (["lora", "out"], "give the model it stands on, --base DIR"),
    (["base", "out", "--base", "lora"], "--base is for a PEFT adapter"),
    (["lora", "out", "--to", "peft", "--base", "base"], "is a PEFT adapter already"),
    (["base", "out", "--to", "peft"], "no LoRA leaf"),
    (["lora", "lora", "--base", "base"], "would replace the input"),
]


@pytest.mark.parametrize(("args", "words"), CONVERSIONS)
def test_conversions_that_cannot_be(
    here: Path, capsys: pytest.CaptureFixture[str], args: list[str], words: str
) -> None:
    llama.folder(here / "base", 0)
    adapter(here / "lora", 1)
    assert main(["convert", *args]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not Path("out").exists()
