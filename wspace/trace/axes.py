"""The symmetry groups of a model, read from the program of its `apply`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from wspace.core.containers import as_params, is_weight, show
from wspace.core.errors import SelectionError, WspaceError, listed, nearest
from wspace.core.implicit import Implicit
from wspace.core.typing import Path, Tree
from wspace.trace.groups import Symmetries
from wspace.trace.permutations import permutations
from wspace.trace.rotations import rotations
from wspace.trace.rules_compute import COMPUTE, ELEMENTWISE
from wspace.trace.rules_control import CALLS, CONTROL
from wspace.trace.rules_shape import SHAPE
from wspace.trace.scales import scales
from wspace.trace.terms import Node, pin
from wspace.trace.walk import Value, Walk, labels

RULES = {**SHAPE, **COMPUTE, **CONTROL}
KNOWS_NAMES = frozenset([*ELEMENTWISE, *CALLS, "broadcast_in_dim", "gather", "reshape", "squeeze", "tile", "transpose"])
KINDS = ("permutation", "scale", "orthogonal")


class Program(NamedTuple):
    """The jaxpr of `apply(params, *inputs)`; its first arguments are the leaves, in order."""

    closed: Any
    leaves: dict[Path, Any]


def program(apply: Callable[..., Any], params: Tree, inputs: Sequence[Any]) -> Program:
    """Trace a model. Arrays (or ShapeDtypeStructs) in `params` and `inputs` are arguments, all else is as it is.

    Implicit nodes stand for their dense arrays.
    """
    taken = as_params(params)
    leaves = {
        path: jax.ShapeDtypeStruct(x.shape, x.dtype)
        for path, x in taken.leaves.items()
        if isinstance(x, Implicit) or (hasattr(x, "shape") and hasattr(x, "dtype"))
    }
    flat, tree = jax.tree.flatten(inputs)
    arrays = [k for k, x in enumerate(flat) if hasattr(x, "shape") and hasattr(x, "dtype")]

    def call(values: list[Any], given: list[Any]) -> list[Any]:
        here = taken.leaves | dict(zip(leaves, values, strict=True))
        every = [*flat]
        for k, x in zip(arrays, given, strict=True):
            every[k] = x
        out = apply(taken.rebuild(here), *jax.tree.unflatten(tree, every))
        return [x for x in jax.tree.leaves(out) if hasattr(x, "shape")]

    return Program(jax.make_jaxpr(call)(list(leaves.values()), [flat[k] for k in arrays]), leaves)


def axes(
    apply: Callable[..., Any], params: Tree, *inputs: Any, kind: str = "permutation", ones: str | None = None
) -> Symmetries:
    """The symmetry groups of `apply(params, *inputs)`: which axes of which leaves may be moved together, and how.

    A group element, applied to all members at once, leaves every output as it is. Nothing is computed: params and
    inputs may be ShapeDtypeStructs. Axes that meet inputs, outputs, positions, or a primitive without a rule are fixed.

    Args:
      apply: pure function of the parameters and of inputs, `model.apply` for instance.
      params: any tree; may hold other collections too, such as running statistics. Floating leaves may get groups.
      inputs: what `apply` takes besides; shapes are those of the traced call.
      kind: "permutation".
        "scale": positive factors, where only homogeneous operations (linear maps, relu, max-pool) lie between. A
        group's factors multiply each member to the power of its exponent; `result.along(path, axis)` says what makes
        the inputs of a weight.
        "orthogonal": rotations and reflections, where only linear maps and lengths lie between (the residual stream of
        a model with RMSNorm, once its gains are folded: `ws.match.fold_gains`). Result's `fixed` says what hinders.
      ones: regex on paths, for kind "orthogonal": leaves that are 1 everywhere, as folded gains are.
    Returns:
      Symmetries; print it for a table.
    Raises:
      WspaceError: unknown kind. SelectionError: `ones` matches no leaf, or leaves that are not 1. Whatever `apply`
      raises.
    Example:
      >>> import jax.numpy as jnp
      >>> def mlp(p, x): return jnp.maximum(x @ p["w1"] + p["b1"][None], 0) @ p["w2"]
      >>> p = {"w1": jnp.ones((3, 8)), "b1": jnp.ones(8), "w2": jnp.ones((8, 2))}
      >>> print(axes(mlp, p, jnp.ones((1, 3))))
      1 permutation group on 3 of 3 leaves
      group  size  members
      w1     8     w1[1], b1[0], w2[0]
    """
    if kind not in KINDS:
        raise WspaceError(f"axes: kind {kind!r} is not known.{nearest(kind, KINDS)}")
    walk, leaves = walked(apply, params, inputs)
    if kind == "orthogonal":
        return rotations(walk, leaves, _all_one(params, leaves, ones))
    return (scales if kind == "scale" else permutations)(walk, leaves)


def walked(apply: Callable[..., Any], params: Tree, inputs: Sequence[Any]) -> tuple[Walk, dict[Path, Value]]:
    """The records of a model's program, and its floating leaves."""
    traced = program(apply, params, inputs)
    walk = Walk(RULES, KNOWS_NAMES)
    leaves: dict[Path, Value] = {}
    for path, x in traced.leaves.items():
        leaf = walk.value([Node(n, None if is_weight(x) else "not floating") for n in x.shape])
        leaves[path] = leaf
        walk.record("leaf", [], [leaf], labels(*((n, {0: k}) for k, n in enumerate(leaf.axes))))
    given = [walk.pinned(v.aval.shape, "input") for v in traced.closed.jaxpr.invars[len(leaves) :]]
    outs = walk.closed(traced.closed, [*leaves.values(), *given])
    walk.record("output", outs, [], [])
    for out in outs:
        for node in (*out.axes, *([out.names] if out.names is not None else [])):
            pin(node, "output")
    return walk, {path: leaves[path] for path, x in traced.leaves.items() if is_weight(x)}


def _all_one(params: Tree, leaves: Mapping[Path, Value], ones: str | None) -> list[Path]:
    """The leaves that a rule names; where their values are known, they are looked at."""
    if ones is None:
        return []
    found = [path for path in leaves if re.search(ones, show(path))]
    if not found:
        raise SelectionError(f"axes: ones={ones!r} matches none of {len(leaves)} floating leaves; mend or drop it")
    given = as_params(params).leaves
    known = (p for p in found if isinstance(given[p], jax.Array | np.ndarray) and not isinstance(given[p], Tracer))
    if wrong := [show(p) for p in known if not bool((np.asarray(given[p]) == 1).all())]:
        raise SelectionError(f"axes: ones={ones!r}, but {listed(wrong)} are not 1 everywhere; see ws.match.fold_gains")
    return found
