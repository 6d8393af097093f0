"""Deleted, an n:m pattern could have a group with too many weights, which no sparse kernel would accept."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wspace as ws


@given(st.sampled_from([(0, 1), (1, 1), (1, 2), (2, 4), (4, 4), (3, 6), (0, 4), (1, 12)]), st.integers(0, 2**31))
def test_every_group_keeps_exactly_its_n_largest(pattern: tuple[int, int], seed: int) -> None:
    n, m = pattern
    w = np.random.default_rng(seed).integers(1, 9, (12, 5)).astype(np.float32)  # no zeros, many ties
    got = np.asarray(ws.prune.nm(n, m)({"kernel": w})["kernel"])
    for group, before in zip(got.reshape(-1, m, 5), w.reshape(-1, m, 5), strict=True):
        for kept, all_of in zip(group.T, before.T, strict=True):
            assert np.count_nonzero(kept) == n
            assert sorted(kept[kept != 0], reverse=True) == sorted(all_of, reverse=True)[:n]


def test_inputs_are_those_of_the_layout() -> None:
    """A torch weight is [out, in], a convolution's taps count as inputs, heads x head_dim as outputs."""
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((8, 3)).astype(np.float32)
    flax, torch = ws.prune.nm(2, 4)({"kernel": kernel})["kernel"], ws.prune.nm(2, 4)({"weight": kernel.T})["weight"]
    np.testing.assert_array_equal(flax, torch.T)
    conv = rng.standard_normal((2, 2, 4, 3)).astype(np.float32)
    got = ws.prune.nm(2, 4)({"conv": {"kernel": conv}})["conv"]["kernel"]
    np.testing.assert_array_equal(np.count_nonzero(got, axis=2), np.full((2, 2, 3), 2))
    query = rng.standard_normal((8, 2, 3)).astype(np.float32)
    got = ws.prune.nm(1, 8)({"query": {"kernel": query}})["query"]["kernel"]
    np.testing.assert_array_equal(np.count_nonzero(got, axis=0), np.ones((2, 3)))


@pytest.mark.parametrize(
    ("pattern", "words"), [((2, 4), r"layer/kernel has 6 inputs, which m=4"), ((3, 2), "3:2 is no pattern")]
)
def test_patterns_that_do_not_fit_are_refused(pattern: tuple[int, int], words: str) -> None:
    with pytest.raises(ws.WspaceError, match=words):
        ws.prune.nm(*pattern)({"layer": {"kernel": jnp.ones((6, 2))}})


def test_a_vector_has_no_inputs() -> None:
    with pytest.raises(ws.WspaceError, match="bias with shape"):
        ws.prune.nm(2, 4)({"bias": jnp.ones(8)})
