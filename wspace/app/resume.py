"""How a run knows that a killed one was the same, so that it goes on from the leaves which that one left whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import jax

import wspace
from wspace.app.sources import Adapter, Folder, Perturbed
from wspace.app.vocabulary import Reindexed
from wspace.core.identity import Unknowable, Written, identity

if TYPE_CHECKING:
    from wspace.app.execute import Opened


def resume_key(job: Opened, bare: bool) -> tuple[str | None, str]:
    """A text that is the same for runs that write the same leaves; if there is none, why.

    It holds the programs of the leaves, what these are read from (of files size and time, of arrays in memory every
    byte), what else is asked of a leaf, and versions. Of a recipe's text it holds a mergekit document, which may move
    layers and rows of sources; what the rest changes beside the leaves is written at the end.
    """
    recipe = job.recipe
    for asks, why in (
        (recipe.evaluate is not None, "it evaluates models, for which it needs all leaves at the end"),
        (recipe.blocks is not None, "it calibrates block by block, each one on what those before it give"),
        ("peft" in recipe.output.formats, "it writes an adapter, for which it needs all leaves at the end"),
    ):
        if asks:
            return None, why
    files = {name: replace(s, place="") for name, s in recipe.sources.items() if isinstance(s, _FILES)}
    arrays = {name: _values(w.source) for name, w in job.sources.items() if isinstance(w.source, dict)}
    sides = {name: s if isinstance(s, str) else _values(s) for name, s in recipe.sides.items()}
    rows = {name: w.source.rows for name, w in job.sources.items() if isinstance(w.source, Reindexed)}  # by tokenizers
    inputs = [checkpoint.identity() for w in job.sources.values() for checkpoint in w.checkpoints]
    asked = (job.work.models, job.work.base, recipe.merges, recipe.mismatch, recipe.allow_nonfinite, bare)
    versions = [wspace.__version__, *(version(name) for name in ("jax", "numpy", "ml_dtypes"))]
    try:
        text = Written().of((identity(job.ready), files, arrays, sides, rows, inputs, asked, versions))
    except Unknowable as problem:
        return None, str(problem)
    return hashlib.sha256(text.encode()).hexdigest(), ""


_FILES = (Folder, Perturbed, Adapter)


def _values(tree: Any) -> Any:
    """Of a tree in memory, or of a mapping, which is read."""
    leaves, structure = jax.tree.flatten(dict(tree) if isinstance(tree, Mapping) else tree)
    return str(structure), leaves
