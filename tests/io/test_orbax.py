"""Deleted, Orbax's silent losses (colliding names, flipped bits, tuples, casts, half-written folders) would be ours."""

from __future__ import annotations

import json
import os
import resource
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import given, settings

from tests.io.trees import STORED, nested_trees, same_bits, values
from wspace.core.errors import FormatError, IntegrityError, TreeMismatch, WspaceError
from wspace.io import flatten_names, open_checkpoint, open_orbax, verify, write_orbax, write_tree

TREE = {"enc": {"w": np.arange(600, dtype=np.float32).reshape(20, 30)}, "step": np.array(2**40 + 1)}


@settings(max_examples=15)
@given(nested_trees())
def test_trees_come_back_with_bits_and_containers(tree: Any) -> None:
    try:
        flatten_names(tree)
    except TreeMismatch:
        return
    with TemporaryDirectory() as folder:
        write_orbax(f"{folder}/m", tree)
        assert same_bits(open_checkpoint(f"{folder}/m").tree(), tree)


def test_every_dtype_zero_size_and_no_leaves(tmp_path: Path) -> None:
    tree = {dtype.name: [values(dtype, (4, 33), 0), values(dtype, (), 1), values(dtype, (0, 2), 2)] for dtype in STORED}
    write_orbax(tmp_path / "m", tree)
    assert same_bits(open_orbax(tmp_path / "m").tree(), tree)
    verify(tmp_path / "m")
    for empty in ({}, [], {"a": ()}):
        write_orbax(tmp_path / "empty", empty, overwrite=True)
        assert same_bits(open_orbax(tmp_path / "empty").tree(), empty)


@pytest.mark.filterwarnings("ignore:Sharding info not provided")  # of the plain reader
def test_others_read_ours_and_we_read_theirs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tree = {"a": {"b": np.arange(3.0)}, "l": [np.ones(2, np.int64), jnp.ones((2, 2), jnp.bfloat16)], "n": None}
    write_orbax(tmp_path / "ours", tree)
    source = open_orbax(tmp_path / "ours")
    assert source["l.0"].dtype == np.int64 and verify(tmp_path / "ours").leaves == 3
    assert capfd.readouterr().err == ""
    with ocp.PyTreeCheckpointer() as plain:
        assert same_bits(jax.tree.map(np.asarray, plain.restore(tmp_path / "ours")), jax.tree.map(np.asarray, tree))
        plain.save(tmp_path / "theirs", tree | {"t": (np.ones(1),), "note": "text", "step": 3})
    theirs = open_orbax(tmp_path / "theirs")
    assert sorted(theirs) == ["a.b", "l.0", "l.1", "step", "t.0"] and list(theirs.others) == ["note"]
    assert theirs.tree()["note"] is None and theirs.tree()["t"][0].tolist() == [1]
    assert theirs["step"] == 3 and theirs["a.b"].tolist() == [0, 1, 2] and theirs["l.1"].dtype.name == "bfloat16"
    with pytest.raises(FormatError, match=r"no wspace-manifest\.json"):
        verify(tmp_path / "theirs")


@pytest.mark.parametrize("tree", [{"a.b": np.zeros(1), "a": {"b": np.ones(1)}}, np.ones(2)])
def test_their_trees_that_have_no_names_of_ours(tmp_path: Path, tree: Any) -> None:
    with ocp.PyTreeCheckpointer() as plain:
        plain.save(tmp_path / "theirs", tree)
    with pytest.raises(FormatError, match=f"{tmp_path}/theirs: (two leaves have the one name|.* not a bare)"):
        open_orbax(tmp_path / "theirs")


def test_both_formats_give_a_leaf_the_same_digest(tmp_path: Path) -> None:
    tree = {dtype.name: values(dtype, (3, 5), 0) for dtype in STORED}
    write_tree(tmp_path / "st", tree)
    write_orbax(tmp_path / "ox", open_checkpoint(tmp_path / "st"))
    write_tree(tmp_path / "back", open_checkpoint(tmp_path / "ox"))
    first, *others = (json.loads((tmp_path / n / "wspace-manifest.json").read_text()) for n in ("st", "ox", "back"))
    assert all(other["leaves"] == first["leaves"] for other in others)
    files = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("st", "back")]
    assert files[0] == files[1]


