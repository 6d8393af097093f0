"""The table of optax transformations: one row a public factory. The laws in tests/optim/test_laws.py run over all rows.

Rows live beside their room's own tests, in `tests/<room>/rows.py`, each a list `OPTAX_ROWS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from tests.rows import Leaves, weights

RATE = 0.1


@dataclass(frozen=True, eq=False)
class OptaxRow:
    """One transformation.

    name: "room.factory", with a variant in brackets. make: `() -> GradientTransformation`, run after `optax.sgd(RATE)`.
    truth: `(params, grads) -> params`: the parameters by path after a gradient a step, in float64.
    steps: length of the run, enough for every branch. tolerance: relative to the largest magnitude of the truth.
    """

    name: str
    make: Callable[[], optax.GradientTransformation]
    truth: Callable[[Leaves, list[Leaves]], Leaves]
    steps: int = 7
    tolerance: float = 2e-6

    def __str__(self) -> str:
        return self.name

    def chain(self) -> optax.GradientTransformation:
        return optax.chain(optax.sgd(RATE), self.make())

    def example(self, seed: int = 0, dtype: Any = jnp.float32) -> tuple[Any, Any]:
        """Parameters, and gradients stacked on a new first axis, one a step."""
        rng = np.random.default_rng(seed)

        def normal(*shape: int) -> Any:
            return jnp.asarray(rng.standard_normal(shape).astype(np.float32).astype(dtype))

        params = {"dense": {"kernel": normal(16, 8), "bias": normal(8)}, "layers": {"kernel": normal(2, 16, 8)}}
        grads = {
            "dense": {"kernel": normal(self.steps, 16, 8), "bias": normal(self.steps, 8)},
            "layers": {"kernel": normal(self.steps, 2, 16, 8)},
        }
        return params, grads

    def expected(self, params: Any, grads: Any) -> Leaves:
        each = weights(grads)
        return self.truth(weights(params), [{p: g[t] for p, g in each.items()} for t in range(self.steps)])


def descend(params: Leaves, grads: list[Leaves]) -> Iterator[tuple[int, Leaves]]:
    """Steps of gradient descent; the caller may change the parameters between two of them."""
    for t, grad in enumerate(grads):
        for path, g in grad.items():
            params[path] = params[path] - RATE * g
        yield t, params


def collect() -> list[OptaxRow]:
    rooms = sorted(p.parent.name for p in Path(__file__).parent.glob("*/rows.py"))
    modules = [importlib.import_module(f"tests.{room}.rows") for room in rooms]
    return [row for module in modules for row in getattr(module, "OPTAX_ROWS", [])]


def __getattr__(name: str) -> Any:
    if name == "OPTAX_ROWS":
        return collect()
    raise AttributeError(name)
