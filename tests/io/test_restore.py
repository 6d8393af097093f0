"""Deleted, a checkpoint could be read into a tree that it does not fit, or be cast without anyone asking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.io.trees import same_bits
from wspace.core.errors import TreeMismatch
from wspace.io import open_checkpoint, read_like, write_orbax, write_tree

TREE = {"a": {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, "n": np.array([7])}


@pytest.mark.parametrize("write", [write_tree, write_orbax])
def test_all_disagreements_at_once(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "m", TREE)
    source = open_checkpoint(tmp_path / "m")
    spec = jax.ShapeDtypeStruct
    assert same_bits(read_like(source, TREE), TREE)
    with pytest.raises(TreeMismatch) as caught:
        read_like(source, {"a": {"w": spec((3, 2), np.float32), "b": spec((), np.float32)}})
    for fragment in (f"{tmp_path}/m", "1 missing: a.b", "1 not wanted: n", "a.w is float32[2,3], wanted float32[3,2]"):
        assert fragment in str(caught.value)


@pytest.mark.parametrize(("name", "dtype"), [("a.w", np.int32), ("n", np.float32), ("n", np.int32), ("a.w", np.bool_)])
def test_nothing_but_floats_is_ever_cast(tmp_path: Path, name: str, dtype: Any) -> None:
    write_tree(tmp_path / "m", TREE)
    like = {
        "a": {"w": np.zeros((2, 3), dtype if name == "a.w" else np.float32)},
        "n": np.zeros(1, dtype if name == "n" else np.int64),
    }
    for cast in (False, True):
        with pytest.raises(TreeMismatch, match=f"{name} is .*, wanted {np.dtype(dtype).name}"):
            read_like(open_checkpoint(tmp_path / "m"), like, cast=cast)


def test_floats_are_cast_only_when_asked(tmp_path: Path) -> None:
    write_tree(tmp_path / "m", TREE)
    source = open_checkpoint(tmp_path / "m")
    half = {"a": {"w": jax.ShapeDtypeStruct((2, 3), jax.numpy.bfloat16)}, "n": TREE["n"]}
    with pytest.raises(TreeMismatch, match=r"a\.w is float32\[2,3\], wanted bfloat16\[2,3\]"):
        read_like(source, half)
    got = read_like(source, half, cast=True)
    assert got["a"]["w"].dtype.name == "bfloat16" and got["a"]["w"].astype(int).tolist() == [[0, 1, 2], [3, 4, 5]]
