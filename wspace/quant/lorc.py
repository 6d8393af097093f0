"""LoRC: what rounding left out, put back by a correction of low rank."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from wspace.core.errors import ShapeError
from wspace.core.implicit import dense
from wspace.core.transform import Context, Transform, leafwise, narrow, over_stack
from wspace.core.typing import Array
from wspace.quant.amended import LowRank, check_single, facts, inside
from wspace.quant.rtn import rtn
from wspace.stats.sharding import gathered


@partial(jax.jit, static_argnames="rank")
def lorc_array(e: Array, rank: int) -> tuple[Array, Array]:
    """a `[in, rank]` and b `[rank, out]`, of which a b is the best correction of this rank of e `[in, out]`.

    e = U S V^T,   a = U_r S_r^1/2,   b = S_r^1/2 V_r^T
    """
    u, s, vh = jnp.linalg.svd(jnp.where(jnp.all(jnp.isfinite(e)), e, 0), full_matrices=False)
    root = jnp.sqrt(s[:rank])
    sick = jnp.where(jnp.all(jnp.isfinite(e)), 0, jnp.nan).astype(e.dtype)
    return u[:, :rank] * root[None] + sick, root[:, None] * vh[:rank]


def lorc(rank: int = 8, then: Transform | None = None) -> Transform:
    """Quantize, and keep the largest singular vectors of the error beside it.

        w ~ q + a b,   a b = the first `rank` terms of the singular value decomposition of w - q

    Scope: leaf (1 pass). Needs: what `then` needs. Random: no. Output leaf: LowRank around what `then` gives.

    ZeroQuant-FP is `lorc(8, gptq(group=256, grid="ratiofp4"))`: FP4 whose scales differ by powers of two. LREC, the
    error correction of INT2.1, starts from this and trains a and b: `split` takes them. Sharding: the leaf is gathered.

    Args:
      rank: of the correction, at least 1; no more than the matrix has counts. Static.
      then: what quantizes; None: `rtn(4, grid="fp4")`.
    Returns:
      Transform, 1 -> 1, for matrices: a node with a `[*stack, in, rank]` and b `[*stack, rank, out]`, in the leaf's
      dtype.
    Raises:
      ShapeError: rank below 1; a leaf that is no matrix. WspaceError: `then` needs folds.
    Error: for float leaves the Frobenius norm of what is left is sqrt(sum of the later singular values' squares).
    Example:
      >>> from wspace.quant import rtn
      >>> w = jnp.array([[1.0, 0.3], [0.4, 0.4]])
      >>> node = lorc(2, rtn(2))({"kernel": w})["kernel"]
      >>> bool(jnp.allclose(node.materialize(), w, atol=1e-6))
      True

    Reference: Wu, Yao, He, 2023, "ZeroQuant-FP: A Leap Forward in LLMs Post-Training W4A8 Quantization Using
      Floating-Point Formats"; Chai, Gkountouras, Ko, Brooks, Wei, 2023, "INT2.1: Towards Fine-Tunable Quantized Large
      Language Models with Error Correction through Low-Rank Adaptation".
    Differs from the paper: a and b are kept in the leaf's dtype; the first paper's may be 8 bits.
    """
    if rank < 1:
        raise ShapeError(f"lorc needs a rank of at least 1, but got {rank}")
    quantizer = check_single(then or rtn(4, grid="fp4"), "lorc")

    def apply(leaves: tuple[Array, ...], ctx: Context) -> LowRank:
        view = ctx.view()
        base = quantizer.apply(leaves, inside(ctx))
        e = view.to_matrix(leaves[0]) - view.to_matrix(dense(base).astype(leaves[0].dtype))
        cut = over_stack(partial(lorc_array, rank=min(rank, *e.shape[-2:])), view.stacks)
        a, b = cut(gathered(gathered(e, -1), -2))
        return LowRank(base, narrow(a, ctx.spec.dtype), narrow(b, ctx.spec.dtype), **facts(ctx))

    return leafwise("lorc", apply, needs=quantizer.needs)
