"""Deleted, the fused rounding could train other weights than `wspace.quant.fake_quant` and `lsq` do."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from wspace_kernels.dispatch import target

from wspace.core.errors import ShapeError, WspaceError
from wspace.kernels import fake_quant
from wspace.quant.fake_quant import fake_quant_array, lsq_array
from wspace.quant.formats import named
from wspace.quant.grid import Block
from wspace.quant.integer import limits

W = jnp.asarray(np.random.default_rng(0).standard_normal((64, 30)), jnp.float32)


def both(fn: Any, *args: Any) -> Any:
    """What a function gives, and its gradients, weighed by fixed numbers; one program."""

    def run(*args: Any) -> Any:
        made, back = jax.vjp(fn, *args)
        return made, back(jnp.cos(jnp.arange(W.size, dtype=jnp.float32)).reshape(W.shape))

    return jax.jit(run)(*args)


@cache
def wanted(bits: int) -> tuple[Any, list[Any]]:
    """A step, and what `wspace.quant` makes of it, and without it."""
    step = jnp.asarray(np.random.default_rng(1).uniform(0.2, 0.5, (2, 30)), jnp.float32)
    learned = both(lambda w, s: lsq_array(w, s, *limits(bits)), W, step)
    return step, [learned, both(lambda w: fake_quant_array(w, named(f"int{bits}"), Block(32, 1)), W)]


@pytest.mark.parametrize("name", ["ref", "tpu", "gpu"])
@pytest.mark.parametrize("bits", [2, 4])
def test_values_and_gradients_are_those_of_quant(name: str, bits: int) -> None:
    step, slow = wanted(bits)
    with target("cpu" if name == "ref" else name, interpret=True):
        learned = both(lambda w, s: fake_quant(w, s, bits, implementation=name), W, step)  # type: ignore[arg-type]
        straight = both(lambda w: fake_quant(w, None, bits, 32, implementation=name), W)  # type: ignore[arg-type]
    for got, want in zip([learned, straight], slow, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6), got, want)


@pytest.mark.parametrize("name", ["ref", "tpu", "gpu"])
def test_groups_of_zeros_stay_and_those_without_a_number_say_so(name: str) -> None:
    w = jnp.ones((4, 3), jnp.float32).at[:2, 0].set(0).at[0, 1].set(jnp.nan).at[0, 2].set(jnp.inf)
    with target("cpu" if name == "ref" else name, interpret=True):
        seen = fake_quant(w, group=2, implementation=name)  # type: ignore[arg-type]
    nan = jnp.nan
    np.testing.assert_allclose(seen, [[0, nan, nan], [0, nan, nan], [1, 1, 1], [1, 1, 1]], rtol=1e-6)


def test_misuse_is_told_before_any_work() -> None:
    with pytest.raises(ShapeError, match="group 5"):
        fake_quant(W, group=5)
    with pytest.raises(ShapeError, match=r"step \(3, 30\)"):
        fake_quant(W, jnp.ones((3, 30)))
    with pytest.raises(WspaceError, match="bits=1"):
        fake_quant(W, bits=1)
    with target("tpu", interpret=True), pytest.raises(ShapeError, match="groups of at most 2048"):
        fake_quant(jnp.ones((4096, 2)), implementation="tpu")
