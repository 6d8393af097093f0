"""Nested trees as flat names, and back.

A checkpoint is flat: one name a leaf, keys joined by ".", as Hugging Face does. What the names can't say (lists,
tuples, integer keys, keys with a dot, None, empty nodes, ties) is in a small JSON record beside them: the structure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from wspace.core.errors import FormatError, TreeMismatch, listed, printable

Structure: TypeAlias = dict[str, Any]  # {"tree": node, "tied": [[name, ...], ...]}, plain JSON


class Flat(NamedTuple):
    """A tree's leaves by name, and its structure; None if it was flat already."""

    leaves: dict[str, Any]
    structure: Structure | None


def flatten_names(tree: Any) -> Flat:
    """Nested dicts, lists, tuples and named tuples to flat names.

    Two leaves with one name are refused. A named tuple comes back as a dict of its fields: a file never names a class.

    >>> flatten_names({"a": {"b": 1, "c": [2, 3]}}).leaves
    {'a.b': 1, 'a.c.0': 2, 'a.c.1': 3}
    >>> flatten_names({"a.b": 1, "a": {"b": 2}})
    Traceback (most recent call last):
        ...
    wspace.core.errors.TreeMismatch: two leaves have the one name 'a.b': keys ('a.b',) and ('a', 'b'); rename a key
    """
    if not isinstance(tree, Mapping | list | tuple):
        raise FormatError(f"a checkpoint is a dict, list or tuple of arrays, not a bare {type(tree).__name__}")
    leaves: dict[str, Any] = {}
    keys: dict[str, tuple[Any, ...]] = {}
    node = _flatten(tree, (), leaves, keys)
    tied: dict[int, list[str]] = {}
    for name, leaf in leaves.items():
        if hasattr(leaf, "dtype"):
            tied.setdefault(id(leaf), []).append(name)
    groups = [names for names in tied.values() if len(names) > 1]
    flat = isinstance(tree, Mapping) and all(len(path) == 1 and isinstance(path[0], str) for path in keys.values())
    if flat and len(leaves) == len(tree) and not groups:
        return Flat(leaves, None)
    return Flat(leaves, {"tree": node, "tied": groups})


def _flatten(node: Any, path: tuple[Any, ...], leaves: dict[str, Any], keys: dict[str, tuple[Any, ...]]) -> Any:
    fields = getattr(node, "_fields", None)
    if isinstance(node, Mapping) or (isinstance(node, tuple) and fields is not None):
        items = list(node.items()) if isinstance(node, Mapping) else list(zip(fields or (), node, strict=True))
        for key, _ in items:
            if type(key) not in (str, int):
                raise FormatError(f"key {key!r} at {printable(path)} is a {type(key).__name__}; keys are str or int")
        return {"dict": [[key, _flatten(value, (*path, key), leaves, keys)] for key, value in items]}
    if isinstance(node, list | tuple):
        kind = "list" if isinstance(node, list) else "tuple"
        return {kind: [_flatten(value, (*path, i), leaves, keys) for i, value in enumerate(node)]}
    if node is None:
        return None
    name = ".".join(map(str, path))
    if name in leaves:
        both = f"keys {printable(keys[name])} and {printable(path)}"
        raise TreeMismatch(f"two leaves have the one name '{printable(name)}': {both}; rename a key")
    leaves[name], keys[name] = node, path
    return name


def nest_names(leaves: Mapping[str, Any], structure: Structure | None = None) -> Any:
    """The tree that `flatten_names` took apart; without a structure, nested dicts by splitting names at ".".

    >>> nest_names({"a.b": 1, "a.c": 2})
    {'a': {'b': 1, 'c': 2}}
    >>> nest_names({"a": 1, "a.b": 2})
    Traceback (most recent call last):
        ...
    wspace.core.errors.TreeMismatch: names cannot be nested: 'a' is a leaf beside 'a.b'; keep them flat
    """
    if structure is None:
        return _split(leaves)
    missing = [name for name in names_in(structure) if name not in leaves]
    if missing:
        raise TreeMismatch(f"the tree's structure names leaves that are not there: {listed(missing)}")
    values: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in values:
            values[name] = leaves[name]
        return values[name]

    for first, *others in structure["tied"]:
        for other in others:
            if first in leaves and other in leaves and _same(get(first), leaves[other]):
                values[other] = get(first)
    return _build(structure["tree"], get)


def _split(leaves: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    groups: set[str] = set()
    for name in leaves:
        parts = name.split(".")
        groups.update(".".join(parts[:n]) for n in range(1, len(parts)))
    for name in leaves:
        if name in groups:
            inner = next(other for other in leaves if other.startswith(name + "."))
            both = f"'{printable(name)}' is a leaf beside '{printable(inner)}'"
            raise TreeMismatch(f"names cannot be nested: {both}; keep them flat")
        *outer, last = name.split(".")
        at = tree
        for key in outer:
            at = at.setdefault(key, {})
        at[last] = leaves[name]
    return tree


def _same(a: Any, b: Any) -> bool:
    """Bit-equal arrays: a tie that a later edit broke stays broken."""
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def _build(node: Any, get: Callable[[str], Any]) -> Any:
    if node is None:
        return None
    if isinstance(node, str):
        return get(node)
    ((kind, parts),) = node.items()
    if kind == "dict":
        return {key: _build(part, get) for key, part in parts}
    made = [_build(part, get) for part in parts]
    return made if kind == "list" else tuple(made)


def names_in(structure: Structure) -> list[str]:
    """All leaf names of a structure, in the tree's order."""
    names: list[str] = []
    _build(structure["tree"], names.append)
    return names


def checked_structure(raw: Any, file: str) -> Structure | None:
    """A structure that came out of a file, refused if it is not one."""
    if raw is None:
        return None
    try:
        sound = isinstance(raw, dict) and set(raw) == {"tree", "tied"} and _sound(raw["tree"])
        sound = sound and all(len(group) > 1 and all(isinstance(n, str) for n in group) for group in raw["tied"])
    except (TypeError, RecursionError):
        sound = False
    if not sound:
        raise FormatError(f"{printable(file)}: the recorded tree structure is damaged")
    return dict(raw)


def _sound(node: Any) -> bool:
    if node is None or isinstance(node, str):
        return True
    if not isinstance(node, dict) or len(node) != 1:
        return False
    ((kind, parts),) = node.items()
    if not isinstance(parts, list):
        return False
    if kind == "dict":
        pairs = all(isinstance(p, list) and len(p) == 2 and type(p[0]) in (str, int) for p in parts)
        return pairs and len({p[0] for p in parts}) == len(parts) and all(_sound(p[1]) for p in parts)
    return kind in ("list", "tuple") and all(_sound(part) for part in parts)
