"""Where the leaves of a tree lie on a mesh: rules from path to sharding, checked for every leaf before one is moved.

place = placement(mesh, {"embed": P("model", None), "norm": P()})    # what no rule names: its longest axes
params = ws.io.load("folder", sharding=place)
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec, Sharding

from wspace.core.containers import as_params, show
from wspace.core.errors import SHOWN, ShapeError, WspaceError, listed, nearest
from wspace.core.implicit import Implicit
from wspace.core.typing import Leaf, Path, Tree

Place: TypeAlias = Callable[[str, tuple[int, ...]], Sharding]  # shown path and shape -> where the leaf lies
Rule: TypeAlias = Callable[[str, tuple[int, ...]], PartitionSpec | None]


def placement(mesh: Mesh | AbstractMesh, rules: Mapping[str, PartitionSpec] | Rule | None = None) -> Place:
    """A rule for every leaf of a tree.

    Args:
      mesh: the devices and the names of their axes.
      rules: regex on the shown path -> PartitionSpec, of which the first that is found counts; or a function
        `(path, shape) -> PartitionSpec`. Where there is none (None): `longest`.
    Returns:
      `(path, shape) -> NamedSharding`.
    Raises:
      WspaceError: a rule names an axis that the mesh does not have.

    Example:
      >>> place = placement(AbstractMesh((4,), ("model",)), {"norm": PartitionSpec()})
      >>> place("mlp/kernel", (8, 16)).spec, place("norm/scale", (8,)).spec
      (P(None, 'model'), P())
    """
    table = {} if rules is None or callable(rules) else rules
    for pattern, spec in table.items():
        _check_names(mesh, spec, f"rule {pattern!r}")

    def place(path: str, shape: tuple[int, ...]) -> NamedSharding:
        found = rules(path, shape) if callable(rules) else None
        found = next((spec for pattern, spec in table.items() if re.search(pattern, path)), found)
        if found is not None:
            _check_names(mesh, found, path)
        return NamedSharding(mesh, longest(mesh, shape) if found is None else found)

    return place


def longest(mesh: Mesh | AbstractMesh, shape: tuple[int, ...]) -> PartitionSpec:
    """Every axis of the mesh, the largest first, splits the longest axis (of what is left of each) that it divides.

    An axis of the mesh that divides none leaves the leaf whole along it, so that scalars lie everywhere.

    Example:
      >>> longest(AbstractMesh((2, 4), ("data", "model")), (8, 12))
      P('data', 'model')
    """
    left, names = list(shape), [list[str]() for _ in shape]
    for name, size in sorted(mesh.shape.items(), key=lambda item: -item[1]):
        fits = [axis for axis, n in enumerate(left) if n and n % size == 0]
        if size > 1 and fits:
            axis = max(reversed(fits), key=left.__getitem__)
            left[axis] //= size
            names[axis].append(name)
    specs = [None if not axis else axis[0] if len(axis) == 1 else tuple(axis) for axis in names]
    while specs and specs[-1] is None:
        specs.pop()
    return PartitionSpec(*specs)


def placed(where: Sharding | Place | Tree, leaves: Mapping[Path, Leaf]) -> dict[Path, Any]:
    """The sharding of every leaf; an Implicit leaf has one as if it were the array that it stands for.

    where: one sharding for all, a rule, or a tree with a sharding for each leaf. leaves: arrays or their shapes.

    Raises:
      ShapeError: a sharding does not fit a leaf: names the leaf, its shape and the mesh, for all that don't.
      WspaceError: a tree lacks a leaf.
    """
    if isinstance(where, Sharding):
        found: Mapping[Path, Any] = dict.fromkeys(leaves, where)
    elif callable(where):
        found = {path: where(show(path), tuple(leaf.shape)) for path, leaf in leaves.items()}
    else:
        found = as_params(where).leaves
        if missing := [show(path) for path in leaves if not isinstance(found.get(path), Sharding)]:
            raise WspaceError(f"the tree of shardings has none for {listed(missing)}; give one a leaf, or one for all")
    faults = [fault for path, leaf in leaves.items() if (fault := _fault(show(path), tuple(leaf.shape), found[path]))]
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise ShapeError("; ".join(faults[:SHOWN]) + more)
    return {path: found[path] for path in leaves}


def fitted(sharding: Sharding, rank: int, shape: tuple[int, ...]) -> Sharding:
    """The sharding of a part (codes, scales) of a node of this rank that lies in `sharding`.

    A part of the same rank is split along the same axes, where they divide it; others lie everywhere.
    """
    if not isinstance(sharding, NamedSharding):
        return sharding
    names = [*sharding.spec] if len(shape) == rank else []
    fits = [None if n % ways(sharding, name) else name for n, name in zip(shape, names, strict=False)]
    return NamedSharding(sharding.mesh, PartitionSpec(*fits))


def moved(leaf: Leaf, sharding: Sharding) -> Leaf:
    """A leaf in a sharding; the parts of a node as `fitted` says. What lies there already is not copied."""
    if not isinstance(leaf, Implicit):
        return jax.device_put(leaf, sharding)
    return jax.tree.map(lambda x: jax.device_put(x, fitted(sharding, leaf.ndim, tuple(x.shape))), leaf)


def ways(sharding: NamedSharding, names: Any) -> int:
    """Into how many parts one entry of a PartitionSpec splits an axis."""
    return math.prod(sharding.mesh.shape[name] for name in _names([names]))


def described(mesh: Any) -> str:
    """A mesh in words.

    >>> described(AbstractMesh((2, 4), ("data", "model")))
    'data=2,model=4'
    """
    return ",".join(f"{name}={size}" for name, size in mesh.shape.items())


def _names(spec: Iterable[Any]) -> list[str]:
    entries = [entry if isinstance(entry, tuple) else (entry,) for entry in spec]
    return [name for entry in entries for name in entry if isinstance(name, str)]


def _check_names(mesh: Mesh | AbstractMesh, spec: PartitionSpec, who: str) -> None:
    for name in _names(spec):
        if name not in mesh.shape:
            raise WspaceError(f"{who}: the mesh {described(mesh)} has no axis {name!r}.{nearest(name, mesh.shape)}")


def _fault(path: str, shape: tuple[int, ...], sharding: Sharding) -> str | None:
    """What is wrong with a sharding for a leaf, in words."""
    if not isinstance(sharding, NamedSharding):
        try:
            sharding.shard_shape(shape)
        except ValueError as error:
            return f"{path} {shape}: {error}"
        return None
    on = f"of the mesh {described(sharding.mesh)}"
    if len(sharding.spec) > len(shape):
        return f"{path} {shape} has {len(shape)} axes, {sharding.spec} {on} splits {len(sharding.spec)}; give it a rule"
    for axis, (n, names) in enumerate(zip(shape, sharding.spec, strict=False)):
        if n % (among := ways(sharding, names)):
            return f"{path} {shape}: axis {axis} is not divided by {among} = {names!r} {on}; split another axis"
    return None
