"""Implicit: a pytree node that stands for an array and can materialize it.

A reparameterization (LoRA, weight norm) or a compressed leaf (QTensor) is one frozen dataclass:

    @implicit
    class Scaled(Implicit):
        w: Array
        gain: Array
        trainable = frozenset({"gain"})

        def materialize(self):
            return self.gain * dense(self.w)

Training differentiates through `materialize`; merging an adapter is `materialize`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from functools import lru_cache
from typing import Any, ClassVar, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp

from wspace.core.typing import Array, Leaf, Tree

T = TypeVar("T", bound="Implicit")

KINDS: dict[str, type[Implicit]] = {}  # every kind of node, by its class's name


class Implicit:
    """Base of all nodes that stand for an array. Fields are arrays or Implicit nodes; `static()` marks the others."""

    trainable: ClassVar[frozenset[str]] = frozenset()  # fields that fine-tuning changes

    def materialize(self) -> Array:
        """The array this node stands for."""
        raise TypeError(f"{type(self).__name__} does not define materialize()")

    @property
    def shape(self) -> tuple[int, ...]:
        return self._abstract().shape

    @property
    def dtype(self) -> Any:
        return self._abstract().dtype

    def _abstract(self) -> Any:
        leaves, structure = jax.tree.flatten(self)
        return _materialized(structure, tuple((tuple(x.shape), x.dtype) for x in leaves))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of weights this node stands for (not of the numbers it stores)."""
        return math.prod(self.shape)

    def parts(self) -> dict[str, Any]:
        """The fields as a file keeps them, each in its narrowest dtype; None and static fields apart."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {f.name: getattr(self, f.name) for f in fields if not f.metadata.get("static")}

    @classmethod
    def from_stored(cls, parts: dict[str, Any], static: dict[str, Any]) -> Implicit:
        """The inverse of `parts`, given the static fields."""
        return cls(**parts, **static)

    def stored_bits(self) -> int:
        """Bits of all parts."""
        return sum(stored_bits(part) for part in self.parts().values())


@lru_cache(maxsize=4096)
def _materialized(structure: Any, leaves: tuple[tuple[tuple[int, ...], Any], ...]) -> Any:
    """Shape and dtype of what a node stands for: a model has many nodes of a few kinds, and tracing one takes 10 ms."""
    node = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*leaf) for leaf in leaves])
    with in_double(node):
        return jax.eval_shape(lambda node: node.materialize(), node)


def stored_bits(leaf: Leaf) -> int:
    """Bits a leaf needs when stored, from counts and widths, never from `.nbytes`: int4 is 4 bits on every backend."""
    if isinstance(leaf, Implicit):
        return leaf.stored_bits()
    return sum(math.prod(x.shape) * bit_width(x.dtype) for x in jax.tree.leaves(leaf) if hasattr(x, "dtype"))


def bit_width(dtype: Any) -> int:
    """Bits of one number: 4 for int4, 8 for bool as files keep it."""
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return 64
    name = jnp.dtype(dtype).name
    narrow = re.fullmatch(r"u?int([1-7])|float([46])_.*", name)
    return int(narrow.group(1) or narrow.group(2)) if narrow else 8 * jnp.dtype(dtype).itemsize


def static(**kwargs: Any) -> Any:
    """A field of an Implicit that is part of its type: shape, bits, name of a layout."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(static,))
def implicit(cls: type[T]) -> type[T]:
    """Class decorator: frozen dataclass, registered as a pytree with named fields."""
    made: Any = dataclasses.dataclass(frozen=True)(cls)
    data = [f.name for f in dataclasses.fields(made) if not f.metadata.get("static")]
    meta = [f.name for f in dataclasses.fields(made) if f.metadata.get("static")]
    jax.tree_util.register_dataclass(made, data_fields=data, meta_fields=meta)
    KINDS[cls.__name__] = made
    return made


def is_implicit(node: Any) -> bool:
    """Whether a node stands for an array; the `is_leaf` of tree maps that must not look inside."""
    return isinstance(node, Implicit)


def dense(leaf: Leaf) -> Array:
    """The array a leaf stands for: materialized if it is Implicit, as a jax array in any case."""
    with in_double(leaf):
        return leaf.materialize() if isinstance(leaf, Implicit) else jnp.asarray(leaf)


def in_double(leaves: Any) -> contextlib.AbstractContextManager[Any]:
    """64-bit mode while one of the arrays is float64, so that it is computed in float64 wherever it comes from."""
    off = has_double(leaves) and not jax.config.read("jax_enable_x64")
    return jax.enable_x64(True) if off else contextlib.nullcontext()


def has_double(leaves: Any) -> bool:
    """Whether one of the arrays is float64."""
    return any(getattr(x, "dtype", None) == jnp.float64 for x in jax.tree.leaves(leaves))


def materialize(tree: Tree) -> Tree:
    """Every Implicit node of a tree replaced by its array: what `apply(materialize(params), x)` needs.

    Shapes and dtypes are those of the nodes. Differentiable, works under jit.

    Example:
      >>> import wspace as ws
      >>> p = ws.reparam.weight_norm()({"kernel": jnp.ones((2, 3))})
      >>> materialize(p)["kernel"].shape
      (2, 3)
    """
    from wspace.core.containers import as_params

    params = as_params(tree)
    return params.rebuild({path: dense(x) if is_implicit(x) else x for path, x in params.leaves.items()})
