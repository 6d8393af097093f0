"""Gains of pairing coordinates: what the matchers ask of two models, block by block."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from wspace.core.typing import Array, Path
from wspace.match.assignment import solve
from wspace.match.blocks import Block, blocks, move
from wspace.trace.groups import Symmetries

Terms = Mapping[Path, Sequence[tuple[Array, Array]]]
LARGE = 2**26  # multiplications of a product that are worth a compiled program, on whatever device there is
State = Mapping[str, Any]  # group -> permutation, [*over, size]
EQUAL = 1e-5  # of |a|^2: a squared distance that is rounding
BOUND = 0.3  # what a bound counts against a gain that is known; measured on digits nets, 0 and 1 are worse


class Pair:
    """Two models as blocks, and the objective `sum over terms <a, act(b, g)>`.

    terms: per leaf, pairs of arrays of the leaf's shape. `neighbours[name]`: groups whose gains depend on that group.
    """

    def __init__(self, axes: Symmetries, terms: Terms) -> None:
        self.axes = axes
        host = {path: [(np.asarray(x), np.asarray(y)) for x, y in pairs] for path, pairs in terms.items()}
        self.cut: list[tuple[Block, np.ndarray, np.ndarray]] = [
            (block, block.take(x), block.take(y)) for block in blocks(axes) for x, y in host[block.path]
        ]
        self.of: dict[str, list[int]] = {name: [] for name in axes.groups}
        self.neighbours: dict[str, set[str]] = {name: set() for name in axes.groups}
        self.twice: set[str] = set()
        for k, (block, _, _) in enumerate(self.cut):
            count = Counter(n for n in block.names if n is not None and n in axes.groups)
            for name, times in count.items():
                self.of[name].append(k)
                self.neighbours[name] |= {n for n in count if n != name or times > 1}
                if times > 1:
                    self.twice.add(name)
        self.norms = norms = [float(np.linalg.norm(x) * np.linalg.norm(y)) for _, x, y in self.cut]
        self.scale = sum(norms)
        self.norm_of = {name: sum(norms[k] for k in ks) for name, ks in self.of.items()}
        self._still: dict[str, np.ndarray] = {}

    def objective(self, g: State, within: Sequence[int] | None = None) -> float:
        """`sum <a, act(b, g)>`, over some of the blocks or all."""
        every = range(len(self.cut)) if within is None else within
        return sum(float(np.vdot(x, move(y, b.names, self.axes, g))) for b, x, y in (self.cut[k] for k in every))

    def gains(self, name: str, g: State) -> np.ndarray:
        """`[*over, size, size]`: of giving new coordinate i the old coordinate j, all other groups as in g.

        For a group on two axes of a block: the gradient, half of it from each axis.
        """
        total: np.ndarray | None = self._still.get(name)
        moving = [
            k
            for k in self.of[name]
            if name in self.twice or any(n in self.axes.groups and n != name for n in self.cut[k][0].names)
        ]
        if total is None:
            fixed = [k for k in self.of[name] if k not in moving]
            self._still[name] = total = sum((self._gain(k, name, g) for k in fixed), self._zero(name))
        return sum((self._gain(k, name, g) for k in moving), total)

    def best_unknown(self, name: str, g: State) -> np.ndarray:
        """The best permutation where g lacks groups: sorted values bound what they can bring. int32 `[*over, size]`.

        Where what is known pairs every coordinate with an equal one, nothing is nearer, and nothing has to be solved.
        """
        total, ours, theirs = self._zero(name), *np.zeros((2, *self.axes.groups[name].shape))
        bounds = []
        for k in self.of[name]:
            block, x, y = self.cut[k]
            along = self._along(block, name)
            for axis in _places(block, name):
                free = [j for j, n in enumerate(block.names) if n in self.axes.groups and n not in g and j != axis]
                y_moved = move(y, block.names, self.axes, g, axis)
                if free:
                    bounds.append((x, y_moved, axis, along, free))
                    continue
                total += _sorted_gain(x, y_moved, axis, along, free)
                ours, theirs = ours + _squares(x, axis, along), theirs + _squares(y_moved, axis, along)
        equal = _equal(total, ours, theirs)
        return solve(sum((BOUND * _sorted_gain(*b) for b in bounds), total), name=name) if equal is None else equal

    def known(self, name: str, g: State) -> float:
        """How much of a group's leaves, by norm, has no other group that g lacks: 0 to 1."""
        sure = [
            k
            for k in self.of[name]
            if all(n == name or n in g or n not in self.axes.groups for n in self.cut[k][0].names)
        ]
        return sum(self.norms[k] for k in sure) / (self.norm_of[name] or 1.0)

    def slots(self, name: str, g: State) -> np.ndarray:
        """`[*over, size]`: what each coordinate of a group adds to the objective now."""
        total = np.zeros(self.axes.groups[name].shape)
        for k in self.of[name]:
            block, x, y = self.cut[k]
            keep = (*self._along(block, name), block.names.index(name))
            order = sorted(range(len(keep)), key=keep.__getitem__)
            sums = (x * move(y, block.names, self.axes, g)).sum(tuple(j for j in range(x.ndim) if j not in keep))
            total += sums.transpose(np.argsort(order))
        return total

    def _gain(self, k: int, name: str, g: State) -> np.ndarray:
        block, x, y = self.cut[k]
        along = self._along(block, name)
        parts = [_gain(x, move(y, block.names, self.axes, g, axis), axis, along) for axis in _places(block, name)]
        return sum(parts[1:], parts[0])

    def _along(self, block: Block, name: str) -> tuple[int, ...]:
        return tuple(block.names.index(n) for n in self.axes.groups[name].over)

    def _zero(self, name: str) -> np.ndarray:
        group = self.axes.groups[name]
        return np.zeros((*group.shape, group.size))


