"""Make tests/merge/mergekit_numbers.npz: what mergekit's own functions give on small random tensors.

Run it in an environment that has mergekit (0.1.5 was used) and torch, such as that of benchmarks/peers.sh:

    python benchmarks/mergekit_numbers.py tests/merge/mergekit_numbers.npz

The file holds, without pickle, `cases` (JSON: method, parameters, whether there is a base), and for case i `i/in`
(base and models, stacked) and `i/out` (mergekit's tensor). Of the random sparsifiers it holds what DRAWS draws of one
tensor have in common: `della/in`, `della/kept` (how often each entry stayed), `della/mean`, and the same for `dare`.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from typing import Any

import numpy as np
import torch
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import TensorGroup
from mergekit.sparsify import RescaleNorm, SparsificationMethod, sparsify

DRAWS = 4000
SHAPES = [(6, 8), (5,), (3, 4, 5)]
W3 = [1.0, 0.5, 0.3]

# method, parameters of each model, parameters of the whole, models besides the base, whether there is a base
CASES: list[tuple[str, dict[str, list[float]], dict[str, Any], int, bool]] = [
    ("linear", {"weight": W3}, {}, 3, False),
    ("linear", {"weight": W3}, {"normalize": False}, 3, False),
    ("task_arithmetic", {"weight": W3}, {"lambda": 0.7}, 3, True),
    ("task_arithmetic", {"weight": W3}, {"normalize": True}, 3, True),
    ("ties", {"weight": W3, "density": [0.5, 0.5, 0.5]}, {}, 3, True),
    ("ties", {"weight": W3, "density": [0.3, 0.9, 1.0]}, {"normalize": False, "rescale": True}, 3, True),
    ("breadcrumbs", {"weight": W3, "density": [0.6] * 3, "gamma": [0.25] * 3}, {}, 3, True),
    ("breadcrumbs", {"weight": W3, "density": [0.9, 0.5, 1.0], "gamma": [0.4] * 3}, {"rescale": True}, 3, True),
    ("breadcrumbs_ties", {"weight": W3, "density": [0.6] * 3, "gamma": [0.25] * 3}, {"lambda": 1.5}, 3, True),
    ("breadcrumbs_ties", {"weight": W3, "density": [0.4] * 3, "gamma": [0.3] * 3}, {"normalize": True}, 3, True),
    ("slerp", {}, {"t": 0.3}, 1, True),
    ("nuslerp", {"weight": [1.0, 0.4]}, {}, 2, False),
    ("nuslerp", {"weight": [1.0, 0.4]}, {}, 2, True),
    ("nuslerp", {"weight": [0.3, 0.4]}, {"nuslerp_flatten": False}, 2, False),
    ("nuslerp", {"weight": [0.3, 0.4]}, {"nuslerp_flatten": False, "nuslerp_row_wise": True}, 2, True),
    ("nuslerp", {"weight": [1.0, -1.0]}, {}, 2, True),
    ("multislerp", {"weight": W3}, {}, 3, False),
    ("multislerp", {"weight": W3}, {"normalize_weights": False}, 3, True),
    ("karcher", {}, {}, 3, False),
    ("karcher", {}, {"max_iter": 2}, 3, False),
    ("model_stock", {}, {}, 2, True),
    ("model_stock", {}, {}, 4, True),
    ("model_stock", {}, {"filter_wise": True}, 3, True),
    ("sce", {}, {}, 3, True),
    ("sce", {}, {"select_topk": 0.4}, 3, True),
    ("nearswap", {}, {"t": 0.2}, 1, True),
    ("arcee_fusion", {}, {}, 1, True),
    ("ram", {}, {"epsilon": 0.2}, 3, True),
    ("ram", {}, {}, 3, True),
    ("ramplus_tl", {}, {"epsilon": 0.3, "r": 0.5, "alpha": 1.0}, 3, True),
    ("ramplus_tl", {}, {"epsilon": 0.2}, 2, True),
    ("passthrough", {"scale": [0.4]}, {}, 1, False),
    ("della", {"weight": W3, "density": [1.0] * 3}, {}, 3, True),
    ("della_linear", {"weight": W3, "density": [1.0] * 3}, {}, 3, True),
    ("dare_ties", {"weight": W3, "density": [1.0] * 3}, {}, 3, True),
    ("dare_linear", {"weight": W3, "density": [1.0] * 3}, {"normalize": True}, 3, True),
]
SHORT = [(), (1,)]
# Weights that cancel out do no harm where nobody divides by their sum: methods that elect signs, and sums as they are.
CANCELLING: list[tuple[str, dict[str, list[float]], dict[str, Any], int, bool]] = [
    ("ties", {"weight": [-1.0, 0.75, 0.25], "density": [0.5] * 3}, {}, 3, True),
    ("breadcrumbs_ties", {"weight": [-1.0, 0.75, 0.25], "density": [0.6] * 3}, {"normalize": True}, 3, True),
    ("task_arithmetic", {"weight": [-1.0, 0.75, 0.25]}, {}, 3, True),
]
# Models so near to their base that mergekit's floors, 1e-6 of squared task vectors, decide.
NEAR: list[tuple[str, dict[str, list[float]], dict[str, Any], int, bool]] = [
    ("sce", {}, {}, 3, True),
    ("model_stock", {}, {}, 2, True),
    ("model_stock", {}, {"filter_wise": True}, 3, True),
]
# Changes of whole numbers, which often add up to zero; nothing is trimmed, as of equal magnitudes mergekit takes any.
WHOLE: list[tuple[str, dict[str, list[float]], dict[str, Any], int, bool]] = [
    ("ties", {"weight": [1.0] * 3, "density": [1.0] * 3}, {}, 3, True),
    ("ties", {"weight": [1.0, -1.0], "density": [1.0] * 2}, {"normalize": False}, 2, True),
    ("breadcrumbs_ties", {"weight": [0.5] * 2, "density": [1.0] * 2, "gamma": [0.0] * 2}, {}, 2, True),
    ("dare_ties", {"weight": [1.0] * 4, "density": [1.0] * 4}, {}, 4, True),
    ("della", {"weight": [1.0] * 4, "density": [1.0] * 4}, {}, 4, True),
    ("sce", {}, {}, 4, True),
]


def tensors(seed: int, shape: tuple[int, ...], models: int, apart: float) -> list[np.ndarray]:
    """The base and its models; whole numbers that are near if they are 0 apart."""
    rng = np.random.default_rng(seed)
    if not apart:
        return [rng.integers(-2, 3, shape).astype(np.float32) for _ in range(models + 1)]
    base = rng.standard_normal(shape).astype(np.float32)
    return [base, *(base + np.float32(apart) * rng.standard_normal(shape).astype(np.float32) for _ in range(models))]


def run(
    method: str, each: dict[str, list[float]], whole: dict[str, Any], based: bool, arrays: list[np.ndarray]
) -> np.ndarray:
    """One tensor merged by mergekit's own method."""
    tensors = [torch.tensor(x) for x in (arrays if based else arrays[1:])]
    group = TensorGroup.from_tensors(tensors, base_index=0 if based else None, name="w")
    (merged,) = registry.get(method)([group], parameters={**whole, **each})
    return merged.numpy()


