"""Matching more than two models: to a common reference, or to a common universe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize_scalar

from wspace.core.axes import Axes
from wspace.core.errors import SideTreeError, WspaceError
from wspace.core.typing import Array, Tree
from wspace.match.act import act
from wspace.match.assignment import solve
from wspace.match.blocks import blocks, leaves_of, mix
from wspace.match.element import Element, compose, identity, inverse
from wspace.match.floats import mean
from wspace.match.weight import weight
from wspace.trace.by_hand import Rules, by_hand
from wspace.trace.groups import Symmetries

Soft = list[dict[str, Array]]  # one a model: group -> [*over, size, size]


def merge_many(
    trees: Sequence[Tree], axes: Symmetries | Rules | Axes, *, key: Array, sweeps: int = 20
) -> list[dict[str, Array]]:
    """One element a model, so that each lies nearest to the mean of the others.

        g_k = weight(mean of act(tree_j, g_j) over j != k, tree_k),   models in random order, until none moves

    Args:
      trees: two or more; axes: of any of them.
      key: typed; orders models and groups. sweeps: most passes over the models.
    Returns:
      a list of elements, g of `act(tree_k, axes, g)`; the first is the identity, so the first tree is the reference.
    Raises:
      WspaceError: fewer than two trees; and all that `weight` raises.
    Example:
      >>> p = {"w1": jnp.array([[1.0, 2.0, 3.0]]), "w2": jnp.array([[4.0], [5.0], [6.0]])}
      >>> q = {"w1": jnp.array([[3.0, 1.0, 2.0]]), "w2": jnp.array([[6.0], [4.0], [5.0]])}
      >>> merge_many([p, q, p], {"w1": (None, "h"), "w2": ("h", None)}, key=jax.random.key(0))[1]["h"]
      Array([1, 2, 0], dtype=int32)

    Reference: Ainsworth, Hayase, Srinivasa, 2023, "Git Re-Basin", Algorithm 3 (MergeMany). Differs from the paper: each
    model is first matched to the mean of those before it, where the paper starts from all as they are.
    """
    _check(trees, key)
    groups = axes if isinstance(axes, Symmetries) else by_hand(axes, trees[0])
    elements: list[dict[str, Array]] = [identity(groups)]
    moved = [trees[0]]
    for k, tree in enumerate(trees[1:], start=1):
        elements.append(weight(mean(moved), tree, groups, key=jax.random.fold_in(key, k)))
        moved.append(act(tree, groups, elements[k]))
    for sweep in range(sweeps):
        own = jax.random.fold_in(key, len(trees) + sweep)
        changed = False
        for k in np.asarray(jax.random.permutation(own, len(trees))):
            others = mean([m for j, m in enumerate(moved) if j != k])
            new = weight(others, trees[k], groups, key=jax.random.fold_in(own, int(k)), start=elements[k])
            if any((np.asarray(new[n]) != np.asarray(elements[k][n])).any() for n in new):
                elements[k], moved[k], changed = new, act(trees[k], groups, new), True
        if not changed:
            break
    back = inverse(groups, elements[0])
    return [compose(groups, back, g) for g in elements]


def cycle_consistent(
    trees: Sequence[Tree],
    axes: Symmetries | Rules | Axes,
    *,
    key: Array,
    start: Sequence[Element] | None = None,
    steps: int = 100,
    tolerance: float = 1e-6,
) -> list[dict[str, Array]]:
    """One element a model into a common universe, all models at once, by Frank-Wolfe on doubly stochastic matrices.

        maximize  F(P) = sum over pairs k < j of <act(tree_k, P_k), act(tree_j, P_j)>
        D = argmax over permutations of <grad F(P), D>   (an assignment for each model and group)
        P <- P + t (D - P),   t in 0..1 the best of a line search;   at the end P is rounded by an assignment

    What leads from model j to model k is P_k^-1 P_j: cycles close by construction, whichever pairs one looks at.

    Args:
      trees, axes, key: as for `merge_many`; the key breaks the symmetry of the start.
      start: an element a model; None: the identity, mixed with a little of the uniform matrix.
      steps: most steps. tolerance: stop when F rises by less than this part of its scale.
    Returns:
      a list of elements, g of `act(tree_k, axes, g)`; composed so that the first is the identity.
    Raises:
      WspaceError: fewer than two trees; NonFinite: in a leaf; TreeMismatch, ShapeError as `weight`.
    Example:
      >>> p = {"w1": jnp.array([[1.0, 2.0, 3.0]]), "w2": jnp.array([[4.0], [5.0], [6.0]])}
      >>> q = {"w1": jnp.array([[3.0, 1.0, 2.0]]), "w2": jnp.array([[6.0], [4.0], [5.0]])}
      >>> cycle_consistent([p, q, p], {"w1": (None, "h"), "w2": ("h", None)}, key=jax.random.key(0))[1]["h"]
      Array([1, 2, 0], dtype=int32)

    Reference: Crisostomi, Fumero, Baieri, Bernard, Rodola, 2024, "C2M3: Cycle-Consistent Multi-Model Merging".
    Differs from the paper: the start is a tenth uniform, and rounding is followed by nothing else.
    """
    _check(trees, key)
    groups = axes if isinstance(axes, Symmetries) else by_hand(axes, trees[0])
    cut = blocks(groups)
    leaves = [leaves_of(tree, groups, f"tree {k + 1}") for k, tree in enumerate(trees)]
    parts = [[block.take(own[block.path]) for block in cut] for own in leaves]
    scale = sum(float(jnp.vdot(x, x)) for own in parts for x in own)

    @jax.jit
    def similarity(soft: Soft, parts: list[list[Array]]) -> Array:
        total = jnp.zeros(())
        for k, block in enumerate(cut):
            moved = [mix(own[k], block.names, groups, p) for own, p in zip(parts, soft, strict=True)]
            whole = sum(moved[1:], moved[0])
            total += 0.5 * (jnp.sum(whole * whole) - sum(jnp.sum(m * m) for m in moved)).astype(total.dtype)
        return total

    slope = jax.jit(jax.grad(similarity))
    along = jax.jit(lambda p, d, t: similarity(_between(p, d, t), parts))
    soft = _first(groups, start or [identity(groups)] * len(trees))
    value = float(similarity(soft, parts))
    for _ in range(steps):
        corner = [_corner(g) for g in slope(soft, parts)]
        found = minimize_scalar(lambda t: -float(along(soft, corner, t)), bounds=(0, 1), method="bounded")  # noqa: B023
        t = max((float(found.x), 1.0), key=lambda t: float(along(soft, corner, t)))
        before, value = value, float(along(soft, corner, t))
        if value <= before + tolerance * scale:
            break
        soft = _between(soft, corner, t)
    hard = [{n: jnp.asarray(solve(p, name=n)) for n, p in own.items()} for own in soft]
    back = inverse(groups, hard[0])
    return [compose(groups, back, g) for g in hard]


def _check(trees: Sequence[Tree], key: Array) -> None:
    if len(trees) < 2:
        raise WspaceError(f"matching needs two trees or more, got {len(trees)}")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise SideTreeError(f"key is a raw {key.dtype} array; make it with jax.random.key(seed), not PRNGKey")


def _matrix(p: Any) -> Array:
    """`[*over, new, old]` of a permutation."""
    return jax.nn.one_hot(jnp.asarray(p), np.shape(p)[-1], dtype=jnp.float32)


def _corner(gradient: Mapping[str, Array]) -> dict[str, Array]:
    return {name: _matrix(solve(x, name=name)) for name, x in gradient.items()}


def _first(groups: Symmetries, start: Sequence[Element]) -> Soft:
    return [{n: 0.9 * _matrix(g[n]) + 0.1 / group.size for n, group in groups.groups.items()} for g in start]


def _between(p: Soft, d: Soft, t: Any) -> Soft:
    return cast(Soft, jax.tree.map(lambda x, y: x + jnp.asarray(t, x.dtype) * (y - x), p, d))
