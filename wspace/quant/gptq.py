"""GPTQ: round one input after another, and let the inputs that are left make up for the error.

"Generative Pre-trained Transformer Quantization", the layer solver of Frantar et al. Another paper's GPTQ is
gradient-based post-training quantization.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.errors import WspaceError
from wspace.core.transform import Context, Transform, leafwise, over_stack
from wspace.core.typing import Array
from wspace.quant.formats import Format, choose
from wspace.quant.grid import Block, Grid, Group, Scales, block_of, decode, encode, fit
from wspace.quant.qtensor import QTensor, qtensor
from wspace.stats.sharding import alike, explicit, gathered
from wspace.stats.side_gram import gram_of

MICRO = 16  # rows rounded one by one before a matrix product carries their errors on


class _Form(NamedTuple):
    """What is static: the grid, and how many inputs and outputs share scales."""

    grid: Grid
    block: Block


@partial(jax.jit, static_argnames=("grid", "block", "act_order", "carry"))
def gptq_array(
    w: Array,
    gram: Array,
    damp: Array | float,
    grid: Grid,
    block: Block,
    act_order: bool = False,
    carry: int = 128,
) -> tuple[Array, Scales]:
    """Codes `[in, out]` and scales `[in/group, out/width]` of w `[in, out]`, given gram `[in, in]` of its inputs.

    A gram that is not positive definite once damped gives scales of NaN.
    """
    form = _Form(grid, block)
    if w.size == 0:
        empty = fit(w, *form)
        return encode(w, grid, empty), empty
    w, gram = _damped(w, gram, damp)
    if act_order or grid.whole:
        order = jnp.argsort(-jnp.diagonal(gram)) if act_order else jnp.arange(len(gram))
        return _in_order(w, gram, order, form, carry)
    codes, _, scales = _solve(*_factored(w, gram), form, _levels(w.shape[0], block.group, carry))
    return codes, scales


def _damped(w: Array, gram: Array, damp: Array | float) -> tuple[Array, Array]:
    """Weights of dead inputs at zero, and gram with ones on the diagonal for them and `damp` of its mean added."""
    diagonal = jnp.diagonal(gram)
    dead = diagonal == 0
    alive = jnp.where(dead, 1, diagonal)
    diagonal = alive + jnp.asarray(damp, w.dtype) * jnp.mean(alive)
    return jnp.where(dead[:, None], 0, w), jnp.where(jnp.eye(len(gram), dtype=bool), diagonal[:, None], gram)


def _factored(w: Array, gram: Array) -> tuple[Array, Array]:
    """w, all NaN if gram has no factor, and U."""
    factor = inverse_factor(gram)
    return jnp.where(jnp.all(jnp.isfinite(factor)), w, jnp.nan), factor


def inverse_factor(gram: Array) -> Array:
    """U, upper triangular, with gram^-1 = U^T U: the inverse of the Cholesky factor of gram in reversed order."""
    lower = jnp.linalg.cholesky(gram[::-1, ::-1], symmetrize_input=False)
    inverse = lax.linalg.triangular_solve(lower, jnp.eye(len(gram), dtype=gram.dtype), left_side=True, lower=True)
    return inverse[::-1, ::-1]


def _in_order(w: Array, gram: Array, order: Array, form: _Form, carry: int) -> tuple[Array, Scales]:
    """Inputs in any order, on the scales of the weights as they came."""
    w, factor = _factored(_rows_at(w, order), gram[order][:, order])
    back = jnp.argsort(order)
    scales = fit(_rows_at(w, back), *form)
    group = order // form.block.group
    of_row = {n: _rows_at(s, group) if s.shape[0] > 1 else s for n, s in scales.items()}
    codes, _ = _sweep(w, factor, of_row, form.grid, _levels(len(gram), len(gram), carry))
    return _rows_at(codes, back), scales


def _levels(inputs: int, group: int, carry: int) -> tuple[int, ...]:
    """How many rows the nested steps take: each a divisor of the one before, the group among them, 1 the last.

    >>> _levels(4096, 64, 128), _levels(4096, 4096, 128), _levels(4096, 1024, 128)
    ((128, 64, 16, 1), (128, 16, 1), (1024, 128, 16, 1))
    """
    outer = _divisor(group, carry) if group > carry else _divisor(inputs, carry, group)
    return tuple(sorted({group, outer, _divisor(min(group, outer), MICRO), 1} - {inputs}, reverse=True))


def _divisor(n: int, most: int, step: int = 1) -> int:
    """The largest divisor of n up to `most` that is a multiple of `step`."""
    return max(d for d in range(step, most + 1, step) if n % d == 0)


def _solve(w: Array, factor: Array, form: _Form, levels: tuple[int, ...]) -> tuple[Array, Array, Scales]:
    """Codes and errors of whole groups of rows, whose scales are fitted when their first row is reached."""
    if w.shape[0] == form.block.group:
        scales = fit(w, *form)
        return *_sweep(w, factor, scales, form.grid, levels), scales
    return _in_steps(w, factor, levels[0], lambda part, corner, at: _solve(part, corner, form, levels[1:]))


def _sweep(w: Array, factor: Array, scales: Scales, grid: Grid, levels: tuple[int, ...]) -> tuple[Array, Array]:
    """Codes and errors of rows on known scales: one for all rows, or one for each."""
    if not levels:
        codes = encode(w, grid, scales)
        return codes, (w - decode(codes, grid, scales)) / factor

    def inner(part: Array, corner: Array, at: Callable[[Array], Array]) -> tuple[Array, Array]:
        mine = {n: at(s) if s.shape[0] > 1 else s for n, s in scales.items()}
        return _sweep(part, corner, mine, grid, levels[1:])

    return _in_steps(w, factor, levels[0], inner)


def _in_steps(w: Array, factor: Array, size: int, solve: Callable[..., tuple[Any, ...]]) -> Any:
    """Solve `size` rows at a time, in order, and carry their errors on to the rows below them.

        e_i = (w_i - q_i) / U_ii,   w_j <- w_j - U_ij e_i   for j > i

    A step's own rows are changed as well, but not looked at again. Returns what `solve` does, of all rows.
    """

    def step(w: Array, i: Array) -> tuple[Array, tuple[Any, ...]]:
        def at(x: Array) -> Array:
            return lax.dynamic_slice_in_dim(x, i * size, size)

        across = at(factor)
        solved = solve(at(w), lax.dynamic_slice_in_dim(across, i * size, size, axis=1), at)
        errors = solved[1]
        if size == 1:
            return w - across.T * errors, solved
        return w - jnp.matmul(across.T, errors, precision=lax.Precision.HIGHEST), solved

    _, solved = lax.scan(step, w, jnp.arange(w.shape[0] // size))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), solved)


def _rows_at(x: Array, order: Array) -> Array:
    return x.at[order].get(out_sharding=explicit(x))


def gptq(
    bits: int = 4,
    group: Group = None,
    damp: Array | float = 0.01,
    symmetric: bool = True,
    act_order: bool = False,
    block: int = 128,
    grid: Format = None,
) -> Transform:
    """Round to a grid so that the layer's output changes little, given the Gram matrix of its inputs.

        min |X W - X Q|^2 over codes, one input i after another, with gram + damp mean(diag gram) I = (U^T U)^-1:
        q_i = nearest(w_i),   e_i = (w_i - q_i) / U_ii,   w_j <- w_j - U_ij e_i   for j > i

    Scope: leaf (1 pass). Needs: gram. Random: no. Output leaf: QTensor.

    Sharding: outputs are solved apart; a leaf whose inputs are sharded is gathered, and its Gram matrix always is.

    Args:
      bits: width of a code, 2..8. Static.
      group: consecutive inputs that share a scale; must divide the inputs. None: all of them; other forms as of `rtn`.
        Static.
      damp: what is added to the diagonal of gram, as a fraction of its mean. Traced.
      symmetric: whether codes are centred on 0, as in `rtn`. Static.
      act_order: round inputs in the order of their falling mean square. Scales then are those of the weights as they
        came; else a group's scale is found when its first input is reached, on the corrected weights. Static.
      grid: instead of bits and symmetric, as of `rtn`. Scales that hang together (nvfp4) are those of the
        weights as they came. Static.
      block: inputs after which errors are carried on to all later ones at once: speed only. Static.
    Returns:
      Transform, 1 -> 1, for matrices; QTensor as of `rtn`. Inputs that were always zero get zero weights. If the
      damped gram is not positive definite, all weights are NaN: raise damp.
    Raises:
      SideTreeError: no gram for a leaf, or of another shape than `[*stack, in, in]`.
      ShapeError: group does not divide the inputs (names the path and both numbers); a leaf that is no matrix.
      WspaceError: bits outside 2..8; an unknown grid; block below 1.
    Example:
      >>> import jax.numpy as jnp
      >>> w, gram = jnp.array([[0.7], [0.12]]), jnp.array([[1.0, 0.9], [0.9, 1.0]])
      >>> gptq(bits=4, group=2)({"kernel": w}, gram={"kernel": gram})["kernel"].codes.ravel()
      Array([7, 1], dtype=int8)

    Reference: Frantar, Ashkboos, Hoefler, Alistarh, 2022, "GPTQ: Accurate Post-Training Quantization for Generative
      Pre-trained Transformers".
    Differs from the paper: U comes from one Cholesky factor in reversed order and a triangular inverse. The symmetric
      scale is max|w| / (2^(b-1) - 1) as in `rtn`; the paper's code has 1/2 for 1 and clips the largest weight. A group
      narrower than block has its scale found on weights that are corrected up to its first input (the paper's code: up
      to the block's). Where group is None, weights of dead inputs do not count for the scale.
    """
    if block < 1:
        raise WspaceError(f"block={block} is no number of inputs; 128 is usual")

    chosen = choose(bits, symmetric, grid)

    def apply(leaves: tuple[Array, ...], ctx: Context) -> QTensor:
        view = ctx.view()
        leaf = view.to_matrix(leaves[0])
        w, gram = gathered(leaf, -2), gathered(gathered(gram_of(ctx, leaf), -1), -2)
        shared = block_of(w, group, ctx.spec.path)
        solve = partial(gptq_array, grid=chosen, block=shared, act_order=act_order, carry=block)
        codes, scales = over_stack(lambda w, gram: solve(w, gram, damp), view.stacks)(w, gram)
        return qtensor(alike(codes, leaf), chosen, scales, ctx)

    return leafwise("gptq", apply, needs=frozenset({"gram"}))
