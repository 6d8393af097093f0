"""Deleted, a sweep over a hyperparameter could compile anew for every value: a 20-point sweep, 20 compilations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import pytest

from tests.rows import ROWS, Row

seen: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, duration, **kw: seen.append(event) if event == "/jax/core/compile/backend_compile_duration" else None
)


@contextmanager
def compilations() -> Iterator[list[str]]:
    seen.clear()
    yield seen


def test_the_counter_counts() -> None:
    with compilations() as made:
        jax.jit(lambda x: x * 3.25 + 1.125)(jax.numpy.ones(3))
    assert made


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_second_call_compiles_nothing(row: Row) -> None:
    trees, given = row.example()
    more, others = row.example(seed=3)
    row.transform()(*trees, **given)
    if row.numeric:  # a traced argument may be a number first and an array of numbers later: one warm-up each
        row.transform(**row.numeric)(*trees, **given)
    with compilations() as made:
        row.transform()(*more, **others)
        row.transform(**{k: _moved(v) for k, v in row.numeric.items()})(*more, **others)
    assert not made


def _moved(value: object) -> object:
    """Another value of the same kind."""
    if isinstance(value, float):
        return value * 0.97
    return tuple(_moved(v) for v in value) if isinstance(value, tuple) else value
