"""Deleted, a kernel could compute another thing than its reference, or lower on no accelerator, and no CPU would tell.

Everything here is parametrized by the lists of cases of the operations, `kernels/wspace_kernels/<op>/cases.py`, and
compared with numbers of `tests/kernels/truths/<op>.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from wspace_kernels.case import Case
from wspace_kernels.dispatch import target

import wspace.kernels
from tests.kernels.operations import CASES, OPERATIONS, case_of, compiling_for, names, with_slopes
from wspace.core.errors import WspaceError

KERNELS = pytest.mark.parametrize("name", ["tpu", "gpu"])
EVERY = pytest.mark.parametrize("name", ["ref", "tpu", "gpu"])


def with_cases(wanted: Callable[[Case], Any]) -> Any:
    return pytest.mark.parametrize(("op", "case"), names(wanted))


@cache
def making(op: str, case: str) -> Callable[[Any], Any]:
    return jax.jit(case_of(op, case).make)


@cache
def given_to(op: str, case: str, seed: int = 0) -> dict[str, Any]:
    """Arguments; other seeds change those that are stacked."""
    given, other = (making(op, case)(jax.random.key(k)) for k in (0, seed))
    return given | {k: other[k] for k in case_of(op, case).stacked}


@cache
def truth(op: str, case: str, seed: int = 0) -> Any:
    c = case_of(op, case)
    slow = getattr(import_module(f"tests.kernels.truths.{op}"), c.call.__name__)
    return slow(**given_to(op, case, seed), **c.static)


def run(fn: Callable[[Any], Any], given: Any, name: str) -> Any:
    """By an implementation, whose kernels are interpreted."""
    with target("cpu" if name == "ref" else name, interpret=True):
        return jax.jit(fn)(given)


@cache
def outcome(op: str, case: str, name: str) -> tuple[Any, Any]:
    """The result, and the gradients of its entries, weighed by fixed numbers."""
    return run(with_slopes(case_of(op, case), name), given_to(op, case), name)


def close(got: Any, wanted: Any, tolerance: float) -> None:
    """Every array within the tolerance, relative to the largest magnitude of what is wanted; integers are equal."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert a.shape == b.shape
        if jnp.issubdtype(a.dtype, jnp.integer):
            np.testing.assert_array_equal(a, b)
        else:
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.max(np.abs(b), initial=0))


@EVERY
@with_cases(lambda case: not case.large)
def test_the_result_is_the_truth(op: str, case: str, name: str) -> None:
    made = outcome(op, case, name)[0]
    close(made, truth(op, case), case_of(op, case).tolerance)
    assert [x.dtype for x in jax.tree.leaves(made)] == [x.dtype for x in jax.tree.leaves(outcome(op, case, "ref")[0])]


@KERNELS
@with_cases(lambda case: case.slopes and not case.large)
def test_the_gradient_is_that_of_the_reference(op: str, case: str, name: str) -> None:
    wanted = outcome(op, case, "ref")[1]
    assert all(np.any(np.asarray(x) != 0) for x in jax.tree.leaves(wanted))
    close(outcome(op, case, name)[1], wanted, case_of(op, case).tolerance)


@KERNELS
@with_cases(lambda case: case.stacked and not case.large)
def test_vmap_maps(op: str, case: str, name: str) -> None:
    c = case_of(op, case)
    layers = [given_to(op, case, seed) for seed in (0, 1)]

    def mapped(layers: Any) -> Any:
        fixed = {k: x for k, x in layers[0].items() if k not in c.stacked}
        moving = {k: jax.tree.map(lambda *x: jnp.stack(x), *(given[k] for given in layers)) for k in c.stacked}
        return jax.vmap(lambda m: c.call(**fixed, **m, **c.static, implementation=name))(moving)

    made = run(mapped, layers, name)
    for seed in (0, 1):
        close(jax.tree.map(lambda x, seed=seed: np.asarray(x)[seed], made), truth(op, case, seed), c.tolerance)


@KERNELS
@with_cases(lambda case: True)
def test_it_lowers_with_no_accelerator_at_hand(op: str, case: str, name: str) -> None:
    c = case_of(op, case)
    unchecked = [export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")]  # it has no promise to stay as it is
    with compiling_for(name):
        lower = export.export(
            jax.jit(with_slopes(c, name)),
            platforms=[{"tpu": "tpu", "gpu": "cuda"}[name]],
            disabled_checks=unchecked,
        )
        module = lower(c.shapes()).mlir_module()
    assert {"tpu": "tpu_custom_call", "gpu": "xla.gpu.triton"}[name] in module


@pytest.mark.parametrize("op", OPERATIONS)
def test_a_named_kernel_fails_on_another_platform_and_none_does_not(op: str) -> None:
    case = next(case for o, case in CASES if o == op and not case.large)
    call, given = partial(case.call, **case.static), given_to(op, case.name)
    for name, device in (("tpu", "a TPU"), ("gpu", "a GPU")):
        with pytest.raises(WspaceError, match=f"'{name}' needs {device}, but jax runs on cpu"):
            call(**given, implementation=name)
    with pytest.raises(WspaceError, match="no implementation 'cuda'"):
        call(**given, implementation="cuda")
    close(call(**given), call(**given, implementation="ref"), 0)


@pytest.mark.parametrize("op", OPERATIONS)
def test_an_operation_is_whole(op: str) -> None:
    """Every file is there, the facade has what it makes public, and what is tried has a small and a large case."""
    for part in ("api", "ref", "tpu", "gpu", "cases", "bench"):
        assert import_module(f"wspace_kernels.{op}.{part}").__doc__
    mine = [case for o, case in CASES if o == op]
    assert len({case.name for case in mine}) == len(mine)
    public = import_module(f"wspace_kernels.{op}").__all__
    for name in public:
        assert name in wspace.kernels.__all__
        assert getattr(wspace.kernels, name).__module__ == f"wspace_kernels.{op}.api"
    for name in {case.call.__name__ for case in mine}:
        assert name in public
        assert {case.large for case in mine if case.call.__name__ == name} == {False, True}, name
