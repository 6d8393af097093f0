"""The symmetries of every model of the zoo, found with nothing written by hand: how many, how exact, and found again.

    python benchmarks/symmetries.py                    all models, and MiniLM with its real weights if it is there
    python benchmarks/symmetries.py --models gpt vit   some of them
    python benchmarks/symmetries.py --activations      and whether activation matching finds the planted element too

A row: permutation groups and the leaves on which they act (of all floating leaves); the largest relative change of the
output under 20 random elements, float32; whether `ws.match.weight` recovers a planted random element exactly, from the
model and its moved copy alone; scale and orthogonal groups (these with the norms' gains folded, where they fold).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import wspace as ws
from tests.trace.zoo import ZOO, Made
from wspace.core.containers import as_params
from wspace.core.errors import MissingExtra
from wspace.data import minilm

KEY = jax.random.key(0)


def mini() -> Made | None:
    """MiniLM with its real weights, or None where they are not installed."""
    try:
        params = minilm.load()
    except MissingExtra:
        return None
    return minilm.apply, params, (minilm.Batch(jnp.arange(12).reshape(2, 6) + 2000, jnp.ones((2, 6), bool)),)


def change(apply: Callable[..., Any], params: Any, inputs: Any, axes: Any, elements: int) -> float:
    """The largest relative change of the output under random elements."""
    taken = as_params(params)
    arrays = {path: x for path, x in taken.leaves.items() if hasattr(x, "dtype")}
    run = jax.jit(lambda given: apply(taken.rebuild({**taken.leaves, **given}), *inputs))
    worst = 0.0
    with jax.default_matmul_precision("highest"):
        old = run(arrays)
        for k in range(elements):
            g = ws.match.random_element(axes, key=jax.random.fold_in(KEY, k))
            moved = as_params(ws.match.act(params, axes, g)).leaves
            new = run({path: moved[path] for path in arrays})
            pairs = zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True)
            worst = max(worst, *(float(jnp.linalg.norm(x - y) / jnp.linalg.norm(y)) for x, y in pairs))
    return worst


def recovered(found: Any, planted: Any) -> str:
    """In words: all groups, or how many."""
    hits = sum(bool((np.asarray(found[name]) == np.asarray(p)).all()) for name, p in planted.items())
    return "all" if hits == len(planted) else f"{hits}/{len(planted)}"


def many(x: Any) -> Any:
    """A larger batch like x."""
    rng = np.random.default_rng(0)
    shape = (256, *x.shape[1:])
    draw = rng.integers(0, 11, shape) if jnp.issubdtype(x.dtype, jnp.integer) else rng.standard_normal(shape)
    return jnp.asarray(draw, x.dtype)


def row(name: str, made: Made, elements: int, activations: bool) -> str:
    """One model."""
    apply, params, inputs = made
    start = time.perf_counter()
    axes = ws.trace.axes(apply, params, *inputs)
    traced = time.perf_counter() - start
    g = ws.match.random_element(axes, key=jax.random.key(1))
    copy = ws.match.act(params, axes, ws.match.inverse(axes, g))
    start = time.perf_counter()
    found = recovered(ws.match.weight(params, copy, axes, key=KEY), g)
    matched = time.perf_counter() - start
    fired = ""
    if activations:
        batches = [jax.tree.map(many, inputs[0])] if name != "minilm" else list(inputs)
        fired = f"{recovered(ws.match.activations(apply, params, copy, batches, axes), g):>12}"
    scales = ws.trace.axes(apply, params, *inputs, kind="scale")
    turned = ws.match.fold_gains(apply, params, *inputs).axes
    return (
        f"{name:18}{len(axes.groups):7}{f'{len(axes.covered)}/{len(axes.layout)}':>9}{traced:9.2f}"
        f"{change(apply, params, inputs, axes, elements):10.1e}{found:>9}{matched:9.2f}{fired}"
        f"{len(scales.groups):7}{len(turned.groups):7}"
    )


def main() -> None:
    """Read the flags and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=[*ZOO, "minilm"])
    parser.add_argument("--elements", type=int, default=20)
    parser.add_argument("--activations", action="store_true")
    given = parser.parse_args()
    fired = f"{'activations':>12}" if given.activations else ""
    print(f"jax {jax.__version__} on {jax.devices()[0].platform}")
    head = f"{'model':18}{'groups':>7}{'leaves':>9}{'trace s':>9}{'change':>10}{'planted':>9}{'match s':>9}"
    print(f"{head}{fired}{'scale':>7}{'orth.':>7}")
    for name in given.models:
        made = mini() if name == "minilm" else ZOO[name].make()
        print(row(name, made, given.elements, given.activations) if made else f"{name:18}not installed", flush=True)


if __name__ == "__main__":
    main()
