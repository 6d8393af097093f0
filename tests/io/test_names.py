"""Deleted, two leaves could share one name and be saved as one, or a tree come back nested otherwise than it was."""

from __future__ import annotations

from typing import Any

import pytest

from tests.io.trees import same_bits
from wspace.core.errors import FormatError, TreeMismatch
from wspace.io import flatten_names, nest_names
from wspace.io.names import checked_structure


@pytest.mark.parametrize(
    "tree",
    [
        {"a.b": 1, "a": {"b": 2}},
        {"a": {"b": 1}, "a.b": 2},
        {"a": [1], "a.0": 2},
        {1: 1, "1": 2},
        {"a": {"": 1}, "a.": 2},
        {"a": {"b.c": 1, "b": {"c": 2}}},
    ],
)
def test_two_leaves_with_one_name_are_refused(tree: Any) -> None:
    with pytest.raises(TreeMismatch, match="two leaves have the one name"):
        flatten_names(tree)


@pytest.mark.parametrize("key", [1.5, (1, 2), None, True, b"x"])
def test_keys_that_no_file_can_hold_are_named(key: Any) -> None:
    with pytest.raises(FormatError, match="keys are str or int"):
        flatten_names({"a": {key: 1}})


@pytest.mark.parametrize("bare", [3, "text", None])
def test_a_bare_leaf_has_no_name(bare: Any) -> None:
    with pytest.raises(FormatError, match="not a bare"):
        flatten_names(bare)


@pytest.mark.parametrize(
    "tree",
    [{}, [], (), {"a": None}, {"a": {}}, {"a": [[], ()]}, {"": {"": {}}}, {2: {"x": None}, 1: []}],
)
def test_trees_without_leaves_keep_their_shape(tree: Any) -> None:
    flat = flatten_names(tree)
    assert flat.leaves == {}
    assert same_bits(nest_names(flat.leaves, flat.structure), tree)


def test_flat_names_nest_only_when_asked_and_only_when_they_can() -> None:
    assert flatten_names({"a.b": 1, "c": 2}).structure is None
    assert nest_names({"a.b": 1, "a.c.d": 2}) == {"a": {"b": 1, "c": {"d": 2}}}
    for names in (["a", "a.b"], ["a.b.c", "a.b"], ["x", "a.b", "a.b.c.d"]):
        with pytest.raises(TreeMismatch, match="is a leaf beside"):
            nest_names(dict.fromkeys(names, 0))


def test_a_structure_that_lost_a_leaf() -> None:
    flat = flatten_names({"a": [1, 2]})
    with pytest.raises(TreeMismatch, match=r"not there: a\.1"):
        nest_names({"a.0": 1}, flat.structure)


@pytest.mark.parametrize(
    "raw",
    [
        3,
        {},
        {"tree": None},
        {"tree": {"set": []}, "tied": []},
        {"tree": {"dict": [], "list": []}, "tied": []},
        {"tree": {"dict": [["a"]]}, "tied": []},
        {"tree": {"dict": [[1.5, None]]}, "tied": []},
        {"tree": {"dict": [["a", None], ["a", None]]}, "tied": []},
        {"tree": {"dict": {"a": "x"}}, "tied": []},
        {"tree": {"list": [3]}, "tied": []},
        {"tree": None, "tied": [["a"]]},
        {"tree": None, "tied": [[1, 2]]},
        {"tree": None, "tied": 3},
        {"tree": {"dict": [[["a"], None]]}, "tied": []},
    ],
)
def test_a_damaged_structure_is_refused(raw: Any) -> None:
    with pytest.raises(FormatError, match="m: the recorded tree structure is damaged"):
        checked_structure(raw, "m")
