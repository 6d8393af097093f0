"""`--set a.b=c`: one value of a recipe, replaced on the command line.

On a YAML recipe the path walks the document (`models.0.parameters.weight=0.3`) before it is validated, so a name that
does not exist is found by the same check as in the file. On a Python config it names an argument of `recipe()`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from wspace.app.node import Node
from wspace.app.yaml_strict import parse
from wspace.core.errors import RecipeError, nearest, printable


class Assignment(NamedTuple):
    """One `--set`: the dotted path as written, and the value, read as YAML."""

    path: str
    value: Node


def assignment(text: str) -> Assignment:
    """Read `a.b=c`.

    >>> assignment("parameters.t=0.5").value.number()
    0.5
    """
    path, equals, value = text.partition("=")
    if not equals or not all(path.split(".")):
        raise RecipeError(printable(f"--set {text}: must be written as name=value or section.name=value"))
    place = f"--set {text}"
    if not value.strip():
        return Assignment(path, Node("", place, path))
    documents = parse(value, place, path=path, numbered=False)
    if len(documents) > 1:
        raise RecipeError(printable(f"{place}: must be one value"))
    return Assignment(path, documents[0])


def overridden(documents: Sequence[Node], assignments: Iterable[Assignment]) -> list[Node]:
    """The documents with every assignment put in its place.

    With several documents (stages) a path that starts with a stage's `name` goes to that stage, any other to the last.
    """
    found = list(documents)
    for path, value in assignments:
        chosen, rest = len(found) - 1, path
        for i, document in enumerate(found if len(found) > 1 else []):
            name = document.value.get("name") if isinstance(document.value, dict) else None
            if name is not None and path.startswith(f"{name.value}."):
                chosen, rest = i, path.removeprefix(f"{name.value}.")
        found[chosen] = _put(found[chosen], rest.split("."), value)
    return found


def _put(node: Node, keys: list[str], value: Node) -> Node:
    """A copy of `node` with `value` at `keys`; names that are absent are added, and the validators judge them."""
    if not keys:
        return value
    if isinstance(node.value, list):
        key, rest = keys[0], keys[1:]
        if not (key.isascii() and key.isdigit() and int(key) < len(node.value)):
            raise RecipeError(
                printable(f"{value.place}: {node.path} has items 0 to {len(node.value) - 1}, not {key!r}")
            )
        items = [_put(item, rest, value) if i == int(key) else item for i, item in enumerate(node.value)]
        return replace(node, value=items)
    if isinstance(node.value, str) and not node.is_null:
        raise RecipeError(printable(f"{value.place}: {node.path} is one value ({node.shown}): nothing lies inside it"))
    entries = node.value if isinstance(node.value, dict) else {}
    # names may hold dots ("merge.ties"): the longest one that exists wins
    sizes = [n for n in range(len(keys), 0, -1) if ".".join(keys[:n]) in entries] or [1]
    key, rest = ".".join(keys[: sizes[0]]), keys[sizes[0] :]
    inner = entries.get(key, Node("", value.place, f"{node.path}.{key}" if node.path else key))
    return replace(node, value={**entries, key: _put(inner, rest, value)})


def unknown(place: str, name: str, known: Iterable[str]) -> RecipeError:
    """The error for a name that a Python config does not have."""
    return RecipeError(printable(f"{place}: no argument {name!r}.{nearest(name, known)}"))
