"""Make tests/app/mergekit_folders.npz: what mergekit writes for recipes of slices and of several tokenizers.

Run it in an environment that has mergekit (0.1.5 was used), torch and transformers:

    python benchmarks/mergekit_folders.py tests/app/mergekit_folders.npz

The file holds, without pickle, `models` and `cases` (JSON: names). For model M `M/FILE` (the texts of its JSON files)
and `M/leaf/NAME`; for case C `C/recipe` (YAML on folders with the models' names), `C/config` and `C/ids` (JSON: token
-> row) and `C/leaf/NAME`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from safetensors.numpy import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = ["<unk>", "<s>", "</s>", *(f"tok{i}" for i in range(3, 14))]
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
MODELS: dict[str, dict[str, Any]] = {
    "base": {"words": WORDS},
    "chat": {"words": WORDS, "added": ["<|im_start|>", "<|im_end|>"]},
    "other": {"words": [*WORDS[:-2], "other", "words", "more"]},
    "padded": {"words": WORDS, "added": ["<pad1>", "<pad2>"], "rows": len(WORDS)},
}
CASES = {
    "slices_linear": """
merge_method: linear
base_model: ./base
slices:
  - sources:
      - {model: ./base, layer_range: [0, 2], parameters: {weight: [1, 0.2]}}
      - {model: ./other, layer_range: [1, 3]}
    parameters: {weight: [{filter: mlp, value: 3}, {value: 0.7}]}
  - sources:
      - {model: ./base, layer_range: [2, 3], parameters: {weight: 2}}
parameters: {weight: 1}
tokenizer_source: base
""",
    "slices_tasks": """
merge_method: task_arithmetic
base_model: ./base
slices:
  - sources:
      - {model: ./base, layer_range: [1, 3]}
      - {model: ./chat, layer_range: [0, 2], parameters: {weight: [0.2, 0.9]}}
  - sources:
      - {model: ./base, layer_range: [0, 2]}
      - {model: ./chat, layer_range: [1, 3], parameters: {weight: 0.5}}
tokenizer_source: base
""",
    "union": """
merge_method: linear
base_model: ./base
models:
  - {model: ./base, parameters: {weight: 1}}
  - {model: ./chat, parameters: {weight: 0.5}}
  - {model: ./other, parameters: {weight: 2}}
  - {model: ./padded, parameters: {weight: 1}}
tokenizer_source: union
""",
    "union_without_base": """
merge_method: linear
models:
  - {model: ./other, parameters: {weight: 2}}
  - {model: ./chat, parameters: {weight: 0.5}}
  - {model: ./base, parameters: {weight: 1}}
tokenizer_source: union
""",
    "of_a_model": """
merge_method: task_arithmetic
base_model: ./base
models:
  - {model: ./chat, parameters: {weight: 0.5}}
  - {model: ./other, parameters: {weight: 2}}
tokenizer_source: ./chat
""",
    "of_the_base": """
merge_method: ties
base_model: ./base
models:
  - {model: ./chat, parameters: {weight: 0.5, density: 0.6}}
  - {model: ./other, parameters: {weight: 2, density: 0.4}}
tokenizer_source: base
""",
    "rules": """
merge_method: linear
base_model: ./base
models:
  - {model: ./base, parameters: {weight: 1}}
  - {model: ./chat, parameters: {weight: 0.5}}
  - {model: ./other, parameters: {weight: 2}}
tokenizer:
  source: union
  tokens:
    <|im_start|>: {source: ./chat, force: true}
    <|im_end|>: {source: {kind: model_token, model: ./base, token: </s>}, force: true}
    tok5: {source: {kind: model_token, model: ./other, token_id: 7}}
    brandnew: {source: {kind: zero}}
  pad_to_multiple_of: 8
""",
}


def make(path: str, seed: int, words: list[str], added: list[str] | None = None, rows: int | None = None) -> None:
    """A Llama of three layers with random weights and a tokenizer of these words."""
    torch.manual_seed(seed)
    model = {"type": "BPE", "vocab": {word: i for i, word in enumerate(words)}, "merges": []}
    made = tokenizers.Tokenizer.from_str(json.dumps({"version": "1.0", "model": model, "added_tokens": []}))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    tokenizer.add_tokens(added or [])
    config = LlamaConfig(
        vocab_size=rows or len(tokenizer.get_vocab()), hidden_size=8, intermediate_size=12, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    net = LlamaForCausalLM(config).float()
    for parameter in net.parameters():
        parameter.data = torch.randn_like(parameter)
    net.save_pretrained(path)
    tokenizer.save_pretrained(path)


def leaves(name: str, folder: str) -> dict[str, np.ndarray]:
    """The weights of a folder under a name."""
    return {f"{name}/leaf/{key}": leaf for key, leaf in load_file(f"{folder}/model.safetensors").items()}


def main(path: str) -> None:
    """Write the file."""
    target = Path(path).resolve()
    arrays: dict[str, Any] = {"models": np.array(json.dumps(list(MODELS))), "cases": np.array(json.dumps(list(CASES)))}
    with tempfile.TemporaryDirectory() as here:
        os.chdir(here)
        for seed, (name, settings) in enumerate(MODELS.items()):
            make(name, seed, **settings)
            arrays |= {f"{name}/{file}": np.array(Path(name, file).read_text()) for file in FILES} | leaves(name, name)
        for case, recipe in CASES.items():
            Path("recipe.yml").write_text(recipe)
            subprocess.run(["mergekit-yaml", "recipe.yml", f"out-{case}"], check=True)
            ids = AutoTokenizer.from_pretrained(f"out-{case}").get_vocab()
            arrays |= leaves(case, f"out-{case}") | {f"{case}/recipe": np.array(recipe)}
            arrays |= {f"{case}/config": np.array(Path(f"out-{case}", "config.json").read_text())}
            arrays |= {f"{case}/ids": np.array(json.dumps(ids))}
    np.savez_compressed(target, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
