"""All budgets at once: the frontier of size and cost."""

from __future__ import annotations

from typing import Any, NamedTuple

from wspace.budget.allocate import Sizes
from wspace.budget.table import Table


class Point(NamedTuple):
    """size: of all leaves together. cost: likewise. choices: leaf -> choice."""

    size: float
    cost: float
    choices: dict[str, Any]


def pareto(table: Table, sizes: Sizes | None = None) -> list[Point]:
    """Every allocation that no other one beats in both size and cost, from the smallest on. Exact, leaf by leaf.

    A partial frontier keeps only what a later leaf can still extend to the best, so it stays short where many sums of
    sizes are equal, as of layers of one shape.

    Args:
      table, sizes: as of `allocate`.
    Returns:
      list of Point, sizes rising, costs falling.
    Example:
      >>> bits = {"a": {2: 2, 4: 4}, "b": {2: 2, 4: 4}}
      >>> table = Table({"a": {2: 5.0, 4: 1.0}, "b": {2: 0.5, 4: 0.25}}, bits)
      >>> [(p.size, p.cost) for p in pareto(table)]
      [(4, 5.5), (6, 1.5), (8, 1.25)]

    Reference: Cai, Yao, Dong, Gholami, Mahoney, Keutzer, 2020, "ZeroQ: A Novel Zero Shot Quantization Framework".
    Differs from the paper: none; sizes are exact, where its code bins them.
    """
    held = table.bits if sizes is None else sizes
    front = [Point(0, 0.0, {})]
    for leaf, row in table.costs.items():
        longer = [
            Point(p.size + held[leaf][choice], p.cost + cost, {**p.choices, leaf: choice})
            for p in front
            for choice, cost in row.items()
        ]
        front = _undominated(longer)
    return front


def _undominated(points: list[Point]) -> list[Point]:
    kept: list[Point] = []
    for p in sorted(points, key=lambda p: (p.size, p.cost)):
        if not kept or p.cost < kept[-1].cost:
            kept.append(p)
    return kept
