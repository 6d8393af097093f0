"""The words that the signatures of the core use."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

import jax

Array: TypeAlias = jax.Array
Path: TypeAlias = tuple[Hashable, ...]  # the keys that lead to a leaf: its identity
Leaf: TypeAlias = Any  # an array (jax or numpy, or a ShapeDtypeStruct) or an Implicit node
Tree: TypeAlias = Any  # any pytree, or a Mapping of arrays
Where: TypeAlias = Any  # a regex on the shown path, or a callable (path, spec) -> bool
Index: TypeAlias = tuple[slice, ...]  # a part of a leaf, as a slice of each of its first axes
Progress: TypeAlias = Callable[[int, int, str], None]  # (done, total, path)
