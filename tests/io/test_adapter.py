"""Deleted, a PEFT folder could be read in the wrong layout or with the wrong scale, or be written so that PEFT can't.

`peft_folders.npz` was written by peft itself with benchmarks/peft_numbers.py, which tells what is in it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import wspace as ws
from wspace.core.errors import FormatError, IntegrityError, ShapeError, TreeMismatch
from wspace.io import Adapted, AdapterFolder, Whole, load_adapter, open_checkpoint, save_adapter
from wspace.io.adapter import CONFIG, FACTORS
from wspace.reparam import LoRA

FOLDERS = np.load(Path(__file__).with_name("peft_folders.npz"), allow_pickle=False)
CASES = json.loads(str(FOLDERS["cases"]))


def arrays(case: str, kind: str) -> dict[str, np.ndarray]:
    start = f"{case}/{kind}/"
    return {name.removeprefix(start): FOLDERS[name] for name in FOLDERS.files if name.startswith(start)}


def laid(path: Path, case: str = "plain", **changes: Any) -> tuple[Path, Path]:
    """The base and the adapter of a case as folders, the config changed."""
    (path / "base").mkdir(parents=True)
    (path / "lora").mkdir()
    save_file(arrays(case, "base"), path / "base" / "model.safetensors")
    config = json.loads(str(FOLDERS[f"{case}/config"])) | changes
    (path / "lora" / CONFIG).write_text(json.dumps(config))
    (path / "lora" / FACTORS).write_bytes(FOLDERS[f"{case}/factors"].tobytes())
    return path / "base", path / "lora"


def close(tree: Any, want: dict[str, np.ndarray]) -> None:
    assert tree.keys() == want.keys()
    for name, leaf in want.items():
        np.testing.assert_allclose(tree[name], leaf, rtol=0, atol=3e-7 * max(1, np.abs(leaf).max()), err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_merged_as_peft_merges(tmp_path: Path, case: str) -> None:
    base, lora = laid(tmp_path, case)
    tree = load_adapter(lora, base)
    close(ws.materialize(tree), arrays(case, "merged"))
    merged = Adapted(Whole(open_checkpoint(base)), AdapterFolder(lora), merged=True)
    close(merged, arrays(case, "merged"))
    assert {n: (s.shape, s.dtype) for n, s in merged.specs.items()} == {
        n: (x.shape, x.dtype) for n, x in merged.items()
    }
    nodes = [name for name, x in tree.items() if isinstance(x, LoRA)]
    assert [n for n in tree if not np.array_equal(arrays(case, "base")[n], merged[n])] == sorted(
        {*nodes, *(["head.weight", "head.bias"] if case == "saved" else [])}
    )


@pytest.mark.parametrize("case", sorted(set(CASES) - {"saved"}))
def test_what_is_written_is_read_again_with_peft_s_names(tmp_path: Path, case: str) -> None:
    base, lora = laid(tmp_path, case)
    save_adapter(tmp_path / "again", load_adapter(lora, base), "some/base")
    close(ws.materialize(load_adapter(tmp_path / "again", base)), arrays(case, "merged"))
    ours, theirs = (load_file(folder / FACTORS) for folder in (tmp_path / "again", lora))
    assert {n: x.shape for n, x in ours.items()} == {n: x.shape for n, x in theirs.items() if "base_layer" not in n}
    config = json.loads((tmp_path / "again" / CONFIG).read_text())
    assert (config["peft_type"], config["base_model_name_or_path"], config["use_rslora"]) == (
        "LORA",
        "some/base",
        False,
    )
    assert config["fan_in_fan_out"] == (case == "turned")
    if case == "patterns":  # q_proj has rank 3 and scale 9 / 3, up rank 2 and scale 5 / 2
        numbers = {config["r"]: config["lora_alpha"]}
        assert numbers in ({3: 9}, {2: 5}, {2: 9}, {3: 5}) and len(config["rank_pattern"]) == 1


def test_an_adapter_trains_and_is_saved(tmp_path: Path) -> None:
    base, lora = laid(tmp_path)
    train, rest = ws.split(load_adapter(lora, base))
    moved = jax.tree.map(lambda x: x + 1, train)
    save_adapter(tmp_path / "out", ws.join(moved, rest))
    again = load_adapter(tmp_path / "out", base)
    np.testing.assert_allclose(again["up.weight"].a, np.asarray(train["up.weight"].a) + 1, atol=1e-6)


def test_two_folders_are_combined(tmp_path: Path) -> None:
    base, lora = laid(tmp_path)
    a = load_adapter(lora, base)
    both = ws.reparam.combine_adapters("cat", (0.5, 0.5))(a, a)
    close(ws.materialize(both), arrays("plain", "merged"))


def test_a_quantized_base(tmp_path: Path) -> None:
    """QLoRA: the base's 4-bit leaf stays one inside the LoRA, in shapes and in values."""
    _, lora = laid(tmp_path)
    small = ws.on("up.weight", ws.quant.rtn(4))({n: jnp.asarray(x) for n, x in arrays("plain", "base").items()})
    ws.io.save(tmp_path / "small", small)
    whole = Adapted(Whole(open_checkpoint(tmp_path / "small")), AdapterFolder(lora))
    assert type(whole.specs["up.weight"].base).__name__ == "QTensor"
    update = arrays("plain", "merged")["up.weight"] - arrays("plain", "base")["up.weight"]
    np.testing.assert_allclose(whole["up.weight"].materialize(), small["up.weight"].materialize() + update, atol=1e-5)


