"""Deleted, an allocation could be over its budget or not the cheapest, and a search could lose what it had."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from wspace.budget import Table, allocate, augmented, bisect, by_curvature, by_rank, evolve, measured, pareto, relevance
from wspace.core.errors import NonFinite, WspaceError

RNG = np.random.default_rng(0)
CHOICES = (2, 4, 8)


def random_table(leaves: int, seed: int) -> Table:
    rng = np.random.default_rng(seed)
    names = [f"l{k}" for k in range(leaves)]
    sizes = rng.integers(10, 100, leaves)
    costs = {n: dict(zip(CHOICES, sorted(rng.exponential(1, 3), reverse=True), strict=True)) for n in names}
    return Table(costs, {n: {b: int(s * b) for b in CHOICES} for n, s in zip(names, sizes, strict=True)})


def every(table: Table) -> list[tuple[int, float, dict[str, int]]]:
    """All allocations: size, cost, choices."""
    names = list(table.costs)
    return [
        (
            sum(table.bits[n][b] for n, b in zip(names, picked, strict=True)),
            sum(table.costs[n][b] for n, b in zip(names, picked, strict=True)),
            dict(zip(names, picked, strict=True)),
        )
        for picked in product(CHOICES, repeat=len(names))
    ]


@pytest.mark.parametrize("seed", range(4))
def test_the_integer_program_is_brute_force(seed: int) -> None:
    table = random_table(6, seed)
    found = every(table)
    low, high = min(s for s, _, _ in found), max(s for s, _, _ in found)
    for budget in np.linspace(low, high, 7):
        best = min(cost for size, cost, _ in found if size <= budget)
        choices = allocate(table, float(budget))
        assert sum(table.bits[n][b] for n, b in choices.items()) <= budget
        assert sum(table.costs[n][b] for n, b in choices.items()) == pytest.approx(best, rel=1e-9)


def test_two_hundred_layers_of_five_choices() -> None:
    rng = np.random.default_rng(1)
    costs = {f"l{k}": {b: float(rng.exponential(2.0 ** (-2 * b))) for b in (2, 3, 4, 6, 8)} for k in range(200)}
    table = Table(costs, {n: {b: 1000 * b for b in row} for n, row in costs.items()})
    choices = allocate(table, 200 * 4 * 1000)
    assert np.mean(list(choices.values())) <= 4
    uniform = sum(row[4] for row in costs.values())
    assert sum(costs[n][b] for n, b in choices.items()) < uniform


@pytest.mark.parametrize("seed", range(3))
def test_the_frontier_is_brute_forces(seed: int) -> None:
    found = every(random_table(5, seed))
    wanted = {
        (s, c) for s, c, _ in found if not any((s2 <= s and c2 < c) or (s2 < s and c2 <= c) for s2, c2, _ in found)
    }
    got = pareto(random_table(5, seed))
    assert [p.size for p in got] == sorted(s for s, _ in wanted)
    np.testing.assert_allclose([p.cost for p in got], [c for _, c in sorted(wanted)])


def test_a_budget_below_the_smallest_choices_is_refused() -> None:
    with pytest.raises(WspaceError, match=r"a budget of 3 is too small: the smallest choices of 1 leaves take 4"):
        allocate(Table({"a": {2: 1.0}}, {"a": {2: 4}}), 3)


WEIGHTS = {
    "a": {"kernel": jnp.asarray(RNG.standard_normal((16, 12)), jnp.float32), "bias": jnp.zeros(12)},
    "b": {"kernel": jnp.asarray(RNG.standard_normal((12, 5)), jnp.float32)},
}
X = jnp.asarray(RNG.standard_normal((40, 16)), jnp.float32)


@jax.jit
def outputs(p: Any, x: jax.Array = X) -> jax.Array:
    return jax.nn.relu(x @ p["a"]["kernel"] + p["a"]["bias"][None]) @ p["b"]["kernel"]


@jax.jit
def error(p: Any) -> jax.Array:
    return jnp.mean((outputs(p) - outputs(WEIGHTS)) ** 2)


def rtn(bits: int) -> ws.Transform:
    return ws.quant.rtn(bits=bits)


def test_costs_are_those_of_one_leaf_at_a_time() -> None:
    table = measured(error, WEIGHTS, rtn, (2, 4))
    assert set(table.costs) == {"a/kernel", "b/kernel"}
    for name, path in (("a/kernel", "a"), ("b/kernel", "b")):
        for bits in (2, 4):
            q = rtn(bits)({"kernel": WEIGHTS[path]["kernel"]})["kernel"]
            changed = {**WEIGHTS, path: {**WEIGHTS[path], "kernel": q.materialize()}}
            assert table.costs[name][bits] == pytest.approx(float(error(changed)), rel=1e-5)
            assert table.bits[name][bits] == q.stored_bits()
    with pytest.raises(NonFinite, match="the measure is nan with no change"):
        measured(lambda p: jnp.nan, WEIGHTS, rtn, (2,))


def test_interactions_are_the_second_difference() -> None:
    table = measured(error, WEIGHTS, rtn, (2,))
    scores = augmented(table, error, WEIGHTS, rtn, 2)
    both = float(error(ws.materialize(ws.on("kernel", rtn(2))(WEIGHTS))))
    shared = both - table.costs["a/kernel"][2] - table.costs["b/kernel"][2]
    for name in scores:
        assert scores[name] == pytest.approx(table.costs[name][2] + shared, rel=1e-4)


def test_bisection_meets_the_tolerance_in_few_evaluations() -> None:
    rng = np.random.default_rng(2)
    hurt = {f"l{k}": float(x) for k, x in enumerate(rng.exponential(1, 21))}
    seen: list[dict[str, int]] = []

    def metric(bits: dict[str, int]) -> float:
        seen.append(bits)
        return 100 - sum(hurt[n] * {4: 4, 6: 1, 8: 0}[b] for n, b in bits.items())

    found = bisect(hurt, metric, (4, 6, 8), tolerance=0.1)
    assert metric(found) >= 90 and len(seen) <= 2 + 2 * math.ceil(math.log2(22))
    order = sorted(hurt, key=hurt.__getitem__)
    assert [found[n] for n in order] == sorted(found[n] for n in order)
    fourth = sum(found[n] == 4 for n in order)
    assert metric({**dict.fromkeys(hurt, 8), **dict.fromkeys(order[: fourth + 1], 4)}) < 90


def test_evolution_keeps_the_budget_and_never_gets_worse() -> None:
    rng = np.random.default_rng(3)
    pull = rng.standard_normal((10, 10))
    wanted = rng.permutation([2] * 3 + [3] * 4 + [4] * 3)
    names = [f"l{k}" for k in range(10)]
    seen: list[int] = []

    def fitness(choices: dict[str, int], stage: int) -> float:
        seen.append(sum(choices.values()))
        off = np.array([choices[n] for n in names]) - wanted
        return float(off @ (pull @ pull.T + np.eye(10)) @ off)

    start = dict.fromkeys(names, 3)
    found = evolve(start, (2, 3, 4), fitness, key=jax.random.key(0), generations=40, offspring=16, survivors=(4, 1))
    assert set(seen) == {30}
    assert list(found.history) == sorted(found.history, reverse=True)
    assert found.fitness == 0.0 and list(found.choices.values()) == list(wanted)
    again = evolve(start, (2, 3, 4), fitness, key=jax.random.key(0), generations=3, offspring=16, survivors=(4, 1))
    assert again.history == found.history[:3]


def test_levels_are_traded_between_leaves_of_one_size_only() -> None:
    sizes = {"a": 1.0, "b": 1.0, "c": 5.0, "d": 5.0}
    seen: list[dict[str, int]] = []

    def fitness(choices: dict[str, int], stage: int) -> float:
        seen.append(choices)
        return -float(choices["a"] + choices["c"])

    found = evolve(
        dict.fromkeys(sizes, 3), (2, 3, 4), fitness, key=jax.random.key(1), sizes=sizes, survivors=(1,), generations=8
    )
    assert all(c["a"] + c["b"] == 6 and c["c"] + c["d"] == 6 for c in seen)
    assert found.choices == {"a": 4, "b": 2, "c": 4, "d": 2}


def test_relevance_is_conserved_without_biases_and_matches_a_loop() -> None:
    """LRP-0 in numpy, layer by layer: relevance of the outputs of a layer is split over its inputs in proportion."""
    p = {"u": WEIGHTS["a"]["kernel"], "v": WEIGHTS["b"]["kernel"]}
    got = relevance(lambda p, x: jax.nn.relu(x @ p["u"]) @ p["v"], p, X[:8])
    a, b = (np.asarray(w, np.float64) for w in p.values())
    totals = np.zeros(2)
    for x in np.asarray(X[:8], np.float64):
        hidden = np.maximum(x @ a, 0)
        out = hidden @ b
        top = np.argmax(out)
        last = np.where(np.arange(5) == top, out, 0)
        split = hidden[:, None] * b * (last / np.where(out == 0, 1, out))[None]
        first = split.sum(1)
        assert first.sum() == pytest.approx(last.sum())
        totals += [np.abs(first).sum(), np.abs(last).sum()]
    np.testing.assert_allclose([got["u"], got["v"]], totals / totals.sum(), rtol=1e-5)


def test_bits_rise_with_relevance_within_the_mean() -> None:
    rng = np.random.default_rng(4)
    scores = {f"l{k}": float(x) for k, x in enumerate(rng.random(12))}
    sizes = {n: int(s) for n, s in zip(scores, rng.integers(5, 50, 12), strict=True)}
    bits = by_rank(scores, sizes, (4, 5, 6, 8), mean=5.5)
    ranked = [bits[n] for n in sorted(scores, key=scores.__getitem__)]
    assert ranked == sorted(ranked) and len(set(ranked)) > 1
    assert sum(bits[n] * sizes[n] for n in bits) <= 5.5 * sum(sizes.values())


def test_hutchinson_meets_the_exact_trace() -> None:
    curve = jnp.asarray(RNG.standard_normal((20, 20)), jnp.float32)
    params = {"u": jnp.ones((3, 4)), "v": jnp.ones(8)}

    def loss(p: Any) -> jax.Array:
        flat = jnp.concatenate([p["u"].ravel(), p["v"]])
        return jnp.sum((curve @ flat) ** 2) / 2 + jnp.sum(flat**4)

    exact = np.diag(np.asarray(curve.T @ curve)) + 12.0
    found = ws.stats.hessian_trace(loss, params, key=jax.random.key(0), samples=400)
    off = np.asarray(curve.T @ curve) - np.diag(np.diag(np.asarray(curve.T @ curve)))
    for name, part in (("u", slice(0, 12)), ("v", slice(12, 20))):
        deviation = math.sqrt(np.sum(off[part] ** 2) + np.sum(off[part, part] ** 2)) / 20
        assert abs(float(found[name]) - exact[part].sum()) < 4 * deviation
    traces = {"u": 6.0, "v": 4.0}
    table = by_curvature(traces, params, ws.prune.magnitude, (0.5,), where=".")
    assert table.costs["u"][0.5] == pytest.approx(6.0 / 12 * 6) and table.costs["v"][0.5] == pytest.approx(4.0 / 8 * 4)
