"""Folding gains into the next linear maps: what stands between a residual stream and its rotations."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from wspace.core.containers import as_params, show
from wspace.core.errors import SelectionError, WspaceError
from wspace.core.transform import working_dtype
from wspace.core.typing import Array, Path, Tree
from wspace.match.act import scaled
from wspace.trace.axes import walked
from wspace.trace.groups import Group, Member, Symmetries
from wspace.trace.rotations import multiplied, rotations
from wspace.trace.scales import scales


class Folded(NamedTuple):
    """params: the same function, the folded gains 1. axes: its orthogonal groups, those gains taken as 1.

    gains: what was folded. kept: gains for which nothing behind them takes the factor (a tied output head, an
    activation function, an output).
    """

    params: Tree
    axes: Symmetries
    gains: tuple[str, ...]
    kept: tuple[str, ...]


def fold_gains(apply: Callable[..., Any], params: Tree, *inputs: Any, where: str = "") -> Folded:
    """Put the gains of norms into the linear maps behind them, so that the stream between can be rotated.

        x_hat * g @ W  =  x_hat @ (diag(g) W)

    Which leaves are gains, and what takes their factor, is read from the program: a gain is multiplied entry by entry,
    and only linear maps, sums and products lie between it and what is scaled in its place. Gains may be negative or 0.

    Args:
      apply, inputs: as for `ws.trace.axes`; inputs may be ShapeDtypeStructs.
      params: arrays; what no gain meets comes out as it is.
      where: regex on paths: gains to fold; all if not given.
    Returns:
      Folded, computed in float32 or wider; leaves keep their dtypes. `ws.match.random_element(folded.axes, key=key)`
      and `ws.match.act(folded.params, folded.axes, g)` then rotate.
    Raises:
      SelectionError: `where` matches no gain. WspaceError: a gain that has zeros would have to divide (a bias behind a
      LayerNorm's gain).
    Example:
      >>> def apply(p, x):
      ...     h = x @ p["in"]
      ...     h = h / jnp.sqrt(jnp.square(h).mean(-1, keepdims=True)) * p["gain"][None]
      ...     return h @ p["out"]
      >>> p = {"in": jnp.ones((3, 2)), "gain": jnp.array([2.0, -1.0]), "out": jnp.ones((2, 1))}
      >>> folded = fold_gains(apply, p, jnp.ones((1, 3)))
      >>> folded.params["gain"], folded.params["out"].ravel()
      (Array([1., 1.], dtype=float32), Array([ 2., -1.], dtype=float32))
      >>> print(folded.axes)
      1 orthogonal group on 2 of 3 leaves
      group  size  members
      in     2     in[1], out[0]

    Reference: Ashkboos, Croci, Gennari do Nascimento, Hoefler, Hensman, 2024, "SliceGPT", and Ashkboos et al., 2024,
    "QuaRot". Differs from the papers: no LayerNorm is made an RMSNorm (its mean stays, and with it the axes are fixed);
    a gain that is stored less 1 is no leaf that is multiplied: it stays too.
    """
    walk, leaves = walked(apply, params, inputs)
    gains = [path for path in multiplied(walk, leaves) if re.search(where, show(path))]
    if where and not gains:
        raise SelectionError(
            f"fold_gains: where={where!r} matches none of the leaves that are multiplied entry by entry"
        )
    groups = scales(walk, leaves, odd=True)
    taken = as_params(params)
    values = dict(taken.leaves)
    done = []
    for path in gains:
        group = _of_gain(groups, path, set(gains))
        if group is not None:
            values |= _folded(groups, group, path, values)
            done.append(path)
    fresh, again = walked(apply, params, inputs)
    return Folded(
        taken.rebuild(values),
        rotations(fresh, again, done),
        tuple(map(show, done)),
        tuple(show(path) for path in gains if path not in done),
    )


def _of_gain(groups: Symmetries, path: Path, gains: set[Path]) -> Group | None:
    """The group of which a gain is all coordinates, and no other gain any."""
    for group in groups.groups.values():
        mine = [m for m in group.members if m.path == path]
        others = [m for m in group.members if m.path != path]
        strips = [strip for axis in groups.layout[path] for strip in axis]
        names = {f.name for strip in strips for f in strip.factors}
        whole = len(strips) == len(groups.layout[path]) and names == {*group.over, group.factor}
        exact = all(float(m.exponent / mine[0].exponent).is_integer() for m in others) if mine else False
        if len(mine) == 1 and whole and others and exact and not any(m.path in gains for m in others):
            return group
    return None


def _folded(groups: Symmetries, group: Group, path: Path, values: Mapping[Path, Any]) -> dict[Path, Any]:
    """The leaves of a group, the gain 1 and the others scaled in its place."""
    (own,) = (m for m in group.members if m.path == path)
    members = tuple(m._replace(exponent=-m.exponent / own.exponent) for m in group.members if m.path != path)
    gain = _element(groups, group, path, values[path])
    if (worst := _dividing(members)) and not bool((gain != 0).all()):
        raise WspaceError(
            f"fold_gains: {show(path)} has zeros, and {show(worst.path)} would be divided by them; leave it out: where="
        )
    only = Symmetries("scale", {group.name: Group(**{**vars(group), "members": members})}, groups.layout)
    out: dict[Path, Any] = {path: jnp.ones_like(values[path])}
    for other in dict.fromkeys(m.path for m in members):
        x = jnp.asarray(values[other])
        wide = x.astype(working_dtype(x.dtype))
        out[other] = jnp.asarray(scaled(wide, other, only, {group.name: gain})).astype(x.dtype)
    return out


def _element(groups: Symmetries, group: Group, path: Path, gain: Any) -> Array:
    """The gain `[*over, size]`."""
    names = [f.name for axis in groups.layout[path] for strip in axis for f in strip.factors]
    sizes = [f.size for axis in groups.layout[path] for strip in axis for f in strip.factors]
    x = jnp.asarray(np.asarray(gain)).astype(working_dtype(gain.dtype)).reshape(sizes)
    return jnp.transpose(x, [names.index(n) for n in (*group.over, group.factor)])


def _dividing(members: tuple[Member, ...]) -> Member | None:
    return next((m for m in members if m.exponent < 0), None)