def _places(block: Block, name: str) -> list[int]:
    return [k for k, n in enumerate(block.names) if n == name]


def _gain(x: np.ndarray, y: np.ndarray, axis: int, along: tuple[int, ...]) -> np.ndarray:
    """`[*along, axis of x, axis of y]`, summed over all other axes: one batched matrix product."""
    if x.size * x.shape[axis] >= LARGE:
        return np.asarray(_compiled(x, y, axis, along))
    rest = [j for j in range(x.ndim) if j != axis and j not in along]
    heads = [x.shape[j] for j in (*along, axis)]
    left, right = (z.transpose(*along, axis, *rest).reshape(*heads, -1) for z in (x, y))
    return left @ np.swapaxes(right, -1, -2)


@functools.partial(jax.jit, static_argnames=("axis", "along"))
def _compiled(x: Array, y: Array, axis: int, along: tuple[int, ...]) -> Array:
    rest = tuple(j for j in range(x.ndim) if j != axis and j not in along)
    return jax.lax.dot_general(x, y, ((rest, rest), (along, along)), precision=jax.lax.Precision.HIGHEST)


def _squares(x: np.ndarray, axis: int, along: tuple[int, ...]) -> np.ndarray:
    """`[*along, axis]`: sums of squares over all other axes."""
    order = (*along, axis)
    kept = np.square(x).sum(tuple(j for j in range(x.ndim) if j not in order))
    return kept.transpose(np.argsort(np.argsort(order)))


def _equal(gain: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray | None:
    """The permutation under which all squared distances `|a|^2 + |b|^2 - 2 <a, b>` are 0, if there is one."""
    apart = ours[..., :, None] + theirs[..., None, :] - 2 * gain
    nearest = apart.argmin(-1)
    least = np.take_along_axis(apart, nearest[..., None], -1)[..., 0]
    known = (least <= EQUAL * ours) & (ours > 0)
    if known.all() and (np.sort(nearest, -1) == np.arange(nearest.shape[-1])).all():
        return nearest.astype(np.int32)
    return None


def _sorted_gain(x: np.ndarray, y: np.ndarray, axis: int, along: tuple[int, ...], free: list[int]) -> np.ndarray:
    """`_gain` with the free axes of both sorted, together as one axis."""
    known = [j for j in range(x.ndim) if j not in (*along, axis, *free)]
    heads = [x.shape[j] for j in (*along, axis)]
    parts = []
    for z in (x, y):
        laid = z.transpose(*along, axis, *known, *free).reshape(*heads, int(np.prod([x.shape[j] for j in known])), -1)
        parts.append((np.sort(laid, axis=-1) if free else laid).reshape(*heads, -1))
    return parts[0] @ np.swapaxes(parts[1], -1, -2)
