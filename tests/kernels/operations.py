"""Which operations there are, every folder of the package, and what is asked of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import wspace_kernels
from wspace_kernels.case import Case
from wspace_kernels.dispatch import target

OPERATIONS = sorted(p.name for p in Path(wspace_kernels.__path__[0]).iterdir() if (p / "__init__.py").exists())
CASES: list[tuple[str, Case]] = [
    (op, case) for op in OPERATIONS for case in import_module(f"wspace_kernels.{op}.cases").CASES
]
DEVICES = {
    "tpu": jax.sharding.AbstractDevice("TPU v5 lite", 1, "tpu"),
    "gpu": jax.sharding.AbstractDevice("NVIDIA H200", 132, "gpu"),
}


def names(wanted: Callable[[Case], Any]) -> list[tuple[str, str]]:
    return [(op, case.name) for op, case in CASES if wanted(case)]


def case_of(op: str, name: str) -> Case:
    return next(case for o, case in CASES if (o, case.name) == (op, name))


def with_slopes(case: Case, name: str) -> Callable[[dict[str, Any]], tuple[Any, Any]]:
    """arguments -> the result by an implementation, and the gradients of its entries, weighed by fixed numbers."""

    def both(given: dict[str, Any]) -> tuple[Any, Any]:
        fixed = {k: x for k, x in given.items() if k not in case.slopes}
        moving = {k: given[k] for k in case.slopes}
        made, back = jax.vjp(lambda m: case.call(**fixed, **m, **case.static, implementation=name), moving)
        weights = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape), made)
        return made, back(jax.tree.map(lambda w, x: w.astype(x.dtype), weights, made))[0] if moving else None

    return both


@contextmanager
def compiling_for(name: str) -> Iterator[None]:
    """Choose the kernels of "tpu" or "gpu"; the lowering asks which device is meant."""
    mesh = jax.sharding.AbstractMesh((), (), abstract_device=DEVICES[name])
    with target(name), jax.sharding.use_abstract_mesh(mesh):
        yield
