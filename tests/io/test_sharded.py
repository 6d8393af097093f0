"""Deleted, loading onto a mesh could read more than a process needs, or saving could gather or change bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import wspace as ws
from tests.io.trees import STORED, same_bits, values
from wspace.core.errors import ShapeError, TreeMismatch, WspaceError
from wspace.core.placement import longest
from wspace.io import SafetensorsFolder, open_checkpoint, verify, write_folder, write_orbax
from wspace.io.dtypes import Spec
from wspace.io.parts import bounds_of, cut, part, runs


def mesh(*sizes: int, kind: AxisType = AxisType.Auto) -> jax.sharding.Mesh:
    return jax.make_mesh(sizes, ("data", "model", "expert")[: len(sizes)], axis_types=(kind,) * len(sizes))


def tree() -> dict[str, Any]:
    """Stacked layers, experts, a tie, a 64-bit leaf, codes, a scalar, an empty leaf."""
    rng = np.random.default_rng(0)
    embed = jnp.asarray(rng.standard_normal((32, 8)), jnp.bfloat16)
    return {
        "embed": embed,
        "head": embed,
        "layers": {"kernel": rng.standard_normal((4, 16, 8)).astype(np.float32)},
        "experts": [{"kernel": rng.standard_normal((2, 8, 16, 24)).astype(np.float16)}],
        "wide": rng.standard_normal((8, 2)),
        "codes": rng.integers(-8, 8, (8, 16)).astype(ml_dtypes.int4),
        "mask": rng.random((16, 4)) < 0.5,
        "step": np.int64(2**40 + 1),
        "none": np.zeros((0, 8), np.float32),
    }


@pytest.mark.parametrize("kind", ["safetensors", "orbax"])
@pytest.mark.parametrize("sizes", [(8,), (4, 2), (2, 2, 2)], ids=str)
def test_a_tree_comes_onto_a_mesh_and_back(tmp_path: Path, kind: str, sizes: tuple[int, ...]) -> None:
    held = tree()
    write = write_orbax if kind == "orbax" else ws.io.save
    write(tmp_path / "in", held)
    place = ws.placement(mesh(*sizes))
    found = ws.io.load(tmp_path / "in", sharding=place)
    assert found["head"] is found["embed"]
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(held), jax.tree.leaves(found), strict=True):
        where = place(jax.tree_util.keystr(path), np.shape(a))
        assert b.sharding.is_equivalent_to(where, np.ndim(a)), path
        assert same_bits(np.asarray(b), np.asarray(a)), path
    assert found["layers"]["kernel"].addressable_shards[0].data.size == 4 * 16 * 8 // 8
    ws.io.save(tmp_path / "plain", held)
    ws.io.save(tmp_path / "out", found)
    verify(tmp_path / "out")
    for file in sorted((tmp_path / "plain").iterdir()):
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes(), file.name


def test_only_the_bytes_of_the_shards_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w = np.arange(64 * 48, dtype=np.float32).reshape(64, 48)
    ws.io.save(tmp_path / "m", {"w": w, "v": w[0]})
    two = jax.sharding.Mesh(np.array(jax.devices()[:2]), "x")
    four = jax.sharding.Mesh(np.array(jax.devices()[:4]), "x")
    read: list[tuple[str, int]] = []
    original = SafetensorsFolder.part

    def counted(self: Any, name: str, index: Any) -> Any:
        found = original(self, name, index)
        read.append((name, found.nbytes))
        assert not found.flags.owndata, "a view of the file, not a copy of the leaf"
        return found

    monkeypatch.setattr(SafetensorsFolder, "part", counted)
    found = ws.io.load(tmp_path / "m", sharding=lambda path, shape: NamedSharding(two, P("x")))
    assert sorted(read) == [("v", 96), ("v", 96), ("w", 6144), ("w", 6144)]
    assert same_bits(np.asarray(found["w"]), w)
    read.clear()
    ws.io.load(tmp_path / "m", sharding={"w": NamedSharding(four, P(None, "x")), "v": NamedSharding(four, P())})
    assert [n for name, n in read if name == "w"] == [w.nbytes // 4] * 4


def test_nothing_is_gathered_to_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w = jax.device_put(jnp.ones((64, 16)), NamedSharding(mesh(8), P("data")))
    sizes: list[int] = []

    def counted(array: Any, *given: Any) -> Any:
        sizes.append(array.nbytes)
        return cut(array, *given)

    monkeypatch.setattr("wspace.io.writer.cut", counted)
    ws.io.save(tmp_path / "m", {"w": w})
    assert sizes == [w.nbytes // 8] * 8


def test_quantized_leaves_keep_their_codes(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    w = {"a": {"kernel": jnp.asarray(rng.standard_normal((64, 16)), jnp.float32)}}
    for bits in (4, 3):  # codes of a dtype, and a stream of bits
        held = ws.quant.rtn(bits=bits, group=32)(w)
        ws.io.save(tmp_path / f"{bits}", held)
        found = ws.io.load(tmp_path / f"{bits}", sharding=ws.placement(mesh(4, 2)))
        node = found["a"]["kernel"]
        assert node.codes.sharding.spec == P("data", "model") and node.scale.sharding.spec == P(None, "model")
        for a, b in zip(jax.tree.leaves(held), jax.tree.leaves(found), strict=True):
            assert same_bits(np.asarray(b), np.asarray(a))
        ws.io.save(tmp_path / f"{bits} again", found)
        assert same_bits(ws.io.load(tmp_path / f"{bits} again")["a"]["kernel"].codes, np.asarray(node.codes))


def test_one_device_and_a_plain_sharding(tmp_path: Path) -> None:
    ws.io.save(tmp_path / "m", {"w": np.ones((3, 5)), "s": np.float32(2)})
    one = ws.io.load(tmp_path / "m", sharding=jax.sharding.SingleDeviceSharding(jax.devices()[3]))
    assert one["w"].devices() == {jax.devices()[3]} and one["w"].dtype == np.float64
    everywhere = ws.io.load(tmp_path / "m", sharding=NamedSharding(mesh(8), P()))
    assert everywhere["s"].sharding.is_fully_replicated and len(everywhere["w"].devices()) == 8


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    ws.io.save(tmp_path / "m", {"a": {"kernel": np.ones((6, 8), np.float32)}, "s": np.float32(1)})
    grid = mesh(2, 4)

    def load(where: Any) -> Any:
        return ws.io.load(tmp_path / "m", sharding=where)

    with pytest.raises(ShapeError, match=r"a/kernel \(6, 8\): axis 0 is not divided by 4 = 'model' .* data=2,model=4"):
        load(ws.placement(grid, {"kernel": P("model", None)}))
    with pytest.raises(ShapeError, match=r"s \(\) has 0 axes, P\('data',?\) of the mesh data=2,model=4 splits 1"):
        load(NamedSharding(grid, P("data")))
    with pytest.raises(WspaceError, match=r"rule 'kernel': the mesh data=2,model=4 has no axis 'modl'. Did you"):
        load(ws.placement(grid, {"kernel": P("modl")}))
    with pytest.raises(WspaceError, match=r"a/kernel: the mesh data=2,model=4 has no axis 'x'"):
        load(ws.placement(grid, lambda path, shape: P("x") if shape else None))
    with pytest.raises(WspaceError, match="the tree of shardings has none for a/kernel"):
        load({"s": NamedSharding(grid, P())})


def test_longest_axes_first() -> None:
    grid = mesh(2, 4)
    assert longest(grid, (64, 8)) == P(("model", "data"))
    assert longest(grid, (3, 16, 12)) == P(None, "model", "data")
    assert longest(grid, (6, 5)) == P("data") and longest(grid, (5,)) == P() == longest(grid, ())


@pytest.mark.parametrize("dtype", STORED, ids=lambda dtype: dtype.name)
def test_parts_of_a_leaf_are_the_bytes_of_numpys(dtype: np.dtype[Any]) -> None:
    rng = np.random.default_rng(2)
    whole = values(dtype, (3, 8, 16), 3)
    spec = Spec(whole.shape, dtype)
    data = np.concatenate([x for _, x in cut(whole, spec, ())])
    for _ in range(20):
        low = rng.integers(0, np.array(whole.shape) + 1)
        high = rng.integers(low, np.array(whole.shape) + 1)
        index = tuple(slice(int(a) & ~3, int(b) & ~3) for a, b in zip(low, high, strict=True))[: rng.integers(0, 4)]
        assert same_bits(part(data, spec, index), whole[index]), index
        filled = np.zeros_like(data)
        for at, piece in cut(np.ascontiguousarray(whole[index]), spec, index):
            filled[at : at + piece.size] = piece
        only = np.zeros_like(whole)
        only[index] = whole[index]
        assert np.array_equal(filled, np.concatenate([x for _, x in cut(only, spec, ())]))


def test_a_part_inside_a_byte_is_refused_or_written_whole(tmp_path: Path) -> None:
    spec = Spec((4, 3), np.dtype(ml_dtypes.int4))
    with pytest.raises(ShapeError, match="inside a byte"):
        list(runs(spec, (slice(1, 2),)))
    codes = np.arange(-6, 6).astype(ml_dtypes.int4).reshape(4, 3)
    split = jax.device_put(codes, NamedSharding(jax.sharding.Mesh(np.array(jax.devices()[:4]), "x"), P("x")))
    ws.io.save(tmp_path / "m", {"w": split})
    assert same_bits(open_checkpoint(tmp_path / "m")["w"], codes)


def test_parts_make_a_leaf_or_nothing(tmp_path: Path) -> None:
    w = np.arange(12.0).reshape(4, 3)
    with write_folder(tmp_path / "m", {"w": w}) as sink:
        sink.part("w", (slice(2, 4),), w[2:])
        sink.part("w", (slice(0, 2), slice(1, 3)), w[:2, 1:])
        sink.part("w", (slice(0, 2), slice(0, 1)), w[:2, :1])
    verify(tmp_path / "m")
    assert same_bits(open_checkpoint(tmp_path / "m")["w"], w)
    rows, end = (slice(0, 3),), (slice(2, 4),)
    for error, match, name, parts in (
        (TreeMismatch, "1 of 1 leaves were not written: w", "w", [(end, w[2:])]),
        (TreeMismatch, "parts of leaf 'w' overlap", "w", [(rows, w[:3]), (end, w[2:])]),
        (ShapeError, "announced", "w", [(rows, w)]),
        (TreeMismatch, "'v' was not announced", "v", [((), w)]),
    ):
        with pytest.raises(error, match=match), write_folder(tmp_path / "n", {"w": w}) as sink:
            for index, piece in parts:
                sink.part(name, index, piece)
    assert not (tmp_path / "n").exists()
    assert bounds_of((4, 3), (slice(1, 9),)) == [(1, 4), (0, 3)]
