"""Gains of pairing coordinates: what the matchers ask of two models, block by block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from wspace.core.typing import Array, Path
from wspace.match.assignment import solve
from wspace.match.blocks import Block, blocks, move
from wspace.trace.groups import Symmetries

Terms = Mapping[Path, Sequence[tuple[Array, Array]]]
LARGE = 2**26  # multiplications of a product that are worth a compiled program, on whatever device there is
Sides: TypeAlias = tuple[np.ndarray, np.ndarray]  # a and b, both [*over, size, all else]
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
        moving = {
            k
            for k in self.of[name]
            if name in self.twice or any(n in self.axes.groups and n != name for n in self.cut[k][0].names)
        }
        if name not in self._still:
            self._still[name] = self._product([self._pair(k, name, g) for k in self.of[name] if k not in moving], name)
        return self._still[name] + self._product([self._pair(k, name, g) for k in self.of[name] if k in moving], name)

    def best_unknown(self, name: str, g: State) -> np.ndarray:
        """The best permutation where g lacks groups: sorted values bound what they can bring. int32 `[*over, size]`.

        Where what is known pairs every coordinate with an equal one, nothing is nearer, and nothing has to be solved.
        """
        ours, theirs = np.zeros((2, *self.axes.groups[name].shape))
        sure, bounds = [], []
        for k in self.of[name]:
            block, x, y = self.cut[k]
            along = self._along(block, name)
            for axis in _places(block, name):
                free = [j for j, n in enumerate(block.names) if n in self.axes.groups and n not in g and j != axis]
                y_moved = move(y, block.names, self.axes, g, axis)
                if free:
                    bounds.append((x, y_moved, axis, along, free))
                    continue
                sure.append((_laid(x, axis, along), _laid(y_moved, axis, along)))
                ours, theirs = ours + _squares(x, axis, along), theirs + _squares(y_moved, axis, along)
        total = self._product(sure, name)
        equal = _equal(total, ours, theirs)
        if equal is not None:
            return equal
        laid = [(_laid(x, axis, along, free), _laid(y, axis, along, free)) for x, y, axis, along, free in bounds]
        most = self._product(laid, name)
        return solve(total + BOUND * most, name=name)

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

    def _pair(self, k: int, name: str, g: State) -> Sides:
        """Both sides of a block, laid out for the product; one with the group on two axes has both, side by side."""
        block, x, y = self.cut[k]
        along, at = self._along(block, name), _places(block, name)
        ours = [_laid(x, axis, along) for axis in at]
        return _beside(ours), _beside([_laid(move(y, block.names, self.axes, g, axis), axis, along) for axis in at])

    def _product(self, sides: Sequence[Sides], name: str) -> np.ndarray:
        """f64 `[*over, size, size]`: what all blocks together gain, in one batched matrix product."""
        if not sides:
            group = self.axes.groups[name]
            return np.zeros((*group.shape, group.size))
        x, y = (_beside(side) for side in zip(*sides, strict=True))
        return np.asarray(_compiled(x, y) if x.size * x.shape[-2] >= LARGE else x @ np.swapaxes(y, -1, -2), np.float64)

    def _along(self, block: Block, name: str) -> tuple[int, ...]:
        return tuple(block.names.index(n) for n in self.axes.groups[name].over)


def _places(block: Block, name: str) -> list[int]:
    return [k for k, n in enumerate(block.names) if n == name]


def _laid(x: np.ndarray, axis: int, along: tuple[int, ...], free: Sequence[int] = ()) -> np.ndarray:
    """`[*along, axis, all others]`: what a product over all other axes takes. Free axes are sorted, together as one."""
    known = [j for j in range(x.ndim) if j not in (*along, axis, *free)]
    heads = [x.shape[j] for j in (*along, axis)]
    out = x.transpose(*along, axis, *known, *free)
    if free:
        out = np.sort(out.reshape(*heads, int(np.prod([x.shape[j] for j in known])), -1), axis=-1)
    return out.reshape(*heads, -1)


def _beside(parts: Sequence[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, -1)


@jax.jit
def _compiled(x: Array, y: Array) -> Array:
    return jnp.matmul(x, jnp.swapaxes(y, -1, -2), precision=jax.lax.Precision.HIGHEST)


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
