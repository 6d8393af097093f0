"""A whole checkpoint as a tree in memory, its quantized and reparameterized leaves as the nodes they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wspace.io.checkpoint import open_checkpoint
from wspace.io.nodes import NODES, Whole
from wspace.io.placed import placed_tree, tree_placed
from wspace.io.quantized import quantized_by, read_quantized


def load(path: str | Path, sharding: Any = None) -> Any:
    """The tree at a path: containers, dtypes and ties as they were saved, Implicit leaves as Implicit nodes.

    Folders that other tools quantized (compressed-tensors, GPTQ, AWQ, bitsandbytes): see `read_quantized`.
    Arrays are NumPy views of the files, read when they are used. `ws.materialize(load(path))` has plain arrays only.

    Args:
      sharding: where the leaves go, and jax arrays come back: a `jax.sharding.Sharding` for all; a rule
        `(path, shape) -> Sharding`, such as `ws.placement(mesh, {"norm": P()})`; or a tree with one for each leaf.
        Every process reads only the bytes that its devices hold (codes narrower than a byte: the rows).
    Raises:
      FormatError: no checkpoint, a damaged one, or a kind of leaf that this version does not know.
      ShapeError: a sharding does not fit its leaf: the leaf, its shape, the mesh.
    Example:
      >>> import tempfile, jax.numpy as jnp, wspace as ws
      >>> folder = tempfile.mkdtemp() + "/out"
      >>> save(folder, {"kernel": ws.quant.rtn(bits=4)({"kernel": jnp.ones((4, 2))})["kernel"]})
      >>> type(load(folder)["kernel"]).__name__
      'QTensor'
    """
    checkpoint = open_checkpoint(path)
    if quantized_by(checkpoint):
        codes = read_quantized(path)
        return codes if sharding is None else tree_placed(codes, sharding)
    whole = Whole(checkpoint)
    return whole.tree() if sharding is None else placed_tree(whole, sharding)


def save(path: str | Path, tree: Any, **options: Any) -> None:
    """Write a tree as a safetensors folder; Implicit leaves as their parts. Options as for `write_tree`.

    Leaves on a mesh are written shard by shard, nothing is gathered. If some lie on the devices of other processes, all
    processes call this with the same path on one file system, and the folder appears when the last one is done.
    """
    from wspace.core.containers import as_params
    from wspace.core.implicit import Implicit
    from wspace.core.stored import facts_of, parts_of
    from wspace.io.writer import write_tree

    params = as_params(tree)
    nodes = {_dotted(p): facts_of(x) for p, x in params.leaves.items() if isinstance(x, Implicit)}
    notes = {**options.pop("metadata", {}), **({NODES: json.dumps(nodes, sort_keys=True)} if nodes else {})}
    write_tree(path, params.rebuild({p: parts_of(x) for p, x in params.leaves.items()}), metadata=notes, **options)


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))
