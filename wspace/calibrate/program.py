"""A model as calibration runs it: `apply` with its parameters taken apart, and what its parameters meet."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wspace.core.axes import Axes, Role
from wspace.core.containers import as_params, is_weight, show
from wspace.core.errors import SelectionError, ShapeError
from wspace.core.fold import Fold
from wspace.core.implicit import Implicit, dense
from wspace.core.typing import Array, Leaf, Path, Tree
from wspace.stats.fisher import Gradients
from wspace.trace.follow import Mark
from wspace.trace.meet import fits, graph_roles
from wspace.trace.replay import Replay, Value
from wspace.trace.rows import Layout
from wspace.trace.taps import Folder, Sums, Survey
from wspace.trace.view import View, blank, fresh


@dataclass(frozen=True)
class Program:
    """`apply` and the container of its parameters. Equal programs share what was compiled.

    paths: the array leaves, in order; others are as they are in `rest`.
    """

    apply: Callable[[Tree, Any], Any]
    structure: Any
    paths: tuple[Path, ...]
    rest: tuple[tuple[Path, Any], ...]
    rebuild: Callable[[Mapping[Path, Leaf]], Tree] = field(compare=False)

    def tree(self, arrays: Mapping[Path, Any]) -> Tree:
        return self.rebuild(dict(self.rest) | dict(arrays))

    def __call__(self, arrays: tuple[Any, ...], batch: Any) -> Any:
        return self.apply(self.tree(dict(zip(self.paths, arrays, strict=True))), batch)


def taken_apart(apply: Callable[[Tree, Any], Any], params: Tree) -> tuple[Program, tuple[Leaf, ...]]:
    """The program, and its array leaves (Implicit nodes whole)."""
    params_by_path = as_params(params)
    leaves = params_by_path.leaves
    paths = tuple(
        p for p, x in leaves.items() if isinstance(x, Implicit) or (hasattr(x, "shape") and hasattr(x, "dtype"))
    )
    rest = tuple((p, x) for p, x in leaves.items() if p not in set(paths))
    try:
        structure: Any = jax.tree.structure(params)
        hash((apply, structure, rest))
    except (TypeError, ValueError):  # keys that don't sort, leaves that don't hash: this program equals no other
        apply, structure, rest = functools.partial(apply), object(), _Unlike(rest)
    return Program(apply, structure, paths, rest, params_by_path.rebuild), tuple(leaves[p] for p in paths)


class _Unlike(tuple[tuple[Path, Any], ...]):
    """A tuple that hashes whatever is in it."""

    __hash__ = object.__hash__


class Plan(NamedTuple):
    """What a survey decided: by leaf its layout, why others have none, and which uses were left apart."""

    layouts: tuple[tuple[int, Layout], ...]
    unmet: dict[str, str]
    apart: dict[str, str]
    axes: Axes


def survey(program: Program, leaves: tuple[Leaf, ...], batch: Any, axes: Axes) -> Plan:
    """Walk the program on shapes alone and decide, leaf by leaf, what its inputs are."""
    taps = Survey()
    jax.eval_shape(lambda arrays, b: _replayed(taps, program, (arrays,), (b,), None), leaves, batch)
    layouts: list[tuple[int, Layout]] = []
    unmet: dict[str, str] = {}
    apart: dict[str, str] = {}
    rules: dict[str, str] = {}
    for k, (path, x) in enumerate(zip(program.paths, leaves, strict=True)):
        if not is_weight(x):
            continue
        shape, name = tuple(x.shape), show(path)
        met = [m for m in taps.met if m.leaf == k]
        named = tuple(a.role for a in axes.of(path, shape))
        roles = _roles(met, named, shape)
        if roles is None:
            unmet[name] = _reason(met, list(taps.ends.get(k, ())))
            continue
        layouts.append((k, Layout(name, shape, roles)))
        if roles != named:
            rules[f"^{re.escape(name)}$"] = " ".join(roles)
        if others := [m for m in met if not fits(m.use, roles, shape)]:
            apart[name] = ", ".join(dict.fromkeys(f"{m.primitive} over {_inputs(m.use.kinds)}" for m in others))
    return Plan(tuple(layouts), unmet, apart, Axes({**rules, **(axes.rules or {})}, axes.layout) if rules else axes)


def _roles(met: list[Any], named: tuple[Role, ...], shape: tuple[int, ...]) -> tuple[Role, ...] | None:
    """The named roles where one use contracts just those inputs; else those of the first contraction, then look-up."""
    if any(fits(m.use, named, shape) for m in met):
        return named
    for m in sorted(met, key=lambda m: m.primitive == "gather"):
        roles = graph_roles(m.use, named, shape)
        if roles is not None and fits(m.use, roles, shape):
            return roles
    return None


def _reason(met: list[Any], ends: list[str]) -> str:
    if met:
        whys = dict.fromkeys(m.use.why or "its input axis is cut up" for m in met)
        return f"meets a {met[0].primitive}, but {', '.join(whys)}"
    return f"meets no contraction (last seen in {', '.join(ends[:3])})" if ends else "is not used"


def _inputs(kinds: tuple[frozenset[str], ...]) -> str:
    axes = [str(k) for k, kind in enumerate(kinds) if kind & {"in", "space"}]
    return f"axis {', '.join(axes)}" if axes else "no axis of its own"


def _replayed(
    taps: Survey | Folder,
    program: Program,
    models: tuple[tuple[Leaf, ...], ...],
    batches: tuple[Any, ...],
    weights: Array | None,
) -> Sums:
    """Run the program in every model at once, each on its own batch, with taps."""
    arrays = [tuple(dense(x) for x in leaves) for leaves in models]
    (flat, *others), (structure, *_) = zip(*map(jax.tree.flatten, batches), strict=True)

    def call(arrays: tuple[Array, ...], flat: list[Array]) -> list[Any]:
        out = program(arrays, jax.tree.unflatten(structure, flat))
        return [x for x in jax.tree.leaves(out) if hasattr(x, "shape")]

    closed = jax.make_jaxpr(call)(arrays[0], flat)
    replay = Replay(taps, len(models))
    given = [
        Value(same, Mark(leaves=(fresh(k, same[0].shape),) if is_weight(same[0]) else ()))
        for k, same in enumerate(zip(*arrays, strict=True))
    ]
    every = zip(flat, *others, strict=True)
    data = [Value(same, Mark(data=True, tokens=_tokens(same[0], weights))) for same in every]
    replay.run(closed, [*given, *data])
    return replay.sums


def _tokens(x: Array, weights: Array | None) -> View | None:
    """Where the axes of the weights lie in an input: in front, as far as the lengths agree."""
    if weights is None:
        return None
    shape = jnp.shape(x)
    k = next(
        (k for k, (n, m) in enumerate(zip(shape, weights.shape, strict=False)) if n != m), min(len(shape), weights.ndim)
    )
    if k == 0:
        return None
    view = fresh(-1, weights.shape)
    return view._replace(axes=(*view.axes[:k], *(blank(n) for n in shape[k:])))


def check_weights(weights: Array, batch: Any) -> None:
    """Raises ShapeError if no input of a batch begins with the axes of the weights."""
    shapes = [jnp.shape(x) for x in jax.tree.leaves(batch)]
    if weights.ndim == 0 or not any(shape[: weights.ndim] == weights.shape for shape in shapes):
        raise ShapeError(
            f"calibrate: weights have shape {weights.shape}, but no input of the batch begins with it: {shapes}; "
            "give one weight an example, or one a position"
        )


@functools.partial(jax.jit, static_argnames=("program", "layouts", "folds", "mesh"))
def summaries(
    program: Program,
    layouts: tuple[tuple[int, Layout], ...],
    folds: tuple[tuple[str, Fold], ...],
    models: tuple[tuple[Leaf, ...], ...],
    batches: tuple[Any, ...],
    weights: Array | None,
    mesh: jax.sharding.Mesh | None,
) -> dict[int, dict[str, Any]]:
    """The summaries of one batch by leaf and fold: all that leaves the compiled program."""
    taps = Folder(dict(folds), dict(layouts), weights)
    found = {key.leaf: made for key, made in _replayed(taps, program, models, batches, weights).items()}
    if missing := [layout.name for k, layout in layouts if k not in found]:
        raise SelectionError(
            f"calibrate: {', '.join(missing)} met activations in the first batch but not in a later one"
        )
    if mesh is None:
        return found
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.lax.with_sharding_constraint(found, everywhere)


@functools.partial(jax.jit, static_argnames=("program", "slope"))
def gradients(
    program: Program, slope: Gradients, leaves: tuple[Leaf, ...], batch: Any, weights: Array | None, key: Array | None
) -> Any:
    """The summary of one batch's gradients; its trees are by number of the leaf."""
    arrays = tuple(dense(x) for x in leaves)
    floating = {k: x for k, x in enumerate(arrays) if is_weight(x)}

    def model(floating: dict[int, Array], batch: Any) -> Any:
        return program(tuple(floating.get(k, x) for k, x in enumerate(arrays)), batch)

    return slope.lift(model, floating, batch, weights, key)
