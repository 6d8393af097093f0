"""Selecting leaves by path, and splitting a tree into what trains and what stays."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from wspace.core.axes import Axes, Axis, has_matrix
from wspace.core.containers import as_params, is_weight, show
from wspace.core.errors import SelectionError, TreeMismatch, listed
from wspace.core.implicit import Implicit, is_implicit
from wspace.core.typing import Path, Tree, Where


class Spec(NamedTuple):
    """What is known of a leaf without its values."""

    path: str
    shape: tuple[int, ...]
    dtype: Any
    axes: tuple[Axis, ...]


def matrices(path: str, spec: Spec) -> bool:
    """Selects leaves with an input and an output axis: linear and convolution kernels, embeddings, stacked or not."""
    return has_matrix(spec.axes)


def matches(where: Where, spec: Spec) -> bool:
    """Whether a selector takes a leaf: a regex found in the shown path, or a callable `(path, spec) -> bool`."""
    if isinstance(where, str | re.Pattern):
        return re.search(where, spec.path) is not None
    return bool(where(spec.path, spec))


def describe(where: Where) -> str:
    """A selector in words, for messages and tables."""
    if isinstance(where, str | re.Pattern):
        return repr(where if isinstance(where, str) else where.pattern)
    return getattr(where, "__name__", repr(where))


def selected(where: Where, specs: Mapping[Path, Spec]) -> list[Path]:
    """The paths a selector takes.

    Raises:
      SelectionError: it takes none.
    """
    hits = [path for path, spec in specs.items() if matches(where, spec)]
    if not hits:
        raise SelectionError(
            f"selector {describe(where)} matches none of {len(specs)} leaves: "
            f"{listed((s.path for s in specs.values()), 8)}"
        )
    return hits


def split(tree: Tree, where: Where | None = None) -> tuple[Tree, Tree]:
    """Separate what trains from what stays: two trees of the same structure, with None where the other has the leaf.

    Trainable are the trainable fields of Implicit nodes, and the plain floating leaves that `where` selects.

    Example:
      >>> import jax.numpy as jnp
      >>> train, rest = split({"a": jnp.ones(2), "b": jnp.zeros(3)}, where="^a$")
      >>> rest["a"] is None, train["b"] is None
      (True, True)

    Raises:
      SelectionError: nothing is trainable.
    """
    params = as_params(tree)
    parts = {path: _parts(path, leaf, where) for path, leaf in params.leaves.items()}
    if all(train is None for train, _ in parts.values()):
        raise SelectionError(f"split found nothing trainable (where={describe(where)}); name plain leaves with where=")
    return (
        params.rebuild({p: train for p, (train, _) in parts.items()}),
        params.rebuild({p: rest for p, (_, rest) in parts.items()}),
    )


def _parts(path: Path, leaf: Any, where: Where | None) -> tuple[Any, Any]:
    if isinstance(leaf, Implicit):
        fields = {k: getattr(leaf, k) for k in leaf.__dataclass_fields__}  # type: ignore[attr-defined]
        data = {k for k, f in leaf.__dataclass_fields__.items() if not f.metadata.get("static")}  # type: ignore[attr-defined]
        train = {k: None if k in data - leaf.trainable else v for k, v in fields.items()}
        rest = {k: None if k in leaf.trainable else v for k, v in fields.items()}
        return (type(leaf)(**train), type(leaf)(**rest)) if leaf.trainable else (None, leaf)
    shape = tuple(getattr(leaf, "shape", ()))
    spec = Spec(show(path), shape, getattr(leaf, "dtype", None), Axes().of(path, shape))
    return (leaf, None) if where is not None and is_weight(leaf) and matches(where, spec) else (None, leaf)


def join(train: Tree, rest: Tree) -> Tree:
    """The inverse of `split`: wherever one tree has None, the other's leaf. Works under jit and grad.

    Raises:
      TreeMismatch: the two trees do not have the same structure.
    """

    def one(a: Any, b: Any) -> Any:
        if is_implicit(a) and is_implicit(b):
            return type(a)(**{k: one(getattr(a, k), getattr(b, k)) for k in a.__dataclass_fields__})
        return b if a is None else a

    a, b = as_params(train), as_params(rest)
    if a.leaves.keys() != b.leaves.keys():
        only = [show(path) for path in a.leaves.keys() ^ b.leaves.keys()]
        raise TreeMismatch(
            f"join needs the two trees that split returned; only one of these has {listed(sorted(only))}"
        )
    return a.rebuild({path: one(x, b.leaves[path]) for path, x in a.leaves.items()})


def by_label(labels: Iterable[tuple[Where, str]], spec: Spec) -> str | None:
    """The label of the first rule that takes a leaf."""
    return next((label for where, label in labels if matches(where, spec)), None)
