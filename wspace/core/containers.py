"""One door for containers: any tree of parameters becomes a flat mapping from key tuple to leaf, and back.

Dicts (also with keys that do not sort), FrozenDict, nnx.State, haiku and optax trees, equinox modules, sequences,
dataclasses and lazy mappings of arrays all come in through `as_params`; the container that went in comes out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wspace.core.errors import TreeMismatch, printable
from wspace.core.implicit import Implicit
from wspace.core.typing import Leaf, Path, Tree

Rebuild = Callable[[Callable[[Path], Any]], Any]


class Params(NamedTuple):
    """The leaves of a tree by path, in the tree's order, and the way back."""

    leaves: dict[Path, Leaf]
    rebuild: Callable[[Mapping[Path, Leaf]], Tree]


def show(path: Path) -> str:
    """A path as people write it: keys joined by '/'.

    >>> show(("layers", 0, "kernel"))
    'layers/0/kernel'
    """
    return "/".join(printable(k) for k in path)


def as_params(tree: Tree, stop: Iterable[Path] = ()) -> Params:
    """Take a tree apart. None, integers, functions and Implicit nodes are leaves; a node whose path is in `stop` too.

    Example:
      >>> p = as_params({"b": [1.0, 2.0], 3: None})
      >>> list(p.leaves)
      [('b', 0), ('b', 1), (3,)]
      >>> p.rebuild(p.leaves)
      {'b': [1.0, 2.0], 3: None}
    """
    leaves: dict[Path, Leaf] = {}
    make = _walk(tree, (), leaves, frozenset(stop))
    return Params(leaves, lambda values: make(values.__getitem__))


def _walk(node: Any, path: Path, leaves: dict[Path, Leaf], stop: frozenset[Path]) -> Rebuild:
    def leaf() -> Rebuild:
        if path in leaves:
            raise TreeMismatch(f"two leaves have the one path {show(path)}; rename a key")
        leaves[path] = node
        return lambda get: get(path)

    if path in stop or node is None or isinstance(node, Implicit):
        return leaf()
    if type(node) in (dict, OrderedDict):
        made = {k: _walk(v, (*path, k), leaves, stop) for k, v in node.items()}
        return lambda get: type(node)((k, make(get)) for k, make in made.items())
    children, treedef = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    if len(children) == 1 and children[0][1] is node:  # a node without children is no leaf
        return _walk(dict(node), path, leaves, stop) if isinstance(node, Mapping) else leaf()
    keys = [_key(entries) for entries, _ in children]
    if keys == ["value"]:  # a box around one array, such as nnx.Variable: the box has the name
        keys = [()]
    parts = [
        _walk(child, (*path, *(key if isinstance(key, tuple) else (key,))), leaves, stop)
        for key, (_, child) in zip(keys, children, strict=True)
    ]
    return lambda get: jax.tree_util.tree_unflatten(treedef, [make(get) for make in parts])


def _key(entries: tuple[Any, ...]) -> Hashable:
    """The plain key of one step down a pytree."""
    (entry,) = entries
    for field in ("key", "idx", "name"):
        if hasattr(entry, field):
            return getattr(entry, field)
    return str(entry)


def is_weight(leaf: Leaf) -> bool:
    """Whether transforms act on this leaf: floating arrays and Implicit nodes. All others pass through."""
    return isinstance(leaf, Implicit) or (
        hasattr(leaf, "shape") and hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
    )
