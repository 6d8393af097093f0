"""Augmentations of weights as data: small networks (implicit neural representations) made into other samples.

A network here is a list of layers (kernel [in, out], bias [out]), x -> x @ kernel + bias with an activation between. A
function with a key draws; the same key draws the same. What leaves the function unchanged: hidden permutations (`act`
with `random_element`), `siren_negate`, `siren_shift`. The others change it a little.

Reference: Shamsian, Navon, Zhang, Zhang, Fetaya, Chechik, Maron, 2024, "Improved Generalization of Weight Space
Networks via Augmentations". Read in the published code: every default; noise uses each leaf's unbiased deviation;
dropout divides what stays by 1 - p, and takes biases too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from wspace.core.errors import ShapeError
from wspace.core.typing import Array, Tree
from wspace.match.floats import mixed
from wspace.stats.quantile import count, from_bits, magnitude_bits

Layers: TypeAlias = Sequence[tuple[Array, Array]]


def rotate(layers: Layers, key: Array, degrees: float = 30.0) -> list[tuple[Array, Array]]:
    """The input plane turned by an angle in -degrees..degrees: first kernel `[2, out]` times a rotation.

    Raises:
      ShapeError: the inputs are not two.
    Example:
      >>> rotate([(jnp.eye(2), jnp.zeros(2))], jax.random.key(0), 0.0)[0][0]
      Array([[1., 0.],
             [0., 1.]], dtype=float32)
    """
    (kernel, bias), *rest = layers
    if kernel.shape[0] != 2:
        raise ShapeError(f"rotate: the first kernel has shape {kernel.shape}, but only planes [2, out] are turned")
    angle = jnp.deg2rad(_uniform(key, -degrees, degrees))
    turn = jnp.stack([jnp.stack([jnp.cos(angle), -jnp.sin(angle)]), jnp.stack([jnp.sin(angle), jnp.cos(angle)])])
    return [(turn.astype(kernel.dtype) @ kernel, bias), *rest]


def scale(layers: Layers, key: Array, most: float = 0.2) -> list[tuple[Array, Array]]:
    """The input scaled by 1 + u, u in -most..most: the first kernel times that."""
    (kernel, bias), *rest = layers
    return [(kernel * (1 + _uniform(key, -most, most)).astype(kernel.dtype), bias), *rest]


def translate(layers: Layers, key: Array, most: float = 0.25) -> list[tuple[Array, Array]]:
    """The input moved by t in -most..most on each axis: first bias + t @ first kernel. Exact.

    Differs from the paper's code, that also adds such a vector, sent through several kernels, to a later layer's bias,
    which is no translation.
    """
    (kernel, bias), *rest = layers
    t = _uniform(key, -most, most, (1, kernel.shape[0])).astype(kernel.dtype)
    return [(kernel, bias + (t @ kernel)[0]), *rest]


def noise(layers: Layers, key: Array, amount: float = 0.32) -> list[tuple[Array, Array]]:
    """Every leaf plus normal noise of `amount` times the leaf's own (unbiased) standard deviation."""

    def one(k: int, x: Array) -> Array:
        spread = jnp.std(x, ddof=1) if x.size > 1 else jnp.zeros((), x.dtype)
        draw = jax.random.normal(jax.random.fold_in(key, k), x.shape, x.dtype)
        return x + jnp.asarray(amount, x.dtype) * (spread + jnp.asarray(1e-8, x.dtype)) * draw

    return _each(one, layers)