def sampled(method: SparsificationMethod, **settings: Any) -> dict[str, np.ndarray]:
    """How often each entry of one tensor stays, and the mean of what comes out."""
    torch.manual_seed(0)
    x = np.random.default_rng(99).standard_normal((4, 6)).astype(np.float32)
    made = [
        sparsify(torch.tensor(x), method=method, rescale_norm=RescaleNorm.l1, **settings).numpy() for _ in range(DRAWS)
    ]
    return {"in": x, "kept": np.sum(np.array(made) != 0, axis=0), "mean": np.mean(made, axis=0, dtype=np.float64)}


def main(path: str) -> None:
    """Write the file."""
    cases, arrays = [], {}
    asked = [*product(CASES, SHAPES), *product(CASES, SHORT), *product(CANCELLING, SHAPES + SHORT)]
    apart = [0.3] * len(asked) + [1e-4] * len(NEAR) * len(SHAPES) + [0.0] * len(WHOLE) * len(SHAPES)
    asked += [*product(NEAR, SHAPES), *product(WHOLE, SHAPES)]
    for i, ((method, each, whole, models, based), shape) in enumerate(asked):
        given = tensors(i, shape, models, apart[i])
        arrays |= {f"{i}/in": np.stack(given), f"{i}/out": run(method, each, whole, based, given)}
        cases.append({"method": method, "each": each, "whole": whole, "based": based})
    for name, method, settings in (
        ("della", SparsificationMethod.della_magprune, {"density": 0.5, "epsilon": 0.3}),
        ("dare", SparsificationMethod.random, {"density": 0.4}),
    ):
        arrays |= {f"{name}/{key}": value for key, value in sampled(method, **settings).items()}
    np.savez_compressed(path, cases=np.array(json.dumps(cases)), **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