def test_refused_before_anything_is_written(tmp_path: Path) -> None:
    gone = jnp.ones(3)
    gone.delete()
    with pytest.raises(TreeMismatch, match=r"two leaves have the one name 'a\.b'"):
        write_orbax(tmp_path / "m", {"a.b": np.zeros(1), "a": {"b": np.ones(1)}})
    with pytest.raises(FormatError, match=r"'a\.0' is a float"):
        write_orbax(tmp_path / "m", {"a": [0.5]})
    with pytest.raises(FormatError, match=r"'w' .*donated or deleted"):
        write_orbax(tmp_path / "m", {"w": gone})
    assert os.listdir(tmp_path) == []


def test_a_relative_path_and_a_rerun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for value in (1, 2):
        write_orbax("out", {"w": np.full(2, value)}, overwrite=True)
    assert os.listdir() == ["out"] and open_checkpoint("out")["w"].tolist() == [2, 2]


def _fail(*_: Any, **__: Any) -> None:
    raise ValueError("RESOURCE_EXHAUSTED: no space\nand a page of context")


def test_a_save_that_reads_back_otherwise_is_not_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = ocp.type_handlers.NumpyHandler.serialize
    monkeypatch.setattr(
        ocp.type_handlers.NumpyHandler, "serialize", lambda self, w, *how: original(self, [w[0] + 1], *how)
    )
    with pytest.raises(IntegrityError, match="m: leaves read back other than they were written: w"):
        write_orbax(tmp_path / "m", {"w": np.ones(2)})
    assert os.listdir(tmp_path) == []


def test_a_save_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_orbax(tmp_path / "m", TREE)
    monkeypatch.setattr(ocp.Checkpointer, "save", _fail)
    with pytest.raises(
        WspaceError, match=r"Orbax cannot write .*: RESOURCE_EXHAUSTED: no space; nothing was left behind$"
    ):
        write_orbax(tmp_path / "m", {"w": np.ones(2)}, overwrite=True)
    assert os.listdir(tmp_path) == ["m"] and same_bits(open_orbax(tmp_path / "m").tree(), TREE)


