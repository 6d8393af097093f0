"""Additive vector quantization: short runs of inputs as sums of vectors from a few codebooks."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from wspace.core.axes import MatrixView
from wspace.core.errors import ShapeError
from wspace.core.implicit import Implicit, implicit, static, stored_bits
from wspace.core.transform import Context, Transform, leafwise, narrow, over_stack, working_dtype
from wspace.core.typing import Array
from wspace.stats.groups import check_group
from wspace.stats.sharding import gathered

CHUNK = 4096  # vectors whose distances to a codebook are held at once


class Coded(NamedTuple):
    """codes uint8 `[vectors, m]`. books `[m, k, dim]`."""

    codes: Array
    books: Array


@implicit
class VectorCodes(Implicit):
    """A matrix whose runs of `dim` inputs, of each output, are sums of one vector from each of m codebooks.

    codes: uint8 `[*stack, in/dim, out, m]`. books: float32 `[*stack, m, k, dim]`. scale: float32 `[*stack, out]`.
    `split` trains books and scale. view and weight_dtype are static.
    """

    codes: Array
    books: Array
    scale: Array
    view: MatrixView = static()
    weight_dtype: np.dtype = static()
    trainable = frozenset({"books", "scale"})

    def materialize(self) -> Array:
        dense = over_stack(decode_vectors, self.view.stacks)(self.codes, self.books, self.scale)
        return narrow(self.view.from_matrix(dense), self.weight_dtype)

    def stored_bits(self) -> int:
        """log2(k) bits a code, rounded up, and the codebooks and scales."""
        width = max((self.books.shape[-2] - 1).bit_length(), 1)
        return self.codes.size * width + stored_bits(self.books) + stored_bits(self.scale)


@jax.jit
def decode_vectors(codes: Array, books: Array, scale: Array) -> Array:
    """The matrix `[in, out]` of codes `[in/dim, out, m]`."""
    parts = jax.vmap(lambda book, code: book[code], in_axes=(0, -1), out_axes=-1)(books, codes)
    runs, outputs = codes.shape[:2]
    return jnp.moveaxis(jnp.sum(parts, axis=-1), -1, 1).reshape(runs * books.shape[-1], outputs) * scale[None]


def runs_of(w: Array, dim: int) -> Array:
    """The vectors of a matrix `[in, out]`: `[in/dim, out, dim]`."""
    inputs, outputs = w.shape
    return jnp.moveaxis(w.reshape(inputs // dim, dim, outputs), 1, -1)


@partial(jax.jit, static_argnames="beam")
def encode_vectors(x: Array, books: Array, beam: int = 4) -> Array:
    """Codes `[vectors, m]` of vectors x `[vectors, dim]`: a beam search, one codebook after another.

    With one codebook, or a beam as wide as all sums, it is the nearest sum.
    """
    count, k, _ = books.shape
    keep = [min(beam, k**m) for m in range(1, count + 1)]

    def one(v: Array) -> Array:
        rest, found = v[None], jnp.zeros((1, 0), jnp.int32)
        for book, width in zip(books, keep, strict=True):  # a few codebooks
            far = jnp.sum((rest[:, None] - book[None]) ** 2, axis=-1)
            _, best = lax.top_k(-far.ravel(), width)
            head, code = best // k, best % k
            rest = rest[head] - book[code]
            found = jnp.concatenate([found[head], code[:, None]], axis=1)
        return found[0]

    return lax.map(one, x, batch_size=CHUNK).astype(jnp.uint8)


@partial(jax.jit, static_argnames=("m", "k", "sweeps"))
def additive_array(x: Array, key: Array, m: int, k: int, sweeps: int = 10) -> Coded:
    """Codebooks of vectors x `[vectors, dim]`: k-means of the vectors, then of what it leaves, m times.

    Each starts at k vectors drawn at random; a center that no vector is nearest to stays.
    """
    rest, codes, books = x, [], []
    for i in range(m):  # a few codebooks
        drawn = jax.random.choice(jax.random.fold_in(key, i), len(x), (k,), replace=len(x) < k)
        book = lax.fori_loop(0, sweeps, lambda _, book, rest=rest: _lloyd(rest, book), rest[drawn])
        code = encode_vectors(rest, book[None], 1)[:, 0]
        rest = rest - book[code]
        codes.append(code)
        books.append(book)
    return Coded(jnp.stack(codes, axis=-1), jnp.stack(books))


def _lloyd(x: Array, book: Array) -> Array:
    code = encode_vectors(x, book[None], 1)[:, 0]
    total = jnp.zeros_like(book).at[code].add(x)
    count = jnp.zeros(len(book), x.dtype).at[code].add(1)
    return jnp.where(count[:, None] > 0, total / jnp.maximum(count, 1)[:, None], book)


def additive(dim: int = 8, codebooks: int = 1, size: int = 256, sweeps: int = 10) -> Transform:
    """Replace every run of `dim` inputs by a sum of vectors, one from each of a few codebooks of the matrix.

        w[dim i : dim (i + 1), o] ~ s_o sum_m C_m[code_iom],   s_o = sqrt of the mean square of output o

    The bits of a weight are codebooks log2(size) / dim, and those of the codebooks.

    Scope: leaf (1 pass). Needs: key. Random: yes, by leaf path: where k-means starts. Output leaf: VectorCodes.

    Sharding: k-means meets all vectors of a matrix; they are gathered.

    Args:
      dim: inputs of a vector; must divide the inputs. Static. codebooks: m. Static. size: k, 2..256. Static.
      sweeps: of Lloyd's algorithm for each codebook. Static.
    Returns:
      Transform, 1 -> 1, for matrices; the codebooks of a stack are its layers' own. `pv_tuning` trains it.
    Raises:
      ShapeError: dim does not divide the inputs; a size outside 2..256, no codebooks. SideTreeError: no key.
    Example:
      >>> w = {"kernel": jnp.array([[1.0, 1.0], [2.0, 2.0], [1.0, 3.0], [2.0, 1.0]])}
      >>> q = additive(dim=2, size=4)(w, key=jax.random.key(0))["kernel"]
      >>> q.codes.shape, q.books.shape
      ((2, 2, 1), (1, 4, 2))

    Reference: Egiazarian, Panferov, Kuznedelev, Frantar, Babenko, Alistarh, 2024, "Extreme Compression of Large
      Language Models via Additive Quantization"; Babenko, Lempitsky, 2014, "Additive Quantization for Extreme Vector
      Compression".
    Differs from the paper: codebooks start at residual k-means of the weights, and are not refined for the layer's
      inputs here; that is `pv_tuning`'s.
    """
    if not 2 <= size <= 256 or codebooks < 1:
        raise ShapeError(f"additive(codebooks={codebooks}, size={size}): at least one, of 2 to 256 vectors")

    def apply(leaves: tuple[Array, ...], ctx: Context) -> VectorCodes:
        view = ctx.view()
        w = view.to_matrix(leaves[0])
        check_group(w, dim, "dim", ctx.spec.path)
        w = gathered(gathered(w, -1), -2)

        def solve(w: Array, key: Array) -> tuple[Array, Array, Array]:
            square = jnp.mean(w * w, axis=0)
            scale = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 1)
            x = runs_of(w / scale[None], dim)
            if x.size == 0:
                empty = jnp.zeros((*x.shape[:2], codebooks), jnp.uint8)
                return empty, jnp.zeros((codebooks, size, dim), w.dtype), scale
            found = additive_array(x.reshape(-1, dim), key, codebooks, size, sweeps)
            return found.codes.reshape(*x.shape[:2], codebooks), found.books, scale

        keys = ctx.key
        if view.stacks:
            keys = jax.random.split(ctx.key, w.shape[: view.stacks])  # type: ignore[arg-type]
        codes, books, scale = over_stack(solve, view.stacks)(w, keys)
        dtype = working_dtype(w.dtype)
        return VectorCodes(codes, books.astype(dtype), scale, view=view, weight_dtype=np.dtype(ctx.spec.dtype))

    return leafwise("additive", apply, needs=frozenset({"key"}))
