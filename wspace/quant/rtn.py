"""Round to nearest: every weight to the nearest point of its group's grid, with no data."""

from __future__ import annotations

from functools import partial

import jax

from wspace.core.transform import Context, Transform, leafwise
from wspace.core.typing import Array
from wspace.quant.clip import Percentile, Scale, Search, choice, fitted, needs_gram, weighing
from wspace.quant.formats import Format, choose
from wspace.quant.grid import Block, Grid, Group, Scales, block_of, encode
from wspace.quant.qtensor import QTensor, qtensor
from wspace.stats.side_gram import gram_of, second_moments


@partial(jax.jit, static_argnames=("grid", "block", "how"))
def rtn_array(
    w: Array, grid: Grid, block: Block, how: Search | Percentile | None = None, weights: Array | None = None
) -> tuple[Array, Scales]:
    """Codes `[..., in, out]` and scales `[..., in/group, out/width]` of w `[..., in, out]`.

    how: how far the ranges are drawn in (`wspace.quant.clip`); weights: what its search weighs errors by.
    """
    scales = fitted(w, grid, block, how, weights)
    return encode(w, grid, scales), scales


def rtn(
    bits: int = 4, group: Group = None, symmetric: bool = True, grid: Format = None, scale: Scale = "absmax"
) -> Transform:
    """Round to nearest on a grid, one scale for each group of inputs of each output.

        q = clip(round(w / s), -2^(b-1), 2^(b-1) - 1),   s = max|w| / (2^(b-1) - 1)                    symmetric
        q = clip(round(w / s + z), ...),   s = (max(w, 0) - min(w, 0)) / (2^b - 1),  z: min(w, 0) -> -2^(b-1)   else

    Other grids: q = the nearest level of w / s, with s = max|w| / largest level (see `wspace.quant.formats.named`).

    Scope: leaf (1 pass). Needs: nothing; gram for some scales. Random: no. Output leaf: QTensor.

    Args:
      bits: width of a code, 2..8. Static.
      group: consecutive inputs that share a scale; must divide the inputs. None: all of them. "tensor": one scale for
        the matrix. (group, width): a block of inputs and outputs, None for all of them. Static.
      symmetric: whether codes are centred on 0; if not, zeros are stored as well. Static.
      grid: instead of bits and symmetric: a name ("nf4", "fp8_e4m3", "mxfp4", "ternary", ...) or a Grid. Static.
      scale: how far each group's range is drawn in. "absmax": not at all. "mse", "l2.4": to the least sum of |error|^2
        or ^2.4. "weighted": of error^2 times the input's mean square; "output": of the group's share of the output's
        squared error (AWQ's clip); both from gram. "percentile": to what 99.9% of the magnitudes lie in. Or a `Search`
        or `Percentile` of `wspace.quant.clip`. Static.
    Returns:
      Transform, 1 -> 1, for matrices. codes `[*stack, in, out]`, int8 on integers; scale float32
        `[*stack, in/group, out]` in weight units a step. An all-zero group has scale 1. A group with a NaN or an
        infinity becomes NaN.
    Raises:
      ShapeError: group does not divide the inputs (names the path and both numbers); a leaf that is no matrix; on a
        mesh with Explicit axes, a group that spans devices (with Auto axes it is gathered).
      WspaceError: bits outside 2..8; an unknown grid or choice of scale. SideTreeError: no gram for a search by it.
    Error: on integers |w - materialized| <= s/2 element-wise, if no range is drawn in. Rounding twice then gives the
      same codes (not where an asymmetric grid's zero lies halfway between two codes: the extremes move inwards; nor on
      grids scaled by the mean).
    Example:
      >>> import jax.numpy as jnp
      >>> q = rtn(bits=4, group=2)({"kernel": jnp.array([[0.7], [-0.1], [0.0], [0.0]])})["kernel"]
      >>> q.codes.ravel(), q.scale.ravel()
      (Array([ 7, -1,  0,  0], dtype=int8), Array([0.1, 1. ], dtype=float32))

    Reference: Jacob, Kligys, Chen, Zhu, Tang, Howard, Adam, Kalenichenko, 2017, "Quantization and Training of Neural
      Networks for Efficient Integer-Arithmetic-Only Inference". The search is that of Frantar et al., 2022, "GPTQ"
      (code), with |error|^2.4, and with squared errors that of many others.
    Differs from the paper: weights only, groups of inputs as in later papers; the symmetric grid is the one on which no
      weight is clipped.
    """

    chosen, how = choose(bits, symmetric, grid), choice(scale)

    def apply(leaves: tuple[Array, ...], ctx: Context) -> QTensor:
        w = ctx.view().to_matrix(leaves[0])
        block = block_of(w, group, ctx.spec.path)
        codes, scales = rtn_array(w, chosen, block, how, weights_of(ctx, w, block, how))
        return qtensor(codes, chosen, scales, ctx)

    return leafwise("rtn", apply, needs=frozenset({"gram"}) if needs_gram(how) else frozenset())


def weights_of(ctx: Context, w: Array, block: Block, how: Search | Percentile | None) -> Array | None:
    """What a search weighs errors by, from the leaf's Gram matrix; None if it does not."""
    if not needs_gram(how):
        return None
    if isinstance(how, Search) and how.of == "input":
        return second_moments(ctx, w)
    return weighing(gram_of(ctx, w), block, how)
