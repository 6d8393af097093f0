"""Symmetry groups that someone wrote down: path rule -> one name an axis."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from wspace.core.axes import Axes
from wspace.core.containers import as_params, is_weight, show
from wspace.core.errors import SelectionError, ShapeError, WspaceError, printable
from wspace.core.typing import Path, Tree
from wspace.trace.groups import Factor, Group, Member, Strip, Symmetries

Rules: TypeAlias = Mapping[str, Sequence[str | None]]


def by_hand(spec: Rules | Axes, tree: Tree, kind: str = "permutation") -> Symmetries:
    """Groups from rules, checked against a tree.

    Args:
      spec: regex on the shown path -> one group name an axis, None for an axis that stays; the first rule that is found
        in a path counts, and leaves that no rule takes stay as they are. Or an `Axes` whose rules name groups.
      tree: the parameters, or their shapes.
      kind: "permutation" or "orthogonal".
    Returns:
      Symmetries of that kind.
    Raises:
      WspaceError: another kind.
      ShapeError: a rule names another number of axes than a leaf has, or a group has two sizes.
      SelectionError: a rule matches no leaf, or no axis got a name.
    Example:
      >>> import jax.numpy as jnp
      >>> p = {"w1": jnp.ones((3, 8)), "w2": jnp.ones((8, 2))}
      >>> print(by_hand({"w1": (None, "hidden"), "w2": ("hidden", None)}, p))
      1 permutation group on 2 of 2 leaves
      group   size  members
      hidden  8     w1[1], w2[0]
    """
    if kind not in ("permutation", "orthogonal"):
        raise WspaceError(f"axes by hand: kind {kind!r}; rules say permutation or orthogonal groups, no exponents")
    shapes = {path: tuple(x.shape) for path, x in as_params(tree).leaves.items() if is_weight(x)}
    named = {path: _named(spec, path, shape) for path, shape in shapes.items()}
    if isinstance(spec, Mapping):
        for pattern in spec:
            if not any(re.search(pattern, show(path)) for path in shapes):
                raise SelectionError(f"axes rule {pattern!r} matches none of {len(shapes)} leaves; mend or drop it")
    members: dict[str, list[Member]] = {}
    sizes: dict[str, tuple[int, Path]] = {}
    for path, names in named.items():
        for k, (name, size) in enumerate(zip(names, shapes[path], strict=True)):
            if name is not None:
                have, where = sizes.setdefault(name, (size, path))
                if have != size:
                    raise ShapeError(
                        f"group {printable(name)!r} has {have} coordinates in {show(where)} and {size} in {show(path)} "
                        f"{shapes[path]}; give the axes two names"
                    )
                members.setdefault(name, []).append(Member(path, k, 0, 1))
    if not members:
        raise SelectionError("axes by hand: no axis has a group; name groups, as in {'dense/kernel': (None, 'hidden')}")
    groups = {name: Group(name, sizes[name][0], tuple(found)) for name, found in members.items()}
    layout = {
        path: tuple((Strip(0, (Factor(name, n, 1),)),) for name, n in zip(named[path], shape, strict=True))
        for path, shape in shapes.items()
    }
    return Symmetries(kind, groups, layout)


def _named(spec: Rules | Axes, path: Path, shape: tuple[int, ...]) -> tuple[str | None, ...]:
    if isinstance(spec, Axes):
        return tuple(axis.group for axis in spec.of(path, shape))
    for pattern, names in spec.items():
        if re.search(pattern, show(path)):
            if len(names) != len(shape):
                raise ShapeError(f"axes rule {pattern!r} names {len(names)} axes, but {show(path)} has shape {shape}")
            return tuple(names)
    return (None,) * len(shape)
