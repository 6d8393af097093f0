"""Deleted, a rank on the host could be off where a sample misleads, or where ties have to be told apart."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from wspace.core.entries import Entries, entries_of
from wspace.stats import host_ranks
from wspace.stats.host_ranks import last_of_largest


def largest(w: Entries, keeps: list[tuple[int]]) -> list[tuple[np.ndarray, int]]:
    """What is learned from as many sweeps as are asked for."""
    look = last_of_largest(w, keeps)
    while True:
        try:
            look.send(None)
        except StopIteration as end:
            return end.value
        for stretch in w:
            look.send(stretch)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["normal", "ties", "sorted", "misleading", "equal", "odd"])
def test_masks_are_those_of_a_stable_sort(kind: str, dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_ranks, "SAMPLE", 64)
    monkeypatch.setattr(host_ranks, "PIECE", 100)
    rng = np.random.default_rng(3)
    for n in (1, 63, 64, 100, 650):
        w = rng.standard_normal(n).astype(dtype)
        if kind == "ties":
            w = np.round(w)
        elif kind == "sorted":
            w = np.sort(w)
        elif kind == "misleading":  # every entry of the sample is large
            w[:: max(1, n // 64)] = 9
        elif kind == "equal":
            w[:] = -1
        elif kind == "odd":
            w[: n // 3], w[n // 2 :] = -0.0, np.inf
        order = np.argsort(-np.abs(w), kind="stable")
        ranks = [0, 1, n // 100, n // 2, n - 1, n]
        words = np.abs(w).view(f"u{w.itemsize}")
        for entries in (entries_of(words), in_blocks(words)):
            for k, (code, last) in zip(ranks, largest(entries, [(k,) for k in ranks]), strict=True):
                found = (words > code) | ((words == code) & (np.arange(n) <= last))
                np.testing.assert_array_equal(np.flatnonzero(found), np.sort(order[:k]))


def in_blocks(w: np.ndarray) -> Entries:
    """The same entries in blocks that overlap: the first begins alone, the last ends with the array."""
    size = min(130, w.size)
    starts = sorted({0, *range(min(7, w.size - size), w.size - size, size), w.size - size})
    return Entries(w.size, w.dtype, starts, lambda k: w[k : k + size], lambda k: w[: -(-w.size // k)])


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_blocks_are_let_go(spread: float) -> None:
    w = np.float32(1) + np.float32(spread) * np.random.default_rng(0).random(1000, np.float32)
    w = w.view(np.uint32)
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def block(start: int) -> np.ndarray:
        nonlocal most
        made = w[start : start + 100].copy()
        alive[:] = [*(ref for ref in alive if ref() is not None), weakref.ref(made)]
        most = max(most, len(alive))
        return made

    largest(Entries(w.size, w.dtype, range(0, 1000, 100), block, lambda k: w[::k]), [(500,)])
    assert most <= 2
