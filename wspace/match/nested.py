"""One step of coordinate ascent: solve a group, and with it those that have an element for each of its coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np

from wspace.match.assignment import solve
from wspace.match.gains import Pair, State

PROGRESS = 1e-7  # of sum |a||b| over the group's leaves: a smaller gain is rounding
INNER_SWEEPS = 4


def visit(pair: Pair, name: str, g: State) -> dict[str, Any]:
    """The groups that change, with their new permutations; empty if nothing better was found."""
    if dependants(pair, name):
        return _nested(pair, name, g)
    gains, now = pair.gains(name, g), np.asarray(g[name])
    best = solve(gains, name=name)
    if name in pair.twice:  # gains are a gradient: the objective itself decides
        rise = pair.objective({**g, name: best}, pair.of[name]) - pair.objective(g, pair.of[name])
        return {name: best} if rise > PROGRESS * pair.norm_of[name] else {}
    rise = (_picked(gains, best) - _picked(gains, now)).sum(-1, keepdims=True)
    better = rise > PROGRESS * pair.norm_of[name]
    return {name: np.where(better, best, now)} if better.any() else {}


def dependants(pair: Pair, name: str) -> list[str]:
    """Groups with one element for each coordinate of this one, those that others depend on first."""
    return [n for n, group in pair.axes.groups.items() if name in group.over]


def _nested(pair: Pair, name: str, g: State) -> dict[str, Any]:
    """Outer assignment whose gains are those of the best match within each pair of coordinates.

    All pairs are covered by the cyclic shifts of the outer group: under a shift, what lies within each coordinate is
    matched by itself, and adds its own part to the objective.
    """
    group, inside = pair.axes.groups[name], dependants(pair, name)
    n, slot = group.size, np.arange(group.size)
    gains = np.full((*group.shape, n), -np.inf)
    found: dict[str, list[np.ndarray]] = {d: [] for d in inside}
    for shift in range(n):
        trial = _within(pair, inside, {**g, name: np.broadcast_to((slot + shift) % n, group.shape).astype(np.int32)})
        gains[..., slot, (slot + shift) % n] = pair.slots(name, trial)
        for d in inside:
            found[d].append(np.asarray(trial[d]))
    now, here = np.asarray(g[name]), pair.slots(name, g)
    offset = (now - slot) % n
    keep = here >= _picked(gains, now)  # what lies within is matched at least as well already
    np.put_along_axis(gains, now[..., None], np.maximum(here, _picked(gains, now))[..., None], -1)
    best = solve(gains, name=name)
    rise = (_picked(gains, best) - here).sum(-1, keepdims=True)
    better = rise > PROGRESS * pair.norm_of[name]
    if not better.any():
        return {}
    best = np.where(better, best, now)
    chosen = (best - slot) % n
    stay = (keep & (chosen == offset)) | ~better
    out: dict[str, Any] = {name: best}
    for d in inside:
        over = pair.axes.groups[d].over
        pick, same = (_lay(x, (*group.over, name), over) for x in (chosen, stay))
        stack = np.stack(found[d])
        taken = np.take_along_axis(stack, np.broadcast_to(pick, stack.shape[1:])[None], 0)[0]
        out[d] = np.where(same, np.asarray(g[d]), taken)
    if pair.twice.isdisjoint(out):
        return out
    gain = pair.objective({**g, **out}, pair.of[name]) - pair.objective(g, pair.of[name])
    return out if gain > PROGRESS * pair.norm_of[name] else {}


def _within(pair: Pair, inside: list[str], trial: dict[str, Any]) -> dict[str, Any]:
    """Match the inner groups from nothing, all others as they are."""
    known = {n: p for n, p in trial.items() if n not in inside}
    for d in inside:
        known[d] = pair.best_unknown(d, known)
    for _ in range(INNER_SWEEPS if len(inside) > 1 else 1):
        changed = False
        for d in inside:
            better = visit(pair, d, known)
            known.update(better)
            changed |= bool(better)
        if not changed:
            break
    return known


def _picked(gains: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return np.take_along_axis(gains, columns[..., None], -1)[..., 0]


def _lay(x: np.ndarray, have: tuple[str, ...], over: tuple[str, ...]) -> np.ndarray:
    """An array with axes `have` as one with axes `over` and a last one: size 1 where it has none."""
    order = sorted(range(len(have)), key=lambda k: over.index(have[k]))
    shape = [x.shape[have.index(n)] if n in have else 1 for n in over]
    return x.transpose(order).reshape(*shape, 1)
