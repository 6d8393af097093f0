"""Deleted, a bit that flips on disk could go unnoticed, or be noticed without a name."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from wspace.core.errors import FormatError, IntegrityError, WspaceError
from wspace.io import copy_companions, digest, open_checkpoint, verify, write_folder, write_tree

TREE = {"a": np.arange(3, dtype=np.int16), "b": {"q": np.ones(5, ml_dtypes.int4)}, "e": np.zeros((0, 2))}


@pytest.mark.parametrize("shard_size", ["5GB", 4])
def test_every_bit_of_every_file_counts(tmp_path: Path, shard_size: int | str) -> None:
    folder = tmp_path / "m"
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "config.json").write_text("{}")
    specs = {"a": TREE["a"], "b.q": TREE["b"]["q"], "e": TREE["e"]}
    with write_folder(folder, specs, shard_size=shard_size) as sink:
        copy_companions(tmp_path / "source", sink.directory)
        for name, leaf in specs.items():
            sink[name] = leaf
    verify(folder)
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        if file.name == "wspace-manifest.json":
            continue
        for at in range(len(whole)):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
            with pytest.raises((FormatError, IntegrityError)):
                verify(folder)
        file.write_bytes(whole)
    verify(folder)


def test_the_leaf_and_its_file_are_named(tmp_path: Path) -> None:
    write_tree(tmp_path / "m", {"a": np.zeros(4), "b": np.zeros(4), "c": np.zeros(4)}, shard_size=32)
    for shard in (1, 3):
        path = tmp_path / "m" / f"model-0000{shard}-of-00003.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    with pytest.raises(IntegrityError) as caught:
        verify(tmp_path / "m")
    for fragment in (f"{tmp_path}/m", "leaf 'a' in model-00001", "leaf 'c' in model-00003"):
        assert fragment in str(caught.value)
    assert "'b'" not in str(caught.value)


def test_digests_are_sha256_of_the_values_bytes(tmp_path: Path) -> None:
    write_tree(tmp_path / "m", {"w": TREE["a"], "q": np.array([1, -1, 7], ml_dtypes.int4)})
    leaves = json.loads((tmp_path / "m" / "wspace-manifest.json").read_text())["leaves"]
    assert leaves["w"]["sha256"] == hashlib.sha256(b"\0\0\1\0\2\0").hexdigest()
    assert leaves["q"] == {"dtype": "int4", "shape": [3], "sha256": hashlib.sha256(b"\xf1\x07").hexdigest()}


def test_what_was_added_and_what_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    write_tree(folder, TREE)
    (folder / "notes").mkdir()
    (folder / "notes" / "new.txt").write_text("x")
    report = verify(folder)
    assert report.unlisted == ("notes/new.txt",) and report.leaves == 3 and report.bytes == 6 + 3
    write_tree(tmp_path / "other", {"a": TREE["a"]})
    os.replace(tmp_path / "other" / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(IntegrityError, match=r"leaf 'b\.q' is gone.*leaf 'e' is gone"):
        verify(folder)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not valid JSON"),
        ("{}", "not a manifest that this version reads"),
        ('{"format": "wspace checkpoint", "version": 2}', "version 2, wanted"),
        ('{"format": "wspace checkpoint", "version": 1}', "the manifest is damaged"),
        (
            '{"format": "wspace checkpoint", "version": 1, "kind": "x", "leaves": 3, "files": {}, "extra": {}}',
            "damaged",
        ),
    ],
)
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str, says: str) -> None:
    write_tree(tmp_path / "m", TREE)
    (tmp_path / "m" / "wspace-manifest.json").write_text(text)
    with pytest.raises(FormatError, match=f"wspace-manifest.json: .*{says}"):
        verify(tmp_path / "m")


def test_without_a_manifest_there_is_nothing_to_compare(tmp_path: Path) -> None:
    write_tree(tmp_path / "m", TREE)
    for path in (tmp_path / "m" / "model.safetensors", tmp_path / "m"):
        (tmp_path / "m" / "wspace-manifest.json").unlink(missing_ok=True)
        with pytest.raises(WspaceError, match=r"no wspace-manifest\.json"):
            verify(path)
    assert open_checkpoint(tmp_path / "m")["a"].tolist() == [0, 1, 2]


def test_digests_of_an_input(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "x").write_bytes(b"one")
    (tmp_path / "sub" / "y").write_bytes(b"")
    one, empty = hashlib.sha256(b"one").hexdigest(), hashlib.sha256(b"").hexdigest()
    assert digest(tmp_path) == {"sub/y": empty, "x": one}
    assert digest(tmp_path / "x") == {"x": one}


def test_short_digests_of_an_input_know_leaves_and_not_values(tmp_path: Path) -> None:
    def short(w: np.ndarray) -> dict[str, str]:
        write_tree(tmp_path / "m", {"w": w}, overwrite=True)
        (tmp_path / "m" / "wspace-manifest.json").unlink()
        (tmp_path / "m" / "config.json").write_bytes(b"one")
        return digest(tmp_path / "m", whole=False)

    ones, zeros, longer = short(np.ones(5)), short(np.zeros(5)), short(np.ones(6))
    raw = (tmp_path / "m" / "model.safetensors").read_bytes()
    header = hashlib.sha256(raw[: 8 + int.from_bytes(raw[:8], "little")]).hexdigest()
    assert longer["model.safetensors"] == f"{header} of the header, {len(raw)} bytes in all"
    assert ones == zeros != longer and ones["config.json"] == hashlib.sha256(b"one").hexdigest()


def test_the_record_is_kept(tmp_path: Path) -> None:
    with write_folder(tmp_path / "m", {}) as sink:
        sink.record["recipe"] = {"steps": [1, 2]}
    manifest = json.loads((tmp_path / "m" / "wspace-manifest.json").read_text())
    assert manifest["extra"]["record"] == {"recipe": {"steps": [1, 2]}}