def test_a_real_limit_of_the_system(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(WspaceError) as caught:
            write_orbax(tmp_path / "m", {"w": np.random.default_rng(0).random(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value) and "nothing was left behind" in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.fixture(scope="module")
def two_leaves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose leaves lie in a data file each; now and then Orbax puts both into one: it is asked again."""
    path = tmp_path_factory.mktemp("orbax") / "m"
    draw = np.random.default_rng(0)
    tree = {"a": {"w": draw.random((200, 50))}, "b": draw.random((200, 50))}
    for _ in range(50):
        write_orbax(path, tree, overwrite=True)
        if sum(file.stat().st_size > 50_000 for file in path.rglob("d/*")) == 2:
            return path
    raise LookupError("Orbax puts both leaves into one file every time")


@pytest.mark.parametrize("harm", ["shorter", "deleted"])
def test_a_file_that_is_cut_or_gone_is_named_on_opening(two_leaves: Path, tmp_path: Path, harm: str) -> None:
    names = [
        p.relative_to(two_leaves) for p in two_leaves.rglob("*") if p.is_file() and p.name != "wspace-manifest.json"
    ]
    for i, name in enumerate(names):
        copy = tmp_path / str(i)
        shutil.copytree(two_leaves, copy)
        if harm == "shorter":
            os.truncate(copy / name, (copy / name).stat().st_size // 2)
        else:
            (copy / name).unlink()
        says = "not complete" if (harm, name.name) == ("deleted", "_METADATA") else str(name)
        with pytest.raises(FormatError, match=f"{copy}: .*{says}"):
            open_orbax(copy)


def _data_file(folder: Path, leaf: str) -> Path:
    """The file that holds a leaf's values: the one without which it cannot be read."""
    for path in sorted(folder.rglob("d/*"), key=lambda p: -p.stat().st_size):
        data = path.read_bytes()
        path.write_bytes(bytes(len(data)))
        try:
            open_orbax(folder)[leaf]
        except FormatError:
            return path
        finally:
            path.write_bytes(data)
    raise LookupError(leaf)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's own event loop
def test_damage_names_the_leaf_and_spares_the_other(two_leaves: Path, tmp_path: Path) -> None:
    shutil.copytree(two_leaves, tmp_path / "m")
    path = _data_file(tmp_path / "m", "a.w")
    data = path.read_bytes()
    path.write_bytes(bytes(len(data)))
    source = open_orbax(tmp_path / "m")
    with pytest.raises(FormatError, match=r"m: leaf a\.w: incomplete or damaged") as caught:
        source["a.w"]
    assert len(str(caught.value)) < 700 and "\n" not in str(caught.value)
    assert source["b"].shape == (200, 50)
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 4
    path.write_bytes(flipped)
    with pytest.raises(IntegrityError, match=r"leaf 'a\.w'") as found:
        verify(tmp_path / "m")
    assert path.name in str(found.value) and "'b'" not in str(found.value)


def test_a_change_while_it_is_open_is_noticed(two_leaves: Path, tmp_path: Path) -> None:
    shutil.copytree(two_leaves, tmp_path / "m")
    source = open_orbax(tmp_path / "m")
    os.utime(tmp_path / "m" / "_METADATA", ns=(1, 1))
    with pytest.raises(IntegrityError, match="_METADATA changed since it was opened"):
        source["b"]


def _finished(path: Path) -> None:
    with ocp.PyTreeCheckpointer() as plain:
        plain.save(path, {"w": np.ones(2)})


def _tmp(root: Path) -> Path:
    path = root / "x.orbax-checkpoint-tmp"
    path.mkdir()
    (path / "array_metadatas").mkdir()
    return path


def _no_metadata(root: Path) -> Path:
    _finished(root / "m")
    (root / "m" / "_METADATA").unlink()
    return root / "m"


def _cut_metadata(root: Path) -> Path:
    _finished(root / "m")
    os.truncate(root / "m" / "_METADATA", 40)
    return root / "m"


def _half_metadata(root: Path) -> Path:
    _finished(root / "m")
    (root / "m" / "_METADATA").write_text("{}")
    return root / "m"


def _manager(root: Path) -> Path:
    for step in (3, 20):
        _finished(root / "run" / str(step) / "default")
    return root / "run"


def _items(root: Path) -> Path:
    _finished(root / "step" / "params")
    return root / "step"


def _unfinished(root: Path) -> Path:
    (root / "run" / "7.orbax-checkpoint-tmp").mkdir(parents=True)
    return root / "run"


def _older(root: Path) -> Path:
    (root / "old" / "params.w").mkdir(parents=True)
    (root / "old" / "checkpoint").write_bytes(b"\x81")
    return root / "old"


def _foreign(root: Path) -> Path:
    (root / "tf").mkdir()
    (root / "tf" / "saved_model.pb").write_bytes(b"")
    return root / "tf"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_tmp, "not complete.*array_metadatas"),
        (_no_metadata, r"not complete.*manifest\.ocdbt"),
        (_cut_metadata, "_METADATA: not valid JSON"),
        (_half_metadata, "incomplete or damaged"),
        (_manager, "holds 2 steps, the last 20; open one of them, as .*run/20/default"),
        (_items, "holds 1 Orbax checkpoints: params; open one of them, as .*step/params"),
        (_unfinished, r"not complete.*7\.orbax-checkpoint-tmp"),
        (_older, r"not recognised.*found: checkpoint, params\.w"),
        (_foreign, r"not recognised.*found: saved_model\.pb"),
    ],
)
def test_what_is_not_a_finished_checkpoint_is_described(tmp_path: Path, make: Any, says: str) -> None:
    path = make(tmp_path)
    with pytest.raises(FormatError, match=f"{path}.*{says}|{path}/{says}") as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Sharding info not provided")  # of the plain reader
def test_a_large_leaf_goes_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wspace.io.orbax_writer.BLOCK", 256)
    monkeypatch.setattr("wspace.io.zarr.CHUNK", 64)
    tree = {
        "wide": np.arange(120.0).reshape(2, 60),
        "one": [jnp.arange(99.0)],
        "long": np.arange(210).reshape(1, 70, 3),
    }
    write_orbax(tmp_path / "m", tree)
    verify(tmp_path / "m")
    source = open_orbax(tmp_path / "m")
    assert same_bits(source.tree(), tree) and source.parts("long") and not source.parts("one.0")
    np.testing.assert_array_equal(source.part("long", (slice(0, 1), slice(8, 17))), tree["long"][:, 8:17])
    with ocp.PyTreeCheckpointer() as plain:
        assert same_bits(jax.tree.map(np.asarray, plain.restore(tmp_path / "m")), jax.tree.map(np.asarray, tree))
    source = open_orbax(tmp_path / "m")
    with pytest.raises(ValueError, match="read-only"):
        source["wide"][0] = 1
