"""Slow truths of what a matrix sees: explicit rows, float64, loops."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from wspace.core.containers import as_params, show


def gram(rows: Any, weights: Any = None) -> np.ndarray:
    """Mean of x xᵀ over rows [..., in]."""
    x = np.asarray(rows, np.float64).reshape(-1, np.shape(rows)[-1])
    w = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64).reshape(-1)
    return sum(wi * np.outer(xi, xi) for wi, xi in zip(w, x, strict=True)) / w.sum()


def normal(seed: int, *shape: int) -> Any:
    """float32, of numpy: jax's own would be compiled for every shape."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def softmax(x: Any) -> np.ndarray:
    """Over the last axis, in float64."""
    x = np.exp(np.asarray(x, np.float64) - np.max(x, -1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def filled(shapes: Any, seed: int = 0) -> Any:
    """Random values for a tree of shapes (tuples) or arrays."""
    leaves, structure = jax.tree.flatten(shapes, is_leaf=lambda s: isinstance(s, tuple))
    shape = [x if isinstance(x, tuple) else x.shape for x in leaves]
    return jax.tree.unflatten(structure, [normal(seed + 10 * k, *s) for k, s in enumerate(shape)])


def entries(tree: Any) -> dict[str, np.ndarray]:
    """Path -> entry, of a side tree; dense."""
    found = as_params(tree).leaves
    return {
        show(p): np.asarray(x.materialize() if hasattr(x, "materialize") else x)
        for p, x in found.items()
        if x is not None
    }


def close(got: Any, want: dict[str, Any], tolerance: float = 2e-6) -> None:
    """All entries are there, and only those, within the tolerance of the largest entry."""
    found = entries(got)
    assert found.keys() == want.keys()
    for path, truth in want.items():
        assert found[path].shape == np.shape(truth), (path, found[path].shape, np.shape(truth))
        np.testing.assert_allclose(found[path], truth, rtol=0, atol=tolerance * np.abs(truth).max(), err_msg=path)


def patches(image: Any, kernel: tuple[int, int], stride: int = 1, pad: int = 0, dilation: int = 1) -> np.ndarray:
    """[n, rows, columns, taps, taps, channels] of images [n, h, w, channels], by loops."""
    x = np.pad(np.asarray(image, np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    reach = [(k - 1) * dilation + 1 for k in kernel]
    at = [range(0, n - r + 1, stride) for n, r in zip(x.shape[1:3], reach, strict=True)]
    return np.stack(
        [np.stack([x[:, i : i + reach[0] : dilation, j : j + reach[1] : dilation] for j in at[1]], 1) for i in at[0]],
        1,
    )


def tokens(seed: int, n: int, *shape: int) -> Any:
    return np.random.default_rng(seed).integers(0, n, shape, np.int32)
