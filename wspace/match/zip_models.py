"""Partial matching of whole models: one trunk for what models have in common, each model's own layers behind it."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from wspace.calibrate.batches import calibrate
from wspace.calibrate.result import Calibration
from wspace.core.axes import Axes
from wspace.core.containers import as_params, show
from wspace.core.errors import SelectionError, ShapeError, WspaceError, listed
from wspace.core.typing import Array, Path, Tree
from wspace.match.activations import shown
from wspace.match.blocks import Block, blocks_of, leaves_of, mix_axis
from wspace.match.element import identity
from wspace.match.floats import floats
from wspace.match.partial import Zip, zip_features
from wspace.stats.correlation import correlation
from wspace.stats.moments import mean, mean_square
from wspace.trace.by_hand import Rules, by_hand
from wspace.trace.groups import Symmetries

READ = ("space", "in")  # roles of the axes along which a leaf reads features; along all others it makes them
SAME = 1e-5  # of the largest mean: features that are equal


class Zipped(NamedTuple):
    """models: a tree a model. Leaves that make zipped features are the same in all; those behind are each model's own.

    zips: group -> Zip, its arrays `[*over, models, keep, n]` and `[*over, models, n, keep]`.
    """

    models: tuple[Tree, ...]
    zips: dict[str, Zip]


def zip_models(
    apply: Callable[[Tree, Any], Any],
    models: Sequence[Tree],
    batches: Iterable[Any],
    axes: Symmetries | Rules | Axes,
    *,
    where: str = "",
    keep: Mapping[str, int] | None = None,
    alpha: float = 0.3,
    beta: float = 0.125,
) -> Zipped:
    """Merge the features that fire alike, of different models or of one, and leave each model its own head.

        W = sum_k M_out,k W_k U_in,k   where a leaf makes zipped features,   W_k U_in,k   where it only reads them

    M_k averages the features that were merged, U_k hands a merged feature to all its parts (`zip_features`, from the
    correlations of all models' features on the same data); sum_k M_k U_k is the identity. A gain, a bias or a running
    statistic is averaged by M. One program computes all models: `apply(result.models[k], x)` is model k, and the mean
    of the trees (`ws.average.uniform_soup()(*result.models)`) one model for all.

    Partial zip: `where` names the groups of the first layers; from there on each model goes on with its own weights.

    Args:
      apply, batches: as for `ws.calibrate`.
      models: two or more trees of one program. axes: from `ws.trace.axes`, or rules by hand.
      where: regex on the groups' names; all if not given.
      keep: group -> features left of it, up to models * n, with which nothing is merged; n if not given. Leaves get
        these sizes, so `apply` must take them.
      alpha, beta: as for `zip_features`.
    Returns:
      Zipped; leaves keep their dtypes.
    Raises:
      SelectionError: `where` or `keep` names no group; groups within one another (heads, experts); a group that no leaf
        reads; a leaf that both makes and reads a group along one axis (a tied table). ShapeError: a group lies strewn
        along an axis. WspaceError: zipped features depend on leaves that stay apart; fewer than two models.
      And all that `calibrate` and `zip_features` raise.
    Example:
      >>> def apply(p, x): return jnp.tanh(x @ p["w1"]) @ p["w2"]
      >>> p = {"w1": jnp.array([[1.0, 2.0, 3.0], [0.0, 1.0, 0.5]]), "w2": jnp.array([[1.0], [2.0], [3.0]])}
      >>> q = {"w1": p["w1"][:, jnp.array([2, 0, 1])], "w2": jnp.array([[5.0], [5.0], [6.0]])}
      >>> x = jnp.array([[0.1, 2.0], [1.0, -1.0], [-1.0, 0.5]])
      >>> zipped = zip_models(apply, [p, q], [x], {"w1": (None, "h"), "w2": ("h", None)})
      >>> [tree["w2"].ravel() for tree in zipped.models]
      [Array([1., 2., 3.], dtype=float32), Array([5., 6., 5.], dtype=float32)]

    Reference: Stoica, Bolya, Bjorner, Ramesh, Hearn, Hoffman, 2024, "ZipIt! Merging Models from Different Tasks without
    Training". Differs from the paper: correlations of a group are averaged over its readers, where the paper looks at
    one place; merged BatchNorms want `ws.match.recalibrate` (on a model of the size that was trained), as theirs do.
    """
    if len(models) < 2:
        raise WspaceError(f"zip_models: needs two models or more, got {len(models)}")
    groups = axes if isinstance(axes, Symmetries) else by_hand(axes, models[0])
    chosen, data = _chosen(groups, where, keep or {}), list(batches)
    leaves = [leaves_of(tree, groups, f"model {k + 1}") for k, tree in enumerate(models)]
    near, found = _correlations(apply, models, data, groups, chosen)
    cut = {path: [_Role.of(block, found, groups, chosen) for block in blocks_of(groups, path)] for path in leaves[0]}
    shared = {path for path, roles in cut.items() if any(role.makes for role in roles)}
    _check_trunk(apply, models, data[:1], shared, [p for p, roles in cut.items() if any(r.reads for r in roles)])
    zips = {n: _zipped(near[n], (keep or {}).get(n, groups.groups[n].size), len(models), alpha, beta) for n in chosen}
    trees = []
    for k, tree in enumerate(models):
        own, rebuild = floats(tree)
        made = {p: _leaf(groups, cut[p], [each[p] for each in leaves], k, zips) for p in cut if _touched(cut[p])}
        trees.append(rebuild({p: x.astype(own[p].dtype) for p, x in made.items()}))
    return Zipped(tuple(trees), zips)


def _chosen(groups: Symmetries, where: str, keep: Mapping[str, int]) -> list[str]:
    """The groups to zip."""
    chosen = [name for name in groups.groups if re.search(where, name)]
    if not chosen:
        raise SelectionError(f"zip_models: where={where!r} matches none of the groups {listed(groups.groups)}")
    if extra := [name for name in keep if name not in chosen]:
        raise SelectionError(f"zip_models: keep names {listed(extra)}, but the groups to zip are {listed(chosen)}")
    holds = {outer for group in groups.groups.values() for outer in group.over if outer in groups.groups}
    if nested := [n for n in chosen if n in holds or holds & set(groups.groups[n].over)]:
        raise SelectionError(
            f"zip_models: {listed(nested)} lie within one another (heads, experts), so no features are merged there; "
            "leave them out with where="
        )
    return chosen


def _correlations(
    apply: Callable[[Tree, Any], Any], models: Sequence[Tree], data: list[Any], groups: Symmetries, chosen: list[str]
) -> tuple[dict[str, np.ndarray], Calibration]:
    """Of all models' features side by side, `[*over, models * n, models * n]` a group, and a calibration's roles."""
    total = {n: np.zeros((*groups.groups[n].over_sizes, *(len(models) * groups.groups[n].size,) * 2)) for n in chosen}
    for k, j in itertools.combinations_with_replacement(range(len(models)), 2):
        found = calibrate(apply, models[k], data, {"near": correlation()}, other=models[j])
        pair = shown(groups, found["near"], found.axes, READ)
        if unread := [name for name in chosen if name not in pair.axes.groups]:
            raise SelectionError(f"zip_models: no leaf reads {listed(unread)}; leave it out with where=")
        still = identity(pair.axes)
        for name in chosen:
            n, gains = groups.groups[name].size, pair.gains(name, {m: np.asarray(p) for m, p in still.items()})
            total[name][..., k * n : (k + 1) * n, j * n : (j + 1) * n] = gains
            total[name][..., j * n : (j + 1) * n, k * n : (k + 1) * n] = np.swapaxes(gains, -1, -2)
    return total, found


class _Role(NamedTuple):
    """A block of a leaf: (group, its axis of the block) that it makes, and that it reads."""

    block: Block
    makes: tuple[tuple[str, int], ...]
    reads: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, block: Block, found: Calibration, groups: Symmetries, chosen: list[str]) -> _Role:
        shape = tuple(sum(math.prod(f.size for f in s.factors) for s in axis) for axis in groups.layout[block.path])
        roles = [axis.role for axis in found.axes.of(block.path, shape)]
        met = show(block.path) not in found.unmet
        at = [(name, k) for k, name in enumerate(block.names) if name in chosen and name is not None]
        reads = tuple((name, k) for name, k in at if met and roles[block.axes[k]] in READ)
        if at and show(block.path) in found.apart:
            raise SelectionError(
                f"zip_models: {show(block.path)} is used along two axes ({found.apart[show(block.path)]}), so it can't "
                "be told which features it makes; leave its groups out with where="
            )
        return cls(block, tuple(one for one in at if one not in reads), reads)


def _touched(roles: Sequence[_Role]) -> bool:
    return any(role.makes or role.reads for role in roles)


def _check_trunk(
    apply: Callable[[Tree, Any], Any],
    models: Sequence[Tree],
    batch: list[Any],
    shared: set[Path],
    readers: Sequence[Path],
) -> None:
    """What is read of zipped features must be the same whichever model's other leaves stand behind them."""
    folds = {"mean": mean(), "square": mean_square()}
    first, rebuild = floats(models[0])

    def seen(tree: Tree) -> list[np.ndarray]:
        made = calibrate(apply, tree, batch, folds)
        sides = [as_params(made[name]).leaves for name in folds]
        return [np.asarray(side[path]) for path in readers for side in sides]

    before: list[np.ndarray] = []
    for other in models[1:]:
        apart = {p: x for p, x in floats(other)[0].items() if p not in shared}
        loose = [show(p) for p, x in apart.items() if not bool((x == first[p]).all())]
        before = before or seen(models[0])
        for old, new in zip(before, seen(rebuild(apart)), strict=True):
            if not np.abs(old - new).max(initial=0) <= SAME * np.abs(old).max(initial=0):
                raise WspaceError(
                    f"zip_models: zipped features depend on leaves that stay apart, of {listed(loose)}; zip the groups "
                    "of all layers before them too, or give all models the same leaf"
                )


def _zipped(near: np.ndarray, keep: int, models: int, alpha: float, beta: float) -> Zip:
    """`zip_features` of each matrix of a stack."""
    flat = near.reshape(-1, *near.shape[-2:])
    each = [zip_features(one, keep, models=models, alpha=alpha, beta=beta) for one in flat]
    stacked = [jnp.stack(x).reshape(*near.shape[:-2], *x[0].shape) for x in zip(*each, strict=True)]
    return Zip(*stacked)


def _leaf(
    groups: Symmetries, roles: Sequence[_Role], leaves: Sequence[Array], model: int, zips: Mapping[str, Zip]
) -> Array:
    """One leaf of one model: its blocks, mixed, side by side again."""
    parts = []
    for role in roles:
        every = range(len(leaves)) if role.makes else (model,)
        mixed = [_mixed(groups, role, leaves[k], k, zips) for k in every]
        whole = sum(mixed[1:], mixed[0])
        axes = [[k for k, of in enumerate(role.block.axes) if of == axis] for axis in range(leaves[0].ndim)]
        parts.append(whole.reshape([math.prod(whole.shape[k] for k in ks) for ks in axes]))
    layout = groups.layout[roles[0].block.path]
    for axis in reversed(range(len(layout))):
        order = np.argsort([strip.offset for strip in layout[axis]])
        starts = range(0, len(parts), len(order))
        parts = [jnp.concatenate([parts[start + j] for j in order], axis) for start in starts]
    return parts[0]


def _mixed(groups: Symmetries, role: _Role, leaf: Array, model: int, zips: Mapping[str, Zip]) -> Array:
    block = role.block
    for k, at in enumerate(block.at):
        if not np.array_equal(at, np.arange(at[0], at[0] + len(at))):
            raise ShapeError(f"zip_models: {show(block.path)} has a group strewn along axis {k}; leave it out: where=")
    x = block.take(leaf)
    for name, k in (*role.makes, *role.reads):
        along = tuple(block.names.index(n) for n in groups.groups[name].over)
        found = zips[name]
        matrix = found.merge if (name, k) in role.makes else jnp.swapaxes(found.unmerge, -1, -2)
        x = mix_axis(x, k, along, matrix[..., model, :, :].astype(x.dtype))
    return x
