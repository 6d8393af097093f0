"""PEFT's LoRA folders out: the LoRA nodes of a tree as adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wspace.core.errors import FormatError, printable
from wspace.io.adapter import CONFIG, FACTORS, PREFIX
from wspace.io.dtypes import spec_of, stored
from wspace.io.header import lay_out
from wspace.io.stage import staged_folder


def save_adapter(
    path: str | Path, tree: Any, base: str = "", *, overwrite: bool = False, inputs: Iterable[Any] = ()
) -> None:
    """Write the LoRA nodes of a tree as a PEFT folder; other leaves are the base's, and are not written.

    Scales become lora_alpha / r where that is a whole number, else they are multiplied into lora_B.

    Args:
      path: the folder to be. base: what base_model_name_or_path says.
      tree: nested or flat, names as torch has them: each node at `<module>.weight`.
    Raises:
      FormatError: no LoRA node, or one that PEFT has no form for: a stack of layers, another name, mixed layouts.
    """
    with staged_folder(path, overwrite=overwrite, inputs=inputs) as folder:
        fill_adapter(folder, tree, base)


def fill_adapter(folder: Path, tree: Any, base: str = "") -> None:
    """The two files into a folder that is there."""
    from wspace.core.containers import as_params
    from wspace.reparam.lora import LoRA

    nodes = {".".join(map(str, path)): x for path, x in as_params(tree).leaves.items() if isinstance(x, LoRA)}
    if not nodes:
        raise FormatError(f"{printable(folder.name)}: the tree has no LoRA leaf to write as a PEFT adapter")
    factors: dict[str, np.ndarray[Any, Any]] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, int] = {}
    straight: set[bool] = set()
    for name, node in sorted(nodes.items()):
        module, kind, flipped = _place(name, node)
        straight |= set() if kind else {flipped}
        a, b, ranks[module], alphas[module] = _factors(node, kind)
        suffix = "" if kind else ".weight"
        factors |= {f"{PREFIX}{module}.lora_{kind}A{suffix}": a, f"{PREFIX}{module}.lora_{kind}B{suffix}": b}
    if len(straight) > 1:
        raise FormatError("some adapted weights are [out, in] and some [in, out]: PEFT has one fan_in_fan_out for all")
    _write(folder / FACTORS, factors)
    text = json.dumps(_config(ranks, alphas, straight == {True}, base), indent=2, sort_keys=True)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def _place(name: str, node: Any) -> tuple[str, str, bool]:
    """Module, "embedding_" or nothing, and whether the weight is [in, out]."""
    shown, view = f"leaf '{printable(name)}'", node.view
    module, _, last = name.rpartition(".")
    if last != "weight" or not module:
        raise FormatError(f"{shown}: PEFT names the weight of a torch module, <module>.weight; rename it")
    if view.stacks:
        raise FormatError(f"{shown} is a stack of layers, PEFT has one adapter a layer: unstack it")
    taps = tuple(range(2, len(view.shape)))
    if view.order == (*taps, 1, 0):
        return module, "", False
    if view.order != (0, 1):
        raise FormatError(f"{shown} lies as {view.order}, which PEFT has no form for")
    embeds = re.search(r"embed|wte|wpe", module.rpartition(".")[2].lower()) is not None
    return module, "embedding_" if embeds else "", True


def _factors(node: Any, kind: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], int, int]:
    """lora_A, lora_B, rank and alpha."""
    a, b, scale = np.asarray(node.a), np.asarray(node.b), float(node.scale)
    rank = a.shape[1]
    alpha = round(scale * rank)
    if alpha < 1 or abs(alpha / rank - scale) > 1e-7 * abs(scale):
        alpha, b = rank, b * np.asarray(scale, b.dtype)
    shape = node.view.shape
    taps = len(shape) - 2
    if not taps or kind:
        return a.T, b.T, rank, alpha
    moved = a.reshape(*shape[2:], shape[1], rank).transpose(taps + 1, taps, *range(taps))
    return moved, b.T.reshape(*b.T.shape, *(1,) * taps), rank, alpha


def _config(ranks: Mapping[str, int], alphas: Mapping[str, int], straight: bool, base: str) -> dict[str, Any]:
    """Numbers other than the most common one go by pattern; longer names come first, as the first match wins."""
    r, alpha = (Counter(found.values()).most_common(1)[0][0] for found in (ranks, alphas))
    order = sorted(ranks, key=lambda module: (-len(module), module))
    return {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": base, "inference_mode": True,
        "r": r, "lora_alpha": alpha, "target_modules": sorted(ranks), "fan_in_fan_out": straight,
        "rank_pattern": {re.escape(m): ranks[m] for m in order if ranks[m] != r},
        "alpha_pattern": {re.escape(m): alphas[m] for m in order if alphas[m] != alpha},
        "lora_dropout": 0.0, "bias": "none", "use_rslora": False, "use_dora": False, "init_lora_weights": True,
        "modules_to_save": None,
    }  # fmt: skip


def _write(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    specs = {name: spec_of(name, array) for name, array in arrays.items()}
    layout = lay_out(specs, {"format": "pt"}, {}, path.name)
    with path.open("wb") as file:
        file.write(layout.header)
        for name, entry in layout.entries.items():
            file.seek(entry.start)
            file.write(stored(arrays[name]).data)
