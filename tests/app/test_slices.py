"""Deleted, a recipe of slices could take another layer, another model's parameters, or leave config.json behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.app import llama
from wspace.app.cli import main
from wspace.io import open_checkpoint

Arrays = dict[str, np.ndarray]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(text: str, *args: str) -> int:
    Path("r.yml").write_text(text)
    return main(["run", "r.yml", "out", "--quiet", *args])


def layer(weights: Arrays, i: int) -> Arrays:
    start = f"model.layers.{i}."
    return {name.removeprefix(start): leaf for name, leaf in weights.items() if name.startswith(start)}


def outside(weights: Arrays, *names: str) -> Arrays:
    return {name: weights[name] for name in names}


def put(*layers: Arrays) -> Arrays:
    return {f"model.layers.{i}.{name}": leaf for i, own in enumerate(layers) for name, leaf in own.items()}


def equal(want: Arrays, tolerance: float = 1e-6) -> None:
    found = open_checkpoint("out")
    assert found.keys() == want.keys()
    for name, leaf in want.items():
        np.testing.assert_allclose(found[name], leaf, rtol=0, atol=tolerance, err_msg=name)


def mean(a: Arrays, b: Arrays, share: float) -> Arrays:
    return {name: (1 - share) * leaf + share * b[name] for name, leaf in a.items()}


def test_passthrough_stacks_layers_of_two_models(here: Path) -> None:
    """Embedding from the first slice's model, norm and head from the last one's; the configs follow the base."""
    a = llama.folder(here / "a", 1, layers=4, layer_types=["full", "local", "full", "local"], torch_dtype="float32")
    b = llama.folder(here / "b", 2, layers=6)
    text = """
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 3]}]
  - sources: [{model: b, layer_range: [2, 4]}]
  - sources: [{model: a, layer_range: [1, 2], parameters: {scale: {filter: down_proj, value: 0}}}]
dtype: bfloat16
"""
    assert run(text) == 0
    last = {n: 0 * w if "down" in n else w for n, w in layer(a, 1).items()}
    want = put(*(layer(a, i) for i in range(3)), layer(b, 2), layer(b, 3), last)
    want |= outside(a, "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
    equal(want, 0.02)
    config = json.loads(Path("out/config.json").read_text())
    assert config["num_hidden_layers"] == 6 and config["torch_dtype"] == "bfloat16"
    assert config["layer_types"] == ["full", "local", "full", "full", "local", "local"]
    assert "num_hidden_layers is 6 now" in Path("out/report.html").read_text()


def test_norm_and_head_come_from_the_last_slice(here: Path) -> None:
    a, b = llama.folder(here / "a", 1), llama.folder(here / "b", 2)
    text = "merge_method: passthrough\nslices:\n"
    for model in "ab":
        text += f"- sources: [{{model: {model}, layer_range: [0, 1]}}]\n"
    assert run(text) == 0
    want = put(layer(a, 0), layer(b, 0)) | outside(a, "model.embed_tokens.weight")
    equal(want | outside(b, "model.norm.weight", "lm_head.weight"))


def test_any_method_over_slices_with_gradients_and_precedence(here: Path) -> None:
    """Weights: of the source, else of the slice, else of the model, else global; gradients run within their slice."""
    a, b = llama.folder(here / "a", 1), llama.folder(here / "b", 2)
    text = """
merge_method: linear
slices:
  - sources:
      - {model: a, layer_range: [0, 2], parameters: {weight: [1, 0]}}
      - {model: b, layer_range: [1, 3]}
    parameters: {weight: {filter: mlp, value: 3}}
  - sources:
      - {model: a, layer_range: [3, 4]}
  - sources:
      - {model: b, layer_range: [0, 1], parameters: {weight: 2}}
      - {model: a, layer_range: [0, 1]}
parameters: {weight: 1}
"""
    assert run(text) == 0

    def blended(i: int, own: float) -> Arrays:
        pair, weight = (layer(a, i), layer(b, i + 1)), {True: 3.0, False: 1.0}
        return {n: (own * w + weight["mlp" in n] * pair[1][n]) / (own + weight["mlp" in n]) for n, w in pair[0].items()}

    want = put(blended(0, 1.0), blended(1, 0.0), layer(a, 3), mean(layer(a, 0), layer(b, 0), 2 / 3))
    want |= mean(*(outside(x, "model.embed_tokens.weight") for x in (a, b)), 0.5)  # at the start of the gradient
    want |= mean(*(outside(x, "model.norm.weight", "lm_head.weight") for x in (a, b)), 2 / 3)
    equal(want)


def test_task_vectors_over_slices_take_the_layers_of_the_base(here: Path) -> None:
    a, b, base = (llama.folder(here / name, k) for k, name in enumerate(("a", "b", "base")))
    text = """
merge_method: task_arithmetic
base_model: base
slices:
  - sources:
      - {model: base, layer_range: [1, 3]}
      - {model: a, layer_range: [0, 2], parameters: {weight: 0.5}}
      - {model: b, layer_range: [2, 4], parameters: {weight: 0.25}}
