"""LoRA: a frozen weight plus a trainable update of low rank."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.axes import MatrixView
from wspace.core.errors import ShapeError
from wspace.core.implicit import Implicit, dense, implicit, static
from wspace.core.transform import Context, Transform, narrow, working_dtype
from wspace.core.typing import Array, Leaf


@jax.jit
def lora_array(a: Array, b: Array, scale: Array) -> Array:
    """The update `scale * a @ b`, accumulated in float32 on every backend.

    a: [*stack, in, rank]. b: [*stack, rank, out]. scale: [*stack]. Returns [*stack, in, out].
    """
    return scale.astype(a.dtype)[..., None, None] * jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


@partial(jax.jit, static_argnames=("shape", "rank", "dtype"))
def lora_init(key: Array, shape: tuple[int, ...], rank: int, dtype: Any = jnp.float32) -> tuple[Array, Array]:
    """a ~ U(-1/sqrt(in), 1/sqrt(in)) and b = 0 for matrices of shape [*stack, in, out]."""
    *stack, ins, outs = shape
    bound = 1 / math.sqrt(max(ins, 1))
    a = jax.random.uniform(key, (*stack, ins, rank), dtype, -bound, bound)
    return a, jnp.zeros((*stack, rank, outs), dtype)


@implicit
class LoRA(Implicit):
    """base + scale * a @ b in the layout of base, which is an array or a node of its own (a QTensor: QLoRA).

    a: [*stack, in, rank]. b: [*stack, rank, out]. scale: [*stack]. view: how base lies as [*stack, in, out].
    `lax.scan` may take the layers out of a stack whose axes come first; each slice is a LoRA of one layer.
    """

    base: Leaf
    a: Array
    b: Array
    scale: Array
    view: MatrixView = static()

    trainable = frozenset({"a", "b"})

    def materialize(self) -> Array:
        w = dense(self.base)
        dtype = working_dtype(w.dtype)
        update = lora_array(self.a.astype(dtype), self.b.astype(dtype), self.scale)
        view = _layer(self.view, taken=self.view.stacks - (update.ndim - 2))
        return narrow(w.astype(dtype) + view.from_matrix(update), w.dtype)


def _layer(view: MatrixView, taken: int) -> MatrixView:
    """The view of what is left when a scan has taken the first `taken` axes, all of them stacks, out."""
    return MatrixView(tuple(i - taken for i in view.order[taken:]), view.shape[taken:], view.stacks - taken, view.ins)


def lora(rank: int, alpha: Array | float | None = None) -> Transform:
    """Keep the weight and learn an update of rank `rank` beside it, zero at the start.

        w = base + alpha / rank * a b,   a [in, rank] ~ U(-1/sqrt(in), 1/sqrt(in)),   b [rank, out] = 0

    Scope: leaf (1 pass). Needs: nothing. Random: yes. Output leaf: LoRA.

    `split` trains a and b only, `materialize` merges. The base may be a node: `chain(quant.rtn(4), lora(8))` is QLoRA.

    Args:
      rank: of the update, at least 1. Static.
      alpha: numerator of the scale; default rank, so the scale is 1. Traced.
    Returns:
      Transform, 1 -> 1, for matrices (stacked, convolutions, attention kernels): base as it was; a, b float32 (float64
      for float64 leaves); scale float32. Materializes to the leaf's dtype; equal to the leaf until b is trained.
    Raises:
      ShapeError: rank below 1; a leaf that is no matrix (names the path).
    Example:
      >>> import wspace as ws
      >>> p = lora(rank=2)({"kernel": jnp.ones((4, 3))}, key=jax.random.key(0))
      >>> p["kernel"].a.shape, p["kernel"].b.shape, bool((ws.materialize(p)["kernel"] == 1).all())
      ((4, 2), (2, 3), True)
      >>> train, frozen = ws.split(p)
      >>> [x.shape for x in jax.tree.leaves(train)]
      [(4, 2), (2, 3)]

    Reference: Hu et al., 2021, "LoRA: Low-Rank Adaptation of Large Language Models"; with a quantized base Dettmers et
      al., 2023, "QLoRA: Efficient Finetuning of Quantized LLMs".
    Differs from the paper: its B A is a b transposed, as kernels here are [in, out]; A is uniform, as in the authors'
      code and in peft (Kaiming with a = sqrt(5)), where the text says Gaussian; no dropout on the update's input.
    """
    if rank < 1:
        raise ShapeError(f"lora needs a rank of at least 1, but got {rank}")

    def apply(leaves: tuple[Leaf, ...], ctx: Context) -> Leaf:
        w = leaves[0] if isinstance(leaves[0], Implicit) else jnp.asarray(leaves[0])
        view = ctx.view()
        a, b = lora_init(ctx.key, view.matrix_shape, rank, working_dtype(w.dtype))
        scale = jnp.asarray(rank if alpha is None else alpha, jnp.float32) / rank
        stack = view.matrix_shape[: view.stacks]
        return LoRA(w, a, b, jnp.broadcast_to(scale, stack), view)

    return Transform(apply, "lora", needs=frozenset({"key"}))
