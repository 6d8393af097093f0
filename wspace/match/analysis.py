"""Why matched models can be averaged: how the singular vectors of two models lie to each other.

With W = sum_i sigma_i u_i v_i' of each layer (SVD),

    ||A - B||^2 = sum sigma_a^2 + sum sigma_b^2 - 2 sum_ij sigma_a,i sigma_b,j (u_a,i . u_b,j)(v_a,i . v_b,j)

Permutations change none of the sigma: all that matching can change is the last term.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from wspace.core.axes import Axes, has_matrix, matrix_view
from wspace.core.containers import as_params, is_weight, show
from wspace.core.errors import ShapeError, TreeMismatch
from wspace.core.typing import Array, Tree
from wspace.stats.svd import svd


class Decomposition(NamedTuple):
    """Of one layer, scalars: distance = a + b - 2 cross."""

    a: Array
    b: Array
    cross: Array

    @property
    def distance(self) -> Array:
        """Squared distance of the two matrices."""
        return self.a + self.b - 2 * self.cross


def l2_decomposition(a: Tree, b: Tree, axes: Axes | None = None) -> dict[str, Decomposition]:
    """The identity above for every matrix of two models, by path; convolutions as matrices [taps * in, out].

    Args:
      a, b: trees with the same leaves, b matched already or not.
      axes: roles of the leaves' axes; None: by name. Stacked layers count as one sum.
    Raises:
      TreeMismatch: other leaves or shapes. ShapeError: no matrix at all.
    Example:
      >>> found = l2_decomposition({"kernel": jnp.eye(2)}, {"kernel": 3 * jnp.eye(2)})
      >>> round(float(found["kernel"].distance), 4)
      8.0
    """
    out = {}
    for path, x, y in _matrices(a, b, axes):
        (u, s, v), (p, t, q) = (svd(m) for m in (x, y))
        cross = s[..., :, None] * t[..., None, :] * _product(u.mT, p) * _product(v, q.mT)
        out[path] = Decomposition(jnp.square(s).sum(), jnp.square(t).sum(), cross.sum())
    return out


def singular_alignment(a: Tree, b: Tree, gamma: Array | float = 0.0, axes: Axes | None = None) -> Array:
    """How far the singular vectors of two models agree, over all matrices.

        R = sum_l sum_ij (u_a,i . u_b,j)(v_a,i . v_b,j) / sum_l n_l,   over i, j with sigma >= gamma * sigma_max

    1 for equal models, about 0 for unrelated ones, never above 1.

    Args:
      a, b, axes: as for `l2_decomposition`. gamma: 0..1; 0: all directions.
    Returns:
      f32 [].
    Example:
      >>> round(float(singular_alignment({"kernel": jnp.eye(2)}, {"kernel": 3 * jnp.eye(2)})), 4)
      1.0

    Reference: Ito, Yamada, Kumagai, 2025, "Analysis of Linear Mode Connectivity via Permutation-Based Weight Matching".
    Differs from the paper: n_l is the smaller number of directions that a and b keep (the paper's form with gamma was
    not checked); directions with sigma = 0 are left out, as the SVD gives them at random.
    """
    total, directions = jnp.zeros(()), jnp.zeros(())
    for _, x, y in _matrices(a, b, axes):
        (u, s, v), (p, t, q) = (svd(m) for m in (x, y))
        ours, theirs = _kept(s, gamma), _kept(t, gamma)
        pairs = ours[..., :, None] * theirs[..., None, :] * _product(u.mT, p) * _product(v, q.mT)
        total += pairs.sum()
        directions += jnp.minimum(ours.sum(-1), theirs.sum(-1)).sum()
    return total / jnp.maximum(directions, 1.0)


def _kept(s: Array, gamma: Array | float) -> Array:
    """1.0 for the singular values that count."""
    most = s.max(-1, keepdims=True)
    rounding = jnp.asarray(1e-6, s.dtype) * most
    return ((s >= jnp.asarray(gamma, s.dtype) * most) & (s > rounding)).astype(s.dtype)


def _product(x: Array, y: Array) -> Array:
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def _matrices(a: Tree, b: Tree, axes: Axes | None) -> Iterator[tuple[str, Array, Array]]:
    """Path and both models' `[*stack, in, out]` of every leaf that is a matrix, in f32."""
    ours, theirs, layout = as_params(a).leaves, as_params(b).leaves, axes or Axes()
    found = False
    for path, x in ours.items():
        if not is_weight(x) or not has_matrix(of := layout.of(path, tuple(x.shape))) or not x.size:
            continue
        if path not in theirs or tuple(theirs[path].shape) != tuple(x.shape):
            raise TreeMismatch(
                f"{show(path)} is {tuple(x.shape)} in a, and b has {getattr(theirs.get(path), 'shape', None)}"
            )
        view = matrix_view(of, tuple(x.shape), show(path))
        found = True
        y, x = (view.to_matrix(jnp.asarray(w).astype(jnp.float32)) for w in (theirs[path], x))
        yield show(path), x, y
    if not found:
        raise ShapeError("no leaf is a matrix; name its axes with axes=Axes({...})")
