"""Deleted, a call that can't be meant could run and give numbers, or fail with an error of Python's own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import wspace as ws
from wspace.core.errors import WspaceError

A, BASE = {"w": jnp.ones(6)}, {"w": jnp.zeros(6)}


@pytest.mark.parametrize(
    ("t", "given", "said"),
    [
        (ws.merge.dare(0.5), {"base": BASE, "key": 3}, r"key is of type int; make it with jax.random.key\(seed\)"),
        (ws.merge.dare(0.5), {"base": BASE, "key": jax.random.PRNGKey(0)}, "key is a raw uint32 array"),
        (ws.merge.ties((0.5, 0.2, 0.9)), {"base": BASE}, "3 values for 2 trees; give each its own"),
        (ws.merge.ties((0.5,)), {"base": BASE}, "1 values for 2 trees"),
        (ws.merge.fisher(), {"fisher": (A,)}, "side tree 'fisher' is 1 trees for 2 models; give one for each"),
        (ws.merge.fisher(), {"fisher": A}, "side tree 'fisher' is one tree; pass a tuple of them"),
        (
            ws.merge.ties(),
            {"base": {**BASE, "v": A["w"]}},
            "side tree 'base' has entries that are no leaf of the parameters: v",
        ),
    ],
    ids=["a number as key", "a raw key", "more values", "fewer values", "fewer trees", "one tree", "another base"],
)
def test_what_cant_be_meant_is_said_in_a_line(t: ws.Transform, given: dict[str, Any], said: str) -> None:
    with pytest.raises(WspaceError, match=said) as error:
        t(A, A, **given)
    assert "\n" not in str(error.value)