"""
    assert run(text) == 0

    def moved(start: Arrays, x: Arrays, y: Arrays) -> Arrays:
        return {n: w + 0.5 * (x[n] - w) + 0.25 * (y[n] - w) for n, w in start.items()}

    want = put(*(moved(layer(base, i + 1), layer(a, i), layer(b, i + 2)) for i in range(2)))
    names = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
    equal(want | moved(*(outside(x, *names) for x in (base, a, b))), 1e-5)


def test_slerp_of_slices_and_a_stage_of_slices(here: Path) -> None:
    """A stack of slices under a name is a model of a later stage, and its number of layers reaches config.json."""
    a, b = llama.folder(here / "a", 1), llama.folder(here / "b", 2)
    text = """
name: tall
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 4]}]
  - sources: [{model: a, layer_range: [2, 4]}]
---
merge_method: slerp
base_model: tall
parameters: {t: 1}
slices:
  - sources: [{model: tall, layer_range: [0, 4]}, {model: b, layer_range: [0, 4]}]
  - sources: [{model: tall, layer_range: [4, 6]}, {model: b, layer_range: [0, 2]}]
"""
    assert run(text) == 0
    names = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
    equal(put(*(layer(b, i) for i in (0, 1, 2, 3, 0, 1))) | outside(b, *names), 1e-5)
    assert json.loads(Path("out/config.json").read_text())["num_hidden_layers"] == 6
    text = text.replace("parameters: {t: 1}", "parameters: {t: 0}")
    assert run(text, "--overwrite") == 0
    equal(put(*(layer(a, i) for i in (0, 1, 2, 3, 2, 3))) | outside(a, *names), 1e-5)


def test_a_bert_is_stacked_too(here: Path) -> None:
    """layer.N of an encoder; the pooler stands after the layers, every embedding before."""
    from safetensors.numpy import save_file

    made: list[Arrays] = []
    for k, name in enumerate("ab"):
        rng = np.random.default_rng(k)
        leaves = {
            "embeddings.word_embeddings.weight": (9, 4),
            "embeddings.LayerNorm.weight": (4,),
            "pooler.dense.weight": (4, 4),
        }
        leaves |= {f"encoder.layer.{i}.attention.self.query.weight": (4, 4) for i in range(3)}
        made.append({n: rng.standard_normal(s).astype(np.float32) for n, s in leaves.items()})
        (here / name).mkdir()
        save_file(made[-1], here / name / "model.safetensors")
        (here / name / "config.json").write_text(json.dumps({"model_type": "bert", "num_hidden_layers": 3}))
    text = "merge_method: passthrough\nslices:\n- sources: [{model: a, layer_range: [2, 3]}]\n"
    assert run(text + "- sources: [{model: b, layer_range: [0, 1]}]\n") == 0
    query = "encoder.layer.{}.attention.self.query.weight"
    want = {n: made["pooler" in n][n] for n in made[0] if "encoder" not in n}
    equal(want | {query.format(0): made[0][query.format(2)], query.format(1): made[1][query.format(0)]})


SLICE = "merge_method: linear\nparameters: {weight: 1}\nslices:\n- sources:\n  - {model: a, layer_range: [0, 2]}\n"
FAULTS: list[tuple[str, tuple[str, ...]]] = [
    (SLICE + "  - {model: b, layer_range: [5, 7]}", ("r.yml:6", "layer_range [5, 7] of b ends after its 4 layers")),
    (SLICE + "  - {model: flat, layer_range: [0, 2]}", ("r.yml:6", "flat has no layers (no name like layers.0.)")),
    (SLICE + "  - {model: two, layer_range: [0, 2]}", ("r.yml:6", "2 stacks of layers (decoder.layers, encod")),
    (SLICE + "  - {model: odd, layer_range: [0, 2]}", ("r.yml:6", "layer 1 of odd and layer 1 of a differ in .extra")),
    (SLICE + "  - {model: headless, layer_range: [0, 2]}", ("r.yml:6", "headless has no lm_head.weight, which a has")),
    (SLICE.replace("[0, 2]", "[2, 2]"), ("r.yml:5", "[2, 2] has no layers")),
    (SLICE + "  - {model: b, layer_range: [0, 3]}", ("r.yml:4", "the same number of layers")),
    (SLICE + "  - {model: a, layer_range: [1, 3]}", ("r.yml:6", "model a is listed twice")),
    (SLICE + "modules: {text: {}}", ("r.yml:6", "modules: not supported")),
    (SLICE + "  residual_weight: 0.5", ("r.yml:6", "residual_weight: not supported")),
    (SLICE + "  - {model: gone, layer_range: [0, 2]}", ("r.yml:6", "no such folder ./gone")),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), FAULTS, ids=range(len(FAULTS)))
def test_faults_are_one_line(here: Path, capsys: pytest.CaptureFixture[str], text: str, words: tuple[str, ...]) -> None:
    from safetensors.numpy import save_file

    def changed(name: str, change: Any) -> None:
        save_file(change(llama.folder(here / name, 3)), here / name / "model.safetensors")

    llama.folder(here / "a", 1)
    llama.folder(here / "b", 2)
    changed("flat", lambda w: {"w": np.ones(2, np.float32)})
    changed(
        "two", lambda w: {f"{s}.layers.{i}.w": np.ones(2, np.float32) for s in ("encoder", "decoder") for i in "01"}
    )
    changed("odd", lambda w: w | {"model.layers.1.extra": np.ones(2, np.float32)})
    changed("headless", lambda w: {n: x for n, x in w.items() if n != "lm_head.weight"})
    assert run(text) == 2
    error = capsys.readouterr().err
    assert error.startswith("wspace: error: ") and error.count("\n") == 1
    assert [word for word in words if word not in error] == [], error
    assert not Path("out").exists()
