"""Reading an average out of an optimizer's state."""

from __future__ import annotations

from typing import Any, TypeVar

import jax

from wspace.core.containers import is_weight
from wspace.core.errors import TreeMismatch
from wspace.core.transform import narrow
from wspace.core.typing import Tree

S = TypeVar("S")


def only(kind: type[S], state: Any, reader: str) -> S:
    """The one state of this kind in an optimizer's state.

    Raises:
      TreeMismatch: there is none, or there are several.
    """

    def found(node: Any) -> bool:
        return isinstance(node, kind)

    states = [s for s in jax.tree.leaves(state, is_leaf=found) if found(s)]
    if len(states) != 1:
        raise TreeMismatch(
            f"{reader} found {len(states)} {kind.__name__}s in the optimizer's state, wanted one; pass it alone"
        )
    return states[0]


def in_dtypes_of(like: Tree | None, average: Tree) -> Tree:
    """The average in the dtypes of a tree of the parameters; None leaves it as it is kept."""
    if like is None:
        return average
    return jax.tree.map(lambda x, w: narrow(x, w.dtype) if is_weight(w) else x, average, like)
