"""Implicit nodes in a file: a node is the small dict of its arrays, and a few JSON facts that say what it was.

parts, facts = parts_of(node), facts_of(node)      # {"codes": ..., "scale": ...}, {"kind": "QTensor", ...}
node = from_parts(parts, facts)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib import import_module
from typing import Any, get_type_hints

import jax.numpy as jnp
import numpy as np

from wspace.core.errors import FormatError, nearest
from wspace.core.implicit import KINDS, Implicit
from wspace.core.typing import Leaf

ROOMS_WITH_NODES = ("quant", "reparam", "prune", "merge")  # importing them fills KINDS


def parts_of(leaf: Leaf) -> Any:
    """The arrays a leaf is stored as: itself, or a dict by field; codes in their narrowest dtype."""
    if not isinstance(leaf, Implicit):
        return leaf
    return {name: parts_of(part) for name, part in leaf.parts().items() if part is not None}


def facts_of(node: Implicit) -> dict[str, Any]:
    """What a node was, as plain JSON: its kind, its static fields, the facts of nodes inside it."""
    fields = dataclasses.fields(node)  # type: ignore[arg-type]
    static = {f.name: _plain(getattr(node, f.name)) for f in fields if f.metadata.get("static")}
    inside = {f.name: facts_of(v) for f in fields if isinstance(v := getattr(node, f.name), Implicit)}
    return {"kind": type(node).__name__, "static": static, "inside": inside}


def from_parts(parts: Mapping[str, Any], facts: Mapping[str, Any]) -> Implicit:
    """The node again.

    Raises:
      FormatError: a kind of node that this version of wspace does not know, or arrays that are missing.
    """
    for room in ROOMS_WITH_NODES:
        import_module(f"wspace.{room}")
    if facts["kind"] not in KINDS:
        raise FormatError(
            f"the checkpoint holds a {facts['kind']}, which wspace does not know.{nearest(facts['kind'], KINDS)}"
        )
    cls = KINDS[facts["kind"]]
    hints = get_type_hints(cls)
    static = {name: _restored(value, hints.get(name)) for name, value in facts["static"].items()}
    data = {
        name: from_parts(part, facts["inside"][name]) if name in facts["inside"] else part
        for name, part in parts.items()
    }
    wanted = {f.name for f in dataclasses.fields(cls) if not f.metadata.get("static")}  # type: ignore[arg-type]
    return cls.from_stored({**dict.fromkeys(wanted), **data}, static)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return jnp.dtype(value).name


def _restored(value: Any, hint: Any) -> Any:
    made = tuple(_restored(v, None) for v in value) if isinstance(value, list) else value
    if isinstance(hint, type) and hasattr(hint, "_fields"):
        return hint(*made)
    return np.dtype(value) if hint is np.dtype or getattr(hint, "__origin__", None) is np.dtype else made
