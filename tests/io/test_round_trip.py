"""Deleted, a leaf could come back with other bits, another dtype, shape, name, or container than it was saved with."""

from __future__ import annotations

import stat
from collections import namedtuple
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from tests.io.trees import STORED, flat_trees, nested_trees, same_bits, values
from wspace.core.errors import FormatError, ShapeError, TreeMismatch, WspaceError
from wspace.io import SafetensorsFolder, flatten_names, nest_names, open_checkpoint, verify, write_folder, write_tree
from wspace.io.dtypes import DTYPES


@settings(max_examples=120)
@given(flat_trees(), st.sampled_from([1, 40, "1KB", "5GB"]))
def test_flat_trees_come_back_bit_for_bit(tree: dict[str, Any], shard_size: int | str) -> None:
    with TemporaryDirectory() as folder:
        write_tree(f"{folder}/m", tree, shard_size=shard_size)
        source = open_checkpoint(f"{folder}/m")
        assert sorted(source) == sorted(tree)
        for name, leaf in tree.items():
            assert same_bits(source[name], leaf), name
        verify(f"{folder}/m")


@settings(max_examples=100)
@given(nested_trees())
def test_nested_trees_come_back_with_their_containers(tree: Any) -> None:
    try:
        flatten_names(tree)
    except TreeMismatch:  # two paths with one name are refused, which test_names shows
        return
    with TemporaryDirectory() as folder:
        write_tree(f"{folder}/m", tree, shard_size=64)
        assert same_bits(open_checkpoint(f"{folder}/m").tree(), tree)


@pytest.mark.parametrize("dtype", STORED, ids=lambda dtype: dtype.name)
def test_every_dtype_and_every_bit_pattern(tmp_path: Path, dtype: np.dtype[Any]) -> None:
    leaf = values(dtype, (1024,), 1)
    write_tree(tmp_path / "m", {"w": leaf})
    assert same_bits(open_checkpoint(tmp_path / "m")["w"], leaf)


def test_the_reference_loader_reads_what_we_write(tmp_path: Path) -> None:
    plain = [
        d
        for d in DTYPES.values()
        if d.name in ("float32", "int64", "uint64", "float64", "bool", "complex64", "float16")
    ]
    tree = {f"w{i}": values(dtype, (3, 5), i).T for i, dtype in enumerate(plain)}
    write_tree(tmp_path / "m", tree)
    loaded = load_file(tmp_path / "m" / "model.safetensors")
    assert loaded.keys() == tree.keys()
    assert all(same_bits(loaded[name], leaf) for name, leaf in tree.items())


@pytest.mark.parametrize("dtype", ["int4", "uint4", "float4_e2m1fn", "int2", "uint2"])
def test_narrow_codes_take_their_bits_on_disk(tmp_path: Path, dtype: str) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype))
    write_tree(tmp_path / "m", {"w": values(kind, (100_000,), 0)})
    bits = 2 if dtype.endswith("int2") else 4
    assert (tmp_path / "m" / "model.safetensors").stat().st_size < 100_000 * bits / 8 + 500


def test_jax_arrays_and_narrow_jax_codes(tmp_path: Path) -> None:
    tree = {"bf": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3).T, "i4": jnp.array([-8, 7, 3], jnp.int4)}
    write_tree(tmp_path / "m", tree)
    source = open_checkpoint(tmp_path / "m")
    assert source["bf"].astype(np.float32).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert source["i4"].astype(int).tolist() == [-8, 7, 3] and source["i4"].dtype == ml_dtypes.int4


def test_output_bytes_do_not_depend_on_order(tmp_path: Path) -> None:
    tree = {f"layer.{i}.w": values(np.dtype(np.float32), (3, i), i) for i in range(5)} | {"mask": np.ones(3, bool)}
    notes = {"z": 1, "a": "x"}
    for name, order in (("a", list(tree)), ("b", list(reversed(tree)))):
        metadata = {key: notes[key] for key in sorted(notes, reverse=name == "a")}
        with write_folder(tmp_path / name, {k: tree[k] for k in order}, metadata=metadata, shard_size=100) as sink:
            for leaf in reversed(order):
                sink[leaf] = tree[leaf]
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in "ab")
    assert first == second and len(first) > 3


def test_data_is_aligned_whatever_the_names(tmp_path: Path) -> None:
    write_tree(tmp_path / "m", {"a": np.ones(3, bool), "b": np.ones(3, np.float64), "c": np.ones(1, np.float16)})
    source = SafetensorsFolder(tmp_path / "m")
    assert all(source[name].flags.aligned for name in source)


def test_files_obey_the_umask_and_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write_tree(tmp_path / "link", {"w": np.ones(2)})
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "model.safetensors").exists()
    probe = tmp_path / "probe"
    probe.touch()
    for file in (tmp_path / "real").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(probe.stat().st_mode)


