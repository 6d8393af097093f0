"""View: where the numbers of a value lie in the leaf they come from, kept through reshape, transpose, slice, broadcast.

Every axis of the value is a product of factors, major first: a factor is one axis of the leaf, or a part of it.
The same algebra follows a parameter to the product it enters, and the axes of token weights through the activations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

BLANK, UNKNOWN = -1, -2  # no axis of the leaf: the value repeats along it; it can't be told what lies along it


class Factor(NamedTuple):
    """A part of an axis of the leaf: `size` entries, `stride` apart, within the cut that the view keeps."""

    axis: int
    stride: int
    size: int


class Cut(NamedTuple):
    """The range of an axis of the leaf that a view keeps."""

    start: int
    size: int


class Turn(NamedTuple):
    """An axis of the leaf that a loop goes along: one entry a turn, from `start` on."""

    axis: int
    loop: int
    start: int


Factors = tuple[Factor, ...]


class View(NamedTuple):
    """leaf: its number. axes: the factors of every axis of the value. cuts: by axis of the leaf; None where factors
    were lost. turns: axes of the leaf that the loops around go along."""

    leaf: int
    axes: tuple[Factors, ...]
    cuts: tuple[Cut | None, ...]
    turns: tuple[Turn, ...] = ()

    def factors(self, axis: int) -> list[Factor]:
        """All factors of one axis of the leaf."""
        return [f for axes in self.axes for f in axes if f.axis == axis]


def fresh(leaf: int, shape: Sequence[int]) -> View:
    """The view of a leaf as it is."""
    axes = tuple((Factor(k, 1, n),) if n != 1 else () for k, n in enumerate(shape))
    return View(leaf, axes, tuple(Cut(0, n) for n in shape))


def blank(n: int, kind: int = BLANK) -> Factors:
    """An axis of the value that is no axis of the leaf."""
    return (Factor(kind, 0, n),) if n != 1 else ()


def size(factors: Factors) -> int:
    """The length of an axis of the value."""
    return math.prod(f.size for f in factors)


def joined(factors: Sequence[Factor]) -> Factors:
    """Neighbours that are one longer factor become one."""
    out: list[Factor] = []
    for f in factors:
        last = out[-1] if out else None
        if last is not None and last.axis == f.axis and (f.axis < 0 or last.stride == f.stride * f.size):
            out[-1] = Factor(f.axis, f.stride, last.size * f.size)
        else:
            out.append(f)
    return tuple(out)


def lose(view: View, axes: set[int]) -> View:
    """Nothing is known any more of where these axes of the leaf lie."""
    axes = {a for a in axes if a >= 0}
    if not axes:
        return view
    cuts = tuple(None if a in axes else cut for a, cut in enumerate(view.cuts))
    kept = tuple(joined([f._replace(axis=UNKNOWN, stride=0) if f.axis in axes else f for f in fs]) for fs in view.axes)
    return view._replace(axes=kept, cuts=cuts)


def lose_along(view: View, k: int, n: int) -> View:
    """Nothing is known along axis k of the value, which is now n long."""
    view = lose(view, {f.axis for f in view.axes[k]})
    return _with(view, k, blank(n, UNKNOWN))


def _with(view: View, k: int, factors: Factors) -> View:
    return view._replace(axes=(*view.axes[:k], factors, *view.axes[k + 1 :]))


def transpose(view: View, order: Sequence[int]) -> View:
    """The axes of the value in another order."""
    return view._replace(axes=tuple(view.axes[k] for k in order))


def drop(view: View, axes: Sequence[int]) -> View:
    """Without some axes of the value: squeezed, or summed over."""
    gone = {k % len(view.axes) for k in axes}
    return view._replace(axes=tuple(fs for k, fs in enumerate(view.axes) if k not in gone))


def broadcast(view: View, shape: Sequence[int], at: Sequence[int]) -> View:
    """Axis j of the value becomes axis `at[j]` of `shape`; along all others it repeats."""
    axes = [blank(n) for n in shape]
    for fs, k in zip(view.axes, at, strict=True):
        axes[k] = fs if size(fs) == shape[k] else axes[k]
    return view._replace(axes=tuple(axes))


def reshape(view: View, shape: Sequence[int]) -> View | None:
    """The factors dealt out again, major first; None where a factor would have to be cut unevenly."""
    left = [f for fs in view.axes for f in fs][::-1]
    axes: list[Factors] = []
    for n in shape:
        taken: list[Factor] = []
        while n > 1:
            f = left.pop()
            if n % f.size == 0:
                taken.append(f)
                n //= f.size
            elif f.size % n == 0:
                taken.append(Factor(f.axis, f.stride * (f.size // n), n))
                left.append(Factor(f.axis, f.stride, f.size // n))
                n = 1
            else:
                return None
        if n == 0:
            return None
        axes.append(joined(taken))
    return view._replace(axes=tuple(axes))


def cut(view: View, k: int, start: int, n: int) -> View:
    """Entries start..start+n of axis k of the value."""
    factors = view.axes[k]
    if n == size(factors):
        return view
    if factors and factors[0].axis >= 0:
        (head, *rest), inner = factors, size(factors) // factors[0].size
        old = view.cuts[head.axis]
        whole = old is not None and head.stride * head.size == old.size and view.factors(head.axis).count(head) == 1
        if whole and old is not None and start % inner == 0 and n % inner == 0 and n:
            kept = Cut(old.start + start // inner * head.stride, n // inner * head.stride)
            short = (head._replace(size=n // inner),) if n > inner else ()
            view = view._replace(cuts=(*view.cuts[: head.axis], kept, *view.cuts[head.axis + 1 :]))
            return _with(view, k, (*short, *rest))
    if _repeats(factors):
        return _with(view, k, blank(n))
    return lose_along(view, k, n)


def enter(view: View, loop: int) -> View:
    """One turn of a loop along the first axis of the value."""
    factors, rest = view.axes[0], view._replace(axes=view.axes[1:])
    if len(factors) == 1 and factors[0].axis >= 0:
        (f,) = factors
        known = view.cuts[f.axis]
        if known is not None and f.size == known.size and f.stride == 1 and len(view.factors(f.axis)) == 1:
            return rest._replace(turns=(*view.turns, Turn(f.axis, loop, known.start)))
    return rest if _repeats(factors) else lose(rest, {f.axis for f in factors})


def merged(a: View | None, b: View | None) -> View | None:
    """Two values of one shape joined entry by entry: what is known of either, and nothing where they contradict."""
    if a is None or b is None:
        return a or b
    axes, wrong = [], set()
    for x, y in zip(a.axes, b.axes, strict=True):
        if x == y or _repeats(y):
            axes.append(x)
        elif _repeats(x):
            axes.append(y)
        else:
            axes.append(blank(size(x), UNKNOWN))
            wrong |= {f.axis for f in (*x, *y)}
    cuts: list[Cut | None] = []
    for k, (c, d) in enumerate(zip(a.cuts, b.cuts, strict=True)):
        here, there = bool(a.factors(k)), bool(b.factors(k))
        if c is None or d is None or (here and there and c != d):
            wrong.add(k)
        cuts.append(c if here else d if there or c is None or (d is not None and d.size > c.size) else c)
    turns = tuple(dict.fromkeys([*a.turns, *b.turns]))
    return lose(a._replace(axes=tuple(axes), cuts=tuple(cuts), turns=turns), wrong)


def _repeats(factors: Factors) -> bool:
    return all(f.axis == BLANK for f in factors)
