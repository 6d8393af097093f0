"""A checkpoint with its Implicit leaves whole: quantized and reparameterized leaves are read as the nodes they were."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from wspace.core.errors import FormatError, printable
from wspace.io.names import Structure
from wspace.io.source import Checkpoint, Named

NODES = "wspace_nodes"  # the metadata key under which a run notes what its Implicit leaves were


class Whole(Named[Any]):
    """The leaves of a checkpoint by name, read lazily; the parts of an Implicit leaf are one leaf, a node.

    Attributes:
      checkpoint: what is read.
      specs: name -> Spec, or a node of ShapeDtypeStructs.
      structure: how the names nest, None for a flat checkpoint.

    Raises:
      FormatError: the note on nodes is damaged, its parts are missing, or a kind of node that is unknown.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._facts = _facts(checkpoint)
        self._parts = _inside(self._facts, checkpoint.specs)
        self._kinds: dict[Any, Any] = {}
        part = {name for names in self._parts.values() for name in names.values()}
        self.specs: dict[str, Any] = {name: spec for name, spec in checkpoint.specs.items() if name not in part}
        self.specs |= {node: self._abstract(node) for node in self._facts}
        self.specs = dict(sorted(self.specs.items()))
        structure = checkpoint.structure
        self.structure = structure and {**structure, "tree": _collapsed(structure["tree"], (), self._facts)}

    def __getitem__(self, name: str) -> Any:
        if name not in self._facts:
            return self.checkpoint[name]
        from wspace.core.stored import from_parts

        parts = {path: self.checkpoint[part] for path, part in self._parts[name].items()}
        return self._made(name, lambda: from_parts(_nested(parts), self._facts[name]))

    def part(self, name: str, index: tuple[slice, ...]) -> Any:
        """A part of an array leaf, see `Checkpoint.part`."""
        return self.checkpoint.part(name, index)

    def parts(self, name: str) -> bool:
        """Whether a part of a leaf can be had alone: of nodes it can't."""
        return name not in self._facts and self.checkpoint.parts(name)

    def reading(self, name: str) -> int:
        """Bytes of anonymous memory that reading a leaf takes."""
        names = self._parts[name].values() if name in self._facts else [name]
        return sum(map(self.checkpoint.reading, names))

    def placed(self, shardings: Mapping[str, Any]) -> dict[str, Any]:
        """Leaves by name as jax arrays in these shardings, and nodes of them; each process reads its own parts."""
        from wspace.core.placement import fitted, moved
        from wspace.core.stored import from_parts

        plain = {name: where for name, where in shardings.items() if name not in self._facts}
        nodes = [name for name in shardings if name in self._facts]
        inside = {
            part: fitted(shardings[node], self.specs[node].ndim, self.checkpoint.specs[part].shape)
            for node in nodes
            for part in self._parts[node].values()
        }
        found = self.checkpoint.placed(plain | inside)
        for node in nodes:
            parts = _nested({path: found.pop(part) for path, part in self._parts[node].items()})
            made = self._made(node, partial(from_parts, parts, self._facts[node]))
            found[node] = moved(made, shardings[node])
        return found

    def check_unchanged(self) -> None:
        """IntegrityError if a file changed since it was opened."""
        self.checkpoint.check_unchanged()

    def _abstract(self, name: str) -> Any:
        import jax

        from wspace.core.implicit import in_double
        from wspace.core.stored import from_parts

        specs = {path: self.checkpoint.specs[part] for path, part in self._parts[name].items()}
        kind = (json.dumps(self._facts[name], sort_keys=True), *((p, s.shape, s.dtype) for p, s in specs.items()))
        if kind in self._kinds:  # a model has many nodes of a few kinds
            return self._kinds[kind]
        structs = {path: jax.ShapeDtypeStruct(spec.shape, spec.dtype) for path, spec in specs.items()}

        def make() -> Any:
            with in_double(structs):
                return jax.eval_shape(lambda parts: from_parts(_nested(parts), self._facts[name]), structs)

        self._kinds[kind] = self._made(name, make)
        return self._kinds[kind]

    def _made(self, name: str, make: Any) -> Any:
        try:
            return make()
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as problem:
            why = str(problem) if isinstance(problem, FormatError) else f"its note is damaged: {printable(problem)}"
            raise FormatError(f"{printable(self.checkpoint.path)}: leaf '{printable(name)}': {why}") from problem


def _facts(checkpoint: Checkpoint) -> dict[str, Any]:
    noted = checkpoint.metadata.get(NODES)
    if noted is None:
        return {}
    try:
        facts = json.loads(noted)
        if isinstance(facts, dict) and all(isinstance(fact, dict) for fact in facts.values()):
            return facts
        problem = "it maps leaves to what they were"
    except json.JSONDecodeError as error:
        problem = str(error)
    raise FormatError(f"{printable(checkpoint.path)}: its note on quantized leaves is damaged: {printable(problem)}")


def _inside(nodes: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The leaves below each node: path from it -> name."""
    found: dict[str, dict[str, str]] = {node: {} for node in nodes}
    for name in names:
        parts = name.split(".")
        for n in range(1, len(parts)):
            if (node := ".".join(parts[:n])) in found:
                found[node][".".join(parts[n:])] = name
                break
    return found


def _nested(parts: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, part in parts.items():
        *above, last = path.split(".")
        at = tree
        for key in above:
            at = at.setdefault(key, {})
        at[last] = part
    return tree


def _collapsed(node: Any, path: tuple[Any, ...], nodes: Mapping[str, Any]) -> Structure | Any:
    """The structure with the dicts that stand for nodes replaced by the nodes' names."""
    name = ".".join(map(str, path))
    if path and name in nodes:
        return name
    if not isinstance(node, dict):
        return node
    ((kind, children),) = node.items()
    if kind == "dict":
        return {kind: [[key, _collapsed(child, (*path, key), nodes)] for key, child in children]}
    return {kind: [_collapsed(child, (*path, i), nodes) for i, child in enumerate(children)]}
