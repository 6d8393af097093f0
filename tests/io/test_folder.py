"""Deleted, an index could make wspace read files outside the folder, or hide that shards and index disagree."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.io.corpus import file_bytes, leaf
from wspace.core.errors import FormatError
from wspace.io import open_checkpoint, write_tree


def shard(path: Path, *names: str) -> None:
    fields = {name: leaf(at=(8 * i, 8 * i + 8)) for i, name in enumerate(names)}
    path.write_bytes(file_bytes(fields, np.arange(2 * len(names), dtype="<f4").tobytes()))


def index(folder: Path, where: Any, text: str | None = None) -> None:
    (folder / "model.safetensors.index.json").write_text(text or json.dumps({"metadata": {}, "weight_map": where}))


def refused(folder: Path, *says: str) -> None:
    with pytest.raises(FormatError) as caught:
        open_checkpoint(folder)
    message = str(caught.value)
    assert message.startswith(str(folder)) and message.isprintable()
    for fragment in says:
        assert fragment in message


def test_a_folder_without_our_record_stays_flat(tmp_path: Path) -> None:
    shard(tmp_path / "one.safetensors", "a.b", "c")
    shard(tmp_path / "two.safetensors", "d")
    index(tmp_path, {"a.b": "one.safetensors", "c": "one.safetensors", "d": "two.safetensors"})
    source = open_checkpoint(tmp_path)
    assert list(source) == ["a.b", "c", "d"] and source.structure is None
    assert source.tree()["c"].tolist() == [2, 3] and source["d"].tolist() == [0, 1]


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "/etc/passwd",
        "sub/x.safetensors",
        "..",
        ".",
        "",
        "a\\b",
        "http://x/y.safetensors",
        "a\0b",
    ],
)
def test_an_index_names_plain_files_only(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "m"
    (folder / "sub").mkdir(parents=True)
    shard(tmp_path / "outside.safetensors", "a")
    shard(folder / "sub" / "x.safetensors", "a")
    index(folder, {"a": name})
    refused(folder, "is not a plain file name")


def test_links_may_not_leave_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "snapshots"
    folder.mkdir()
    shard(tmp_path / "blob", "a")
    (folder / "model.safetensors").symlink_to("../blob")
    refused(folder, "'model.safetensors' is a link out of the folder", "cp -rL")
    (folder / "model.safetensors").rename(folder / "x.safetensors")
    index(folder, {"a": "x.safetensors"})
    refused(folder, "'x.safetensors' is a link out of the folder")
    (folder / "model.safetensors.index.json").rename(tmp_path / "index")
    (folder / "model.safetensors.index.json").symlink_to("../index")
    refused(folder, "'model.safetensors.index.json' is a link out")


def test_links_inside_the_folder_and_to_the_folder_are_fine(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    shard(folder / "weights", "a")
    (folder / "model.safetensors").symlink_to("weights")
    (tmp_path / "link").symlink_to(folder)
    assert open_checkpoint(tmp_path / "link")["a"].tolist() == [0, 1]


def test_all_disagreements_are_listed_at_once(tmp_path: Path) -> None:
    shard(tmp_path / "one.safetensors", "a", "both", "unlisted")
    shard(tmp_path / "two.safetensors", "both", "elsewhere")
    where = {
        "a": "one.safetensors",
        "both": "two.safetensors",
        "elsewhere": "one.safetensors",
        "gone": "two.safetensors",
    }
    index(tmp_path, where | {"p": "three.safetensors", "q": "four.safetensors"})
    refused(
        tmp_path,
        "missing shards (2): four.safetensors, three.safetensors",
        "leaves not in their shard (2): elsewhere (in one.safetensors), gone (in two.safetensors)",
        "leaves in several shards (1): both (in one.safetensors, two.safetensors)",
        "leaves not in the index (1): unlisted (in one.safetensors)",
    )


def test_a_damaged_shard_is_found_when_the_folder_is_opened(tmp_path: Path) -> None:
    write_tree(tmp_path / "m", {"a": np.ones(4), "b": np.ones(4)}, shard_size=32)
    second = tmp_path / "m" / "model-00002-of-00002.safetensors"
    os.truncate(second, second.stat().st_size - 5)
    with pytest.raises(
        FormatError, match=f"{second}: truncated: the header declares 32 bytes of data, the file has 27"
    ):
        open_checkpoint(tmp_path / "m")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"weight_map": {"a": "x", "a": "y"}}', "the key 'a' occurs twice"),
        ('{"weight_map": {}, "weight_map": {}}', "'weight_map' occurs twice"),
        ('{"weight_map": ["a"]}', "weight_map must map"),
        ('{"weight_map": {"a": 1}}', "weight_map must map"),
        ("{}", "weight_map must map"),
        ('{"weight_map": {}, "metadata": 3}', "metadata must be"),
        ("[]", "a JSON object was wanted"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_a_damaged_index_is_named(tmp_path: Path, text: str, says: str) -> None:
    index(tmp_path, None, text)
    refused(tmp_path, "model.safetensors.index.json", says)


def test_an_index_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_bytes(b'{"\xff')
    refused(tmp_path, "model.safetensors.index.json", "not valid JSON", "utf-8")


def test_folders_that_could_mean_two_models(tmp_path: Path) -> None:
    shard(tmp_path / "a.safetensors", "a")
    shard(tmp_path / "b.safetensors", "b")
    refused(tmp_path, "2 safetensors files and no model.safetensors.index.json", "a.safetensors, b.safetensors")
    shard(tmp_path / "model.safetensors", "m")
    assert list(open_checkpoint(tmp_path)) == ["m"]
    index(tmp_path, {"a": "a.safetensors"})
    refused(tmp_path, "model.safetensors and also model.safetensors.index.json", "remove one")
    (tmp_path / "model.safetensors").unlink()
    assert list(open_checkpoint(tmp_path)) == ["a"]