def drop_smallest(layers: Layers, key: Array, most: float = 0.1) -> list[tuple[Array, Array]]:
    """Zero the smallest |weights| of the whole network, biases too: a fraction u of them, u in 0..most.

    Differs from the paper's code: exactly the floor of u * n smallest go (what ties with the next stays); it
    interpolates between two order statistics.
    """
    flat = [x for layer in layers for x in layer]
    drop = jnp.floor(_uniform(key, 0.0, most) * sum(x.size for x in flat)).astype(jnp.uint32)
    codes = [magnitude_bits(x) for x in flat]

    def add_bit(i: Array, found: Array) -> Array:
        candidate = found | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
        below = sum((count(c < candidate) for c in codes), jnp.uint32(0))
        return jnp.where(below <= drop, candidate, found)

    line = from_bits(jax.lax.fori_loop(0, 32, add_bit, jnp.uint32(0)))
    return _each(lambda _, x: jnp.where(jnp.abs(x) < line.astype(x.dtype), jnp.zeros_like(x), x), layers)


def drop(layers: Layers, key: Array, rate: float = 0.1) -> list[tuple[Array, Array]]:
    """Zero each weight and bias with probability `rate`, and divide what stays by 1 - rate."""

    def one(k: int, x: Array) -> Array:
        stays = jax.random.bernoulli(jax.random.fold_in(key, k), 1 - rate, x.shape)
        return jnp.where(stays, x / jnp.asarray(1 - rate, x.dtype), jnp.zeros_like(x))

    return _each(one, layers)


def siren_negate(layers: Layers, key: Array, probability: float = 0.5) -> list[tuple[Array, Array]]:
    """Negate hidden units of a net with odd activation (sin, tanh): what makes them and what reads them. Exact."""
    out = list(layers)
    for k in range(len(out) - 1):
        flip = jax.random.bernoulli(jax.random.fold_in(key, k), probability, out[k][1].shape)
        sign = jnp.where(flip, -1.0, 1.0).astype(out[k][0].dtype)
        out[k] = (out[k][0] * sign[None, :], out[k][1] * sign)
        out[k + 1] = (out[k + 1][0] * sign[:, None], out[k + 1][1])
    return out


def siren_shift(layers: Layers, key: Array, most: int = 4, omega: float = 30.0) -> list[tuple[Array, Array]]:
    """Shift hidden phases of a net with activation sin(omega x) by k pi, k in -most..most - 1; odd k negate. Exact.

    bias_j += k_j pi / omega,   rows j of the next kernel times (-1)^k_j
    """
    out = list(layers)
    for i in range(len(out) - 1):
        kernel, bias = out[i]
        k = jax.random.randint(jax.random.fold_in(key, i), bias.shape, -most, most)
        out[i] = (kernel, bias + k.astype(bias.dtype) * jnp.asarray(jnp.pi / omega, bias.dtype))
        sign = jnp.where(k % 2 == 1, -1.0, 1.0).astype(kernel.dtype)
        out[i + 1] = (out[i + 1][0] * sign[:, None], out[i + 1][1])
    return out


def weight_mixup(a: Tree, b: Tree, lam: Array | float, *, align: Callable[[Tree], Tree] | None = None) -> Tree:
    """`lam * a + (1 - lam) * align(b)`; mix the labels with the same lam. Works on any tree.

    align: None: direct. `lambda b: act(b, axes, random_element(axes, key=key))`: the paper's random permutation.
    `lambda b: act(b, axes, weight(a, b, axes, key=key))`: aligned, the paper's proposal.

    Raises:
      TreeMismatch: a and b have other leaves.
    Example:
      >>> weight_mixup({"w": jnp.ones(1)}, {"w": jnp.zeros(1)}, 0.25)
      {'w': Array([0.25], dtype=float32)}
    """
    return mixed([a, b if align is None else align(b)], [lam, 1 - lam])


def _uniform(key: Array, low: Any, high: Any, shape: tuple[int, ...] = ()) -> Array:
    return jax.random.uniform(key, shape, minval=low, maxval=high)


def _each(one: Callable[[int, Array], Array], layers: Layers) -> list[tuple[Array, Array]]:
    """`one` on every leaf, with its number."""
    return [(one(2 * k, kernel), one(2 * k + 1, bias)) for k, (kernel, bias) in enumerate(layers)]
