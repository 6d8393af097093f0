"""Orthogonal elements: drawing them, checking them, and turning leaves by them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wspace.core.errors import ShapeError, printable
from wspace.core.transform import working_dtype
from wspace.core.typing import Array, Path
from wspace.match.blocks import blocks_of, mix
from wspace.stats.sharding import alike, gathered
from wspace.trace.groups import Group, Symmetries

TOLERANCE = 1e-3  # of a vector's length: how far Q Qᵀ may move it


def haar_matrix(key: Array, group: Group) -> Array:
    """f32 `[*over, size, size]`, uniform over the orthogonal group."""
    return _haar(key, group.size, group.over_sizes)


_haar = jax.jit(jax.random.orthogonal, static_argnums=(1, 2))  # one program, not one for each of its steps


def hadamard_matrix(key: Array, group: Group) -> Array:
    """f32 `[*over, size, size]`: H diag(s) / sqrt(size) with random signs s, H the Hadamard matrix of Sylvester.

    Where the size is 2^k m with m odd: the Kronecker product with a uniformly random matrix of m.
    """
    return _hadamard(key, group.size, group.over_sizes)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _hadamard(key: Array, size: int, over: tuple[int, ...]) -> Array:
    signs, rest = jax.random.split(key)
    odd = size // (size & -size)
    h = np.ones((1, 1), np.float32)
    while len(h) * odd < size:
        h = np.block([[h, h], [h, -h]])
    q = jnp.asarray(h / np.sqrt(len(h)))
    if odd > 1:
        q = jnp.kron(q, jax.random.orthogonal(rest, odd))
    return q * jax.random.rademacher(signs, (*over, 1, size), jnp.float32)


def check_orthogonal(name: str, q: Any) -> None:
    """Raise ShapeError unless Qᵀ Q and Q Qᵀ leave a few fixed vectors where they are."""
    q = np.asarray(q, np.float32)
    probe = np.random.default_rng(0).standard_normal((q.shape[-1], 4)).astype(np.float32)
    size = np.linalg.norm(probe)
    for a in (q, np.swapaxes(q, -1, -2)):
        apart = np.swapaxes(a, -1, -2) @ (a @ probe) - probe
        if not (np.linalg.norm(apart, axis=(-2, -1)) <= TOLERANCE * size).all():
            raise ShapeError(f"element of {printable(name)!r} is not orthogonal: Q Qᵀ is not the identity")


def turned(x: Any, path: Path, groups: Symmetries, g: Mapping[str, Any]) -> Array:
    """A leaf with every axis of a group multiplied by its Q: new[i] = sum_j Q[i, j] old[j].

    What lies on the host is cut and put together there: nothing to compile but the products.
    """
    host = isinstance(x, np.ndarray) and not any(isinstance(q, jax.core.Tracer) for q in g.values())
    x, cut = x if host else jnp.asarray(x), blocks_of(groups, path)
    acted = {m.axis for group in groups.groups.values() for m in group.members if m.path == path}
    plain = len(cut) == 1 and cut[0].shape == x.shape  # no axis is cut or split: the others may stay in parts
    here = x if host else functools.reduce(gathered, acted if plain else range(x.ndim), x)
    here = here.astype(working_dtype(x.dtype))
    own = {name: jnp.asarray(q.astype(here.dtype)) for name, q in g.items()}
    out = here
    for block in cut:
        made = mix(block.take(here), block.names, groups, own)
        out = made.reshape(x.shape) if len(cut) == 1 else block.put(out, made)
    return jnp.asarray(out.astype(x.dtype)) if host else alike(out.astype(x.dtype), x)
