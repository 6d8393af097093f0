"""If this were deleted, layers that a loop takes by number could share a group, or be moved where they may not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import wspace as ws
from tests.trace.test_rules import drawn

RNG = np.random.default_rng(0)
SHAPES = {"up": (3, 4, 6), "down": (3, 6, 4)}
PARAMS = {name: jnp.asarray(RNG.standard_normal(shape) / 3, jnp.float32) for name, shape in SHAPES.items()}
X = jnp.asarray(RNG.standard_normal((2, 4)), jnp.float32)
EACH, ALL = (3, 6), (6,)  # an element for each layer, or one for all


def layer(up: Any, down: Any, x: Any) -> Any:
    return x + jnp.maximum(x @ up, 0) @ down


def fori(start: int, end: int, body: Callable[[Any, Any, Any], Any]) -> Any:
    return lambda p, x: lax.fori_loop(start, end, lambda i, x: body(p, i, x), x)


def counted(step: Callable[[Any], Any], start: int = 0, reverse: bool = False) -> Any:
    """A scan that carries a number of its own, and takes its layers by it or from the scan."""

    def apply(p: Any, x: Any) -> Any:
        def turn(carry: Any, down: Any) -> Any:
            i, x = carry
            return (step(i), layer(p["up"][i], down, x)), None

        return lax.scan(turn, (start, x), p["down"], reverse=reverse)[0][1]

    return apply


def carried(p: Any, x: Any) -> Any:
    def turn(i: Any, carry: Any) -> Any:
        x, h = carry
        h = h + x @ p["up"][i]
        return x + jnp.maximum(h, 0) @ p["down"][i], h

    return lax.fori_loop(0, 3, turn, (x, jnp.zeros((2, 6))))[0]


def nested(p: Any, x: Any) -> Any:
    def inner(i: Any, x: Any) -> Any:
        return lax.fori_loop(0, 2, lambda j, x: layer(p["up"][i], p["down"][i], x), x)

    return lax.fori_loop(0, 3, inner, x)


LOOPS: dict[str, tuple[Callable[..., Any], Any]] = {
    "by number": (fori(0, 3, lambda p, i, x: layer(p["up"][i], p["down"][i], x)), EACH),
    "a tree of stacks": (fori(0, 3, lambda p, i, x: layer(**jax.tree.map(lambda w: w[i], p), x=x)), EACH),
    "dynamic_index_in_dim": (
        fori(0, 3, lambda p, i, x: layer(*(lax.dynamic_index_in_dim(p[n], i, 0, False) for n in SHAPES), x)),
        EACH,
    ),
    "numbers scanned": (
        lambda p, x: lax.scan(lambda x, i: (layer(p["up"][i], p["down"][i], x), None), x, jnp.arange(3))[0],
        EACH,
    ),
    "half scanned": (counted(lambda i: i + 1), EACH),
    "twice": (lambda p, x: LOOPS["by number"][0](p, jnp.tanh(LOOPS["numbers scanned"][0](p, x))), EACH),
    "one layer outside too": (lambda p, x: layer(p["up"][1], p["down"][1], LOOPS["by number"][0](p, x)), None),
    "another layer's": (fori(0, 3, lambda p, i, x: layer(p["up"][i], p["down"][2 - i], x)), ALL),
    "scanned backwards": (counted(lambda i: i + 1, reverse=True), ALL),
    "steps of two": (counted(lambda i: i + 2), ALL),
    "not counting": (counted(lambda i: i * 1), ALL),
    "from one": (counted(lambda i: i + 1, start=1), ALL),
    "some layers": (fori(0, 2, lambda p, i, x: layer(p["up"][i], p["down"][i], x)), ALL),
    "the stack as a whole too": (
        fori(0, 3, lambda p, i, x: x + jnp.maximum(x @ p["up"][i] + p["up"].sum((0, 1))[None], 0) @ p["down"][i]),
        ALL,
    ),
    "the last layer too": (
        fori(0, 3, lambda p, i, x: x + jnp.maximum(x @ (p["up"][i] + p["up"][2]), 0) @ p["down"][i]),
        ALL,
    ),
    "by take": (fori(0, 3, lambda p, i, x: layer(p["up"][i], jnp.take(p["down"], i, 0), x)), None),
    "carried on": (carried, ALL),
    "a loop within": (nested, ALL),
}


@pytest.mark.parametrize("name", LOOPS)
def test_layers_of_a_loop(name: str) -> None:
    """The group that is wanted (None: any, or none), and whatever is found of any kind leaves the function as it is."""
    apply, wanted = LOOPS[name]
    run, rng = jax.jit(apply), np.random.default_rng(1)
    for kind in ("permutation", "scale", "orthogonal"):
        axes = ws.trace.axes(apply, PARAMS, X, kind=kind)
        if wanted is not None and kind != "orthogonal":
            assert [g.shape for g in axes.groups.values()] == [wanted], kind
        for _ in range(3 if axes.groups else 0):
            g = {n: drawn(kind, rng, group.shape) for n, group in axes.groups.items()}
            ws.match.check_invariance(run, PARAMS, axes, g, X)
    if wanted == EACH:
        axes = ws.trace.axes(apply, PARAMS, X)
        g = ws.match.random_element(axes, key=jax.random.key(2))
        copy = ws.match.act(PARAMS, axes, ws.match.inverse(axes, g))
        (found,), (planted,) = ws.match.weight(PARAMS, copy, axes, key=jax.random.key(0)).values(), g.values()
        np.testing.assert_array_equal(found, planted)
