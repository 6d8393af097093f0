"""Deleted, counts over trees of more than 4.3 billion weights could wrap around unnoticed."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wspace.stats.wide import Wide, at_least, minus, plus, total, wide

counts = st.one_of(st.integers(0, 2**62), st.sampled_from([0, 1, 2**16 - 1, 2**16, 2**32 - 1, 2**32, 2**33 + 1]))


def value(x: Wide) -> int:
    return (int(x.high) << 32) + int(x.low)


@given(counts, counts)
def test_arithmetic_is_that_of_integers(a: int, b: int) -> None:
    assert value(plus(wide(a), wide(b))) == a + b
    assert value(minus(wide(max(a, b)), wide(min(a, b)))) == abs(a - b)
    assert bool(at_least(wide(a), wide(b))) == (a >= b)


def test_a_sum_of_many_large_counts_does_not_overflow() -> None:
    """2^16 counts of 2^32 - 1 and more, the most that one sum may have."""
    rng = np.random.default_rng(0)
    low = rng.integers(2**32 - 1000, 2**32, 2**16)
    high = rng.integers(0, 3, 2**16)
    got = total(Wide(jnp.asarray(high, jnp.uint32), jnp.asarray(low, jnp.uint32)))
    assert value(got) == (int(high.sum()) << 32) + int(low.sum())
