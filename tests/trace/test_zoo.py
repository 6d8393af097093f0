"""If this were deleted, a wrong rule could give a model groups it has not, or lose groups it has, unseen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest

import wspace as ws
from tests.trace.zoo import ZOO, Made
from wspace.core.containers import as_params, show
from wspace.core.errors import MissingExtra
from wspace.data import minilm

BOUND = 1e-5  # f32, |new - old| / |old| of the output


@pytest.fixture(autouse=True)
def as_users_have_it() -> Any:
    """Models of other libraries don't run under the strict promotion of the rest of these tests."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@cache
def made(name: str) -> tuple[Made, Any]:
    apply, params, inputs = ZOO[name].make()
    return (apply, params, inputs), ws.trace.axes(apply, params, *inputs)


def drawn(axes: Any, seed: int) -> dict[str, np.ndarray]:
    """A random element, drawn in numpy."""
    rng = np.random.default_rng(seed)
    return {n: rng.permuted(np.broadcast_to(np.arange(g.size), g.shape), axis=-1) for n, g in axes.groups.items()}


def errors(apply: Callable[..., Any], params: Any, axes: Any, inputs: Any) -> list[float]:
    """How far the output moves under 20 random elements; written without the code of `check_invariance`."""
    rebuild = _arrays(params)[1]
    run = jax.jit(lambda arrays: apply(rebuild(arrays), *inputs))
    with jax.default_matmul_precision("highest"):
        outs = [np.asarray(run(_arrays(ws.match.act(params, axes, drawn(axes, seed)))[0])) for seed in range(20)]
        old = np.asarray(run(_arrays(params)[0]))
    return [float(np.linalg.norm(new - old) / np.linalg.norm(old)) for new in outs]


@pytest.mark.parametrize("name", ZOO)
def test_groups_are_those_counted_by_hand(name: str) -> None:
    _, axes = made(name)
    assert Counter(g.shape for g in axes.groups.values()) == Counter(ZOO[name].groups), str(axes)
    assert tuple(show(path) for path in axes.layout if path not in axes.covered) == ZOO[name].fixed
    assert not axes.unknown and not axes.unused


@pytest.mark.parametrize("name", ZOO)
def test_function_does_not_change(name: str) -> None:
    (apply, params, inputs), axes = made(name)
    found = errors(apply, params, axes, inputs)
    assert max(found) <= BOUND, found


def _arrays(params: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The arrays of a tree as a plain dict by path, and the way back: a tree with functions can't be given to jit."""
    taken = as_params(params)
    arrays = {path: x for path, x in taken.leaves.items() if hasattr(x, "dtype")}
    return arrays, lambda given: taken.rebuild({**taken.leaves, **given})


@pytest.mark.parametrize("name", ZOO)
def test_every_member_is_moved(name: str) -> None:
    """A group that is found but not acted on would pass the test above."""
    (_, params, _), axes = made(name)
    g = {
        name: np.roll(np.broadcast_to(np.arange(group.size), group.shape), 1, -1) for name, group in axes.groups.items()
    }
    old, new = (_arrays(p)[0] for p in (params, ws.match.act(params, axes, g)))
    assert {path for path in old if (np.asarray(old[path]) != np.asarray(new[path])).any()} == set(axes.covered)


def test_minilm_with_its_real_weights() -> None:
    """In each of 6 layers: 12 heads, head_dim of query and key, of value, hidden. The stream is the output: fixed."""
    batch = minilm.Batch(np.arange(12, dtype=np.int32).reshape(2, 6) + 2000, np.ones((2, 6), bool))
    axes = ws.trace.axes(minilm.apply, minilm.shapes(), batch)
    assert Counter(g.shape for g in axes.groups.values()) == {(12,): 6, (12, 32): 12, (1536,): 6}
    assert len(axes.covered) == 6 * 10
    assert [show(path) for path in axes.unused] == ["pooler.dense.weight", "pooler.dense.bias"]
    try:
        params = minilm.load()
    except MissingExtra as missing:
        pytest.skip(str(missing))
    found = errors(minilm.apply, params, axes, (batch,))
    assert max(found) <= BOUND, found
