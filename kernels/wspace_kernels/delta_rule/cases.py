"""Which sequences are tried in tests, benchmarks and lowering."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from wspace.core.typing import Array
from wspace_kernels.case import Case
from wspace_kernels.delta_rule.api import delta_product, delta_rule


def _make(
    tokens: tuple[int, ...], keys: int, values: int, dtype: Any = jnp.float32, more: bool = False, top: float = 1.0
) -> Callable[[Array], dict[str, Any]]:
    """tokens: [heads, length], with a number of steps for `delta_product`. more: gates and a state to start from."""

    def make(key: Array) -> dict[str, Any]:
        of_q, of_k, of_v, of_beta, of_gate, of_state = jax.random.split(key, 6)
        k = jax.random.normal(of_k, (*tokens, keys), jnp.float32)
        given = {
            "q": jax.random.normal(of_q, (*tokens[:2], keys), jnp.float32).astype(dtype),
            "k": (k / jnp.linalg.norm(k, axis=-1, keepdims=True)).astype(dtype),
            "v": jax.random.normal(of_v, (*tokens, values), jnp.float32).astype(dtype),
            "beta": jax.random.uniform(of_beta, tokens, jnp.float32, 0, top),
        }
        if more:
            given["log_gate"] = -jax.random.exponential(of_gate, tokens[:2], jnp.float32) / 8
            given["initial_state"] = jax.random.normal(of_state, (tokens[0], keys, values), jnp.float32)
        return given

    return make


def _done(q: Any, k: Any, v: Any, **rest: Any) -> int:
    """Of chunks of 64: their matrices, the inverse in six steps, and three products with the state."""
    steps, keys, values, c = k.size // k.shape[-1], k.shape[-1], v.shape[-1], 64
    return int(2 * steps * (2 * c * keys + 12 * c * c + 2 * c * values + 3 * keys * values))


case = partial(Case, call=delta_rule, tolerance=1e-5, static={"chunk": 16}, done=_done)
ALL = ("q", "k", "v", "beta", "log_gate", "initial_state")
CASES = [
    case("delta_rule", make=_make((2, 40), 16, 32), stacked=("q", "v", "beta")),
    case("gated", make=_make((1, 33), 16, 16, more=True), slopes=ALL),
    case("delta_product", call=delta_product, make=_make((1, 12, 3), 16, 16, more=True, top=2.0)),
    case("large", make=_make((32, 4096), 128, 128, jnp.bfloat16), static={}, large=True),
    case("gated-large", make=_make((32, 4096), 128, 128, jnp.bfloat16, more=True), static={}, large=True),
    case("product-large", call=delta_product, make=_make((32, 2048, 2), 128, 128, jnp.bfloat16), static={}, large=True),
]
