"""Partial matching: features are merged where they are alike, within a model too, and the rest stays apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wspace.core.errors import NonFinite, ShapeError, WspaceError
from wspace.core.typing import Array


class Zip(NamedTuple):
    """merge: f32 [models, keep, n], takes a model's features to its share of the merged ones; unmerge: f32 [models, n,
    keep], back. `merge[k] @ unmerge[k]` summed over models is the identity."""

    merge: Array
    unmerge: Array


def zip_features(correlation: Array, keep: int, *, models: int = 2, alpha: float = 0.3, beta: float = 0.125) -> Zip:
    """Merge the most alike pair of features, again and again, until `keep` are left.

    A merged feature is as alike to another as the least alike of its parts, times alpha. Each model may merge within
    itself at most `beta * ((models * n - keep) // models)` times; then its features are closed to one another, and so
    is what is merged of them from there on.

    Args:
      correlation: [models * n, models * n], of all models' features side by side, symmetric; the diagonal is not read.
      keep: features left, `n` for the width that one model had.
      alpha: in 0..1, how readily merged features merge on; 0: only while no better pair is left.
      beta: in 0..1, the part of merges that may be within one model; 0: none, 1: no limit.
    Returns:
      Zip.
    Raises:
      ShapeError: the matrix is not square, or not a multiple of `models`. NonFinite: NaN or infinity.
      WspaceError: `keep` is out of reach with these limits.
    Example:
      >>> near = np.array([[0, 0.1, 0.9, 0.2], [0.1, 0, 0.3, 0.8], [0.9, 0.3, 0, 0.1], [0.2, 0.8, 0.1, 0]])
      >>> zip_features(near, keep=2).merge[1]
      Array([[0.5, 0. ],
             [0. , 0.5]], dtype=float32)

    Reference: Stoica, Bolya, Bjorner, Ramesh, Hearn, Hoffman, 2024, "ZipIt! Merging Models from Different Tasks without
    Training". Differs from the paper: a merged feature counts as within one model only if all its parts are of it
    (the published code looks at the first part's model), and a limit of 0 means none (the published code: one).
    """
    near = np.array(correlation, np.float64)
    size = near.shape[0]
    if near.shape != (size, size) or size % models:
        raise ShapeError(f"zip_features: correlation has shape {near.shape}, wanted a square multiple of {models}")
    if not np.isfinite(near[~np.eye(size, dtype=bool)]).all():
        raise NonFinite(
            "zip_features: a correlation is NaN or infinite; features that never vary have none, set it to 0"
        )
    n = size // models
    owner = np.repeat(np.arange(models), n)  # model of a feature, -1 once it has parts of several
    limit = np.full(models, size if beta >= 1 else int(beta * ((size - keep) // models) + 1e-4))
    belongs = np.arange(size)
    np.fill_diagonal(near, -np.inf)
    for model in range(models):
        _close(near, owner, model, limit)
    for _ in range(size - keep):
        first, second = sorted(np.unravel_index(np.argmax(near), near.shape))
        if near[first, second] == -np.inf:
            raise WspaceError(
                f"zip_features: {len(set(belongs))} features left and no pair may merge; raise beta or keep"
            )
        belongs[belongs == second] = first
        merged = alpha * np.minimum(near[first], near[second])
        near[first], near[:, first] = merged, merged
        near[second], near[:, second], near[first, first] = -np.inf, -np.inf, -np.inf
        within = owner[first] if owner[first] == owner[second] else -1
        owner[first], owner[second] = within, -2
        if within >= 0:
            limit[within] -= 1
            _close(near, owner, within, limit)
    return _matrices(belongs, models)


def zip_kernel(kernels: Sequence[Array], into: Zip | None, out: Zip | None) -> Array:
    """The merged kernel `sum_k unmerge_in[k]' W_k merge_out[k]'`, W_k [in, out].

    Args:
      kernels: one a model. into: of the features the layer reads; None: the models share the input. out: of those it
        makes; None: the models share the output.
    Returns:
      [in or keep, out or keep]. Where `into` and `out` are both None, the mean.
    """
    total = []
    for k, w in enumerate(kernels):
        w = w if into is None else jnp.matmul(into.unmerge[k].T, w, precision=jax.lax.Precision.HIGHEST)
        w = w if out is None else jnp.matmul(w, out.merge[k].T, precision=jax.lax.Precision.HIGHEST)
        total.append(w)
    whole = sum(total[1:], total[0])
    return whole if out is not None else whole / len(kernels)


def _close(near: np.ndarray, owner: np.ndarray, model: int, limit: np.ndarray) -> None:
    """No more merges within a model that has used up its limit."""
    if limit[model] <= 0:
        own = owner == model
        near[np.ix_(own, own)] = -np.inf


def _matrices(belongs: np.ndarray, models: int) -> Zip:
    heads = np.unique(belongs)
    hit = (belongs[:, None] == heads[None, :]).astype(np.float32)
    merge = (hit / hit.sum(0, keepdims=True)).T
    n = len(belongs) // models
    return Zip(
        jnp.asarray(np.stack([merge[:, k * n : (k + 1) * n] for k in range(models)])),
        jnp.asarray(np.stack([hit[k * n : (k + 1) * n] for k in range(models)])),
    )
