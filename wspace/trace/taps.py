"""Taps: the program of `apply` run again, with a summary of what every parameter meets folded on the way.

`survey` walks the program on shapes alone and says which parameters meet what; `fold_in` runs it and gives summaries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.fold import Fold
from wspace.core.transform import over_stack
from wspace.core.typing import Array
from wspace.stats.seen import Seen
from wspace.trace.follow import Eqn
from wspace.trace.meet import Found, Operand, Use, fits
from wspace.trace.rows import Layout
from wspace.trace.view import Cut, Turn

Summary: TypeAlias = dict[str, Any]  # name of a fold -> its summary, stacked axes of the leaf in front


class Key(NamedTuple):
    """Whose summary it is: the leaf, and the loops around along whose turns it will be stacked."""

    leaf: int
    turns: tuple[Turn, ...] = ()


Sums: TypeAlias = dict[Key, Summary]


class Met(NamedTuple):
    """What a survey notes of one use: the leaf, the use, the primitive."""

    leaf: int
    use: Use
    primitive: str


class Survey:
    """Notes every use, folds nothing."""

    def __init__(self) -> None:
        self.met: list[Met] = []
        self.ends: dict[int, dict[str, None]] = {}

    def meet(self, eqn: Eqn, use: Use, xs: Sequence[Operand], ys: Sequence[Operand], sums: Sums) -> None:
        self.met.append(Met(use.view.leaf, use, eqn.primitive.name))

    def end(self, leaf: int, primitive: str) -> None:
        """The views of a leaf go no further than this primitive."""
        self.ends.setdefault(leaf, {})[primitive] = None


class Folder:
    """Folds what is seen, use by use, in the layouts that the survey decided on."""

    def __init__(self, folds: Mapping[str, Fold], layouts: Mapping[int, Layout], weights: Array | None) -> None:
        self.folds, self.layouts, self.weights = folds, layouts, weights

    def end(self, leaf: int, primitive: str) -> None:
        pass

    def meet(self, eqn: Eqn, use: Use, xs: Sequence[Operand], ys: Sequence[Operand], sums: Sums) -> None:
        """Add one use to the sums: one model's rows, or those of several models side by side."""
        layout = self.layouts.get(use.view.leaf)
        if layout is None or use.make is None or not fits(use, layout.roles, layout.shape):
            return
        found = [use.make(layout, x, y, self.weights) for x, y in zip(xs, ys, strict=True)]
        turns = tuple(t for t in use.view.turns if layout.roles[t.axis] == "stack")
        key = Key(use.view.leaf, turns)
        made = {name: self._lift(fold, layout, use, key, found) for name, fold in self.folds.items()}
        self.add(sums, key, made)

    def add(self, sums: Sums, key: Key, made: Summary) -> None:
        sums[key] = self.merge(key, sums[key], made) if key in sums else made

    def merge(self, key: Key, a: Summary, b: Summary) -> Summary:
        depth = len(self._stacks(key))
        return {name: over_stack(fold.merge, depth)(a[name], b[name]) for name, fold in self.folds.items()}

    def _stacks(self, key: Key) -> list[int]:
        """The stacked axes that a summary has by now."""
        pending = {t.axis for t in key.turns}
        return [a for a in self.layouts[key.leaf].stacks if a not in pending]

    def _lift(self, fold: Fold, layout: Layout, use: Use, key: Key, found: Sequence[Found]) -> Any:
        """Lift one matrix at a time, then put the stack together: where a use reads a part of it, zeros elsewhere."""
        found, has = found[: fold.models], found[0][1]
        stacks = [a for a in self._stacks(key) if a in has]

        lift = fold.lift
        for axis in reversed(stacks):
            inputs, outputs = has[axis]
            axes = tuple(_in_axes(seen, inputs, outputs) for seen, _ in found)
            lift = jax.vmap(lift, in_axes=axes)
        made = lift(*(seen for seen, _ in found))
        for k, axis in enumerate(self._stacks(key)):
            cut = use.view.cuts[axis] or Cut(0, layout.shape[axis])
            if axis not in has:  # one entry of the stack, or the same rows for each
                made = jax.tree.map(partial(_repeated, axis=k, n=cut.size), made)
            made = placed(made, k, cut.start, layout.shape[axis])
        return made

    def stack(self, sums: Sums, key: Key, loop: int, made: Summary) -> None:
        """Add what a loop gathered, one summary a turn in front: it goes to its place among the stacked axes."""
        (turn,) = (t for t in key.turns if t.loop == loop)
        after = key._replace(turns=tuple(t for t in key.turns if t.loop != loop))
        place = self._stacks(after).index(turn.axis)
        made = jax.tree.map(lambda s: jnp.moveaxis(s, 0, place), made)
        self.add(sums, after, placed(made, place, turn.start, self.layouts[key.leaf].shape[turn.axis]))


def _in_axes(seen: Seen, inputs: bool, outputs: bool) -> Any:
    """Which arrays have the stacked axis in front: the values, never the weights."""
    first, rest = jax.tree.map(lambda _: None, seen.inputs), jax.tree.map(lambda _: None, seen.outputs)
    if inputs:
        first = first._replace(values=0)
    if outputs and rest is not None:
        rest = rest._replace(values=0)
    return Seen(first, rest)


def _repeated(s: Array, axis: int, n: int) -> Array:
    return jnp.repeat(jnp.expand_dims(s, axis), n, axis)


def placed(made: Any, axis: int, start: int, n: int) -> Any:
    """Summaries of a part of a stack among zeros for the rest."""

    def one(s: Array) -> Array:
        if s.shape[axis] == n:
            return s
        config = [(0, 0, 0)] * s.ndim
        config[axis] = (start, n - s.shape[axis] - start, 0)
        return lax.pad(s, jnp.zeros((), s.dtype), config)

    return jax.tree.map(one, made)
