"""Activation matching: pair the units that fire alike on the same data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from wspace.calibrate.batches import calibrate
from wspace.core.axes import Axes, matrix_view
from wspace.core.containers import as_params, show
from wspace.core.errors import ShapeError, SideTreeError, listed
from wspace.core.fold import Fold
from wspace.core.typing import Array, Path, Tree
from wspace.match.assignment import solve
from wspace.match.blocks import leaves_of
from wspace.match.element import identity
from wspace.match.gains import Pair
from wspace.match.nested import dependants, visit
from wspace.stats.correlation import correlation as correlated
from wspace.stats.correlation import correlation_array
from wspace.stats.gram import cross
from wspace.stats.seen import Seen, outputs
from wspace.trace.by_hand import Rules, by_hand
from wspace.trace.groups import Factor, Member, Strip, Symmetries

correlation = correlation_array  # of activations of your own
FOLDS = {"correlation": correlated, "gram": cross}


def activations(
    apply: Callable[[Tree, Any], Any],
    a: Tree,
    b: Tree,
    batches: Iterable[Any],
    axes: Symmetries | Rules | Axes,
    *,
    similarity: Literal["correlation", "gram"] = "correlation",
) -> dict[str, Array]:
    """The element g for which the units of `act(b, axes, g)` fire most like those of a, on the same data.

        maximize  sum of similarity[u, g(u)] over the units u that the leaves of a group read

    Both models run side by side, once, and only the similarities leave the compiled program (`ws.calibrate`). Each
    group is solved by itself, exactly and without a key; groups with an element for each coordinate of another
    (head_dim for each head) within it. A unit is seen where a parameter multiplies it; groups that none multiplies
    (query and key) where they are made, before the bias. What can't be compared so (the insides of experts: a's first
    with b's first says nothing where experts are exchanged) is matched by weights, given the rest.

    Args:
      apply, batches: as for `ws.calibrate`.
      a, b: trees of one model. axes: from `ws.trace.axes`, or rules by hand.
      similarity: "correlation" (Li et al.), or "gram", the mean of products, for which the squared distance of the
        activations becomes least (Git Re-Basin, section 3.1).
    Returns:
      dict, int32 `[*over, size]` a group: g of `act(b, axes, g)`.
    Raises:
      SideTreeError: an unknown similarity. NonFinite: NaN or infinity, names the group. What `calibrate` raises.
    Example:
      >>> def apply(p, x): return jnp.tanh(x @ p["w1"]) @ p["w2"]
      >>> p = {"w1": jnp.array([[1.0, 2.0, 3.0], [0.0, 1.0, 0.5]]), "w2": jnp.ones((3, 2))}
      >>> q = {"w1": p["w1"][:, jnp.array([2, 0, 1])], "w2": p["w2"]}
      >>> x = jnp.array([[0.1, 2.0], [1.0, -1.0], [-1.0, 0.5]])
      >>> activations(apply, p, q, [x], {"w1": (None, "h"), "w2": ("h", None)})
      {'h': Array([1, 2, 0], dtype=int32)}

    Reference: Ainsworth, Hayase, Srinivasa, 2023, "Git Re-Basin"; Li, Yosinski, Clune, Lipson, Hopcroft, 2015,
    "Convergent Learning". Differs from the papers: similarities of a group add up over all its readers.
    """
    if similarity not in FOLDS:
        raise SideTreeError(f"similarity {similarity!r} is not known; use one of {listed(FOLDS)}")
    groups = axes if isinstance(axes, Symmetries) else by_hand(axes, a)
    fold, data = FOLDS[similarity](), list(batches)
    leaves_of(b, groups, "tree b")
    g: dict[str, Any] = {name: np.asarray(p) for name, p in identity(groups).items()}
    seen: set[str] = set()
    for made, roles in ((fold, ("space", "in")), (_made(fold), ("out",))):
        if len(seen) < len(groups.groups):
            found = calibrate(apply, a, data, {"similarity": made}, other=b)
            g = _solved(groups, found["similarity"], found.axes, roles, seen, g)
    rest = [name for name in groups.groups if name not in seen]
    if rest:
        ours, theirs = leaves_of(a, groups, "tree a"), leaves_of(b, groups, "tree b")
        by_weight = Pair(groups, {path: [(x, theirs[path])] for path, x in ours.items()})
        for name in rest:
            g |= {n: p for n, p in visit(by_weight, name, g).items() if n in rest}
    return {name: jnp.asarray(p, jnp.int32) for name, p in g.items()}


def _made(fold: Fold) -> Fold:
    """The same of what comes out; nothing where it can't be told apart from what others make."""
    told = outputs(fold)

    def lift(a: Seen, b: Seen) -> Any:
        return None if a.outputs is None or b.outputs is None else told.lift(a, b)

    return told._replace(
        lift=lift,
        merge=lambda s, t: None if s is None else told.merge(s, t),
        finish=lambda s: None if s is None else told.finish(s),
    )


def _solved(
    groups: Symmetries, found: Tree, axes: Axes, roles: tuple[str, ...], seen: set[str], g: dict[str, Any]
) -> dict[str, Any]:
    """Solve the groups that these similarities show and none has shown so far, those that others depend on first."""
    pair = shown(groups, found, axes, roles)
    for name in pair.axes.groups:
        if name not in seen:
            g = g | visit(pair, name, {n: g[n] for n in pair.axes.groups})
            seen |= {name, *dependants(pair, name)}
    return g


