"""Without it, the digits could change, be split differently, reach for the network or TensorFlow, or chatter."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets", reason="needs the data extra: pip install 'wspace[data]'")
sklearn_datasets = pytest.importorskip("sklearn.datasets", reason="needs the data extra: pip install 'wspace[data]'")

from wspace.core.errors import IntegrityError, MissingExtra, WspaceError  # noqa: E402
from wspace.data import digits  # noqa: E402


def test_both_splits_are_the_documented_rows_of_scikit_learn(digits_cache: Path) -> None:
    scans = sklearn_datasets.load_digits()
    test_rows, position = set(), 0
    for c in range(10):  # by hand: count through the classes, take the first of every five
        for row, label in enumerate(scans.target):
            if label == c:
                test_rows |= {row} if position % 5 == 0 else set()
                position += 1
    for split, rows in (("test", sorted(test_rows)), ("train", sorted(set(range(1797)) - test_rows))):
        images, labels = digits.load(split, digits_cache)
        assert (str(images.dtype), str(labels.dtype)) == ("float32", "int32")
        assert images.shape == ({"train": 1437, "test": 360}[split], 64)
        np.testing.assert_array_equal(images * 16, scans.data[rows])
        np.testing.assert_array_equal(labels, scans.target[rows])
        share = np.bincount(labels) / np.bincount(scans.target)
        np.testing.assert_allclose(share, {"train": 0.8, "test": 0.2}[split], atol=1 / 174)  # one of the rarest class


QUIET = """
import socket, sys
def refuse(*a, **k): raise AssertionError("reached for the network")
socket.socket.connect = socket.getaddrinfo = refuse
from wspace.data import digits
assert digits.load("test")[0].shape == (360, 64)
assert "tensorflow" not in sys.modules and "jax" not in sys.modules
"""


def test_building_is_silent_offline_without_tensorflow_and_writes_only_the_cache(tmp_path: Path) -> None:
    env = os.environ | {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    root = Path(digits.__file__).parents[2]
    env["PYTHONPATH"] = str(root)
    (tmp_path / "home").mkdir()
    run = subprocess.run([sys.executable, "-W", "error", "-c", QUIET], env=env, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert list((tmp_path / "home").iterdir()) == []
    assert (tmp_path / "cache" / "wspace" / "wspace_digits" / "1.0.0").is_dir()


def test_a_second_builder_that_finishes_first_is_no_error(
    digits_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wspace.data.digits_builder import WspaceDigits

    expected, _ = digits.load("test", digits_cache)
    generate = WspaceDigits._split_generators

    def meanwhile(self: WspaceDigits, manager: object) -> object:
        shutil.copytree(digits_cache / "wspace_digits" / "1.0.0", tmp_path / "wspace_digits" / "1.0.0")
        return generate(self, manager)

    monkeypatch.setattr(WspaceDigits, "_split_generators", meanwhile)
    images, _ = digits.load("test", tmp_path)
    np.testing.assert_array_equal(images, expected)
    assert [p.name for p in (tmp_path / "wspace_digits").iterdir()] == ["1.0.0"]  # the loser's files are gone


@pytest.mark.parametrize("harm", ["cut", "flip", "other data"])
def test_a_damaged_cache_is_named(
    harm: str, digits_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits.load("test", digits_cache)
    shutil.copytree(digits_cache, tmp_path / "c")
    (file,) = (tmp_path / "c").rglob("*-test.array_record*")
    raw = file.read_bytes()
    if harm == "cut":
        file.write_bytes(raw[: len(raw) // 2])
    elif harm == "flip":
        file.write_bytes(raw[:3000] + bytes(255 - b for b in raw[3000:3010]) + raw[3010:])
    else:
        monkeypatch.setitem(digits.SHA256, "test", digits.SHA256["train"])
    with pytest.raises(IntegrityError, match=r"test split in .*wspace_digits.1\.0\.0 is damaged; remove that folder"):
        digits.load("test", tmp_path / "c")


def test_user_errors_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WspaceError, match=r"no split 'val'; the splits are train, test\."):
        digits.load("val", tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(WspaceError, match=r"can't write the cache .*file.x \(Not a directory\); set XDG_CACHE_HOME"):
        digits.load("test", tmp_path / "file" / "x")
    monkeypatch.setitem(sys.modules, "wspace.data.digits_builder", None)
    with pytest.raises(MissingExtra, match=r"pip install 'wspace\[data\]'"):
        digits.load("test", tmp_path)


def test_cache_follows_the_xdg_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere/cache")
    assert digits.cache_dir() == Path("/somewhere/cache/wspace")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the standard says to ignore it
    monkeypatch.setenv("HOME", "/home/someone")
    assert digits.cache_dir() == Path("/home/someone/.cache/wspace")
