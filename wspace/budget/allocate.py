"""The cheapest choice of every leaf within a budget: an integer program, and what makes a Transform of its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from wspace.budget.table import Table
from wspace.core.compose import keep, route
from wspace.core.errors import WspaceError, listed
from wspace.core.transform import Transform

Sizes = Mapping[str, Mapping[Any, float]]


def allocate(table: Table, budget: float, sizes: Sizes | None = None) -> dict[str, Any]:
    """One choice for every leaf, so that the costs add up to least and the sizes to no more than the budget. Exact.

        min sum_l cost(l, c_l)   over c,   sum_l size(l, c_l) <= budget

    Args:
      table: costs that are taken to add up, of `measured` or `by_curvature`.
      budget: in the unit of sizes; bits, if they are the table's.
      sizes: leaf -> choice -> size; default `table.bits`. For operations: multiply-adds times the bits of both sides.
    Returns:
      leaf -> choice.
    Raises:
      WspaceError: even the smallest choices are over the budget (names the least that is possible).
    Example:
      >>> costs = {"a": {2: 5.0, 4: 1.0}, "b": {2: 0.5, 4: 0.1}}
      >>> allocate(Table(costs, {"a": {2: 20, 4: 40}, "b": {2: 20, 4: 40}}), budget=60)
      {'a': 4, 'b': 2}

    Reference: Hubara, Nahshan, Hanani, Banner, Soudry, 2020, "Improving Post Training Neural Quantization: Layer-wise
      Calibration and Integer Programming".
    Differs from the paper: a cost below zero is not raised to a small one. Solved by HiGHS.
    """
    held = table.bits if sizes is None else sizes
    pairs = [(leaf, choice) for leaf, row in table.costs.items() for choice in row]
    least = sum(min(held[leaf].values()) for leaf in table.costs)
    if least > budget:
        raise WspaceError(
            f"a budget of {budget:g} is too small: the smallest choices of {len(table.costs)} leaves take {least:g}; "
            "raise it, or offer smaller choices"
        )
    if not pairs:
        return {}
    weight = np.array([held[leaf][choice] for leaf, choice in pairs], np.float64)
    one_each = np.array([[leaf == name for leaf, _ in pairs] for name in table.costs], np.float64)
    found = milp(
        np.array([table.costs[leaf][choice] for leaf, choice in pairs]),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(weight[None] / budget, -np.inf, 1)],
        integrality=np.ones(len(pairs)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    if found.x is None:
        raise WspaceError(f"the integer program over {len(pairs)} choices has no answer: {found.message}")
    return {leaf: choice for (leaf, choice), taken in zip(pairs, found.x, strict=True) if taken > 0.5}


def by_threshold(table: Table, parameters: Mapping[str, int], threshold: float, eta: float = 0.0) -> dict[str, Any]:
    """For every leaf the first of its choices whose score is below a threshold; the last one if none is.

        score(l, c) = cost(l, c) N_l^-eta,   N_l = parameters of the leaf

    Args:
      table: its choices from the fewest bits to the most. parameters: leaf -> N. eta: 0..1, how far larger leaves are
        pressed to fewer bits.
    Returns:
      leaf -> choice.
    Example:
      >>> table = Table({"a": {1: 9.0, 2: 2.0}, "b": {1: 1.0, 2: 0.0}}, {})
      >>> by_threshold(table, {"a": 4, "b": 4}, threshold=3.0)
      {'a': 2, 'b': 1}

    Reference: Sui et al., 2024, "BitsFusion: 1.99 bits Weight Quantization of Diffusion Model".
    Differs from the paper: no extra bit for leaves that lower a CLIP score.
    """
    chosen = {}
    for leaf, row in table.costs.items():
        good = [c for c, cost in row.items() if cost * parameters[leaf] ** -eta < threshold]
        chosen[leaf] = good[0] if good else list(row)[-1]
    return chosen


def assign(choices: Mapping[str, Any], make: Callable[[Any], Transform]) -> Transform:
    """The Transform that does to every leaf what was chosen for it, and keeps the others.

    Scope: the widest of its parts. Needs: what its parts need. Random: if they are. Output leaf: as of its parts.

    Args:
      choices: leaf -> choice, of `allocate` and its kin. make: choice -> Transform.
    Returns:
      Transform, 1 -> 1.
    Raises:
      SelectionError: when run, no leaf takes one of the choices. WspaceError: no choices.
    Example:
      >>> import jax.numpy as jnp, wspace as ws
      >>> params = {"u": jnp.ones((2, 2)), "v": jnp.ones((2, 2)), "b": jnp.ones(2)}
      >>> plan = ws.plan(assign({"u": 4, "v": 2}, lambda bits: ws.quant.rtn(bits=bits)), params)
      >>> [row.steps for row in plan.rows]
      [('rtn',), ('rtn',), ('keep',)]

    Reference: none; it is a `route`.
    Differs from the paper: none.
    """
    if not choices:
        raise WspaceError(f"assign: no leaf has a choice ({listed(choices)}); allocate over at least one")
    labels = {leaf: f"{choice}" for leaf, choice in choices.items()}
    return route(labels.get, {f"{c}": make(c) for c in choices.values()}, otherwise=keep(), name="assign")
