"""Deleted, a merge of quantized checkpoints could average codes and scales, or lose what a leaf was."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from wspace.app.cli import main
from wspace.core.errors import FormatError
from wspace.core.stored import facts_of, parts_of
from wspace.io import open_checkpoint
from wspace.io.nodes import NODES, Whole
from wspace.quant import QTensor

RNG = np.random.default_rng(0)
MERGE = (
    "sources: {a: ./qa, b: ./qb, base: ./base}\nmodels: [a, b]\nbase: base\nsteps:\n  - merge.ties: {density: 0.5}\n"
)


def leaves(scale: float = 1.0) -> dict[str, Any]:
    made = {f"layers.{i}.up.weight": RNG.standard_normal((8, 16)) * scale for i in range(2)} | {"norm": np.ones(8)}
    return {name: jnp.asarray(x, jnp.float32) for name, x in made.items()} | {"ids": np.arange(4)}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base, and two fine-tunes whose matrices are quantized to 4 bits by runs of their own."""
    monkeypatch.chdir(tmp_path)
    base = leaves()
    ws.io.save("base", base)
    for name in "ab":
        moved = {n: x if n == "ids" else x + jnp.asarray(0.3 * RNG.standard_normal(x.shape), jnp.float32)
                 for n, x in base.items()}  # fmt: skip
        ws.io.save(name, moved)
        text = f"sources: {{m: ./{name}}}\nmodels: [m]\nsteps:\n  - quant.rtn: {{bits: 4}}\n    where: weight\n"
        Path("q.yml").write_text(text)
        assert main(["run", "q.yml", f"q{name}", "--quiet"]) == 0
    return tmp_path


def test_quantized_in_dense_out_equals_the_merge_in_memory(here: Path) -> None:
    a, b, base = (ws.io.load(name) for name in ("qa", "qb", "base"))
    assert isinstance(a["layers.0.up.weight"], QTensor)
    (here / "r.yml").write_text(MERGE)
    assert main(["run", "r.yml", "out", "--quiet"]) == 0
    out = open_checkpoint("out")
    assert out.keys() == base.keys() and NODES not in out.metadata
    want = ws.merge.ties(density=0.5)(ws.materialize(a), ws.materialize(b), base=base)
    for name, leaf in want.items():
        np.testing.assert_array_equal(out[name], leaf, err_msg=name)


def test_quantized_in_quantized_out_with_the_ledger(here: Path) -> None:
    (here / "r.yml").write_text(MERGE + "  - quant.rtn: {bits: 4, group: 8}\n    where: weight\n")
    assert main(["run", "r.yml", "out", "--quiet"]) == 0
    out, base = ws.io.load("out"), ws.io.load("base")
    merged = ws.merge.ties(density=0.5)(*(ws.materialize(ws.io.load(n)) for n in ("qa", "qb")), base=base)
    want = ws.on("weight", ws.quant.rtn(bits=4, group=8))(merged)
    rows = {row["path"]: row for row in json.loads(Path("out/ledger.json").read_text())}
    for name in ("layers.0.up.weight", "layers.1.up.weight"):
        np.testing.assert_array_equal(out[name].codes, want[name].codes)
        row = rows[name]
        moved = np.asarray(want[name].materialize(), np.float64) - np.asarray(base[name], np.float64)
        np.testing.assert_allclose(row["max_error"], np.abs(moved).max(), rtol=1e-6)
        assert (row["made"], row["bits_before"], row["bits_after"]) == ("QTensor", 8 * 16 * 32, 8 * 16 * 4 + 16 * 32)


def test_a_quantized_base_and_a_perturbed_quantized_source(here: Path) -> None:
    """The ledger then counts the base's own bits; noise falls on the materialized leaf."""
    text = MERGE.replace("b: ./qb", "b: {perturb: {of: a, noise: 0.1}}").replace("./base", "./qb")
    (here / "r.yml").write_text(text)
    assert main(["run", "r.yml", "out", "--quiet"]) == 0
    rows = {row["path"]: row for row in json.loads(Path("out/ledger.json").read_text())}
    assert rows["layers.0.up.weight"]["bits_before"] == 8 * 16 * 4 + 8 * 32
    spread = np.asarray(ws.io.load("qa")["layers.0.up.weight"].materialize()).std()
    assert 0 < np.abs(open_checkpoint("out")["layers.0.up.weight"]).max() < 10 * spread


def test_streamed_leaf_by_leaf_no_more_than_one_node_of_a_source_is_held(here: Path) -> None:
    """Sources whose specs hold nodes of shapes: nothing is read to learn a shape, and each leaf once."""
    reads: list[str] = []

    class Watched(Mapping[str, Any]):
        def __init__(self, name: str) -> None:
            self.whole = Whole(open_checkpoint(name))
            self.specs = self.whole.specs

        def __getitem__(self, name: str) -> Any:
            reads.append(name)
            return self.whole[name]

        def __iter__(self) -> Iterator[str]:
            return iter(self.whole)

        def __len__(self) -> int:
            return len(self.whole)

    sources = [Watched("qa"), Watched("qb")]
    t, sink = ws.chain(ws.merge.ties(density=0.5), ws.on("weight", ws.quant.rtn(bits=8))), {}
    plan = ws.plan(t, *sources, base=Watched("base"))
    assert reads == [] and {row.made for row in plan.rows} == {"QTensor", "float32", "int64"}
    ws.stream(t, sources, sink, base=Watched("base"))
    assert sorted(reads) == sorted(3 * list(sources[0]))
    memory = t(*(ws.io.load(name) for name in ("qa", "qb")), base=ws.io.load("base"))
    np.testing.assert_array_equal(sink["layers.1.up.weight"].codes, memory["layers.1.up.weight"].codes)


def test_nested_nodes_come_back_whole(tmp_path: Path) -> None:
    """A LoRA on a QTensor inside lists; names nest as they did."""
    tree = {"layers": [{"kernel": jnp.asarray(RNG.standard_normal((6, 4)), jnp.float32)}], "step": jnp.zeros(())}
    import jax

    adapted = ws.on("kernel", ws.chain(ws.quant.rtn(4), ws.reparam.lora(2)))(tree, key=jax.random.key(0))
    ws.io.save(tmp_path / "x", adapted)
    whole = Whole(open_checkpoint(tmp_path / "x"))
    assert list(whole) == ["layers.0.kernel", "step"]
    assert jax.tree.structure(whole.tree()) == jax.tree.structure(adapted)
    node = whole.specs["layers.0.kernel"]
    assert type(node.base).__name__ == "QTensor" and (node.shape, node.dtype) == ((6, 4), jnp.float32)


def test_a_damaged_note_is_one_line(tmp_path: Path) -> None:
    node = ws.quant.rtn(4)({"k": jnp.ones((2, 2))})["k"]
    good = facts_of(node)
    for number, note in enumerate(("{", "[]", json.dumps({"k": good | {"kind": "Nothing"}}), json.dumps({"z": good}))):
        ws.io.write_tree(tmp_path / str(number), {"k": parts_of(node)}, metadata={NODES: note})
        with pytest.raises(FormatError, match=str(number)) as caught:
            ws.io.load(tmp_path / str(number))
        assert "\n" not in str(caught.value)