def shown(groups: Symmetries, found: Tree, axes: Axes, roles: tuple[str, ...]) -> Pair:
    """Similarities of what leaves read or make, as a pair whose gains are those of pairing units; of its groups each
    is seen in some leaf."""
    layout: dict[Path, Axis] = {}
    terms: dict[Path, list[tuple[Any, Any]]] = {}
    for path, matrix in as_params(found).leaves.items():
        if isinstance(matrix, jax.Array) and path in groups.layout:
            laid = _laid_out(groups, path, axes, roles)
            if laid is not None:
                layout[path], shape = laid, [_length(axis) for axis in laid]
                eye = np.broadcast_to(np.eye(matrix.shape[-1], dtype=np.float32), matrix.shape)
                terms[path] = [(eye.reshape(shape), np.asarray(matrix).reshape(shape))]
    at = {n: tuple(Member(p, 0, 0, 1) for p, laid in layout.items() if n in _names(laid)) for n in groups.groups}
    mine = {n: dataclasses.replace(groups.groups[n], members=of) for n, of in at.items() if of}
    return Pair(Symmetries("permutation", mine, layout), terms)


Axis: TypeAlias = tuple[tuple[Strip, ...], ...]  # the axes of a leaf, or of its similarities


def _laid_out(groups: Symmetries, path: Path, axes: Axes, roles: tuple[str, ...]) -> Axis | None:
    """The axes of a leaf's similarities, `[*stack, a's units, b's units along each axis]`, or None if they say nothing:
    no group lies along the units, or what is stacked may have changed places."""
    layout = groups.layout[path]
    own = axes.of(path, tuple(_length(axis) for axis in layout))
    order = matrix_view(own, tuple(_length(axis) for axis in layout), show(path)).order
    stacks, units = (tuple(layout[k] for k in order if own[k].role in some) for some in (("stack",), roles))
    along, names = _names(units) & groups.groups.keys(), _names((*stacks, *units))
    if _names(stacks) & groups.groups.keys() or not along:
        return None
    if not all(names.issuperset(groups.groups[name].over) for name in along):
        return None
    return (*stacks, (Strip(0, (Factor(None, math.prod(map(_length, units)), 1),)),), *units)


def _names(axes: Axis) -> set[str]:
    return {f.name for axis in axes for strip in axis for f in strip.factors if f.name is not None}


def _length(axis: tuple[Strip, ...]) -> int:
    return sum(math.prod(f.size for f in strip.factors) for strip in axis)


def pair_units(axes: Symmetries, similarity: Mapping[str, Array]) -> dict[str, Array]:
    """The element that makes the units' summed similarity largest, each group by itself: exact, no order, no key.

    For activations of your own; `activations` runs the models.

    Args:
      axes: from `ws.trace.axes` or `ws.trace.by_hand`.
      similarity: group name -> float `[*over, size, size]`, row: unit of a, column: unit of b. For a group that depends
        on others (head_dim for each head) row and column belong to the same index: match the outer group first.
        Groups without an entry stay as they are.
    Returns:
      dict, int32 `[*over, size]` a group: g of `act(b, axes, g)`.
    Raises:
      SideTreeError: a name that is no group, or no entry at all. ShapeError: a matrix of another shape.
      NonFinite: NaN or infinity; a unit that never fires has no correlation, see `correlation`.
    Example:
      >>> from wspace.trace import by_hand
      >>> axes = by_hand({"w": (None, "h")}, {"w": jnp.ones((3, 2))})
      >>> pair_units(axes, {"h": jnp.array([[0.1, 0.9], [0.8, 0.2]])})
      {'h': Array([1, 0], dtype=int32)}
    """
    if unknown := sorted(similarity.keys() - axes.groups.keys()):
        raise SideTreeError(f"similarity has {listed(unknown)}, but the groups are {listed(axes.groups)}")
    if not similarity:
        raise SideTreeError(f"similarity is empty; give matrices for some of {listed(axes.groups)}")
    out = {}
    for name, group in axes.groups.items():
        want = (*group.shape, group.size)
        if name not in similarity:
            out[name] = jnp.broadcast_to(jnp.arange(group.size, dtype=jnp.int32), group.shape)
        elif tuple(np.shape(similarity[name])) != want:
            raise ShapeError(f"similarity of {name!r} has shape {np.shape(similarity[name])}, wanted {want}")
        else:
            out[name] = jnp.asarray(solve(similarity[name], name=name))
    return out


@jax.jit
def cross_of(x_a: Array, x_b: Array) -> dict[str, Array]:
    """All that `correlation` takes, from activations of the same examples: f32 [examples, n] and [examples, m].

    `cross_of(...)["cross"]` is the gram similarity.
    """
    mean_a, mean_b = x_a.mean(0), x_b.mean(0)
    cross = jnp.matmul(x_a.T, x_b, precision=jax.lax.Precision.HIGHEST) / x_a.shape[0]
    return {"cross": cross, "mean_a": mean_a, "mean_b": mean_b, "var_a": x_a.var(0), "var_b": x_b.var(0)}
