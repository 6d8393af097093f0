"""Weight matching: the group element that brings one model's weights nearest to another's.

    maximize  <a, act(b, g)> = sum over leaves of sum(a * act(b, g))

by coordinate ascent (Git Re-Basin, Algorithm 1): with all other groups still, the objective is linear in one group's
permutation, and the best one solves an assignment problem. Three things are added to the paper. Groups whose neighbours
stand still are skipped. Groups with one permutation for each coordinate of another (head_dim for each head) are solved
within it: the gain of giving head i the old head j is that of the best match of what lies inside. And the first sweep
goes from what is known (inputs, outputs, groups already matched) to what is not, and does not take the identity for
the rest: by the rearrangement inequality no permutation of the rest can make two coordinates' product larger than that
of their sorted values, so those stand in, with less weight. A permuted copy is then found in one sweep, at any depth.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wspace.core.axes import Axes
from wspace.core.containers import as_params
from wspace.core.errors import SideTreeError, WspaceError
from wspace.core.typing import Array, Tree
from wspace.match.blocks import leaves_of
from wspace.match.element import Element, check_element, identity
from wspace.match.gains import Pair
from wspace.match.nested import PROGRESS, visit
from wspace.trace.by_hand import Rules, by_hand
from wspace.trace.groups import Symmetries

MONOTONE = 1e-6  # of sum |a||b|: how far rounding may lower the objective in a sweep
Report = Callable[[int, float, int], None]


def weight(
    a: Tree,
    b: Tree,
    axes: Symmetries | Rules | Axes,
    *,
    key: Array,
    importance: Tree | None = None,
    start: Element | None = None,
    sweeps: int = 100,
    on_sweep: Report | None = None,
) -> dict[str, Array]:
    """The element g for which `act(b, axes, g)` comes nearest to a.

    A local optimum; which one depends on the key, that orders the groups of each sweep. Groups that no other group
    meets in a leaf are solved exactly. Runs on the host: the gains of a group are one batched matrix product over all
    its leaves (compiled, where it is large), for which these lie side by side in memory; assignments are scipy's.

    Args:
      a, b: trees with the leaves that `axes` was traced with. Other leaves are not looked at.
      axes: from `ws.trace.axes`, or rules by hand.
      key: typed, from `jax.random.key`; same key, same element.
      importance: leaves w >= 0 as those of a (a Fisher diagonal, squared gradients); then `sum(w * (a - act(b, g))**2)`
        is what becomes small.
      start: element to start from; None: sorted values stand in for what is not yet matched.
      sweeps: most passes over the groups.
      on_sweep: called with (sweep, objective, groups changed) after each sweep; sweep 0 is the start.
    Returns:
      dict, int32 `[*over, size]` a group: g of `act(b, axes, g)`.
    Raises:
      NonFinite: NaN or infinity in a leaf of a group; names the group.
      TreeMismatch, ShapeError: the trees are not those that axes was traced with.
      WspaceError: the objective fell in a sweep (it can't, but for rounding).
    Example:
      >>> p = {"w1": jnp.array([[1.0, 2.0, 3.0]]), "w2": jnp.array([[4.0], [5.0], [6.0]])}
      >>> q = {"w1": jnp.array([[3.0, 1.0, 2.0]]), "w2": jnp.array([[6.0], [4.0], [5.0]])}
      >>> weight(p, q, {"w1": (None, "h"), "w2": ("h", None)}, key=jax.random.key(0))["h"]
      Array([1, 2, 0], dtype=int32)

    Reference: Ainsworth, Hayase, Srinivasa, 2023, "Git Re-Basin: Merging Models modulo Permutation Symmetries".
    Differs from the paper: see above; a group that lies on two axes of one leaf (recurrent kernels), where the
    objective is quadratic, takes a linearized step and keeps it if the objective rises; optional importance.
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise SideTreeError(f"key is a raw {key.dtype} array; make it with jax.random.key(seed), not PRNGKey")
    groups = axes if isinstance(axes, Symmetries) else by_hand(axes, a)
    pair = _pair(a, b, groups, importance)
    if start is None:
        g = _first_sweep(pair, groups, key)
    else:
        check_element(groups, start)
        g = {name: np.asarray(p, np.int32) for name, p in start.items()}
    objective = pair.objective(g)
    if on_sweep:
        on_sweep(0, objective, len(g))
    waiting = set(groups.groups)
    for sweep in range(1, sweeps + 1):
        if objective >= pair.scale * (1 - PROGRESS):  # Cauchy-Schwarz: nothing is nearer
            break
        changed = [name for name in _order(groups, key, sweep) if name in waiting and _improve(pair, name, g, waiting)]
        before, objective = objective, pair.objective(g)
        if objective < before - MONOTONE * pair.scale:
            raise WspaceError(f"weight: the objective fell from {before:.9g} to {objective:.9g} in sweep {sweep}")
        if on_sweep:
            on_sweep(sweep, objective, len(changed))
        if not changed:
            break
    return {name: jnp.asarray(p) for name, p in g.items()}


def objective(a: Tree, b: Tree, axes: Symmetries | Rules | Axes, g: Element | None = None) -> float:
    """`<a, act(b, g)>` over the leaves on which groups act; g None: the identity. What `weight` makes large.

    Example:
      >>> p = {"w1": jnp.array([[1.0, 2.0]]), "w2": jnp.array([[4.0], [5.0]])}
      >>> objective(p, p, {"w1": (None, "h"), "w2": ("h", None)})
      46.0
    """
    groups = axes if isinstance(axes, Symmetries) else by_hand(axes, a)
    return _pair(a, b, groups, None).objective(dict(g or identity(groups)))


def _pair(a: Tree, b: Tree, groups: Symmetries, importance: Tree | None) -> Pair:
    ours, theirs = leaves_of(a, groups, "tree a"), leaves_of(b, groups, "tree b")
    if importance is None:
        return Pair(groups, {path: [(x, theirs[path])] for path, x in ours.items()})
    given = as_params(importance).leaves
    if missing := [path for path in ours if path not in given]:
        raise SideTreeError(f"importance lacks {len(missing)} leaves that groups act on, such as {missing[0]}")
    weights = leaves_of(importance, groups, "importance")
    return Pair(groups, {p: [(w * ours[p], theirs[p]), (-0.5 * w, jnp.square(theirs[p]))] for p, w in weights.items()})


def _order(groups: Symmetries, key: Array, sweep: int) -> list[str]:
    """The groups in an order drawn for this sweep."""
    drawn = jax.random.permutation(jax.random.fold_in(key, sweep), len(groups.groups))
    names = sorted(groups.groups, key=lambda name: zlib.crc32(name.encode()))
    return [names[k] for k in np.asarray(drawn)]


def _first_sweep(pair: Pair, groups: Symmetries, key: Array) -> dict[str, Any]:
    """Each group once: those that others depend on first, of these the one whose leaves are best known already."""
    g: dict[str, Any] = {}
    left = _order(groups, key, 0)
    while left:
        name = min(left, key=lambda n: (len(groups.groups[n].over), -pair.known(n, g)))
        left.remove(name)
        g[name] = pair.best_unknown(name, g)
    return {name: g[name] for name in groups.groups}


def _improve(pair: Pair, name: str, g: dict[str, Any], waiting: set[str]) -> bool:
    """Solve one group (and those within it); groups that share a leaf with what changed have to be looked at again."""
    waiting.discard(name)
    better: Mapping[str, Any] = visit(pair, name, g)
    for changed in better:
        waiting |= pair.neighbours[changed]
    g.update(better)
    return bool(better)
