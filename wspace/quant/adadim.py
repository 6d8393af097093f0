"""AdaDim: scales shared along the inputs or along the outputs, whichever changes the layer's output less."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from wspace.core.axes import MatrixView
from wspace.core.errors import ShapeError, WspaceError
from wspace.core.implicit import implicit, static
from wspace.core.transform import Context, Transform, leafwise
from wspace.core.typing import Array, Leaf
from wspace.quant.amended import Amended, check_single, facts, inside
from wspace.quant.clip import Scale
from wspace.quant.formats import Format
from wspace.quant.qtensor import QTensor
from wspace.quant.rtn import rtn
from wspace.stats.groups import grouped, ungrouped
from wspace.stats.sharding import alike, gathered
from wspace.stats.side_gram import gram_of


@implicit
class Turned(Amended):
    """Where turned `[*stack]` is true, tiles of tile x tile entries of base's matrix are transposed: a group of inputs
    of one output of base then is a group of outputs of one input."""

    base: Leaf
    turned: Array
    tile: int = static()
    view: MatrixView = static()
    weight_dtype: np.dtype = static()

    def amended(self, matrix: Array) -> Array:
        whole = gathered(gathered(matrix, -1), -2)
        return alike(jnp.where(self.turned[..., None, None], tiles_turned(whole, self.tile), whole), matrix)


def tiles_turned(x: Array, tile: int) -> Array:
    """x `[..., in, out]` with its tiles of `tile` inputs and outputs transposed, each in its place."""
    tiles = grouped(x, tile)
    tiles = jnp.reshape(tiles, (*tiles.shape[:-1], x.shape[-1] // tile, tile))  # one axis at a time, as on a mesh
    turned = jnp.swapaxes(tiles, -3, -1)
    return ungrouped(jnp.reshape(turned, (*turned.shape[:-2], x.shape[-1])))


def scales_turned(x: Array, tile: int) -> Array:
    """Scales `[..., in, out/tile]` of groups of outputs as those `[..., in/tile, out]` of the turned matrix."""
    turned = jnp.swapaxes(grouped(x, tile), -2, -1)
    return jnp.reshape(turned, (*turned.shape[:-2], x.shape[-1] * tile))


@jax.jit
def output_errors(e: Array, gram: Array) -> Array:
    """tr(e^T gram e) `[...]` of e `[..., in, out]`."""
    return jnp.sum(e * jnp.matmul(gram, e, precision=lax.Precision.HIGHEST), axis=(-2, -1))


def adadim(
    bits: int = 4,
    group: int = 128,
    symmetric: bool = False,
    grid: Format = None,
    scale: Scale = "absmax",
    solver: Callable[..., Transform] = rtn,
) -> Transform:
    """Quantize in groups of inputs of one output, and in groups of outputs of one input, and take the better.

        min over both of  E |x (Q(w) - w)|^2 = tr(e^T gram e)

    Scope: leaf (1 pass). Needs: gram. Random: no. Output leaf: Turned around a QTensor.

    Weights with a few large inputs gain: their inputs no longer share scales with others. Activations alone that are
    large do not matter. Sharding: the leaf is gathered, and so is its Gram matrix.

    Args:
      bits, symmetric, grid, scale: as of `rtn`. Static.
      group: how many inputs, or outputs, share a scale; must divide both. Static.
      solver: `rtn`, or another factory that takes these settings (`gptq`).
    Returns:
      Transform, 1 -> 1, for matrices: a node with turned bool `[*stack]`, true for groups of outputs.
    Raises:
      SideTreeError: no gram for a leaf. ShapeError: group does not divide inputs and outputs. WspaceError: as `rtn`;
      a solver that gives another node than a QTensor.
    Example:
      >>> w = jnp.array([[100.0, 0.0], [1.0, 0.3]])
      >>> adadim(bits=4, group=2)({"kernel": w}, gram={"kernel": jnp.eye(2)})["kernel"].turned
      Array(True, dtype=bool)

    Reference: Heo, Kim, Kwon, Kim, Kwon, Lee, 2023, "Rethinking Channel Dimensions to Isolate Outliers for Low-bit
      Weight Quantization of Large Language Models".
    Differs from the paper: the output is that of the layer, through its Gram matrix, for all layers (the paper: of
      the attention or the MLP for some); with `gptq` both ways are solved and compared, the paper compares
      roundings.
    """
    settings = {"bits": bits, "symmetric": symmetric, "grid": grid, "scale": scale}
    both = [check_single(solver(group=g, **settings), "adadim") for g in ((group, 1), (1, group))]

    def solved(t: Transform, leaf: Array, ctx: Context) -> QTensor:
        node = t.apply((leaf,), inside(ctx))
        if not isinstance(node, QTensor):
            raise WspaceError(f"adadim compares codes, which {t.name} does not give; use rtn or gptq as its solver")
        return node

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Turned:
        view = ctx.view()
        leaf = view.to_matrix(leaves[0])
        if leaf.shape[-2] % group or leaf.shape[-1] % group:
            raise ShapeError(
                f"{ctx.spec.path} has {leaf.shape[-2]} inputs and {leaf.shape[-1]} outputs, which group={group} does "
                "not divide both; use a common divisor"
            )
        w, gram = (gathered(gathered(x, -1), -2) for x in (leaf, gram_of(ctx, leaf)))
        along, across = (solved(t, view.from_matrix(w), ctx) for t in both)
        errors = [output_errors(view.to_matrix(q.materialize()) - w, gram) for q in (along, across)]
        turned = errors[1] < errors[0]
        choose = turned[..., None, None]
        codes = jnp.where(choose, tiles_turned(across.codes, group), along.codes)
        scales = {
            n: jnp.where(choose, scales_turned(across.scales[n], group), s) if s.size == across.scales[n].size else s
            for n, s in along.scales.items()
        }
        base = QTensor(alike(codes, leaf), scales, along.format, along.view, along.weight_dtype)
        return Turned(base, turned, tile=group, **facts(ctx))

    return leafwise("adadim", apply, needs=frozenset({"gram"}).union(*(t.needs for t in both)))
