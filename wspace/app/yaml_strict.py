"""YAML, strictly: a document becomes `Node`s that keep their line; duplicate keys, tags and bombs are errors.

The text is only ever composed (PyYAML's event graph), never constructed: no value of a recipe becomes a Python object
by its own wish.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from yaml.resolver import Resolver

from wspace.app.node import Node
from wspace.core.errors import RecipeError, printable

MAX_BYTES = 1_000_000
MAX_NODES = 100_000

_MERGE = "tag:yaml.org,2002:merge"
_SEQUENCE, _MAPPING = "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"


def read(path: str | Path) -> str:
    """The text of a recipe file: UTF-8, at most 1 MB.

    Raises:
      RecipeError: no such file, a folder, too large, or not UTF-8.
    """
    file = Path(path)
    if not file.is_file():
        raise RecipeError(printable(f"{path}: {'is a folder, not a recipe' if file.is_dir() else 'no such file'}"))
    if (size := file.stat().st_size) > MAX_BYTES:
        raise RecipeError(printable(f"{path}: {size} bytes is too large for a recipe (at most {MAX_BYTES})"))
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise RecipeError(printable(f"{path}: not UTF-8 text (byte {problem.start})")) from None


def parse(text: str, file: str, *, path: str = "", numbered: bool = True) -> list[Node]:
    """The documents of a YAML text, each as a `Node`.

    Args:
      text: one or more documents (separated by `---`).
      file: its name in messages.
      path: dotted path that the documents stand at, for messages.
      numbered: whether messages have the line.
    Raises:
      RecipeError: not YAML, a duplicate key, a tag, an alias bomb, or nothing at all; with file and line.
    Example:
      >>> document, = parse("density: 1e-3", "recipe.yml")
      >>> document.mapping()["density"].number()
      0.001
    """
    reader = _Reader(file, numbered)
    try:
        documents = [reader.convert(node, path) for node in yaml.compose_all(text, Loader=yaml.SafeLoader)]
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        place = reader.place(mark.line) if mark else file
        raise RecipeError(printable(f"{place}: not YAML: {problem.problem or problem.context}")) from None
    except yaml.YAMLError as problem:
        raise RecipeError(printable(f"{file}: not YAML: {' '.join(str(problem).split())}")) from None
    except RecursionError:
        raise RecipeError(printable(f"{file}: nested too deep for a recipe")) from None
    if not documents:
        raise RecipeError(printable(f"{file}: the recipe is empty"))
    return documents


def _error(place: str, path: str, message: str) -> RecipeError:
    return Node("", place, path).error(message)


class _Reader:
    """Walks PyYAML's node graph once per use of a node, so that an alias costs what its target holds."""

    def __init__(self, file: str, numbered: bool) -> None:
        self.file, self.numbered, self.count = file, numbered, 0
        self.open: set[int] = set()
        self.resolver = Resolver()

    def place(self, line: int) -> str:
        return f"{self.file}:{line + 1}" if self.numbered else self.file

    def convert(self, node: yaml.Node, path: str, key: yaml.Node | None = None) -> Node:
        place = self.place((key or node).start_mark.line)
        self.count += 1
        if self.count > MAX_NODES:
            raise _error(place, "", f"more than {MAX_NODES} values once its aliases are followed")
        self._refuse_tag(node, path)
        if isinstance(node, yaml.ScalarNode):
            return Node(node.value, place, path, quoted=node.style is not None)
        if id(node) in self.open:
            raise _error(place, path, "an alias that holds itself")
        self.open.add(id(node))
        value = self._mapping(node, path) if isinstance(node, yaml.MappingNode) else self._sequence(node, path)
        self.open.discard(id(node))
        return Node(value, place, path)

    def _sequence(self, node: yaml.Node, path: str) -> list[Node]:
        return [self.convert(item, f"{path}[{i}]") for i, item in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Node]:
        own: dict[str, Node] = {}
        merged: list[Node] = []
        for key, value in node.value:
            place = self.place(key.start_mark.line)
            if not isinstance(key, yaml.ScalarNode):
                raise _error(place, path, "a key must be one word, not a list or a mapping")
            if key.tag == _MERGE:
                merged += self._merged(value, path, key)
                continue
            self._refuse_tag(key, path)
            if key.value in own:
                first = own[key.value].place
                raise _error(place, path, f"duplicate key {key.value!r}, first written at {first}")
            own[key.value] = self.convert(value, f"{path}.{key.value}" if path else key.value, key)
        for source in merged:
            own = {**source.mapping(), **own}
        return own

    def _merged(self, value: yaml.Node, path: str, key: yaml.Node) -> list[Node]:
        """What stands behind `<<`: one mapping or several, the later ones weaker."""
        node = self.convert(value, path, key)
        return node.items() if isinstance(node.value, list) else [node]

    def _refuse_tag(self, node: yaml.Node, path: str) -> None:
        implied = _SEQUENCE if isinstance(node, yaml.SequenceNode) else _MAPPING
        if isinstance(node, yaml.ScalarNode):
            plain = node.style is None
            implied = self.resolver.resolve(yaml.ScalarNode, node.value, (plain, not plain))
        if node.tag != implied:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            place = self.place(node.start_mark.line)
            raise _error(place, path, f"the tag {tag!r} is refused: a recipe holds plain data only")
