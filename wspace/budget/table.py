"""Tables: what each choice costs at each leaf, and how many bits it leaves there."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

from wspace.core.axes import Axes
from wspace.core.compose import on
from wspace.core.containers import Params, as_params, is_weight, show
from wspace.core.errors import NonFinite, SelectionError, listed
from wspace.core.implicit import dense, stored_bits
from wspace.core.select import Spec, matrices, selected
from wspace.core.transform import Transform
from wspace.core.typing import Path, Progress, Tree, Where

Choice: TypeAlias = Hashable  # a number of bits, a sparsity, a rank, a name: what `make` is called with
Measure: TypeAlias = Callable[[Tree], Any]  # params -> a number, smaller is better
Make: TypeAlias = Callable[[Any], Transform]


class Table(NamedTuple):
    """costs: leaf -> choice -> what it costs, in units of the measure. bits: leaf -> choice -> bits stored.

    Leaves are named by their shown paths; every leaf has the same choices, in the same order.
    """

    costs: Mapping[str, Mapping[Any, float]]
    bits: Mapping[str, Mapping[Any, int]]

    @property
    def choices(self) -> tuple[Any, ...]:
        return tuple(next(iter(self.costs.values()), {}))


def measured(
    measure: Measure,
    params: Tree,
    make: Make,
    choices: Sequence[Choice],
    where: Where = matrices,
    progress: Progress | None = None,
    **sides: Any,
) -> Table:
    """Try every choice at one leaf at a time, all others as they are.

        cost(l, c) = measure(params with leaf l by make(c)) - measure(params)

    Args:
      measure: params -> a number; jit it. make: choice -> Transform, such as `lambda b: ws.quant.rtn(bits=b)`.
      where: the leaves. sides: what the Transforms need, besides params.
      progress: called as (evaluations done, all of them, leaf).
    Returns:
      Table; a cost may be below zero, where a choice helps.
    Raises:
      NonFinite: the measure is no number (names leaf and choice). SelectionError: no choices, or `where` takes no leaf.
    Example:
      >>> import wspace as ws
      >>> params = {"a": {"kernel": jnp.array([[1.0], [0.1]])}, "b": {"kernel": jnp.array([[3.0], [1.0]])}}
      >>> far = lambda p: sum((p[k]["kernel"] - params[k]["kernel"]).ravel() @ jnp.ones(2) for k in p)
      >>> measured(far, params, ws.prune.magnitude, (0.0, 0.5)).costs["b/kernel"]
      {0.0: 0.0, 0.5: -1.0}
    """
    given = as_params(params)
    made = _made(params, make, choices, where, sides)
    start = _number(measure, given, {}, "no change")
    paths = _paths(given, where, sides)
    costs: dict[str, dict[Any, float]] = {show(path): {} for path in paths}
    bits: dict[str, dict[Any, int]] = {name: {} for name in costs}
    done = 0
    for path in paths:
        for choice, tree in made.items():
            leaf, name = tree[path], show(path)
            costs[name][choice] = _number(measure, given, {path: leaf}, f"{name} by {choice}") - start
            bits[name][choice] = stored_bits(leaf)
            done += 1
            if progress is not None:
                progress(done, len(costs) * len(made), name)
    return Table(costs, bits)


def by_curvature(
    traces: Mapping[str, float],
    params: Tree,
    make: Make,
    choices: Sequence[Choice],
    where: Where = matrices,
    **sides: Any,
) -> Table:
    """Costs without an evaluation: the squared change of a leaf, times its mean curvature.

        cost(l, c) = trace(H_l) / n_l |make(c)(W_l) - W_l|^2

    Args:
      traces: leaf -> trace of its block of the Hessian, as of `ws.stats.hessian_trace`. Others as in `measured`.
    Raises:
      SelectionError: a leaf has no trace.
    Example:
      >>> import wspace as ws
      >>> params = {"kernel": jnp.array([[1.0], [0.5]])}
      >>> by_curvature({"kernel": 8.0}, params, ws.prune.magnitude, (0.5,)).costs
      {'kernel': {0.5: 1.0}}

    Reference: Dong et al., 2020, "HAWQ-V2: Hessian Aware trace-Weighted Quantization of Neural Networks".
    """
    given = as_params(params)
    made = _made(params, make, choices, where, sides)
    paths = _paths(given, where, sides)
    if missing := [show(p) for p in paths if show(p) not in traces]:
        raise SelectionError(f"by_curvature: no trace for {listed(missing)}; give all that `where` takes")
    costs: dict[str, dict[Any, float]] = {}
    for path in paths:
        w = np.asarray(dense(given.leaves[path]), np.float64)
        change = {c: float(np.sum((np.asarray(dense(tree[path]), np.float64) - w) ** 2)) for c, tree in made.items()}
        costs[show(path)] = {c: float(traces[show(path)]) / w.size * x for c, x in change.items()}
    return Table(costs, {show(p): {c: stored_bits(t[p]) for c, t in made.items()} for p in paths})


def augmented(
    table: Table,
    measure: Measure,
    params: Tree,
    make: Make,
    choice: Choice,
    where: Where = matrices,
    progress: Progress | None = None,
    **sides: Any,
) -> dict[str, float]:
    """One score a leaf, which also counts how its loss adds up with those of the other leaves.

        score_i = cost(i, choice) + sum_{j != i} d_ij,   d_ij = L(i and j) - L(i) - L(j) + L(none)

    Args:
      table: costs of the leaves alone, of any kind. choice: at which pairs are measured, such as the fewest bits.
      Others as in `measured`; there are n (n + 1) / 2 + 1 evaluations.
    Returns:
      leaf -> score, for `bisect`.
    Raises:
      NonFinite: the measure is no number.

    Reference: Schaefer et al., 2023, "Augmenting Hessians with Inter-Layer Dependencies for Mixed-Precision
      Post-Training Quantization".
    Differs from the paper: its abstract does not give the form of the augmentation; this is the second difference.
    """
    given = as_params(params)
    tree = _made(params, make, (choice,), where, sides)[choice]
    paths = _paths(given, where, sides)
    none = _number(measure, given, {}, "no change")
    alone = {p: _number(measure, given, {p: tree[p]}, show(p)) for p in paths}
    scores = {show(p): float(table.costs[show(p)][choice]) for p in paths}
    pairs = list(combinations(paths, 2))
    for k, (i, j) in enumerate(pairs):
        both = _number(measure, given, {i: tree[i], j: tree[j]}, f"{show(i)} and {show(j)}")
        shared = both - alone[i] - alone[j] + none
        scores[show(i)] += shared
        scores[show(j)] += shared
        if progress is not None:
            progress(k + 1, len(pairs), show(i))
    return scores


def _made(
    params: Tree, make: Make, choices: Sequence[Choice], where: Where, sides: Mapping[str, Any]
) -> dict[Any, Mapping[Path, Any]]:
    """For every choice, the leaves that the whole tree would get."""
    if not choices:
        raise SelectionError("no choices: give at least one, such as bits (2, 4, 8)")
    return {c: as_params(on(where, make(c))(params, **sides)).leaves for c in choices}


def _paths(given: Params, where: Where, sides: Mapping[str, Any]) -> list[Path]:
    """The weights that a selector takes."""
    axes = sides.get("axes") or Axes()
    specs = {p: Spec(show(p), x.shape, x.dtype, axes.of(p, x.shape)) for p, x in given.leaves.items() if is_weight(x)}
    return selected(where, specs)


def _number(measure: Measure, given: Params, changed: Mapping[Path, Any], what: str) -> float:
    """The measure of the params with some leaves changed, as a number."""
    replaced = {p: dense(x) for p, x in changed.items()}
    value = float(jnp.asarray(measure(given.rebuild({**given.leaves, **replaced}))))
    if not np.isfinite(value):
        raise NonFinite(f"the measure is {value} with {what}; a cost must be a finite number")
    return value
