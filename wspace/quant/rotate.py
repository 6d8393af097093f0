"""Rotations: spread what is large over all inputs before a matrix is quantized."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy.linalg import hadamard

from wspace.core.axes import MatrixView
from wspace.core.errors import SideTreeError
from wspace.core.implicit import Implicit, dense, implicit, static
from wspace.core.transform import Context, Transform, narrow, over_stack, working
from wspace.core.typing import Array, Leaf
from wspace.stats.sharding import alike, gathered

SIGNS, MIX = 2**20, 2**20 + 1  # random streams of a leaf


def split_size(n: int) -> tuple[int, int]:
    """n as an odd number times a power of two.

    >>> split_size(384)
    (3, 128)
    """
    power = n & -n or 1
    return n // power, power


@partial(jax.jit, static_argnames="back")
def rotate_array(x: Array, signs: Array, mix: Array, back: bool = False) -> Array:
    """Q^T x of x `[in, columns]`, or with `back` Q x: Q = diag(signs) (mix (x) H), H the normalized Hadamard matrix.

    signs: `[in]`, -1 or 1. mix: orthogonal `[m, m]`, m the odd part of in.
    """
    if x.size == 0:
        return x
    m, p = split_size(x.shape[0])
    h = jnp.asarray(hadamard(p) / np.sqrt(p), x.dtype)
    x = x if back else signs[:, None] * x
    turn = mix if back else mix.T
    parts = x.reshape(m, p, x.shape[1])
    made = jnp.einsum("ab,pq,bqc->apc", turn, h, parts, precision=lax.Precision.HIGHEST).reshape(x.shape)
    return signs[:, None] * made if back else made


@jax.jit
def rotate_gram(gram: Array, signs: Array, mix: Array) -> Array:
    """Q^T gram Q: the Gram matrix of rotated inputs."""
    return rotate_array(rotate_array(gram, signs, mix).T, signs, mix).T


def drawn(key: Array, n: int, dtype: jnp.dtype) -> tuple[Array, Array]:
    """Random signs `[n]`, and an orthogonal matrix of the odd part of n, uniform among all."""
    m, _ = split_size(n)
    signs = jax.random.rademacher(jax.random.fold_in(key, SIGNS), (n,), dtype)
    return signs, jax.random.orthogonal(jax.random.fold_in(key, MIX), m, dtype=dtype)


@implicit
class Rotated(Implicit):
    """A leaf that is kept rotated: inner stands for Q^T w, in the leaf's layout. signs `[in]`, mix `[m, m]`, float32.

    inner is in the working dtype; view and weight_dtype are static.
    """

    inner: Leaf
    signs: Array
    mix: Array
    view: MatrixView = static()
    weight_dtype: np.dtype = static()

    def materialize(self) -> Array:
        matrix = self.view.to_matrix(dense(self.inner))
        signs, mix = (x.astype(matrix.dtype) for x in (self.signs, self.mix))
        turned = over_stack(lambda m: rotate_array(m, signs, mix, back=True), self.view.stacks)(matrix)
        return narrow(self.view.from_matrix(turned), self.weight_dtype)


def rotated(t: Transform) -> Transform:
    """Quantize in a random orthogonal basis of the inputs, where no weight and no input stands out.

        Q = diag(s) (O (x) H) / sqrt(p),   w' = Q^T w,   gram' = Q^T gram Q,   leaf = Q t(w')

    s: random signs; H: the Hadamard matrix of the largest power of two p in the inputs, O: a random orthogonal matrix
    of the rest. With rotations folded into a residual stream (`trace.axes(kind="orthogonal")`, `match.act`) nothing is
    left to be done when the model runs; here x Q is, or Q is multiplied in when the leaf is materialized.

    Scope: as t. Needs: key, and what t needs; of side trees only gram. Random: yes, by leaf path. Output leaf: Rotated.

    Sharding: a leaf whose inputs are sharded is gathered.

    Args:
      t: a quantizer of matrices in one pass: `rtn(2)`, `gptq(2, group=32)`. Static.
    Returns:
      Transform, 1 -> 1, for matrices. Materializing turns the rotation back.
    Raises:
      SideTreeError: no key; t needs a side tree that can't be rotated, or a fold.
    Example:
      >>> import wspace as ws
      >>> w = {"kernel": jax.random.normal(jax.random.key(0), (64, 4)).at[0].mul(30.0)}
      >>> off = lambda t, **given: float(jnp.std(ws.materialize(t(w, **given))["kernel"] - w["kernel"]))
      >>> off(rotated(ws.quant.rtn(4)), key=jax.random.key(1)) < off(ws.quant.rtn(4)) / 2
      True

    Reference: Chee, Cai, Kuleshov, De Sa, 2023, "QuIP: 2-Bit Quantization of Large Language Models With Guarantees";
      Ashkboos et al., 2024, "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs".
    Differs from the paper: inputs only; QuIP turns outputs too. Where the inputs are no power of two the rest gets a
      random orthogonal matrix, where QuaRot has tables of Hadamard matrices.
    """
    if t.folds or t.needs - {"gram", "key"}:
        raise SideTreeError(f"rotated: {t.name} needs {sorted(t.needs)} in {t.passes} passes; only gram can be rotated")

    def apply(leaves: tuple[Leaf, ...], ctx: Context) -> Rotated:
        view = ctx.view()
        leaf = view.to_matrix(working(leaves[0]))
        w = gathered(leaf, -2)
        signs, mix = drawn(ctx.key, w.shape[-2], w.dtype)  # type: ignore[arg-type]
        turned = over_stack(lambda m: rotate_array(m, signs, mix), view.stacks)(w)
        sides = dict(ctx.sides)
        if "gram" in t.needs:
            gram = gathered(gathered(dense(ctx.side("gram")).astype(w.dtype), -1), -2)
            sides["gram"] = over_stack(lambda g: rotate_gram(g, signs, mix), view.stacks)(gram)
        wide = ctx._replace(sides=sides, spec=ctx.spec._replace(dtype=w.dtype))
        inner = t.apply((view.from_matrix(alike(turned, leaf)),), wide)
        return Rotated(inner, signs, mix, view=view, weight_dtype=np.dtype(ctx.spec.dtype))

    return Transform(apply, f"rotated({t.name})", needs=t.needs | {"key"}, streams=t.streams)


@jax.jit
def token_importance(attention: Array) -> Array:
    """How much each token is attended to, for the weights of a Gram matrix: `calibrate(..., "gram", weights=...)`.

        c_t = sum over heads and queries of attention to t,   r = 1 + 2 (c - min c) / (max c - min c),   r / mean r

    Args:
      attention: probabilities `[..., heads, queries, tokens]`.
    Returns:
      `[..., tokens]`, mean 1 over tokens.
    Example:
      >>> token_importance(jnp.array([[[1.0, 0.0], [1.0, 0.0]]]))
      Array([1.5, 0.5], dtype=float32)

    Reference: Sung, Yadav, Li, Yoon, Bansal, 2025, "RSQ: Learning from Important Tokens Leads to Better Quantized
      LLMs".
    """
    c = jnp.sum(attention, axis=(-3, -2))
    least, most = jnp.min(c, axis=-1, keepdims=True), jnp.max(c, axis=-1, keepdims=True)
    r = 1 + 2 * (c - least) / jnp.where(most > least, most - least, 1)
    return r / jnp.mean(r, axis=-1, keepdims=True)
