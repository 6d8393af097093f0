"""The size of a model: parameters, bytes, zeros, and what of it trains, by part."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wspace.core.containers import as_params, is_weight, show
from wspace.core.implicit import Implicit, dense, stored_bits
from wspace.core.plan import is_lazy
from wspace.core.sizes import size
from wspace.core.table import html, number, text
from wspace.core.typing import Leaf, Path, Tree


class Part(NamedTuple):
    """A group of leaves. parameters: weights they stand for. trainable: numbers in the trainable fields of Implicit
    nodes. bits: what storing all of the leaves takes. kinds: dtypes, and names of Implicit nodes. sparsity: fraction of
    zeros, None if values are not known."""

    name: str
    leaves: int
    parameters: int
    trainable: int
    bits: int
    kinds: tuple[str, ...]
    sparsity: float | None


class Summary(NamedTuple):
    """parts: one a group. total: all of them."""

    parts: tuple[Part, ...]
    total: Part

    def __str__(self) -> str:
        return text(self.title(), HEAD, self.cells())

    def _repr_html_(self) -> str:
        return html(self.title(), HEAD, self.cells())

    def title(self) -> str:
        """The whole in one line."""
        t = self.total
        trains = f"{t.trainable:,} trainable ({t.trainable / t.parameters:.2%}), " if t.trainable else ""
        each = f" ({t.bits / t.parameters:.3g} bits a parameter)" if t.parameters else ""
        return f"{t.parameters:,} parameters, {trains}{size(t.bits / 8)}{each}, zeros {number(t.sparsity)}"

    def cells(self) -> list[tuple[str, ...]]:
        """The rows of the table as text, the total last."""
        return [
            (
                p.name,
                str(p.leaves),
                f"{p.parameters:,}",
                f"{p.trainable:,}",
                size(p.bits / 8),
                " ".join(p.kinds),
                number(p.sparsity),
            )
            for p in (*self.parts, self.total)
        ]


HEAD = ("part", "leaves", "parameters", "trainable", "stored", "kinds", "zeros")


def summary(tree: Tree, depth: int = 1) -> Summary:
    """How large a model is: parameters, bytes, kinds of leaves and zeros, by part, with a line for the whole.

    Args:
      tree: parameters, or a checkpoint (a mapping with `.specs`), read a leaf at a time. ShapeDtypeStructs will do.
      depth: how many keys of a leaf's path (or words of its dotted name) name its part.
    Returns:
      Summary; `str` and a notebook show it. Parameters are the entries of floating leaves; bytes are of all leaves.
    Example:
      >>> print(summary({"dense": {"kernel": jnp.ones((4, 2)), "bias": jnp.zeros(2)}, "step": jnp.int32(1)}))
      10 parameters, 44 B (35.2 bits a parameter), zeros 0.2
      part   leaves  parameters  trainable  stored  kinds          zeros
      dense  2       10          0          40 B    float32        0.2
      step   1       0           0          4 B     int32          -
      total  3       10          0          44 B    float32 int32  0.2
    """
    leaves: Mapping[Any, Leaf] = tree if is_lazy(tree) else as_params(tree).leaves
    counts: dict[str, list[_Count]] = {}
    for path in leaves:
        leaf = leaves[path]
        if hasattr(leaf, "dtype"):
            counts.setdefault(_part(path, depth), []).append(_count(leaf))
    parts = tuple(_sum(name, each) for name, each in counts.items())
    return Summary(parts, _sum("total", [c for each in counts.values() for c in each]))


class _Count(NamedTuple):
    parameters: int
    trainable: int
    bits: int
    kind: str
    zeros: int | None


def _count(leaf: Leaf) -> _Count:
    kind = type(leaf).__name__ if isinstance(leaf, Implicit) else str(leaf.dtype)
    if not is_weight(leaf):
        return _Count(0, 0, stored_bits(leaf), kind, 0)
    known = not any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(leaf))
    zeros = _zeros(leaf) if known else None
    return _Count(math.prod(leaf.shape), _trainable(leaf), stored_bits(leaf), kind, zeros)


def _zeros(leaf: Leaf) -> int:
    array = dense(leaf) if isinstance(leaf, Implicit | jax.Array) else leaf
    if isinstance(array, jax.Array):
        return int(jnp.sum(array == 0, dtype=jnp.uint32))  # on its devices, whatever the sharding
    return int(np.count_nonzero(array == 0))


def _trainable(leaf: Leaf) -> int:
    if not isinstance(leaf, Implicit):
        return 0
    fields = jax.tree.leaves([getattr(leaf, name) for name in leaf.trainable])
    return sum(math.prod(x.shape) for x in fields)


def _part(path: Path | str, depth: int) -> str:
    shown = show((path,) if isinstance(path, str) else path)
    return "/".join(shown.replace(".", "/").split("/")[:depth])


def _sum(name: str, counts: list[_Count]) -> Part:
    parameters = sum(c.parameters for c in counts)
    zeros = None if any(c.zeros is None for c in counts) else sum(c.zeros or 0 for c in counts)
    return Part(
        name,
        len(counts),
        parameters,
        sum(c.trainable for c in counts),
        sum(c.bits for c in counts),
        tuple(sorted({c.kind for c in counts})),
        zeros / parameters if parameters and zeros is not None else None,
    )
