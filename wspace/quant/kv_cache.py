"""Key-value caches in few bits: WKVQuant's two-dimensional quantization and attention over a quantized past."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from wspace.core.errors import ShapeError
from wspace.core.implicit import Implicit, implicit, static
from wspace.core.typing import Array
from wspace.quant.activations import activation_block
from wspace.quant.formats import choose, named
from wspace.quant.grid import Block, decode, encode, fit


@implicit
class KVTensor(Implicit):
    """Keys or values of a cache, `[tokens, channels]`: codes, scales of each token's groups of channels, and the shift
    and factor of each channel that were taken out before. Materializes to float32."""

    codes: Array
    scales: dict[str, Array]
    shift: Array
    factor: Array
    format: str = static()

    def materialize(self) -> Array:
        return decode(self.codes, named(self.format), self.scales) * self.factor[None] + self.shift[None]


@partial(jax.jit, static_argnames=("format", "block"))
def _quantize(x: Array, shift: Array, factor: Array, format: str, block: Block) -> tuple[Array, dict[str, Array]]:
    even = (x - shift[None]) / factor[None]
    scales = fit(even, named(format), block)
    return encode(even, named(format), scales), scales


def quantize_kv(
    x: Array, bits: int = 4, group: int = 128, shift: Array | None = None, factor: Array | None = None
) -> KVTensor:
    """Two-dimensional quantization: a fixed shift and factor for each channel, then a range for each token's groups.

        x' = (x - shift) / factor,   codes on an asymmetric grid of every token's `group` channels

    Args:
      x: floating `[tokens, channels]`, no tokens too. bits: 2..8. Static. group: must divide the channels. Static.
      shift, factor: `[channels]`, static or learned; `fold_channel_affine` puts them into the projection. Default 0, 1.
    Returns:
      KVTensor; `materialize()` gives x back up to half a step.
    Raises:
      ShapeError: group does not divide the channels, or x is no matrix.
    Example:
      >>> kv = quantize_kv(jnp.array([[0.0, 1.5, -1.5, 0.75]]), bits=2, group=4)
      >>> kv.materialize()
      Array([[ 0.,  1., -2.,  1.]], dtype=float32)

    Reference: Yue et al., 2024, "WKVQuant: Quantizing Weight and Key/Value Cache for Large Language Models Gains More".
    Differs from the paper: formulas are from memory, as no code is public; its zero point may be rounded otherwise.
    """
    chosen, block = choose(bits, False, None), activation_block(x, group)
    wide = x.astype(jnp.float32)
    by = jnp.zeros(x.shape[1]) if shift is None else jnp.asarray(shift, jnp.float32)
    times = jnp.ones(x.shape[1]) if factor is None else jnp.asarray(factor, jnp.float32)
    codes, scales = _quantize(wide, by, times, chosen.name, block)
    return KVTensor(codes, scales, by, times, format=chosen.name)


@jax.jit
def past_only_attention(query: Array, key: Array, value: Array, past_keys: Array, past_values: Array) -> Array:
    """Attention of one new token over a quantized past and its own, exact, key and value.

    Args:
      query, key, value: `[heads, dim]` of the token. past_keys, past_values: `[tokens, heads, dim]`, materialized.
    Returns:
      `[heads, dim]`. With no past tokens it is the value itself.
    Example:
      >>> one = jnp.ones((1, 2))
      >>> past_only_attention(one, one, 3 * one, jnp.zeros((0, 1, 2)), jnp.zeros((0, 1, 2)))
      Array([[3., 3.]], dtype=float32)

    Reference: as `quantize_kv`.
    """
    keys = jnp.concatenate([past_keys, key[None]])
    values = jnp.concatenate([past_values, value[None]])
    logits = jnp.einsum("hd,thd->ht", query, keys) / jnp.sqrt(jnp.float32(query.shape[-1])).astype(query.dtype)
    return jnp.einsum("ht,thd->hd", jax.nn.softmax(logits, axis=-1), values)


def fold_channel_affine(kernel: Array, bias: Array, shift: Array, factor: Array) -> tuple[Array, Array]:
    """The projection that gives `(x - shift) / factor` where it gave x: nothing is left to do when a token is written.

    Args:
      kernel: `[in, out]`. bias, shift, factor: `[out]`.
    Returns:
      kernel and bias.
    Raises:
      ShapeError: a shape does not fit.
    Example:
      >>> fold_channel_affine(jnp.ones((1, 2)), jnp.zeros(2), jnp.array([1.0, 0.0]), jnp.array([1.0, 2.0]))
      (Array([[1. , 0.5]], dtype=float32), Array([-1.,  0.], dtype=float32))

    Reference: as `quantize_kv`.
    """
    if not bias.shape == shift.shape == factor.shape == kernel.shape[-1:]:
        raise ShapeError(
            f"fold_channel_affine: kernel {kernel.shape}, bias {bias.shape}, shift {shift.shape}, "
            f"factor {factor.shape}; the last three are one number an output"
        )
    return kernel / factor[None], (bias - shift) / factor


def cross_block_loss(blocks: Sequence[Callable[[Any], Array]], quantized: Array, dense: Array) -> Array:
    """How far apart two outputs of a block are, there and after each of the blocks that follow: mean |difference|.

    Args:
      blocks: the next blocks of the dense model, the paper takes about 5. quantized, dense: outputs of one block.
    Returns:
      float32 scalar: the mean of the 1 + len(blocks) mean absolute differences.
    Example:
      >>> cross_block_loss([lambda x: 3 * x], jnp.ones(4), jnp.zeros(4))
      Array(2., dtype=float32)

    Reference: as `quantize_kv` (cross-block reconstruction regularization).
    """
    total = jnp.mean(jnp.abs(quantized - dense))
    for block in blocks:
        quantized, dense = block(quantized), block(dense)
        total = total + jnp.mean(jnp.abs(quantized - dense))
    return (total / (1 + len(blocks))).astype(jnp.float32)
