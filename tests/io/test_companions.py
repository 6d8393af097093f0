"""Deleted, a model could come out without its tokenizer, with someone's pickles, or with files from outside."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from wspace.core.errors import FormatError, WspaceError
from wspace.io import config_differences, copy_companions, model_card, write_card, write_folder, write_orbax


def model(folder: Path, **files: str) -> Path:
    """A folder of files; __ stands for / and _dot_ for the dot."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_all_but_weights_goes_through_with_subfolders(tmp_path: Path) -> None:
    kept = [".gitattributes", "1_Pooling/config.json", "README.md", "config.json", "tokenizer.json", "vocab.txt"]
    left = [
        *("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"),
        *("training_args.bin", "rng_state.pth", "optimizer.pt", "scaler.pkl", "flax_model.msgpack", "tf_model.h5"),
        *("wspace-manifest.json", "report.html", ".cache/x.json", "onnx/model.onnx", "OLD.SAFETENSORS"),
    ]
    for name in kept + left:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(name)
    os.mkfifo(tmp_path / "in" / "pipe")
    with write_folder(tmp_path / "out", {}) as sink:
        assert copy_companions(tmp_path / "in", sink.directory) == kept
    for name in kept:
        assert (tmp_path / "out" / name).read_text() == name
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {*kept, "model.safetensors", "wspace-manifest.json"}


def test_links_are_followed_inside_and_refused_outside(tmp_path: Path) -> None:
    source = model(tmp_path / "in", vocab_dot_txt="a b")
    (source / "link.txt").symlink_to("vocab.txt")
    (tmp_path / "out").mkdir()
    assert copy_companions(source, tmp_path / "out") == ["link.txt", "vocab.txt"]
    assert not (tmp_path / "out" / "link.txt").is_symlink()
    secret = model(tmp_path / "secret", key="s")
    for name, target in (("key.txt", secret / "key"), ("more", secret)):
        (source / name).symlink_to(target)
        with pytest.raises(FormatError, match=f"in/{name} is a link out of its folder"):
            copy_companions(source, tmp_path / "out")
        (source / name).unlink()
    model(source, sub__x="x")
    (source / "again").symlink_to("sub")
    with pytest.raises(FormatError, match="in/again is a link to a folder"):
        copy_companions(source, tmp_path / "out")


def test_what_is_there_stays_and_an_orbax_directory_has_no_companions(tmp_path: Path) -> None:
    out = model(tmp_path / "out", config_dot_json="mine")
    assert copy_companions(model(tmp_path / "in", config_dot_json="theirs"), out) == []
    assert (out / "config.json").read_text() == "mine"
    write_orbax(tmp_path / "orbax", {"w": np.ones(2)})
    assert copy_companions(tmp_path / "orbax", out) == [] and copy_companions(tmp_path / "nowhere", out) == []
    with pytest.raises(WspaceError, match=r"config\.json cannot be copied"):
        copy_companions(tmp_path / "in", out / "config.json")


def test_differences_between_models_are_reported_by_key(tmp_path: Path) -> None:
    a = model(tmp_path / "a", config_dot_json='{"layers": 2, "act": "gelu"}', vocab_dot_txt="x", README_dot_md="a")
    b = model(
        tmp_path / "b", config_dot_json='{"act": "gelu", "layers": 3, "new": [1]}', vocab_dot_txt="x", README_dot_md="b"
    )
    c = model(tmp_path / "c", config_dot_json='{"layers": 2,\n "act": "gelu"}')
    assert list(map(str, config_differences([a, b]))) == [
        "config.json layers: 2 | 3",
        "config.json new: absent | [1]",
    ]
    (missing,) = config_differences([a, c])
    assert missing[:2] == ("vocab.txt", "") and missing.values[1] == "absent"
    assert config_differences([a]) == []
    (b / "config.json").write_text("[1]")
    assert [d.key for d in config_differences([a, b])] == [""]


def test_a_card_keeps_what_the_base_said(tmp_path: Path) -> None:
    text = model_card("A merge", {"in/base": {"model.safetensors": "ab12"}}, "steps:\n  - ties", base="in/base")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\nThe base is good.\n")
    write_card(tmp_path, text)
    assert (tmp_path / "README.md").read_text().endswith("\n# The base's own card\n\nThe base is good.\n")
    (tmp_path / "README.md").unlink()
    write_card(tmp_path, text)
    written = (tmp_path / "README.md").read_text()
    assert written.startswith("---\n") and 'base_model: "in/base"' in written
    for fragment in ("# A merge", "`model.safetensors` sha256 `ab12`", "    steps:\n      - ties"):
        assert fragment in written
