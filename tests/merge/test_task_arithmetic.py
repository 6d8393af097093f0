"""Deleted, a task could not be added, taken away again, or traded off as the paper does it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.average import trained
from tests.rows import close, weights
from wspace.average import uniform_soup
from wspace.core.errors import SideTreeError, TreeMismatch
from wspace.data import digits
from wspace.merge import task_arithmetic

BASE, A, B = ({"w": w, "b": w[0]} for w in np.random.default_rng(0).standard_normal((3, 6, 4)).astype(np.float32))


def test_a_task_added_and_taken_away_is_the_base() -> None:
    with_a = task_arithmetic()(A, base=BASE)
    close(with_a, weights(A), 1e-6)
    gone = {k: with_a[k] - (A[k] - BASE[k]) for k in A}
    close(gone, weights(BASE), 1e-6)
    mirrored = task_arithmetic(weights=[-1.0])(A, base=BASE)
    close({k: (mirrored[k] + A[k]) / 2 for k in A}, weights(BASE), 1e-6)


def test_with_one_over_n_it_is_the_mean_of_the_models() -> None:
    close(task_arithmetic(lam=0.5)(A, B, base=BASE), weights(uniform_soup()(A, B)), 1e-6)


def test_misuse_is_named() -> None:
    with pytest.raises(SideTreeError, match=r"task_arithmetic needs the side tree\(s\) base"):
        task_arithmetic()(A)
    with pytest.raises(TreeMismatch, match="base does not match tree 1: it lacks b"):
        task_arithmetic()(A, base={"w": BASE["w"]})


def test_adding_a_fine_tune_learns_its_task_and_subtracting_forgets_it() -> None:
    """The paper's two operations, on a digits classifier fine-tuned on shifted scans. Measured on shifted scans: base
    0.514, added 0.933, subtracted 0.125 (and 0.953, 0.822, 0.803 on the scans as they are)."""
    scans = trained.shifted(digits.load("test")[0])
    base, tuned = trained.base(), trained.moved()
    added, taken = (trained.accuracy(task_arithmetic(lam=lam)(tuned, base=base), scans) for lam in (1.0, -1.0))
    before = trained.accuracy(base, scans)
    assert added > before + 0.3 and taken < before - 0.2
