"""One scale for all channels after a norm, without an error: RepQ-ViT moves the channels' own into the weights."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from wspace.core.errors import ShapeError
from wspace.core.typing import Array


class Reparameterized(NamedTuple):
    """gain, bias `[channels]` of the norm; kernel `[channels, out]` and kernel_bias `[out]` of the layer after it;
    scale and zero, scalars, of its input from now on."""

    gain: Array
    bias: Array
    kernel: Array
    kernel_bias: Array
    scale: Array
    zero: Array


def reparameterize_norm(
    gain: Array, bias: Array, kernel: Array, kernel_bias: Array, scale: Array, zero: Array
) -> Reparameterized:
    """Turn one scale and zero a channel, between a norm and a linear layer, into one for all; the function stays.

        s' = mean s,   z' = mean z,   r = s / s',   b = (z - z') s'      (so that (x / r + b) / s' + z' = x / s + z)
        gain <- gain / r,   bias <- bias / r + b,   W <- r W,   bias_W <- bias_W - (r b) W

    Args:
      gain, bias: `[channels]` of a LayerNorm, whose output x is quantized. kernel, kernel_bias: of the layer after it.
      scale, zero: `[channels]`: codes of x are `round(x / scale + zero)`, as on asymmetric grids here.
    Returns:
      Reparameterized: the same codes, and the same outputs, with one scale and one zero. zero is not rounded.
    Raises:
      ShapeError: a shape does not fit.
    Example:
      >>> one = jnp.ones(2)
      >>> new = reparameterize_norm(one, one, jnp.ones((2, 1)), jnp.zeros(1), jnp.array([1.0, 4.0]), jnp.zeros(2))
      >>> new.scale, new.gain, new.kernel.ravel()
      (Array(2.5, dtype=float32), Array([2.5  , 0.625], dtype=float32), Array([0.4, 1.6], dtype=float32))

    Reference: Li, Liu, Zhang, Gu, 2024, "RepQuant: Towards Accurate Post-Training Quantization of Large Transformer
      Models via Scale Reparameterization"; its predecessor Li, Xiao, Yang, Gu, 2023, "RepQ-ViT".
    Differs from the paper: the zero has the sign of asymmetric grids here. RepQuant's learned clipping, and its
      reconstruction of weights, are for `reconstruct`.
    """
    channels, outputs = kernel.shape
    if any(x.shape != (channels,) for x in (gain, bias, scale, zero)) or kernel_bias.shape != (outputs,):
        raise ShapeError(
            f"reparameterize_norm: kernel {kernel.shape} needs gain, bias, scale, zero of ({channels},) and a bias of "
            f"({outputs},), but got {gain.shape}, {bias.shape}, {scale.shape}, {zero.shape}, {kernel_bias.shape}"
        )
    return _reparameterized(gain, bias, kernel, kernel_bias, scale, zero.astype(scale.dtype))


@jax.jit
def _reparameterized(
    gain: Array, bias: Array, kernel: Array, kernel_bias: Array, scale: Array, zero: Array
) -> Reparameterized:
    mean, middle = jnp.mean(scale), jnp.mean(zero)
    ratio = scale / mean
    shift = (zero - middle) * mean
    wide = ratio[:, None] * kernel
    moved = kernel_bias - jnp.sum(shift[:, None] * wide, axis=0)
    return Reparameterized(gain / ratio, bias / ratio + shift, wide, moved, mean, middle)
