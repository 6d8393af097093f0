"""JLCM: codebooks and the mapping to them, learned together."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.errors import WspaceError
from wspace.core.implicit import implicit
from wspace.core.transform import Transform
from wspace.core.typing import Array
from wspace.quant.formats import named
from wspace.quant.grid import Grid, Group, Scales, blocks, unblocked, widened
from wspace.quant.layerwise import ADAM, Optimizer, Plan, layerwise
from wspace.quant.rounding import Learned, Rounding

POWER, FLOOR = 2.0, 0.1  # of the distance that a move is divided by, in mean gaps between values


@implicit
class JLCM(Rounding):
    """learned table `[*stack, in/group, out/width, 2^b]`, and logits `[*stack, in, out, 2^b]`, of which the largest is
    the code."""

    @classmethod
    def begin(cls, w: Array, grid: Grid, scales: Scales, settings: Scales) -> Learned:
        table = scales["table"]
        away = jnp.abs(_beside(table, w) - blocks(w, *table.shape[-3:-1])[..., None])
        logits = -away / _gap(_beside(table, w))
        k = table.shape[-1]
        return {
            "table": table,
            "logits": jnp.moveaxis(unblocked(jnp.moveaxis(logits, -1, 0)), 0, -1).reshape(*w.shape, k),
        }

    def soft(self) -> Array:
        table, logits = self.learned["table"], self.learned["logits"]
        down, across = table.shape[-3:-1]
        wide = _beside(table, self.w)
        scores = jnp.moveaxis(blocks(jnp.moveaxis(logits, -1, 0), down, across), 0, -1)
        code = jnp.argmax(scores, axis=-1)
        own = code[..., None] == lax.broadcasted_iota(code.dtype, scores.shape, scores.ndim - 1)
        value = jnp.sum(jnp.where(own, wide, 0), axis=-1)
        fixed, gap = lax.stop_gradient((wide, _gap(wide)))
        step = (fixed - lax.stop_gradient(value)[..., None]) / gap
        pull = jnp.where(own, 0, gap * step / (FLOOR + jnp.abs(step) ** POWER))
        return unblocked(value + jnp.sum(pull * (scores - lax.stop_gradient(scores)), axis=-1))

    def hard(self) -> tuple[Array, Scales]:
        codes = jnp.argmax(self.learned["logits"], axis=-1).astype(jnp.uint8)
        return codes, {"table": self.learned["table"]}


def _beside(table: Array, w: Array) -> Array:
    """A table of each block beside the blocks of w: `[..., in/group, 1, out/width, 1, 2^b]`."""
    return widened(table, w.ndim)


def _gap(table: Array) -> Array:
    """The mean distance between neighbouring values of a table; 1 if all are equal."""
    span = jnp.max(table, axis=-1, keepdims=True) - jnp.min(table, axis=-1, keepdims=True)
    return jnp.where(span > 0, span / max(table.shape[-1] - 1, 1), 1)


def jlcm(
    bits: int = 3,
    group: Group = None,
    steps: int = 200,
    table_lr: Array | float = 1e-3,
    mapping_lr: Array | float = 1e-2,
    soft: bool = False,
    optimizer: Optimizer = ADAM,
) -> Transform:
    """Learn the values of a codebook and which of them each weight takes, given the Gram matrix of the inputs.

        W^_ij = C[I_ij],   I = argmax_k Z_ij,k,   min over C, Z of tr((W^ - W)^T gram (W^ - W))
        dL / dZ_ij,k = dL / dW^_ij (C_k - W^_ij) / (0.1 + |C_k - W^_ij|^2),   distances in mean gaps of C

    so that a weight moves to a near value rather than to a far one. It starts at k-means.

    Scope: leaf (1 pass). Needs: gram (nothing with steps=0: k-means). Random: no. Output leaf: QTensor.

    Sharding: a leaf whose inputs are sharded is gathered, and its Gram matrix always is.

    Args:
      bits: 1..8; 2^b values. Static. group: which weights share a codebook, as of `rtn`; (None, 64) is one for 64
        outputs, which `similar_outputs` brings together. Static.
      steps: Static. table_lr, mapping_lr: learning rates, of values and of Z. Traced.
      soft, optimizer: as of `adaround`. Static.
    Returns:
      Transform, 1 -> 1, for matrices; QTensor with a table. Never worse than k-means on the Gram matrix.
    Raises:
      SideTreeError, ShapeError: as of `adaround`. WspaceError: bits outside 1..8.
    Example:
      >>> w, gram = jnp.array([[1.0], [1.5], [-1.0], [-1.5]]), jnp.eye(4)
      >>> jlcm(bits=1, steps=10)({"kernel": w}, gram={"kernel": gram})["kernel"].materialize().ravel()
      Array([ 1.25,  1.25, -1.25, -1.25], dtype=float32)

    Reference: Yvinec, Dapogny, Bailly, 2023, "Network Memory Footprint Compression Through Jointly Learnable Codebooks
      and Mappings".
    Differs from the paper: no code is public; that the pull of a value falls with its distance is the paper's, the form
      of the fall is ours, as is the loss from the Gram matrix.
    """
    if not 1 <= bits <= 8:
        raise WspaceError(f"jlcm: bits={bits} is not supported; a code has 1 to 8 bits")
    plan = Plan(steps, {"table": table_lr, "logits": mapping_lr}, optimizer)
    return layerwise("jlcm", JLCM, plan, group=group, grid=named(f"kmeans{bits}"), soft=soft)


@jax.jit
def similar_outputs(w: Array) -> Array:
    """The order of the outputs of w `[in, out]` that brings those of one spread together: int32 `[out]`.

    Neighbours in it suit one codebook; `match.act` moves the outputs and the next layer's inputs, at no cost.

    Example:
      >>> similar_outputs(jnp.array([[1.0, 9.0, 2.0], [-1.0, -9.0, -2.0]]))
      Array([0, 2, 1], dtype=int32)
    """
    return jnp.argsort(jnp.std(w, axis=0)).astype(jnp.int32)
