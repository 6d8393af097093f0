"""The floating leaves of a tree as a list, and means of trees: what the matchers that train need of a tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from wspace.core.containers import as_params, is_weight
from wspace.core.errors import TreeMismatch
from wspace.core.typing import Array, Path, Tree


def floats(tree: Tree) -> tuple[dict[Path, Array], Callable[[dict[Path, Any]], Tree]]:
    """Floating leaves by path, and the tree again from new ones; all other leaves stay."""
    taken = as_params(tree)
    found = {path: jnp.asarray(x) for path, x in taken.leaves.items() if is_weight(x)}
    return found, lambda new: taken.rebuild({**taken.leaves, **new})


def mean(trees: Sequence[Tree]) -> Tree:
    """The mean of trees, leaf by leaf; leaves that are not floating are those of the first.

    Raises:
      TreeMismatch: the trees have other leaves.
    """
    return mixed(trees, [1.0 / len(trees)] * len(trees))


def mixed(trees: Sequence[Tree], weights: Sequence[Any]) -> Tree:
    """`sum_k weights[k] * trees[k]`, as `mean`."""
    (first, rebuild), *others = [floats(tree) for tree in trees]
    for k, (other, _) in enumerate(others, start=2):
        if {p: x.shape for p, x in other.items()} != {p: x.shape for p, x in first.items()}:
            raise TreeMismatch(f"tree {k} has other floating leaves than tree 1, or other shapes")
    parts = [first, *(other for other, _ in others)]
    scaled = {p: [x[p] * jnp.asarray(w, x[p].dtype) for x, w in zip(parts, weights, strict=True)] for p in first}
    return rebuild({p: sum(xs[1:], xs[0]) for p, xs in scaled.items()})
