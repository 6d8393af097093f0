"""Make tests/reparam/peft_numbers.npz: what peft's own add_weighted_adapter gives on small random adapters.

Run it in an environment that has peft (0.21.2 was used) and torch:

    python benchmarks/peft_numbers.py tests/reparam/peft_numbers.npz

The file holds, without pickle, `cases` (JSON: combination, weights, settings, ranks and alphas), and for case i the
factors of adapter k as peft keeps them, `i/k/A` [r, in] and `i/k/B` [out, r], and `i/out`, the update of the merged
adapter [out, in] (of a conv layer flattened to [out, in h w]). Of the random combinations it holds what DRAWS draws of
one case have in common: `NAME/mean`, the mean of the merged factor A, and `NAME/kept`, how often its entries were not
zero.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

DRAWS = 2000
TWO = {"ranks": [3, 3], "alphas": [6, 3]}
MIXED = {"ranks": [2, 4], "alphas": [4, 4]}
CASES: list[dict[str, Any]] = [
    {"how": "linear", "weights": [1.0, 0.5], "settings": {}, **TWO},
    {"how": "linear", "weights": [1.0, -0.5], "settings": {}, **TWO},
    {"how": "cat", "weights": [0.7, -0.2], "settings": {}, **MIXED},
    {"how": "svd", "weights": [0.7, -0.2], "settings": {}, **MIXED},
    {"how": "svd", "weights": [1.0, 1.0], "settings": {"svd_rank": 2}, **TWO},
    {"how": "ties", "weights": [1.0, 0.5], "settings": {"density": 0.5}, **TWO},
    {"how": "ties", "weights": [1.0, -0.5],
     "settings": {"density": 0.7, "majority_sign_method": "frequency"}, **TWO},
    {"how": "ties_svd", "weights": [1.0, 0.5], "settings": {"density": 0.4}, **MIXED},
    {"how": "ties_svd", "weights": [0.3, 0.5],
     "settings": {"density": 0.8, "majority_sign_method": "frequency", "svd_rank": 3}, **TWO},
    {"how": "magnitude_prune", "weights": [1.0, 0.5], "settings": {"density": 0.35}, **TWO},
    {"how": "magnitude_prune_svd", "weights": [1.0, -0.5], "settings": {"density": 0.35}, **MIXED},
    {"how": "dare_linear", "weights": [1.0, 0.5], "settings": {"density": 1.0}, **TWO},
    {"how": "dare_ties", "weights": [1.0, 0.5], "settings": {"density": 1.0}, **TWO},
    {"how": "dare_linear_svd", "weights": [1.0, 0.5], "settings": {"density": 1.0}, **MIXED},
    {"how": "dare_ties_svd", "weights": [1.0, 0.5], "settings": {"density": 1.0}, **MIXED},
]  # fmt: skip


class Net(torch.nn.Module):
    """One linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.q = torch.nn.Linear(7, 5, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.q(x)


def adapted(case: dict[str, Any], rng: np.random.Generator) -> tuple[Any, list[tuple[np.ndarray, np.ndarray]]]:
    """A model with the case's adapters, named a0, a1, and their factors."""
    model, factors = None, []
    for k, (rank, alpha) in enumerate(zip(case["ranks"], case["alphas"], strict=True)):
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["q"])
        if model is None:
            model = get_peft_model(Net(), config, adapter_name="a0")
        else:
            model.add_adapter(f"a{k}", config)
        a = rng.standard_normal((rank, 7)).astype(np.float32)
        b = rng.standard_normal((5, rank)).astype(np.float32)
        layer = model.base_model.model.q
        layer.lora_A[f"a{k}"].weight.data = torch.tensor(a)
        layer.lora_B[f"a{k}"].weight.data = torch.tensor(b)
        factors.append((a, b))
    return model, factors


def merged(model: Any, case: dict[str, Any], name: str = "merged") -> Any:
    """The layer after peft merged its adapters into one of this name."""
    names = [f"a{k}" for k in range(len(case["ranks"]))]
    model.add_weighted_adapter(names, case["weights"], name, combination_type=case["how"], **case["settings"])
    return model.base_model.model.q


def main(path: str) -> None:
    """Write the file."""
    arrays: dict[str, np.ndarray] = {}
    for i, case in enumerate(CASES):
        model, factors = adapted(case, np.random.default_rng(i))
        for k, (a, b) in enumerate(factors):
            arrays |= {f"{i}/{k}/A": a, f"{i}/{k}/B": b}
        arrays[f"{i}/out"] = merged(model, case).get_delta_weight("merged").detach().numpy()
    for how in ("dare_linear", "dare_ties"):
        case = {"how": how, "weights": [1.0, 0.5], "settings": {"density": 0.6}, **TWO}
        model, factors = adapted(case, np.random.default_rng(99))
        torch.manual_seed(0)
        made = []
        for _ in range(DRAWS):
            made.append(merged(model, case).lora_A["merged"].weight.detach().numpy().copy())
            model.delete_adapter("merged")
        for k, (a, b) in enumerate(factors):
            arrays |= {f"{how}/{k}/A": a, f"{how}/{k}/B": b}
        arrays |= {f"{how}/mean": np.mean(made, axis=0, dtype=np.float64)}
        arrays |= {f"{how}/kept": np.sum(np.array(made) != 0, axis=0)}
    np.savez_compressed(path, cases=np.array(json.dumps(CASES)), **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
