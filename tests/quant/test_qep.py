"""Deleted, a layer could be fitted to the wrong inputs, and what its predecessors lost would be lost twice."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from tests.rows import Row
from tests.stats.grams import activations
from wspace.core.errors import SideTreeError

RNG = np.random.default_rng(0)


def qep(leaves: list[np.ndarray], sides: Any, key: Any, strength: float = 0.5, damp: float = 0.01) -> np.ndarray:
    """The published correction of W [out, in]: W + a W (X - X̂) X̂ᵀ (X̂ X̂ᵀ + d)^-1, X [in, tokens]."""
    (w,), gram, cross = leaves, sides["gram"], sides["cross"]
    if w.ndim == 3:
        layers = zip(w, gram, cross, strict=True)
        return np.stack([qep([x], {"gram": g, "cross": c}, key, strength, damp) for x, g, c in layers])
    delta = cross.T - gram  # (X - X̂) X̂ᵀ
    inverse = np.linalg.inv(gram + damp * np.mean(np.diag(gram)) * np.eye(len(gram)))
    return (w.T + strength * w.T @ delta @ inverse).T


def pairs(trees: Any, rng: np.random.Generator) -> dict[str, Any]:
    """gram of inputs that were changed, and cross with what they were."""

    def one(inputs: int) -> tuple[np.ndarray, np.ndarray]:
        x = activations(rng, 48, inputs)
        changed = x + 0.3 * rng.standard_normal(x.shape)
        return changed.T @ changed / 48, changed.T @ x / 48

    dense, layers = trees[0]["dense"]["kernel"], trees[0]["layers"]["kernel"]
    alone, stack = one(dense.shape[0]), [one(layers.shape[1]) for _ in range(layers.shape[0])]
    return {
        name: {
            "dense": {"kernel": jnp.asarray(alone[k], jnp.float32)},
            "layers": {"kernel": jnp.asarray(np.stack([layer[k] for layer in stack]), jnp.float32)},
        }
        for k, name in enumerate(("gram", "cross"))
    }


ROWS = [
    Row(
        "quant.qep",
        ws.quant.qep,
        qep,
        settings={"strength": 0.7, "damp": 0.02},
        numeric={"strength": 0.2, "damp": 0.3},
        sides=pairs,
        matrices=True,
        gathers=True,
        tolerance=1e-5,
    )
]


def test_at_full_strength_it_is_the_least_squares_fit_to_the_original_output() -> None:
    x = RNG.standard_normal((300, 8))
    changed, w = x + 0.5 * RNG.standard_normal(x.shape), RNG.standard_normal((8, 3))
    sides = {"gram": {"kernel": changed.T @ changed / 300}, "cross": {"kernel": changed.T @ x / 300}}
    got = ws.quant.qep(1.0, damp=0.0)({"kernel": w.astype(np.float32)}, **sides)["kernel"]
    want = np.linalg.lstsq(changed, x @ w, rcond=None)[0]
    np.testing.assert_allclose(got, want, atol=1e-5)
    kept = ws.quant.qep(0.0)({"kernel": w.astype(np.float32)}, **sides)["kernel"]
    np.testing.assert_array_equal(kept, w.astype(np.float32))


def test_later_layers_make_up_for_what_earlier_ones_lost() -> None:
    """Four layers at 3 bits, block by block: the error of the output with the correction and without, on other data."""

    def layer(p: Any, x: Any) -> Any:
        return jax.nn.relu(x @ p["kernel"])

    blocks = [(layer, {"kernel": jnp.asarray(RNG.standard_normal((32, 32)) / 4, jnp.float32)}) for _ in range(4)]
    seen, other = np.split(activations(RNG, 1200, 32).astype(np.float32), 2)

    def error(t: ws.Transform, **how: Any) -> float:
        made = ws.calibrate.blockwise(
            blocks, [jnp.asarray(seen)], lambda p, found: t(p, axes=found.axes, **found), sorted(t.needs), **how
        )
        x = y = jnp.asarray(other)
        for (apply, p), q in zip(blocks, made, strict=True):
            x, y = apply(p, x), apply(ws.materialize(q), y)
        return float(jnp.sum(jnp.square(x - y)) / jnp.sum(jnp.square(x)))

    gptq = ws.quant.gptq(3, symmetric=False)
    plain, corrected = error(gptq), error(ws.chain(ws.quant.qep(1.0), gptq), beside=True)
    assert corrected < 0.95 * plain, (plain, corrected)


def test_what_is_missing_is_named() -> None:
    params = {"layer": {"kernel": jnp.ones((4, 2))}}
    sides = {"gram": {"layer": {"kernel": jnp.eye(4)}}, "cross": {"layer": {"kernel": jnp.eye(2)}}}
    with pytest.raises(SideTreeError, match=r"'cross' has \(2, 2\) for layer/kernel"):
        ws.quant.qep()(params, **sides)
    with pytest.raises(SideTreeError, match=r"cross compares two models; pass other=\.\.\. or beside"):
        ws.calibrate(lambda p, x: x @ p["kernel"], params["layer"], [jnp.ones((1, 4))], ["gram", "cross"])
