"""Deleted, rows of an embedding could be merged with rows of other tokens, or a tokenizer be written that disagrees.

`mergekit_folders.npz` was made by mergekit itself with benchmarks/mergekit_folders.py, which tells what is in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.app import llama
from wspace.app.cli import main
from wspace.app.execute import open_recipe
from wspace.app.load import load
from wspace.app.resume import resume_key
from wspace.app.tokenizer import read_tokenizer
from wspace.core.errors import FormatError
from wspace.io import open_checkpoint

MERGED = np.load(Path(__file__).with_name("mergekit_folders.npz"), allow_pickle=False)
CASES, MODELS = json.loads(str(MERGED["cases"])), json.loads(str(MERGED["models"]))
EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(text: str, *args: str) -> int:
    Path("r.yml").write_text(text)
    return main(["run", "r.yml", "out", "--quiet", *args])


def leaves(name: str) -> dict[str, np.ndarray]:
    start = f"{name}/leaf/"
    return {key.removeprefix(start): MERGED[key] for key in MERGED.files if key.startswith(start)}


@pytest.fixture
def models(here: Path) -> Path:
    for name in MODELS:
        (here / name).mkdir()
        save_file(leaves(name), here / name / "model.safetensors")
        for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            (here / name / file).write_text(str(MERGED[f"{name}/{file}"]))
    return here


@pytest.mark.parametrize("case", CASES)
def test_the_folders_of_mergekit(models: Path, case: str) -> None:
    """The same leaves; of embeddings the same row for the same token, whose number may differ; the same sizes."""
    assert run(str(MERGED[f"{case}/recipe"])) == 0
    want, theirs = leaves(case), json.loads(str(MERGED[f"{case}/ids"]))
    found, ours = open_checkpoint("out"), read_tokenizer(Path("out")).ids
    assert found.keys() == want.keys() and ours.keys() == theirs.keys()
    order = [[ids[token] for token in sorted(theirs)] for ids in (ours, theirs)]
    for name, leaf in want.items():
        got = found[name]
        assert got.shape == leaf.shape, name
        if name in EMBEDDINGS:
            for rows, x in zip(order, (got, leaf), strict=True):
                rows += sorted(set(range(len(x))) - set(rows))
            got, leaf = got[order[0]], leaf[order[1]]
        np.testing.assert_allclose(got, leaf, rtol=0, atol=1e-6 * max(1, np.abs(leaf).max()), err_msg=name)
    config, wanted = json.loads(Path("out/config.json").read_text()), json.loads(str(MERGED[f"{case}/config"]))
    assert {k: config[k] for k in ("vocab_size", "num_hidden_layers")} == {
        k: wanted[k] for k in ("vocab_size", "num_hidden_layers")
    }


UNION = "merge_method: linear\nbase_model: a\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"


def test_new_tokens_are_written_in_every_file_that_names_them(here: Path) -> None:
    llama.folder(here / "a", 1)
    llama.folder(here / "b", 2, added=["<|im_end|>"])
    (here / "a" / "added_tokens.json").write_text("{}")
    (here / "a" / "special_tokens_map.json").write_text('{"unk_token": "<unk>"}')
    assert run(UNION + "tokenizer: {source: union, tokens: {<new>: {source: {kind: zero}}}}") == 0
    entries = {e["content"]: e for e in json.loads(Path("out/tokenizer.json").read_text())["added_tokens"]}
    assert (entries["<|im_end|>"]["id"], entries["<|im_end|>"]["special"]) == (20, True)
    assert (entries["<new>"]["id"], entries["<new>"]["special"], entries["<new>"]["normalized"]) == (21, False, True)
    decoder = json.loads(Path("out/tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert {n: e["content"] for n, e in decoder.items()} == {"20": "<|im_end|>", "21": "<new>"}
    assert json.loads(Path("out/added_tokens.json").read_text()) == {"<|im_end|>": 20, "<new>": 21}
    assert json.loads(Path("out/special_tokens_map.json").read_text()) == {"unk_token": "<unk>"}
    embedding, theirs = open_checkpoint("out")["lm_head.weight"], open_checkpoint("b")["lm_head.weight"]
    np.testing.assert_allclose(embedding[20], theirs[20], rtol=1e-6)  # in one model only: that row in both
    assert not embedding[21].any()
    assert main(["verify", "out", "--quiet"]) == 0


def test_a_run_with_another_tokenizer_is_another_run(here: Path) -> None:
    """It takes other rows, though the checkpoints are the same."""

    def key() -> str | None:
        return resume_key(open_recipe(load("r.yml"), lambda label: lambda *told: None), bare=True)[0]

    for name, seed in (("a", 1), ("b", 2)):
        llama.folder(here / name, seed)
    (here / "r.yml").write_text(UNION + "tokenizer_source: union")
    before = key()
    assert before is not None and key() == before
    found = json.loads((here / "b" / "tokenizer.json").read_text())
    vocabulary = found["model"]["vocab"]
    first, second, *_ = [token for token, i in vocabulary.items() if i > 5]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (here / "b" / "tokenizer.json").write_text(json.dumps(found))
    assert key() != before


def test_an_ordinary_run_leaves_the_tokenizer_to_the_byte(here: Path) -> None:
    llama.folder(here / "a", 1)
    llama.folder(here / "b", 2)
    assert run(UNION + "tokenizer_source: base") == 0
    for file in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        a, out = (json.loads((here / name / file).read_text()) for name in ("a", "out"))
        assert a == out
    np.testing.assert_allclose(
        open_checkpoint("out")["lm_head.weight"],
        (open_checkpoint("a")["lm_head.weight"] + open_checkpoint("b")["lm_head.weight"]) / 2,
        atol=1e-6,
    )


@pytest.mark.parametrize("kind", ["WordPiece", "Unigram"])
def test_other_vocabularies(here: Path, kind: str) -> None:
    """A list of tokens with scores counts like a table; one model's order differs from the other's."""
    words = llama.tokens(6)
    for k, (name, order) in enumerate((("a", words), ("b", [*words[:3], *reversed(words[3:])]))):
        llama.folder(here / name, k, vocabulary=order)
        model: dict[str, Any] = {"type": kind, "vocab": {w: i for i, w in enumerate(order)}}
        if kind == "Unigram":
            model["vocab"] = [[w, -float(i)] for i, w in enumerate(order)]
        (here / name / "tokenizer.json").write_text(json.dumps({"added_tokens": [], "model": model}))
    assert run(UNION + "tokenizer_source: union") == 0
    a, b = (open_checkpoint(name)["model.embed_tokens.weight"] for name in "ab")
    np.testing.assert_allclose(
        open_checkpoint("out")["model.embed_tokens.weight"], (a + b[[0, 1, 2, 5, 4, 3]]) / 2, atol=1e-6
    )


@pytest.mark.parametrize("text", ["{{ mine }}", "auto"])
def test_chat_templates(here: Path, text: str) -> None:
    for name, template in (("a", "{{ x }}"), ("b", " {{ y }}"), ("c", "{{ y }}")):
        llama.folder(here / name, 1)
        (here / name / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, "other": 1}))
    (here / "a" / "chat_template.jinja").write_text("{{ x }}")
    models = "models: [{model: a}, {model: b}, {model: c}]\n"
    assert run(f"merge_method: linear\n{models}parameters: {{weight: 1}}\nchat_template: '{text}'") == 0
    want = "{{ y }}" if text == "auto" else text
    assert json.loads(Path("out/tokenizer_config.json").read_text()) == {"chat_template": want, "other": 1}
    assert Path("out/chat_template.jinja").read_text() == want


RULE = "tokenizer: {tokens: {tok5: {source: %s}}}"
FAULTS: list[tuple[str, tuple[str, ...]]] = [
    (RULE % "c", ("r.yml:5", "token 'tok5' comes from c, which is not merged here")),
    (RULE % "{kind: none}", ("r.yml:5", "unknown value 'none'")),
    (RULE % "{kind: zero, model: a}", ("r.yml:5", "unknown key 'model'")),
    (RULE % "{kind: model_token, model: a}", ("r.yml:5", "needs a 'model' and either 'token' or 'token_id'")),
    (RULE % "{kind: model_token, model: a, token: x, token_id: 1}", ("r.yml:5", "either 'token' or 'token_id'")),
    ("tokenizer: {tokens: {tok5: {force: true}}}", ("r.yml:5", "tokenizer.tokens.tok5: needs 'source'")),
    ("tokenizer: {pad_to_multiple_of: 0}", ("r.yml:5", "0 is out of range [1, inf)")),
    ("tokenizer: {tokns: {}}", ("r.yml:5", "unknown key 'tokns'")),
    (RULE % "{kind: model_token, model: b, token: tok55}", ("r.yml:5", "b has no token 'tok55'. Did you mean 'tok5'")),
    (RULE % "{kind: model_token, model: b, token_id: 20}", ("r.yml:5", "b has 20 rows, none with the number 20")),
    ("tokenizer_source: gone", ("r.yml:5", "no such folder ./gone")),
    ("tokenizer_source: bare", ("bare/tokenizer.json", "which rows of the embedding are which tokens is not known")),
    ("tokenizer_source: broken", ("broken/tokenizer.json", "not valid JSON")),
    ("tokenizer_source: odd", ("odd/tokenizer.json", "model.vocab must map tokens to numbers")),
    ("tokenizer_source: wordpiece", ("wordpiece/tokenizer.json", "2 tokens have numbers from 18 on", "only a BPE")),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), FAULTS, ids=range(len(FAULTS)))
def test_faults_are_one_line(here: Path, capsys: pytest.CaptureFixture[str], text: str, words: tuple[str, ...]) -> None:
    for k, name in enumerate(("a", "b", "c", "bare", "broken", "odd", "wordpiece")):
        llama.folder(here / name, k)
    (here / "bare" / "tokenizer.json").unlink()
    (here / "broken" / "tokenizer.json").write_text("{")
    (here / "odd" / "tokenizer.json").write_text('{"model": {"vocab": 3}}')
    table = llama.tokenizer(llama.tokens(20)) | {
        "model": {"type": "WordPiece", "vocab": {f"t{i}": i for i in range(20)}}
    }
    (here / "wordpiece" / "tokenizer.json").write_text(json.dumps(table))
    (here / "wordpiece" / "config.json").write_text('{"vocab_size": 18}')
    fails(capsys, UNION + text, *words)


def fails(capsys: pytest.CaptureFixture[str], text: str, *words: str) -> None:
    assert run(text) == 2
    error = capsys.readouterr().err
    assert error.startswith("wspace: error: ") and error.count("\n") == 1
    assert [word for word in words if word not in error] == [], error
    assert not Path("out").exists()


CONFIGS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda c: c | {"vocab_size": 19}, "lm_head.weight of b has 20 rows, and its config.json says vocab_size 19"),
    (lambda c: c | {"vocab_size": "many"}, "b/config.json: vocab_size must be a number of rows, not many"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), CONFIGS, ids=range(len(CONFIGS)))
def test_a_config_that_disagrees(here: Path, capsys: pytest.CaptureFixture[str], change: Any, words: str) -> None:
    llama.folder(here / "a", 1)
    llama.folder(here / "b", 2)
    config = json.loads((here / "b" / "config.json").read_text())
    (here / "b" / "config.json").write_text(json.dumps(change(config)))
    fails(capsys, UNION + "tokenizer_source: union", words)


def test_rows_of_a_head_that_a_model_does_not_have(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tied in one model, apart in the other: refused, and under a policy too where the rows are needed."""
    llama.folder(here / "a", 1)
    leaves = llama.folder(here / "b", 2, added=["<x>"])
    save_file({n: x for n, x in leaves.items() if n != "lm_head.weight"}, here / "b" / "model.safetensors")
    fails(capsys, UNION + "tokenizer_source: union", "lacks lm_head.weight")
    Path("r.yml").write_text(UNION + "tokenizer_source: union")
    assert main(["run", "r.yml", "out", "--mismatch", "pad"]) == 2
    assert "b has no lm_head.weight, and a needs rows of it" in capsys.readouterr().err
    assert main(["run", "r.yml", "out", "--mismatch", "intersect"]) == 0


def test_a_stage_with_a_new_vocabulary_is_no_source_of_another(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    llama.folder(here / "a", 1)
    llama.folder(here / "b", 2, added=["<x>"])
    second = UNION.replace("model: b", "model: s").replace("tokens", "") + "tokenizer_source: union\n"
    fails(capsys, f"name: s\n{UNION}tokenizer_source: union\n---\n{second}", "s has a new vocabulary already")


def test_a_bad_added_token_is_named(here: Path) -> None:
    llama.folder(here / "a", 1)
    table = llama.tokenizer(llama.tokens(20)) | {"added_tokens": [{"id": "1", "content": "x"}]}
    (here / "a" / "tokenizer.json").write_text(json.dumps(table))
    with pytest.raises(FormatError, match=r"a/tokenizer.json: added_tokens must be a list"):
        read_tokenizer(here / "a")
