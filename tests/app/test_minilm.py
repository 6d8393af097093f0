"""Deleted, a run on a real model folder could lose a file, a dtype, a tensor, or the model's meaning."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import wspace as ws
from wspace.app.cli import main
from wspace.core.errors import MissingExtra
from wspace.data import minilm

ROOT = Path(__file__).parents[2]
TEXTS = ["A cat sat on the mat.", "The stock market fell sharply today.", "A kitten rested on a rug."]


@pytest.mark.slow
def test_ties_of_three_noisy_copies(tmp_path: Path) -> None:
    try:
        source = minilm.folder()
    except MissingExtra as missing:
        pytest.skip(str(missing))
    assert main(["run", str(ROOT / "configs/minilm.yml"), str(tmp_path / "out"), "--quiet"]) == 0
    before, after = ws.io.open_checkpoint(source), ws.io.open_checkpoint(tmp_path / "out")
    assert before.specs == after.specs and len(after) == 104
    assert after["embeddings.position_ids"].dtype == np.int64
    np.testing.assert_array_equal(after["embeddings.position_ids"], before["embeddings.position_ids"])

    weights = ("model.safetensors", ".index.json")
    files = {p.relative_to(source).as_posix(): p for p in source.rglob("*") if p.is_file() and p.name != "README.md"}
    for name, path in files.items():
        if not name.endswith(weights):
            assert (tmp_path / "out" / name).read_bytes() == path.read_bytes(), name
    assert ws.io.verify(tmp_path / "out").leaves == 104

    vocabulary = minilm.vocabulary(source)
    batch = minilm.tokenize(TEXTS, vocabulary)
    old, new = (np.asarray(minilm.encode(dict(p), *batch)) for p in (before, after))
    cosine = np.sum(old * new, axis=1)
    assert (cosine > 0.9).all() and (cosine < 0.9999).all(), cosine  # 5 % noise: changed, and still the model
    assert new[0] @ new[2] > new[0] @ new[1]  # the cat is nearer to the kitten than to the market


@pytest.mark.slow
def test_minilm_with_two_tokens_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy learned two tokens; united, the model encodes what it did, and the new rows are the copy's."""
    try:
        source = minilm.folder()
    except MissingExtra as missing:
        pytest.skip(str(missing))
    monkeypatch.chdir(tmp_path)
    base = dict(ws.io.open_checkpoint(source))
    words, new = "embeddings.word_embeddings.weight", np.float32([[0.5] * 384, [-0.25] * 384])
    ws.io.write_tree("more", base | {words: np.concatenate([base[words], new])})
    for file in ("config.json", "tokenizer.json"):
        table = json.loads((source / file).read_text())
        if file == "config.json":
            table["vocab_size"] += 2
        else:
            table["added_tokens"] += [{"id": 30522 + i, "content": f"[NEW{i}]", "special": True} for i in range(2)]
        Path("more", file).write_text(json.dumps(table))
    text = f"base_model: {source}\nmodels: [{{model: more}}, {{model: {source}}}]\nparameters: {{weight: 0.5}}\n"
    Path("r.yml").write_text(f"merge_method: linear\n{text}tokenizer_source: union\n")
    assert main(["run", "r.yml", "out", "--quiet"]) == 0
    out = ws.io.open_checkpoint("out")
    assert (
        out.specs[words].shape == (30524, 384)
        and json.loads(Path("out/config.json").read_text())["vocab_size"] == 30524
    )
    np.testing.assert_allclose(out[words][30522:], new, rtol=1e-6)
    batch = minilm.tokenize(TEXTS, minilm.vocabulary(source))
    old, made = (np.asarray(minilm.encode(dict(p), *batch)) for p in (base, out))
    np.testing.assert_allclose(made, old, atol=1e-5)


@pytest.mark.slow
def test_an_adapter_on_minilm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Merged by `convert`, the model encodes as with the update added by hand; extracted again, it is that adapter."""
    try:
        source = minilm.folder()
    except MissingExtra as missing:
        pytest.skip(str(missing))
    monkeypatch.chdir(tmp_path)
    base, rng = dict(ws.io.open_checkpoint(source)), np.random.default_rng(0)
    names = [name for name in base if name.endswith(("query.weight", "value.weight"))]
    factors = {n: (0.05 * rng.standard_normal((4, 384)), 0.05 * rng.standard_normal((384, 4))) for n in names}
    saved: dict[str, np.ndarray] = {}
    for name, (a, b) in factors.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        saved |= {f"{module}.lora_A.weight": np.float32(a), f"{module}.lora_B.weight": np.float32(b)}
    Path("lora").mkdir()
    save_file(saved, "lora/adapter_model.safetensors")
    Path("lora/adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    assert main(["convert", "lora", "merged", "--base", str(source), "--quiet"]) == 0
    merged, by_hand = (
        ws.io.open_checkpoint("merged"),
        base | {n: base[n] + np.float32(2 * b @ a) for n, (a, b) in factors.items()},
    )
    batch = minilm.tokenize(TEXTS, minilm.vocabulary(source))
    old, want, made = (np.asarray(minilm.encode(dict(p), *batch)) for p in (base, by_hand, merged))
    np.testing.assert_allclose(made, want, atol=1e-5)
    assert np.abs(made - old).max() > 0.01
    assert ws.reparam.lora_ranks(merged, base, energy=0.999, where="layer.0.*(query|value).weight") == dict.fromkeys(
        names[:2], 4
    )
