"""Without these layers each model of the zoo would bring its own; they are written for nothing but that zoo."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def normal(tree: Any) -> Any:
    """Every floating leaf drawn anew, about 1/sqrt(fan-in) wide; variances and norm scales positive, near 1."""
    rng = np.random.default_rng(0)

    def one(path: Any, x: Any) -> Any:
        if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        name = jax.tree_util.keystr(path)
        z = rng.standard_normal(x.shape)
        if any(word in name for word in ("var", "scale", "norm", "Norm")):
            return (1 + 0.5 * np.abs(z)).astype(x.dtype)
        fan = x.shape[-2] if x.ndim > 1 else 4
        return (z / np.sqrt(fan)).astype(x.dtype)

    return jax.tree_util.tree_map_with_path(one, tree)


def drawn(shapes: Any) -> Any:
    """The same of a tree of shapes, float32."""
    return normal(jax.tree.map(lambda s: np.zeros(s, np.float32), shapes, is_leaf=lambda s: isinstance(s, tuple)))


def images(*shape: int) -> jax.Array:
    """A batch of 2 of these."""
    return jnp.asarray(np.random.default_rng(1).standard_normal((2, *shape)), jnp.float32)


def tokens(length: int) -> jax.Array:
    """A batch of 2 rows of tokens below 11."""
    return jnp.asarray(np.random.default_rng(2).integers(0, 11, (2, length)), jnp.int32)


def dense(p: Any, x: Any) -> Any:
    return x @ p["kernel"] + p["bias"]


def layer_norm(p: Any, x: Any) -> Any:
    x = x - x.mean(-1, keepdims=True)
    return x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def rms_norm(scale: Any, x: Any) -> Any:
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5) * scale


def attend(q: Any, k: Any, v: Any) -> Any:
    """Causal attention, arrays [batch, length, heads, head_dim]."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
    causal = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    weights = jax.nn.softmax(jnp.where(causal, scores, -1e9))
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


def rotate(x: Any) -> Any:
    """Rotary positions on [batch, length, heads, head_dim], halves paired."""
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[1])[:, None] / 100.0 ** (jnp.arange(half) / half)[None]
    cos, sin = (f(angles)[None, :, None, :] for f in (jnp.cos, jnp.sin))
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
