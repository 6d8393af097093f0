"""Without these, fused projections, grouped queries, rotary positions and stacked layers would go untested."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tests.trace.layers import attend, dense, drawn, images, layer_norm, normal, rms_norm, rotate, tokens

Made = tuple[Callable[..., Any], Any, tuple[Any, ...]]


class Block(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        return x + nn.Dense(8)(nn.gelu(nn.Dense(10)(nn.LayerNorm()(x))))


class ViT(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Conv(8, (4, 4), (4, 4))(x).reshape(x.shape[0], -1, 8)
        first = self.param("class", nn.initializers.zeros, (1, 1, 8))
        x = jnp.concatenate([jnp.tile(first, (x.shape[0], 1, 1)), x], 1)
        x = x + self.param("positions", nn.initializers.zeros, (1, x.shape[1], 8))
        for _ in range(2):
            x = Block()(x)
        return nn.Dense(3)(nn.LayerNorm()(x)[:, 0])


class Scanned(nn.Module):
    """Blocks by flax's scan with rematerialization: stacked parameters."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        class Step(nn.Module):
            @nn.compact
            def __call__(self, x: Any, _: Any) -> Any:
                return Block()(x), None

        layers = nn.scan(nn.remat(Step), variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = layers()(nn.Dense(8)(x), None)
        return nn.Dense(3)(x)


def vit() -> Made:
    model, x = ViT(), images(8, 8, 2)
    return model.apply, normal(jax.eval_shape(model.init, jax.random.key(0), x)), (x,)


def scanned() -> Made:
    model, x = Scanned(), images(5, 4)
    return model.apply, normal(jax.eval_shape(model.init, jax.random.key(0), x)), (x,)


def linear(n: int, m: int) -> dict[str, tuple[int, ...]]:
    return {"kernel": (n, m), "bias": (m,)}


def gpt() -> Made:
    """Fused query, key, value; learned positions; the embedding is the head."""

    def block(p: Any, x: Any) -> Any:
        q, k, v = jnp.split(dense(p["qkv"], layer_norm(p["norm1"], x)), 3, axis=-1)
        heads = (*x.shape[:2], 2, 4)
        y = attend(*(part.reshape(heads) for part in (q, k, v))).reshape(x.shape)
        x = x + dense(p["proj"], y)
        return x + dense(p["down"], jax.nn.gelu(dense(p["up"], layer_norm(p["norm2"], x))))

    def apply(p: Any, ids: Any) -> Any:
        x = p["tokens"][ids] + p["positions"][: ids.shape[1]]
        for name in ("h0", "h1"):
            x = block(p[name], x)
        return layer_norm(p["norm"], x) @ p["tokens"].T

    norm = {"scale": (8,), "bias": (8,)}
    layer = {"qkv": linear(8, 24), "proj": linear(8, 8), "up": linear(8, 10), "down": linear(10, 8)}
    layer |= {"norm1": norm, "norm2": norm}
    shapes = {"tokens": (11, 8), "positions": (9, 8), "h0": layer, "h1": layer, "norm": norm}
    return apply, drawn(shapes), (tokens(6),)


def llama_block(p: Any, x: Any) -> Any:
    """4 query heads and 2 key-value heads of 4; rotary; gated."""
    y = rms_norm(p["norm1"], x)
    q, k, v = ((y @ p[n]).reshape(*x.shape[:2], -1, 4) for n in ("q", "k", "v"))
    k, v = (jnp.repeat(t, 2, axis=2) for t in (rotate(k), v))
    x = x + attend(rotate(q), k, v).reshape(*x.shape[:2], -1) @ p["o"]
    y = rms_norm(p["norm2"], x)
    return x + (jax.nn.silu(y @ p["gate"]) * (y @ p["up"])) @ p["down"]


LLAMA = {"q": (8, 16), "k": (8, 8), "v": (8, 8), "o": (16, 8), "gate": (8, 10), "up": (8, 10), "down": (10, 8)}
LLAMA |= {"norm1": (8,), "norm2": (8,)}


def llama() -> Made:
    def apply(p: Any, ids: Any) -> Any:
        x = p["embed"][ids]
        for layer in p["layers"]:
            x = llama_block(layer, x)
        return rms_norm(p["norm"], x) @ p["head"]

    shapes = {"embed": (11, 8), "layers": [LLAMA, LLAMA], "norm": (8,), "head": (8, 11)}
    return apply, drawn(shapes), (tokens(6),)


def llama_stacked(run: Callable[[Any, Any], Any]) -> Made:
    """Three layers in stacked parameters: `run` applies them."""

    def apply(p: Any, ids: Any) -> Any:
        return rms_norm(p["norm"], run(p["layers"], p["embed"][ids])) @ p["head"]

    stacked = {name: (3, *shape) for name, shape in LLAMA.items()}
    shapes = {"embed": (11, 8), "layers": stacked, "norm": (8,), "head": (8, 11)}
    return apply, drawn(shapes), (tokens(6),)


def llama_scanned() -> Made:
    def run(layers: Any, x: Any) -> Any:
        x, _ = jax.lax.scan(lambda x, layer: (jax.checkpoint(llama_block)(layer, x), None), x, layers)
        return x

    return llama_stacked(run)


def llama_unrolled() -> Made:
    def run(layers: Any, x: Any) -> Any:
        for k in range(3):
            x = llama_block(jax.tree.map(lambda w: w[k], layers), x)  # noqa: B023
        return x

    return llama_stacked(run)