REFUSED = [
    ({"peft_type": "LOHA"}, "peft_type is LOHA; only LORA"),
    ({"use_dora": True}, "use_dora is not supported: DoRA also scales"),
    ({"lora_bias": True}, "lora_bias is not supported"),
    ({"layer_replication": [[0, 2]]}, "layer_replication is not supported: it repeats layers"),
    ({"target_parameters": ["experts"]}, "target_parameters is not supported"),
    ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights pissa_niter_4 took its start out of the base"),
    ({"r": 0}, "r must be a number above 0, not 0"),
    ({"r": 4}, "should have rank 4 by adapter_config.json, but lora_A is (3, "),
    ({"alpha_pattern": {"up(": 3}}, "alpha_pattern: 'up(' is no regular expression"),
    ({"rank_pattern": {"up": "two"}}, "rank_pattern must map module names to numbers"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED, ids=[next(iter(c)) for c, _ in REFUSED])
def test_what_is_no_low_rank_update_alone_is_refused_by_name(tmp_path: Path, changes: Any, words: str) -> None:
    _, lora = laid(tmp_path, **changes)
    with pytest.raises(FormatError) as caught:
        AdapterFolder(lora)
    assert words in str(caught.value) and "lora/adapter_" in str(caught.value) and "\n" not in str(caught.value)


def test_a_saved_embedding_is_the_base_of_its_own_adapter(tmp_path: Path) -> None:
    """peft saves an adapted embedding whole, as base_layer: the update stands on that, not on the base's leaf."""
    base, lora = laid(tmp_path)
    name = "embed_tokens.weight"
    own = arrays("plain", "base")[name] + 1
    saved = {"base_model.model.embed_tokens.base_layer.weight": own}
    save_file(load_file(lora / FACTORS) | saved, lora / FACTORS)
    close(
        ws.materialize(load_adapter(lora, base)),
        arrays("plain", "merged") | {name: arrays("plain", "merged")[name] + 1},
    )


def test_damaged_folders(tmp_path: Path) -> None:
    base, lora = laid(tmp_path)
    factors = load_file(lora / FACTORS)
    whole = Whole(open_checkpoint(base))

    def broken(changes: dict[str, Any]) -> AdapterFolder:
        save_file({n: x for n, x in (factors | changes).items() if x is not None}, lora / FACTORS)
        return AdapterFolder(lora)

    start = "base_model.model.up.lora_"
    with pytest.raises(FormatError, match="up has no lora_B"):
        broken({f"{start}B.weight": None})
    with pytest.raises(FormatError, match="lora_magnitude_vector' belongs to a kind of adapter"):
        broken({f"{start}magnitude_vector": np.ones(4, np.float32)})
    with pytest.raises(TreeMismatch, match=r"does not have \(1\): upp.weight. Did you mean 'up.weight'"):
        Adapted(whole, broken({"base_model.model.upp.lora_A.weight": factors[f"{start}A.weight"],
                               "base_model.model.upp.lora_B.weight": factors[f"{start}B.weight"]}))  # fmt: skip
    with pytest.raises(ShapeError, match=r"'up.weight' does not fit its base of shape \(4, 8\): lora_A is \(3, 7\)"):
        Adapted(whole, broken({f"{start}A.weight": np.ones((3, 7), np.float32)}))
    _, turned = laid(tmp_path / "other", "turned", fan_in_fan_out=False)
    with pytest.raises(ShapeError, match="fan_in_fan_out the other way round would fit"):
        Adapted(Whole(open_checkpoint(tmp_path / "other" / "base")), AdapterFolder(turned))
    (lora / FACTORS).rename(lora / "adapter_model.bin")
    with pytest.raises(FormatError, match=r"no adapter_model.safetensors: its weights are pickled"):
        AdapterFolder(lora)
    with pytest.raises(FormatError, match="no PEFT adapter"):
        AdapterFolder(base)


def test_a_file_that_changes_meanwhile(tmp_path: Path) -> None:
    base, lora = laid(tmp_path)
    adapted = Adapted(Whole(open_checkpoint(base)), AdapterFolder(lora))
    adapted.check_unchanged()
    (lora / CONFIG).write_text((lora / CONFIG).read_text() + " ")
    with pytest.raises(IntegrityError, match=r"adapter_config.json changed"):
        adapted.check_unchanged()


def test_what_peft_has_no_form_for(tmp_path: Path) -> None:
    key = jax.random.key(0)
    with pytest.raises(FormatError, match="no LoRA leaf"):
        save_adapter(tmp_path / "a", {"w": jnp.ones(2)})
    with pytest.raises(FormatError, match=r"'layers.kernel': PEFT names the weight of a torch module"):
        save_adapter(tmp_path / "b", ws.reparam.lora(1)({"layers": {"kernel": jnp.ones((2, 3, 4))}}, key=key))
    stacked = ws.Axes({"weight": "stack out in"})
    with pytest.raises(FormatError, match="is a stack of layers"):
        save_adapter(tmp_path / "c", ws.reparam.lora(1)({"l.weight": jnp.ones((2, 3, 4))}, key=key, axes=stacked))
    assert list(tmp_path.iterdir()) == []
