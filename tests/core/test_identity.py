"""Deleted, a run could go on from leaves that another computation left, or not know its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from wspace.core.identity import Unknowable, identity
from wspace.core.run import prepare

TABLE = np.arange(4000, dtype=np.float32)  # longer than what is printed of an array
OTHER = np.where(TABLE == 2000, -1, TABLE).astype(np.float32)


def told(make: Callable[..., Any], *given: Any, key: int | None = None, path: str = "w", rows: int = 4) -> str:
    w = np.zeros((rows, 4), np.float32)
    return identity(prepare(make(*given), [{path: w, "v": w}], key=None if key is None else jax.random.key(key)))


def mine(function: Callable[[Any], Any]) -> ws.Transform:
    return ws.leafwise("mine", lambda leaves, ctx: function(leaves[0]))


def scaled(by: float) -> ws.Transform:
    return mine(lambda w: jax.nn.relu(w) * by)


def inside(table: Any) -> ws.Transform:
    """A constant in a loop in a compiled function."""

    def step(carried: Any, row: Any) -> Any:
        return carried + row * jnp.sum(jnp.asarray(table)), row

    return mine(jax.jit(lambda w: jax.lax.scan(step, w[0], w)[0][None] + w))


def noise(scale: float) -> ws.Transform:
    return ws.leafwise(
        "n", lambda x, ctx: x[0] + scale * jax.random.normal(ctx.key, x[0].shape), needs=frozenset({"key"})
    )


def pruned(sparsity: float) -> ws.Transform:
    return ws.prune.magnitude(sparsity, scope="global")


def coded(bits: int) -> ws.Transform:
    return ws.quant.fake_quant(bits)  # the leaf stays as it is, in a node that says what it stands for


CASES: list[tuple[Callable[..., Any], Any, Any]] = [
    (scaled, 0.3, 0.3 + 2.0**-25), (inside, TABLE, OTHER), (pruned, 0.5, 0.25), (coded, 3, 4),
]  # fmt: skip


@pytest.mark.parametrize(("make", "one", "other"), CASES, ids=lambda x: getattr(x, "__name__", ""))
def test_what_is_computed_otherwise_is_told_apart(make: Callable[..., Any], one: Any, other: Any) -> None:
    assert told(make, one) == told(make, one)  # made anew, with functions at other addresses
    assert len({told(make, one), told(make, other), told(make, one, path="u"), told(make, one, rows=8)}) == 4


def test_another_random_key_is_told_apart() -> None:
    assert told(noise, 0.5, key=1) == told(noise, 0.5, key=1)
    assert len({told(noise, 0.5, key=1), told(noise, 0.5, key=2), told(noise, 0.25, key=1)}) == 3


def test_a_program_that_calls_python_is_not_known() -> None:
    def called(w: Any) -> Any:
        return jax.pure_callback(lambda w: 2 * w, jax.ShapeDtypeStruct(w.shape, w.dtype), w)

    def watched(w: Any) -> Any:
        jax.debug.callback(lambda w: None, w)
        return w

    def printed(w: Any) -> Any:
        jax.debug.print("{}", w)
        return w

    for function, name in ((called, "pure_callback"), (watched, "debug_callback")):
        with pytest.raises(Unknowable, match=f"{name} calls Python: what .* does is not known"):
            told(mine, jax.jit(function))
    assert told(mine, printed) == told(mine, printed) != told(mine, lambda w: w)
