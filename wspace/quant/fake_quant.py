"""Quantization-aware training: leaves that are trained in full precision and seen through their grid."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from wspace.core.axes import MatrixView
from wspace.core.implicit import Implicit, implicit, static
from wspace.core.transform import Context, Transform, leafwise, narrow, working, working_dtype
from wspace.core.typing import Array, Leaf
from wspace.quant.balanced import alternate_array, balanced_grid
from wspace.quant.formats import Format, choose, named
from wspace.quant.grid import WITHIN, Block, Grid, Group, block_of, blocks, decode, encode, fit, unblocked, widened
from wspace.quant.integer import limits
from wspace.quant.levels import Levels
from wspace.quant.qtensor import QTensor


@partial(jax.jit, static_argnames=("grid", "block"))
def fake_quant_array(w: Array, grid: Grid, block: Block) -> Array:
    """w `[..., in, out]` rounded to its grid, whose scales follow it; the gradient passes straight through."""
    fixed = lax.stop_gradient(w)
    return w + (decode(encode(fixed, grid, scales := fit(fixed, grid, block)), grid, scales) - fixed)


@partial(jax.jit, static_argnames=("low", "high"))
def lsq_array(w: Array, step: Array, low: int, high: int) -> Array:
    """w `[..., in, out]` on the integers low..high times a learned step `[..., in/group, out/width]`.

        v = clip(w / s, low, high),   out = s round(v)
        d out / d w = [w / s is not clipped],   d out / d s = g (round(v) - v [not clipped])

    g = 1 / sqrt(N high), N: how many weights share a step.
    """
    count = w.size / max(step.size, 1)
    slow = 1 / max(count * high, 1) ** 0.5
    s = widened(lax.stop_gradient(step * (1 - slow)) + step * slow, w.ndim)
    v = jnp.clip(blocks(w, *step.shape[-2:]) / s, low, high)
    return unblocked((v + lax.stop_gradient(jnp.round(v) - v)) * s)


@implicit
class FakeQuant(Implicit):
    """A weight in training, seen through its grid. `split` trains w, and step if it is learned (LSQ).

    w: the leaf, in its own layout and dtype. step: `[*stack, in/group, out/width]`, float32, or None: then scales
    follow w. format: the grid's name; block, view: how the leaf lies. Static.
    """

    w: Array
    step: Array | None
    format: str = static()
    block: Block = static()
    view: MatrixView = static()
    trainable = frozenset({"w", "step"})

    def materialize(self) -> Array:
        matrix = self.view.to_matrix(working(self.w))
        if self.step is None:
            made = fake_quant_array(matrix, named(self.format), self.block)
        else:
            made = lsq_array(matrix, self.step.astype(matrix.dtype), *_ends(named(self.format)))
        return narrow(self.view.from_matrix(made), self.w.dtype)

    def harden(self) -> QTensor:
        """The codes that this leaf stands for."""
        codes, scales = _codes(self.view.to_matrix(working(self.w)), self.step, named(self.format), self.block)
        return QTensor(codes, scales, format=self.format, view=self.view, weight_dtype=np.dtype(self.w.dtype))


def fake_quant(bits: int = 4, group: Group = None, symmetric: bool = True, grid: Format = None) -> Transform:
    """Train through rounding: what the model sees is on the grid, what the optimizer moves is not.

        w_seen = w + stop_gradient(Q(w) - w),   scales of Q from w itself at every step

    With grid="statsq2" it is StatsQ of OFQ: s = 2 mean|w|, half steps, no zero.

    Scope: leaf (1 pass). Needs: nothing. Random: no. Output leaf: FakeQuant.

    Args:
      bits, group, symmetric, grid: as of `rtn`. Static.
    Returns:
      Transform, 1 -> 1, for matrices. `materialize` differentiates; `harden` makes QTensors of trained leaves.
    Raises:
      ShapeError: as `rtn`. WspaceError: bits outside 2..8; an unknown grid.
    Example:
      >>> p = fake_quant(bits=2)({"kernel": jnp.array([[1.0], [0.3]])})
      >>> jax.value_and_grad(lambda p: p["kernel"].materialize().sum())(p)[1]["kernel"].w.ravel()
      Array([1., 1.], dtype=float32)

    Reference: Jacob et al., 2017, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
      Inference"; StatsQ: Liu, Liu, Cheng, 2023, "Oscillation-free Quantization for Low-bit Vision Transformers".
    Differs from the paper: ranges of weights follow the weights, without an average over steps.
    """
    chosen = choose(bits, symmetric, grid)

    def apply(leaves: tuple[Leaf, ...], ctx: Context) -> FakeQuant:
        view = ctx.view()
        block = block_of(view.to_matrix(jnp.asarray(leaves[0])), group, ctx.spec.path)
        return FakeQuant(jnp.asarray(leaves[0]), None, format=chosen.name, block=block, view=view)

    return Transform(apply, "fake_quant")


def _ends(grid: Grid) -> tuple[int, int]:
    """The integers that a learned step multiplies: balanced around zero, or as many below it as there are codes."""
    return (round(grid.levels[0]), round(grid.levels[-1])) if isinstance(grid, Levels) else limits(grid.bits)


def lsq(bits: int = 4, group: Group = None, balanced: bool = False) -> Transform:
    """Learn the step size with the weights: LSQ.

        w_seen = s round(clip(w / s, -2^(b-1), 2^(b-1) - 1)),   s starts at 2 mean|w| / sqrt(2^(b-1) - 1)

    Balanced, the largest level is 2^(b-1), and s starts where alternating least squares leaves it: BitsFusion's, for
    which `budget.by_threshold` gives each matrix its bits and `budget.assign` the Transform. Gradients are those of
    `lsq_array`: rounding passes them, clipping stops them, s has one of its own, scaled down.

    Scope: leaf (1 pass). Needs: nothing. Random: no. Output leaf: FakeQuant with a step.

    Args:
      bits: 2..8; balanced 1..7. Static. group: weights that share a step, as of `rtn`. Static.
      balanced: one level more, as of `balanced`. Static.
    Returns:
      Transform, 1 -> 1, for matrices.
    Raises:
      ShapeError: as `rtn`. WspaceError: bits outside 2..8, or 1..7.
    Example:
      >>> p = lsq(bits=2)({"kernel": jnp.array([[1.0], [-2.0]])})["kernel"]
      >>> p.step, p.materialize().ravel()
      (Array([[3.]], dtype=float32), Array([ 0., -3.], dtype=float32))

    Reference: Esser, McKinstry, Bablani, Appuswamy, Modha, 2020, "Learned Step Size Quantization"; balanced: Sui et
      al., 2024, "BitsFusion: 1.99 bits Weight Quantization of Diffusion Model".
    Differs from the paper: a step may be shared by a group or an output instead of a layer; for activations see
      `fake_quantize_activations`.
    """
    chosen = balanced_grid(bits) if balanced else choose(bits, True, None)

    def apply(leaves: tuple[Leaf, ...], ctx: Context) -> FakeQuant:
        view, w = ctx.view(), jnp.asarray(leaves[0])
        matrix = view.to_matrix(working(w))
        block = block_of(matrix, group, ctx.spec.path)
        start = alternate_array(matrix, chosen, block)[1]["scale"] if balanced else lsq_start(matrix, bits, block)
        return FakeQuant(w, start, format=chosen.name, block=block, view=view)

    return Transform(apply, "lsq")


@partial(jax.jit, static_argnames=("bits", "block"))
def lsq_start(w: Array, bits: int, block: Block) -> Array:
    """Steps `[..., in/group, out/width]` to begin with: 2 mean|w| / sqrt(2^(b-1) - 1), 1 where all weights are 0."""
    parts = blocks(jnp.abs(w), w.shape[-2] // block.group, w.shape[-1] // block.width)
    mean = jnp.sum(parts, axis=WITHIN) / (block.group * block.width)
    return jnp.where(mean > 0, 2 * mean / limits(bits)[1] ** 0.5, 1)


@partial(jax.jit, static_argnames=("grid", "block"))
def _codes(w: Array, step: Array | None, grid: Grid, block: Block) -> tuple[Array, dict[str, Array]]:
    scales = fit(w, grid, block) if step is None else {"scale": step.astype(working_dtype(w.dtype))}
    return encode(w, grid, scales), scales


def noise(
    rate: Array | float, bits: int = 4, group: Group = None, symmetric: bool = True, grid: Format = None
) -> Transform:
    """Quantize a random part of the blocks, anew at every call: quantization noise for training.

        m_j ~ Bernoulli(rate) for each block j that shares a scale,   w_seen = w + stop_gradient(m (Q(w) - w))

    Scope: leaf (1 pass). Needs: key. Random: yes, by leaf path. Output leaf: array, input dtype.

    Args:
      rate: fraction of blocks, 0..1. Traced. bits, group, symmetric, grid: as of `rtn`. Static.
    Returns:
      Transform, 1 -> 1, for matrices; call it in the loss, with a key of the step. The gradient passes through.
    Raises:
      ShapeError, WspaceError: as `rtn`. SideTreeError: no key.
    Example:
      >>> w = {"kernel": jnp.array([[1.0, 0.3], [0.3, 1.0]])}
      >>> noise(1.0, bits=2)(w, key=jax.random.key(0))["kernel"]
      Array([[1., 0.],
             [0., 1.]], dtype=float32)

    Reference: Fan, Stock, Graham, Grave, Gribonval, Jegou, Joulin, 2021, "Training with Quantization Noise for Extreme
      Model Compression".
    Differs from the paper: blocks are those that share a scale.
    """
    chosen = choose(bits, symmetric, grid)

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        view = ctx.view()
        w = view.to_matrix(leaves[0])
        return view.from_matrix(noise_array(w, ctx.key, rate, chosen, block_of(w, group, ctx.spec.path)))

    return leafwise("noise", apply, needs=frozenset({"key"}))


@partial(jax.jit, static_argnames=("grid", "block"))
def noise_array(w: Array, key: Array, rate: Array | float, grid: Grid, block: Block) -> Array:
    """w `[..., in, out]` with each block on its grid with probability `rate`; the gradient passes straight through."""
    *stack, inputs, outputs = w.shape
    shape = (*stack, inputs // block.group, outputs // block.width)
    chosen = jax.random.uniform(key, shape, jnp.float32) < jnp.asarray(rate, jnp.float32)
    fixed = lax.stop_gradient(w)
    scales = fit(fixed, grid, block)
    change = blocks(decode(encode(fixed, grid, scales), grid, scales) - fixed, *shape[-2:])
    return w + unblocked(jnp.where(widened(chosen, w.ndim), change, 0))
