"""LoRA extraction: what a fine-tune changed, as an adapter of low rank on its base."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from wspace.core.align import align
from wspace.core.compose import around_base, keep
from wspace.core.containers import as_params
from wspace.core.errors import NonFinite, ShapeError, WspaceError
from wspace.core.implicit import Implicit, dense
from wspace.core.plan import is_lazy
from wspace.core.select import matrices, selected
from wspace.core.transform import Context, Transform, over_stack, working_dtype
from wspace.core.typing import Array, Leaf, Tree, Where
from wspace.reparam.lora import LoRA
from wspace.stats.sharding import gathered
from wspace.stats.svd import svd


@partial(jax.jit, static_argnames="rank")
def low_rank_array(delta: Array, rank: int) -> tuple[Array, Array]:
    """The best factors of rank at most `rank`: `a @ b` is nearest to delta in every unitarily invariant norm.

        delta = U S V',   a = U_r S_r^(1/2),   b = S_r^(1/2) V_r'

    delta: [in, out]. Returns a [in, r], b [r, out], r = min(rank, in, out). Of each column of a the entry of the
    largest magnitude is positive, so the factors do not depend on the SVD that was used.
    """
    r = min(rank, *delta.shape)
    if r == 0 or delta.size == 0:
        return jnp.zeros((delta.shape[0], r), delta.dtype), jnp.zeros((r, delta.shape[1]), delta.dtype)
    u, s, vt = svd(gathered(gathered(delta, 0), 1))
    return _even(u, s, vt, r)


@partial(jax.jit, static_argnames="rank")
def low_rank_product_array(a: Array, b: Array, rank: int) -> tuple[Array, Array]:
    """`low_rank_array(a @ b, rank)` without the product: by the QR of either factor and the SVD of what is between.

        a = Q R,   b' = P T,   R T' = U S V',   so   a b = (Q U) S (P V)'

    a: [in, k]. b: [k, out]. Returns a [in, r], b [r, out], r = min(rank, k, in, out).
    """
    r = min(rank, *a.shape, b.shape[1])
    if r == 0:
        return jnp.zeros((a.shape[0], 0), a.dtype), jnp.zeros((0, b.shape[1]), b.dtype)
    q, left = jnp.linalg.qr(gathered(gathered(a, 0), 1))
    p, right = jnp.linalg.qr(gathered(gathered(b, 0), 1).T)
    u, s, vt = svd(jnp.matmul(left, right.T, precision=lax.Precision.HIGHEST))
    high = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    return _even(high(q, u), s, high(vt, p.T), r)


def _even(u: Array, s: Array, vt: Array, r: int) -> tuple[Array, Array]:
    """The first r singular triples as two factors, signs fixed."""
    a, b, root = u[:, :r], vt[:r], jnp.sqrt(s[:r])
    top = jnp.take_along_axis(a, jnp.argmax(jnp.abs(a), axis=0)[None], axis=0)
    turned = root * jnp.where(top[0] < 0, -1, 1).astype(a.dtype)
    return a * turned[None], b * turned[:, None]


def extract_lora(rank: int | Mapping[str, int]) -> Transform:
    """The change of every matrix since the base, as a LoRA of rank `rank` on the base.

        w ~ base + a b,   a b = the truncated SVD of w - base   (see `low_rank_array`)

    By Eckart and Young no update of that rank is nearer to w: the squared error is the sum of the squares of the other
    singular values. `lora_ranks` finds the rank that each leaf needs for a given share of its change.

    Scope: leaf (1 pass). Needs: base. Random: no. Output leaf: LoRA on the base's leaf.

    Args:
      rank: at least 1, of every leaf; or a mapping from shown path to rank, one for each leaf that this is applied to.
        A matrix takes no more than its smaller side. Static: it is the shape of the result.
    Returns:
      Transform, 1 -> 1, for matrices (stacked, convolutions, attention kernels). base: the base's leaf, which may be a
      node; a, b float32 (float64 for float64 leaves); scale 1. At full rank it materializes to the leaf.
    Raises:
      SideTreeError: no base. TreeMismatch: the tree and its base differ in structure.
      ShapeError: rank below 1; a leaf that is no matrix or has no rank in the mapping (names the path).
    Example:
      >>> base, tuned = {"kernel": jnp.zeros((2, 2))}, {"kernel": jnp.array([[3.0, 0.0], [0.0, 1.0]])}
      >>> adapted = extract_lora(rank=1)(tuned, base=base)
      >>> adapted["kernel"].materialize().round(4)
      Array([[3., 0.],
             [0., 0.]], dtype=float32)

    Reference: Eckart, Young, 1936, "The approximation of one matrix by another of lower rank"; as adapters Hu et al.,
      2021, "LoRA: Low-Rank Adaptation of Large Language Models".
    Differs from the paper: none; the singular values are shared evenly by a and b.
    """
    if isinstance(rank, int) and rank < 1:
        raise ShapeError(f"extract_lora needs a rank of at least 1, but got {rank}")

    def apply(leaves: tuple[Leaf, ...], ctx: Context) -> Leaf:
        base, view = ctx.side("base"), ctx.view()
        base = base if isinstance(base, Implicit) else jnp.asarray(base)
        own = rank if isinstance(rank, int) else rank.get(ctx.spec.path)
        if own is None or own < 1:
            raise ShapeError(f"extract_lora has rank {own} for {ctx.spec.path}; give it one, or leave it out with on()")
        a, b = over_stack(partial(low_rank_array, rank=own), view.stacks)(view.to_matrix(_delta(leaves[0], base)))
        return LoRA(base, a, b, jnp.ones(view.matrix_shape[: view.stacks], jnp.float32), view)

    return Transform(apply, "extract_lora", needs=frozenset({"base"}))


def _delta(leaf: Leaf, base: Leaf) -> Array:
    w, start = dense(leaf), dense(base)
    dtype = working_dtype(w.dtype, start.dtype)
    return w.astype(dtype) - start.astype(dtype)


def lora_ranks(
    params: Tree, base: Tree, energy: float, most: int | None = None, where: Where = matrices
) -> dict[str, int]:
    """The smallest rank of each matrix whose LoRA holds a share `energy` of what changed since the base.

        r = min { k : s_1^2 + ... + s_k^2 >= energy * sum_i s_i^2 },   s = singular values of w - base

    A rank is a shape, so it is found here, on the host, before anything is traced; `extract_lora` takes the result.
    Layers of one stack share the largest of their ranks.

    Args:
      params, base: trees of one structure, or lazy checkpoints, read a leaf at a time.
      energy: share of the squared Frobenius norm, above 0, at most 1.
      most: no rank is larger. where: the leaves to look at.
    Returns:
      shown path -> rank. A leaf that did not change has none: `on(lambda path, spec: path in ranks, ...)` keeps it.
    Raises:
      TreeMismatch: structures differ. SelectionError: `where` selects nothing. ShapeError: it selects no matrix.
      WspaceError: energy outside (0, 1]. NonFinite: a leaf has NaN or infinity.
    Example:
      >>> base, tuned = {"kernel": jnp.zeros((2, 2))}, {"kernel": jnp.diag(jnp.array([3.0, 1.0]))}
      >>> lora_ranks(tuned, base, energy=0.9), lora_ranks(tuned, base, energy=0.91)
      ({'kernel': 1}, {'kernel': 2})

    Reference: as `extract_lora`.
    """
    if not 0 < energy <= 1:
        raise WspaceError(f"lora_ranks: energy is a share of the change, above 0 and at most 1, not {energy}")
    work = align(around_base(keep()), [params if is_lazy(params) else as_params(params).leaves], {"base": base}, None)
    found: dict[str, int] = {}
    for path in selected(where, work.specs):
        ctx = Context(work.specs[path], sides=work.side(path))
        matrix = ctx.view().to_matrix(_delta(work.sources[0][path], ctx.side("base")))
        if not jnp.isfinite(matrix).all():
            raise NonFinite(f"lora_ranks: {ctx.spec.path} has NaN or infinity, so its change has no rank; leave it out")
        if rank := _needed(np.asarray(jnp.linalg.svd(matrix, compute_uv=False), np.float64), energy):
            found[ctx.spec.path] = min(rank, most or rank)
    return found


def _needed(values: np.ndarray, energy: float) -> int:
    """The smallest rank that is enough for every row of singular values; 0 if all are zero."""
    squares = values.reshape(-1, values.shape[-1]) ** 2
    squares = squares[squares.sum(1) > 0]
    if not squares.size:
        return 0
    sums = np.cumsum(squares, axis=1)
    enough = sums >= energy * sums[:, -1:] * (1 - 1e-12)  # the last sum and a sum in another order differ in a bit
    return int(np.max(np.argmax(enough, axis=1))) + 1