def test_shards_have_the_names_and_the_index_that_transformers_reads(tmp_path: Path) -> None:
    write_tree(tmp_path / "m", {"a": np.zeros(4, "f4"), "b": np.zeros(4, "f4"), "c": np.zeros(40, "f4")}, shard_size=32)
    import json

    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    assert index["weight_map"] == {"a": first, "b": first, "c": second}
    assert index["metadata"]["total_size"] == 192
    assert open_checkpoint(tmp_path / "m" / first).metadata["format"] == "pt"


def test_a_tie_comes_back_as_one_array_and_a_broken_tie_as_two(tmp_path: Path) -> None:
    table = np.arange(4.0)
    write_tree(tmp_path / "m", {"enc": {"table": table}, "dec": {"table": table, "copy": table.copy()}})
    source = open_checkpoint(tmp_path / "m")
    tree = source.tree()
    assert tree["enc"]["table"] is tree["dec"]["table"] and tree["dec"]["copy"] is not tree["dec"]["table"]
    edited = {name: source[name] + ("enc" in name) for name in source}
    broken = nest_names(edited, source.structure)
    assert broken["enc"]["table"].tolist() == [1, 2, 3, 4] and broken["dec"]["table"].tolist() == [0, 1, 2, 3]


def test_a_checkpoint_is_copied_leaf_by_leaf(tmp_path: Path) -> None:
    tree = {"a": [np.arange(3), {"b": np.ones(2, ml_dtypes.int4)}]}
    write_tree(tmp_path / "one", tree, metadata={"note": "kept"})
    write_tree(tmp_path / "two", open_checkpoint(tmp_path / "one"), shard_size=8)
    again = open_checkpoint(tmp_path / "two")
    assert same_bits(again.tree(), tree) and again.metadata["note"] == "kept"


Pair = namedtuple("Pair", "mu nu")


def test_a_named_tuple_comes_back_as_a_dict_of_its_fields(tmp_path: Path) -> None:
    write_tree(tmp_path / "m", {"s": Pair(np.ones(1), {"w": np.zeros(2)})})
    assert same_bits(open_checkpoint(tmp_path / "m").tree(), {"s": {"mu": np.ones(1), "nu": {"w": np.zeros(2)}}})


@pytest.mark.parametrize(
    ("leaf", "says"),
    [
        (1.5, "'a.b' is a float"),
        ("text", "'a.b' is a str"),
        (np.array(["text"]), "'a.b' has dtype <U4"),
        (np.array([object()]), "'a.b' has dtype object"),
        (np.zeros(1, "datetime64[s]"), "'a.b' has dtype datetime64"),
        (jax.random.key(0), "'a.b' is a PRNG key"),
        (np.zeros(1, np.longdouble), "'a.b' has dtype float128"),
        (jnp.float32, "'a.b' is a "),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_an_array_is_named_before_anything_is_written(tmp_path: Path, leaf: Any, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        write_tree(tmp_path / "m", {"x": np.ones(1), "a": {"b": leaf}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["__metadata__", "\ud800"])
def test_names_that_the_format_cannot_hold(tmp_path: Path, name: str) -> None:
    with pytest.raises(FormatError, match="rename it"):
        write_tree(tmp_path / "m", {name: np.ones(1)})
    with pytest.raises(FormatError, match="is a int, not text"), write_folder(tmp_path / "m", {1: np.ones(1)}):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_deleted_jax_array_is_named(tmp_path: Path) -> None:
    gone = jnp.ones(3)
    gone.delete()
    with pytest.raises(FormatError, match=r"'a.w' float32\[3\] was donated or deleted"):
        write_tree(tmp_path / "m", {"a": {"w": gone}})
    assert list(tmp_path.iterdir()) == []


def test_an_assignment_must_fit_what_was_announced(tmp_path: Path) -> None:
    specs = {"w": ((2, 3), np.float32), "other": ((), "int64")}
    stopped = pytest.raises(TreeMismatch, match="1 of 2 leaves were not written: other")
    with stopped, write_folder(tmp_path / "m", specs) as sink:
        with pytest.raises(ShapeError, match=r"'w' is float32\[3,2\], but float32\[2,3\] was announced"):
            sink["w"] = np.ones((3, 2), np.float32)
        with pytest.raises(ShapeError, match=r"'w' is float64\[2,3\], but float32"):
            sink["w"] = np.ones((2, 3))
        with pytest.raises(TreeMismatch, match="'v' was not announced"):
            sink["v"] = np.ones(1)
        sink["w"] = np.ones((2, 3), np.float32)
        with pytest.raises(TreeMismatch, match="'w' was written already"):
            sink["w"] = np.ones((2, 3), np.float32)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", ["5 GBB", "0", "-1", "GB", "", 0])
def test_a_shard_size_that_is_none(tmp_path: Path, size: Any) -> None:
    with pytest.raises(WspaceError, match="is not a size"):
        write_tree(tmp_path / "m", {"w": np.ones(1)}, shard_size=size)
