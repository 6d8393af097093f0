"""A folder shaped like a small Llama of Hugging Face: config, tokenizer, weights by their names there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

HIDDEN, FFN, VOCABULARY = 8, 12, 20


def weights(seed: int, layers: int = 4, vocabulary: int = VOCABULARY) -> dict[str, np.ndarray]:
    """Standard normal leaves, norms near 1; a leaf depends on seed, name and shape alone."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (vocabulary, HIDDEN),
    }
    for i in range(layers):
        layer = f"model.layers.{i}"
        shapes |= {f"{layer}.self_attn.{p}_proj.weight": (HIDDEN, HIDDEN) for p in "qkvo"}
        shapes |= {f"{layer}.mlp.{p}_proj.weight": (FFN, HIDDEN) for p in ("gate", "up")}
        shapes |= {f"{layer}.mlp.down_proj.weight": (HIDDEN, FFN), f"{layer}.input_layernorm.weight": (HIDDEN,)}
    made = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng([seed, *name.encode()])
        made[name] = rng.standard_normal(shape).astype(np.float32)
    return made


def tokens(count: int) -> list[str]:
    return ["<unk>", "<s>", "</s>", *(f"tok{i}" for i in range(3, count))]


def tokenizer(vocabulary: list[str], added: list[str] = []) -> dict[str, Any]:  # noqa: B006
    """A tokenizer.json; added tokens come after the vocabulary."""
    entries = [
        {"id": len(vocabulary) + i, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for i, token in enumerate(added)
    ]  # fmt: skip
    model = {"type": "BPE", "vocab": {token: i for i, token in enumerate(vocabulary)}, "merges": []}
    return {"version": "1.0", "added_tokens": entries, "model": model}


def folder(
    path: Path,
    seed: int,
    layers: int = 4,
    vocabulary: list[str] | None = None,
    added: list[str] = [],  # noqa: B006
    rows: int | None = None,
    **config: Any,
) -> dict[str, np.ndarray]:
    """The folder; returns its leaves. `rows` of the embedding, if more or less than tokens."""
    words = tokens(VOCABULARY) if vocabulary is None else vocabulary
    size = len(words) + len(added) if rows is None else rows
    made = weights(seed, layers, size)
    path.mkdir(parents=True)
    save_file(made, path / "model.safetensors")
    facts = {"model_type": "llama", "num_hidden_layers": layers, "vocab_size": size, "hidden_size": HIDDEN}
    (path / "config.json").write_text(json.dumps(facts | config))
    (path / "tokenizer.json").write_text(json.dumps(tokenizer(words, added)))
    settings = {"added_tokens_decoder": {str(len(words) + i): {"content": t} for i, t in enumerate(added)}}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return made
