"""Weighted averages of models that do not have all leaves in common, and of models fine-tuned twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from wspace.average.uniform_soup import uniform_soup
from wspace.core.containers import as_params, show
from wspace.core.errors import ShapeError, TreeMismatch, listed
from wspace.core.run import stream
from wspace.core.typing import Array, Leaf, Path, Tree


def weighted_average(
    trees: Sequence[Tree],
    weights: Sequence[float] | Array | None = None,
    on_missing: Literal["keep_first", "refuse"] = "keep_first",
) -> Tree:
    """The weighted mean of n trees; where a tree lacks a leaf of the first one, the first one's stands in for it.

        theta_i = sum_k w_k x_k,i / sum_k w_k,   x_k,i = theta_k,i if tree k has leaf i, else theta_1,i

    Leaves that only other trees have are left out. For trees with the same leaves it is `uniform_soup`.

    Args:
      trees: n trees; the first one decides container, leaves and dtypes.
      weights: [n], default all 1. Only their ratios matter. Traced.
      on_missing: "keep_first" as above, or "refuse" trees that do not have the leaves of the first. Static.
    Raises:
      TreeMismatch: shapes of a leaf differ, or leaves with "refuse". ShapeError: no tree, another number of weights
        than of trees, or another word for on_missing.
    Example:
      >>> import jax.numpy as jnp
      >>> a, b = {"w": jnp.array([1.0]), "head": jnp.array([7.0])}, {"w": jnp.array([3.0])}
      >>> weighted_average([a, b], (0.25, 0.75))
      {'w': Array([2.5], dtype=float32), 'head': Array([7.], dtype=float32)}

    Reference: Shukor, Dancette, Rame, Cord, 2023, "Unified Model for Image, Video, Audio and Language Tasks" (UnIVAL).
    Differs from the paper: weights are divided by their sum; its code takes two trees.
    """
    if not trees or on_missing not in ("keep_first", "refuse"):
        raise ShapeError(
            f"weighted_average got {len(trees)} trees and on_missing={on_missing!r}; "
            f"give at least one tree, and 'keep_first' or 'refuse'"
        )
    params = [as_params(tree) for tree in trees]
    first = params[0].leaves
    if on_missing == "refuse":
        for k, other in enumerate(params[1:], 2):
            odd = sorted(show(p) for p in first.keys() ^ other.leaves.keys())
            if odd:
                raise TreeMismatch(f"trees 1 and {k} do not both have {listed(odd)}; on_missing='keep_first' allows it")
    common = [path for path in first if len(params) == 1 or any(path in p.leaves for p in params[1:])]
    full = [{path: p.leaves.get(path, first[path]) for path in common} for p in params]
    out: dict[Path, Leaf] = dict(first)  # what only the first tree has stays to the last bit
    stream(uniform_soup(weights), full, out)
    return params[0].rebuild(out)


def ratatouille(
    auxiliary: Sequence[Tree], finetune: Callable[[Tree], Tree], weights: Sequence[float] | Array | None = None
) -> Tree:
    """Recycle models of other tasks: fine-tune each on the target task, then average what comes out.

    Args:
      auxiliary: fine-tunes of one pretrained model on other tasks. finetune: params -> params, on the target task.
      weights: [n], default all 1.
    Returns:
      tree like the first fine-tuned one.
    Raises:
      ShapeError: no auxiliary model, or another number of weights. TreeMismatch: structures differ.
    Example:
      >>> import jax.numpy as jnp
      >>> ratatouille([{"w": jnp.array([0.0])}, {"w": jnp.array([4.0])}], lambda p: {"w": p["w"] / 2 + 1})["w"]
      Array([2.], dtype=float32)

    Reference: Rame et al., 2023, "Model Ratatouille: Recycling Diverse Models for Out-of-Distribution Generalization".
    Differs from the paper: weights are an addition.
    """
    return uniform_soup(weights)(*[finetune(params) for params in auxiliary])
