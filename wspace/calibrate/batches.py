"""Statistics over batches: the model runs once a batch, and only summaries leave the device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding

from wspace.calibrate.program import Plan, Program, check_weights, gradients, summaries, survey, taken_apart
from wspace.calibrate.result import Calibration
from wspace.core.axes import Axes
from wspace.core.containers import show
from wspace.core.errors import SelectionError, SideTreeError, TreeMismatch, listed, nearest
from wspace.core.fold import Fold
from wspace.core.transform import over_stack
from wspace.core.typing import Array, Leaf, Tree
from wspace.stats.fisher import Gradients
from wspace.stats.gram import cross, gram
from wspace.stats.moments import abs_max, abs_mean, mean, mean_square, variance

Folds: TypeAlias = str | Sequence[str] | Mapping[str, Fold | Gradients]
BY_NAME: dict[str, Callable[[], Fold]] = {
    "abs_max": abs_max,
    "abs_mean": abs_mean,
    "cross": cross,
    "gram": gram,
    "mean": mean,
    "mean_square": mean_square,
    "variance": variance,
}


def calibrate(
    apply: Callable[[Tree, Any], Any],
    params: Tree,
    batches: Iterable[Any],
    folds: Folds,
    *,
    weights: Callable[[Any], Array] | None = None,
    axes: Axes | None = None,
    other: Tree | None = None,
    beside: Iterable[Any] | None = None,
    key: Array | None = None,
) -> Calibration:
    """Statistics of what every parameter meets, as side trees aligned with the parameters.

    The program of `apply` is read and run again with the folds inside, so no activation leaves the device. A parameter
    is followed through reshape, transpose, cast, slice, jit, remat and scan to the product, convolution or look-up
    where it meets an activation, which is then laid out in the parameter's own order of inputs.

    - A stacked parameter has stacked statistics. Uses of one parameter add up; a use that reads a slice fills its part.
    - Which axes are inputs: what `axes` says, if one use contracts just those; else what the contraction says. Uses
      along other axes (a table as output head, say) don't count, and are named in the result's `apart`.
    - A table that is looked up has inputs that are one 1 among zeros: its Gram matrix is a `Diagonal`.
    - A parameter that meets no activation (bias, norm scale, position) has no entry; the result's `unmet` says why.

    Args:
      apply: pure function of parameters and one batch. Its result is not looked at, but for gradients.
      params: any tree; Implicit nodes stand for their arrays.
      batches: of any pytree of arrays; sizes may differ, each new shape compiles once. They may be sharded: summaries
        come out replicated, and activations that are split over tokens are not gathered.
      folds: name -> Fold over batches (in wspace.stats: gram, mean, abs_mean, abs_max, mean_square, variance, cross,
        and outputs of these) or gradients (fisher, grad); or just names.
      weights: batch -> [batch] or [batch, position]: 0 for padding. They are followed along the activations.
      axes: roles of the leaves' axes; by name if not given.
      other: a second tree of the same shapes, run side by side, for folds of pairs (cross).
      beside: what the second tree is run on, batch for batch; the same batches if not given. Without `other` it is
        these parameters once more.
      key: for gradients that sample; batch k takes fold_in(key, k).
    Returns:
      Calibration: a dict name -> side tree (None where a parameter has no entry), with `axes`, `unmet`, `apart`.
    Raises:
      SelectionError: no batch, no fold, or no parameter meets an activation. TreeMismatch: `other` has other leaves.
      ShapeError: weights of another shape, or tokens that can't be followed. SideTreeError: a key is missing.
    Example:
      >>> def apply(p, x): return jnp.tanh(x @ p["a"]["kernel"] + p["a"]["bias"][None]) @ p["b"]["kernel"]
      >>> p = {"a": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}, "b": {"kernel": jnp.ones((3, 1))}}
      >>> found = calibrate(apply, p, [jnp.array([[1.0, 2.0], [3.0, 0.0]])], "gram")
      >>> found["gram"]["a"]["kernel"]
      Array([[5., 1.],
             [1., 2.]], dtype=float32)
      >>> found.unmet
      {'a/bias': 'meets no contraction (last seen in add)'}
    """
    program, leaves = taken_apart(apply, params)
    models = (leaves,) if other is None else (leaves, _aligned(program, leaves, other))
    models = (leaves, leaves) if other is None and beside is not None else models
    run = _Run(program, models, _named(folds), weights, axes or Axes(), key)
    if beside is None:
        for batch in batches:
            run.add(*(batch,) * len(models))
    else:
        for both in zip(batches, beside, strict=True):
            run.add(*both)
    return run.result()


class _Run:
    """One calibration: the sums so far."""

    def __init__(
        self,
        program: Program,
        models: tuple[tuple[Leaf, ...], ...],
        folds: Mapping[str, Fold | Gradients],
        weights: Callable[[Any], Array] | None,
        axes: Axes,
        key: Array | None,
    ) -> None:
        self.program, self.models, self.folds, self.weights, self.key = program, models, folds, weights, key
        self.taps = tuple((name, fold) for name, fold in folds.items() if isinstance(fold, Fold))
        self.slopes = {name: fold for name, fold in folds.items() if isinstance(fold, Gradients)}
        self.plan = Plan((), {}, {}, axes)
        self.sums: dict[tuple[str, int], Any] = {}
        self.gradients: dict[str, Any] = {}
        self.batches = 0
        if pairs := [name for name, fold in self.taps if fold.models > len(models)]:
            raise SideTreeError(f"calibrate: {listed(pairs)} compares two models; pass other=... or beside=...")
        if key is None and any(fold.random for fold in self.slopes.values()):
            raise SideTreeError("calibrate: a fold samples; pass a key, as in calibrate(..., key=jax.random.key(0))")

    def add(self, *batches: Any) -> None:
        """Run the models on one batch each and merge what they give."""
        batch = batches[0]
        share = None if self.weights is None else jnp.asarray(self.weights(batch))
        if share is not None:
            check_weights(share, batch)
        if self.taps and not self.batches:
            self.plan = survey(self.program, self.models[0], batch, self.plan.axes)
            if not self.plan.layouts:
                raise SelectionError(
                    f"calibrate: no parameter meets an activation: {listed(self.plan.unmet.items(), 4)}"
                )
        if self.taps:
            mesh = _mesh((batches, self.models))
            made = summaries(self.program, self.plan.layouts, self.taps, self.models, batches, share, mesh)
            for name, fold in self.taps:
                for leaf, layout in self.plan.layouts:
                    now, at = made[leaf][name], (name, leaf)
                    self.sums[at] = _merge(fold, len(layout.stacks), self.sums[at], now) if at in self.sums else now
        for name, slope in self.slopes.items():
            own = None if self.key is None else jax.random.fold_in(self.key, self.batches)
            now = gradients(self.program, slope, self.models[0], batch, share, own)
            self.gradients[name] = slope.merge(self.gradients[name], now) if name in self.gradients else now
        self.batches += 1

    def result(self) -> Calibration:
        """The finished side trees."""
        if not self.batches:
            raise SelectionError("calibrate: there was no batch; pass at least one")
        trees: dict[str, Tree] = {}
        for name, fold in self.folds.items():
            if isinstance(fold, Gradients):
                entries = fold.finish(self.gradients[name])
            else:
                stacks = {leaf: len(layout.stacks) for leaf, layout in self.plan.layouts}
                entries = {leaf: _finish(fold, n, self.sums[name, leaf]) for leaf, n in stacks.items()}
            found = {self.program.paths[leaf]: entry for leaf, entry in entries.items()}
            every = [*self.program.paths, *(path for path, _ in self.program.rest)]
            trees[name] = self.program.rebuild({path: found.get(path) for path in every})
        return Calibration(trees, self.plan.axes, self.plan.unmet, self.plan.apart)


def _named(folds: Folds) -> dict[str, Fold | Gradients]:
    if isinstance(folds, Mapping):
        made = dict(folds)
    else:
        names = [folds] if isinstance(folds, str) else list(folds)
        if wrong := [name for name in names if name not in BY_NAME]:
            raise SelectionError(f"calibrate: no fold is called {listed(wrong)}.{nearest(wrong[0], BY_NAME)}")
        made = {name: BY_NAME[name]() for name in names}
    if not made:
        raise SelectionError(f"calibrate: no folds; name some of {listed(sorted(BY_NAME))}")
    return made


def _aligned(program: Program, leaves: tuple[Leaf, ...], other: Tree) -> tuple[Leaf, ...]:
    """The leaves of the second model, once it is known to be one of the same program."""
    twin, theirs = taken_apart(program.apply, other)
    if twin.paths != program.paths:
        raise TreeMismatch("calibrate: the other tree has other leaves than the parameters; both must be of one model")
    for path, x, y in zip(program.paths, leaves, theirs, strict=True):
        if x.shape != y.shape or x.dtype != y.dtype:
            raise TreeMismatch(
                f"calibrate: {show(path)} is {x.dtype}{list(x.shape)} in the parameters and {y.dtype}{list(y.shape)} "
                "in the other tree; both must be of one model"
            )
    return theirs


def _mesh(tree: Tree) -> Mesh | None:
    """The mesh on which something is sharded, where the compiler decides on shardings; None elsewhere."""
    for x in jax.tree.leaves(tree):
        sharding = getattr(x, "sharding", None)
        if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh) and sharding.mesh.size > 1:
            return sharding.mesh if set(sharding.mesh.axis_types) == {AxisType.Auto} else None
    return None


@functools.partial(jax.jit, static_argnames=("fold", "stacks"), donate_argnums=2)
def _merge(fold: Fold, stacks: int, a: Any, b: Any) -> Any:
    return over_stack(fold.merge, stacks)(a, b)


@functools.partial(jax.jit, static_argnames=("fold", "stacks"))
def _finish(fold: Fold, stacks: int, s: Any) -> Any:
    return over_stack(fold.finish, stacks)(s)
