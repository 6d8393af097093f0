"""Small transforms that the tests of the core compose, each simple enough to follow by hand."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

import wspace as ws

KEY = jax.random.key(0)
largest = ws.Fold(lambda leaves, ctx: jnp.max(jnp.abs(leaves[0])), jnp.maximum)  # max |w| of the whole tree


def by_parent(spec: Any) -> str:
    """The group of a leaf: the name before its own."""
    return spec.path.rpartition("/")[0]


def add(x: float) -> ws.Transform:
    return ws.leafwise(f"add {x:g}", lambda leaves, ctx: leaves[0] + x)


def times(x: float) -> ws.Transform:
    return ws.leafwise(f"times {x:g}", lambda leaves, ctx: leaves[0] * x)


def mean() -> ws.Transform:
    """Of any number of trees."""
    return ws.leafwise("mean", lambda leaves, ctx: sum(leaves[1:], leaves[0]) / len(leaves), arity=None)


def minus() -> ws.Transform:
    """Of two trees."""
    return ws.leafwise("minus", lambda leaves, ctx: leaves[0] - leaves[1], arity=2)


def unit() -> ws.Transform:
    """Divide by the largest |w| of the whole tree."""
    return ws.leafwise("unit", lambda leaves, ctx: leaves[0] / ctx.summaries[0], folds=(largest,))


def unit_by_group() -> ws.Transform:
    """Divide by the largest |w| of the leaves with the same parent."""
    fold = largest._replace(group=by_parent, scope="group")
    return ws.leafwise("unit by group", lambda leaves, ctx: leaves[0] / ctx.summaries[0], folds=(fold,))


def weigh() -> ws.Transform:
    """Multiply by the side tree `gram`."""
    return ws.leafwise("weigh", lambda leaves, ctx: leaves[0] * ctx.side("gram"), needs=frozenset({"gram"}))


def noise() -> ws.Transform:
    def apply(leaves: tuple[jax.Array, ...], ctx: ws.Context) -> jax.Array:
        return leaves[0] + jax.random.normal(ctx.key, leaves[0].shape)

    return ws.leafwise("noise", apply, needs=frozenset({"key"}))
