"""A checkpoint as a tree of jax arrays on a mesh: every process reads what its devices hold, and no more."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from wspace.io.names import nest_names
from wspace.io.nodes import Whole


def placed_tree(source: Whole, sharding: Any) -> Any:
    """All leaves of a checkpoint in their shardings, in the containers they were saved from.

    sharding: see `wspace.core.placement.placed`; rules see the paths that the tree will have.
    """
    found = placed_leaves(source, shardings_of(source, sharding))
    if source.structure is None:
        return found
    for first, *others in source.structure["tied"]:
        found |= {other: found[first] for other in others if _same(found[first], found[other])}
    return nest_names(found, {**source.structure, "tied": []})


def shardings_of(source: Any, sharding: Any) -> dict[str, Any]:
    """Name of a leaf -> its sharding; all are checked before anything is read."""
    from wspace.core.containers import as_params
    from wspace.core.placement import placed

    names: dict[Any, str] = {(name,): name for name in source.specs}
    if source.structure is not None:
        tree = nest_names({name: name for name in source.specs}, {**source.structure, "tied": []})
        names = {path: name for path, name in as_params(tree).leaves.items() if name is not None}
    where = placed(sharding, {path: source.specs[name] for path, name in names.items()})
    return {name: where[path] for path, name in names.items()}


def placed_leaves(source: Any, shardings: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves by name on the mesh, 64-bit ones as they are."""
    with _wide(source.specs.values()):
        found: dict[str, Any] = source.placed(shardings)
    return found


def tree_placed(tree: Any, sharding: Any) -> Any:
    """A tree of host arrays and nodes on a mesh; each process copies its own parts."""
    from wspace.core.containers import as_params
    from wspace.core.placement import placed

    params = as_params(tree)
    where = placed(sharding, params.leaves)
    return params.rebuild({path: put(x, where[path]) for path, x in params.leaves.items()})


def put(leaf: Any, where: Any) -> Any:
    """A leaf that is on the host, or the parts of a node, in a sharding."""
    import jax

    from wspace.core.implicit import Implicit
    from wspace.core.placement import fitted

    def one(x: Any) -> Any:
        to = fitted(where, leaf.ndim, np.shape(x)) if isinstance(leaf, Implicit) else where
        return jax.make_array_from_callback(np.shape(x), to, lambda index: np.asarray(x)[index])

    with _wide(jax.tree.leaves(leaf)):
        return jax.tree.map(one, leaf)


def _wide(leaves: Iterable[Any]) -> contextlib.AbstractContextManager[Any]:
    """64-bit mode while a leaf needs it: jax would narrow it on its way to a device."""
    import jax

    wide = any(np.dtype(leaf.dtype).itemsize >= 8 for leaf in leaves)
    return jax.enable_x64(True) if wide else contextlib.nullcontext()


def _same(a: Any, b: Any) -> bool:
    """Whether two arrays on the mesh have the same bits; nothing is gathered."""
    import jax
    import jax.numpy as jnp

    if not isinstance(a, jax.Array) or not isinstance(b, jax.Array) or (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    with _wide([a]):
        if jnp.issubdtype(a.dtype, jnp.floating):
            word = jnp.dtype(f"uint{8 * a.dtype.itemsize}")
            a, b = (jax.lax.bitcast_convert_type(x, word) for x in (a, b))
        return bool(jnp.all(a == b))
