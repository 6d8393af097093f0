"""Make tests/reparam/peft_numbers.npz: what peft's own add_weighted_adapter gives on small random adapters, and
tests/io/peft_folders.npz: folders that peft wrote, and what it merges them to.

Run it in an environment that has peft (0.21.2 was used) and torch:

    python benchmarks/peft_numbers.py tests/reparam/peft_numbers.npz tests/io/peft_folders.npz

The first file holds, without pickle, `cases` (JSON: combination, weights, settings, ranks and alphas), and for case i
the factors of adapter k as peft keeps them, `i/k/A` [r, in] and `i/k/B` [out, r], and `i/out`, the update of the merged
adapter [out, in]. Of the random combinations it holds what DRAWS draws of one case have in common: `NAME/mean`, the
mean of the merged factor A, and `NAME/kept`, how often its entries were not zero. The second file holds `cases` (JSON),
and for each `CASE/config` (adapter_config.json), `CASE/factors` (the bytes of adapter_model.safetensors),
`CASE/base/NAME` and `CASE/merged/NAME`, the weights before and after peft merged it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers.pytorch_utils import Conv1D

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


class Mixed(torch.nn.Module):
    """An embedding, linear layers, a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(10, 6)
        self.q_proj = torch.nn.Linear(6, 8)
        self.up = torch.nn.Linear(8, 4)
        self.conv = torch.nn.Conv2d(3, 5, (3, 2))
        self.head = torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Turned(torch.nn.Module):
    """GPT-2's layer, whose weight is [in, out]."""

    def __init__(self) -> None:
        super().__init__()
        self.c_attn = Conv1D(9, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c_attn(x)


FOLDERS: dict[str, tuple[type[torch.nn.Module], dict[str, Any]]] = {
    "plain": (Mixed, {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "up", "embed_tokens"]}),
    "rslora": (Mixed, {"r": 4, "lora_alpha": 6, "use_rslora": True, "target_modules": ["q_proj", "up"]}),
    "patterns": (Mixed, {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "up"],
                         "rank_pattern": {"up": 2}, "alpha_pattern": {"up": 5, "q_.*": 9}}),
    "conv": (Mixed, {"r": 2, "lora_alpha": 4, "target_modules": ["conv"]}),
    "saved": (Mixed, {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "modules_to_save": ["head"]}),
    "turned": (Turned, {"r": 2, "lora_alpha": 4, "target_modules": ["c_attn"], "fan_in_fan_out": True}),
}  # fmt: skip


def folder(case: str) -> dict[str, np.ndarray]:
    """One folder that peft writes, its base, and its merged weights."""
    torch.manual_seed(0)
    kind, config = FOLDERS[case]
    net = kind()
    base = {name: w.detach().numpy().copy() for name, w in net.state_dict().items()}
    model = get_peft_model(net, LoraConfig(**config))
    for name, parameter in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter.data = torch.randn_like(parameter)
    with tempfile.TemporaryDirectory() as path:
        model.save_pretrained(path)
        config_text = Path(path, "adapter_config.json").read_text()
        factors = np.frombuffer(Path(path, "adapter_model.safetensors").read_bytes(), np.uint8)
    merged = {name: w.detach().numpy().copy() for name, w in model.merge_and_unload().state_dict().items()}
    arrays = {f"{case}/config": np.array(config_text), f"{case}/factors": factors}
    arrays |= {f"{case}/base/{name}": w for name, w in base.items()}
    return arrays | {f"{case}/merged/{name}": w for name, w in merged.items()}


def main(path: str, folders: str) -> None:
    """Write the files."""
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
    every = [folder(case) for case in FOLDERS]
    np.savez_compressed(
        folders, cases=np.array(json.dumps(list(FOLDERS))), **{k: v for one in every for k, v in one.items()}
    )
    np.savez_compressed(path, cases=np.array(json.dumps(CASES)), **arrays)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
