"""GPTQ: round one input after another, and let the inputs that are left make up for the error.

"Generative Pre-trained Transformer Quantization", the layer solver of Frantar et al. Another paper's GPTQ is
gradient-based post-training quantization.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.errors import WspaceError
from wspace.core.transform import Context, Transform, leafwise, over_stack
from wspace.core.typing import Array
from wspace.quant.clip import Percentile, Scale, Search, choice, fitted, weighing
from wspace.quant.formats import Format, choose
from wspace.quant.grid import Block, Grid, Group, Scales, block_of, decode, encode, fit
from wspace.quant.qtensor import QTensor, qtensor
from wspace.quant.sweep import CARRY, nested, sweep
from wspace.stats.halves import joined, product, symmetric_product
from wspace.stats.sharding import alike, explicit, gathered
from wspace.stats.side_gram import gram_of


class Form(NamedTuple):
    """What is static: the grid, how many inputs and outputs share scales, and how these are chosen."""

    grid: Grid
    block: Block
    how: Search | Percentile | None = None

    def fit(self, w: Array, weights: Array | None) -> Scales:
        """The scales of w `[in, out]`; weights as of `within`."""
        return fitted(w, *self, weights)


def within(gram: Array, form: Form) -> Array | None:
    """What the choice of scales weighs errors by, from the Gram matrix."""
    return weighing(gram, form.block, form.how)


@partial(jax.jit, static_argnames=("grid", "block", "act_order", "carry", "how"))
def gptq_array(
    w: Array,
    gram: Array,
    damp: Array | float,
    grid: Grid,
    block: Block,
    act_order: bool = False,
    carry: int = CARRY,
    how: Search | Percentile | None = None,
) -> tuple[Array, Scales]:
    """Codes `[in, out]` and scales `[in/group, out/width]` of w `[in, out]`, given gram `[in, in]` of its inputs.

    A gram that is not positive definite once damped gives scales of NaN.
    """
    if w.size == 0:
        empty = fit(w, grid, block)
        return encode(w, grid, empty), empty
    w, gram = damped(w, gram, damp)
    order = jnp.argsort(-jnp.diagonal(gram)) if act_order else None
    codes, _, scales = walk(w, gram, Form(grid, block, how), carry, order)
    return codes, scales


def walk(
    w: Array, gram: Array, form: Form, carry: int, order: Array | None = None, kept: Array | None = None
) -> tuple[Array, Array, Scales]:
    """Codes, the weights that came of them, and scales, of w and gram as `damped` gives them.

    order: of the inputs; scales then are those of the weights as they came. kept: bool `[in, out]` or `[in, 1]`, what
    is not rounded, and does not count for scales: these weights are as the errors of others left them, their codes
    those of 0.
    """
    if order is None and form.grid.whole:
        order = jnp.arange(len(gram))
    w, m = factored(w, gram) if order is None else factored(rows_at(w, order), gram[order][:, order])
    weights = within(gram, form)
    if order is None:
        return by_groups(w, feedback(m), weights, kept, form, carry)
    return _in_order(w, feedback(m), weights, order, kept, form, carry)


def damped(w: Array, gram: Array, damp: Array | float) -> tuple[Array, Array]:
    """Weights of dead inputs at zero, and gram with ones on the diagonal for them and `damp` of its mean added."""
    diagonal = jnp.diagonal(gram)
    dead = diagonal == 0
    alive = jnp.where(dead, 1, diagonal)
    diagonal = alive + jnp.asarray(damp, w.dtype) * jnp.mean(alive)
    return jnp.where(dead[:, None], 0, w), jnp.where(jnp.eye(len(gram), dtype=bool), diagonal[:, None], gram)


def factored(w: Array, gram: Array) -> tuple[Array, Array]:
    """w, all NaN if gram has no factor, and M, upper triangular, with gram = M M^T."""
    m = upper_factor(gram)
    return jnp.where(jnp.all(jnp.isfinite(m)), w, jnp.nan), m


def upper_factor(gram: Array, halvings: int = 3, least: int = 512) -> Array:
    """M, upper triangular, with gram = M M^T: its Cholesky factor in reversed order.

    least: rows from which on gram is halved, up to `halvings` times, so that nearly all work is matrix products:
        M = [M1 C; 0 M2]:   C = A12 M2^-T,   M1 M1^T = A11 - C C^T
    """
    n = len(gram)
    if not halvings or n <= least:
        return jnp.linalg.cholesky(gram[::-1, ::-1], symmetrize_input=False)[::-1, ::-1]
    half = n // 2
    last = upper_factor(gram[half:, half:], halvings - 1, least)
    across = lax.linalg.triangular_solve(last, gram[:half, half:], transpose_a=True)
    rest = gram[:half, :half] - symmetric_product(across.T, across.T, halvings - 1)
    return joined(upper_factor(rest, halvings - 1, least), across, jnp.zeros_like(across.T), last)


def feedback(m: Array) -> Array:
    """F, unit lower triangular, from M: how the error of an input moves the best values of those after it."""
    return (m / jnp.diagonal(m)[None]).T


def by_groups(
    w: Array, factor: Any, weights: Array | None, kept: Array | None, form: Form, carry: int
) -> tuple[Array, Array, Scales]:
    """Group after group, whose scales are fitted when their first input is reached."""
    group = form.block.group
    sizes = nested(len(w), group, carry)
    inner = tuple(n for n in sizes if n < group)

    def solve_group(now: Array, corner: Any, rows: Any) -> tuple[Any, ...]:
        w, weights, kept = rows
        aim = corrected(w, now, jax.tree.leaves(corner)[0]) if outer else w
        scales = form.fit(free(aim, kept), weights)
        errors, codes, made = sweep(aim, corner, (aim, kept), inner, _nearest(form.grid, scales))
        off = made - w
        return (off, *errors[1:]) if isinstance(errors, tuple) else off, codes, made, scales

    outer = tuple(n for n in sizes if n >= group)
    _, codes, made, scales = sweep(w, factor, (w, weights, kept), outer, solve_group)
    return codes, made, scales


def corrected(w: Array, now: Array, corner: Array) -> Array:
    """What the weights of some inputs, now that others have errors, would best be: F^-1 (now - w) more than w."""
    eye = jnp.eye(len(corner), dtype=corner.dtype)
    inverse = lax.linalg.triangular_solve(corner, eye, left_side=True, lower=True, unit_diagonal=True)
    return w + product(inverse, now - w)


def free(w: Array, kept: Array | None) -> Array:
    """w with zeros for what is kept."""
    return w if kept is None else jnp.where(kept, 0, w)


def _nearest(grid: Grid, scales: Scales) -> Any:
    """Solve inputs by rounding them, on scales that they share. Of two factors the second is of what was rounded."""

    def solve(now: Array, corner: Any, rows: Any) -> tuple[Any, Array, Array]:
        aim, kept = rows
        codes = encode(free(now, kept), grid, scales)
        near = decode(codes, grid, scales)
        made = near if kept is None else jnp.where(kept, now, near)
        return (made - aim, now) if isinstance(corner, tuple) else made - aim, codes, made

    return solve


def _in_order(
    w: Array, factor: Array, weights: Array | None, order: Array, kept: Array | None, form: Form, carry: int
) -> tuple[Array, Array, Scales]:
    """Inputs in any order, on the scales of the weights as they came; w and factor are in that order."""
    back = jnp.argsort(order)
    scales = form.fit(free(rows_at(w, back), kept), weights)
    shared, own = by_input(scales, order // form.block.group)

    def solve(now: Array, corner: Array, rows: Any) -> tuple[Any, ...]:
        own, *rest = rows
        return tuple(_nearest(form.grid, {**shared, **own})(now, corner, rest))

    rows = (own, w, None if kept is None else rows_at(kept, order))
    _, codes, made = sweep(w, factor, rows, nested(len(w), len(w), carry), solve)
    return rows_at(codes, back), rows_at(made, back), scales


def by_input(scales: Scales, group: Array) -> tuple[Scales, Scales]:
    """Scales that all inputs share, and others by input `[in, out/width]`, given each input's group."""
    shared = {n: s for n, s in scales.items() if s.shape[0] == 1}
    return shared, {n: rows_at(s, group) for n, s in scales.items() if n not in shared}


def rows_at(x: Array, order: Array) -> Array:
    """x `[in, ...]` with its inputs in this order."""
    return x.at[order].get(out_sharding=explicit(x))


def gptq(
    bits: int = 4,
    group: Group = None,
    damp: Array | float = 0.01,
    symmetric: bool = True,
    act_order: bool = False,
    block: int = CARRY,
    grid: Format = None,
    scale: Scale = "absmax",
) -> Transform:
    """Round to a grid so that the layer's output changes little, given the Gram matrix of its inputs.

        min |X W - X Q|^2 over codes, one input j after another, with gram + damp mean(diag gram) I = M M^T:
        q_j = nearest(w_j - sum_(i < j) M_ij / M_jj (q_i - w_i)),   M upper triangular

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
      scale: how far ranges are drawn in, as of `rtn`; the paper's code has "l2.4" for its `mse`. Static.
      block: inputs that take up the errors of all before them at once: speed only. Static.
    Returns:
      Transform, 1 -> 1, for matrices; QTensor as of `rtn`. Inputs that were always zero get zero weights. If the
      damped gram is not positive definite, all weights are NaN: raise damp.
    Raises:
      SideTreeError: no gram for a leaf, or of another shape than `[*stack, in, in]`.
      ShapeError: group does not divide the inputs (names the path and both numbers); a leaf that is no matrix.
      WspaceError: bits outside 2..8; an unknown grid or choice of scale; block below 1.
    Example:
      >>> import jax.numpy as jnp
      >>> w, gram = jnp.array([[0.7], [0.12]]), jnp.array([[1.0, 0.9], [0.9, 1.0]])
      >>> gptq(bits=4, group=2)({"kernel": w}, gram={"kernel": gram})["kernel"].codes.ravel()
      Array([7, 1], dtype=int8)

    Reference: Frantar, Ashkboos, Hoefler, Alistarh, 2022, "GPTQ: Accurate Post-Training Quantization for Generative
      Pre-trained Transformers".
    Differs from the paper: it carries an error (w_i - q_i) / U_ii of the weight as it has become on to the inputs that
      are left, with gram^-1 = U^T U; M is the inverse of U, so that this is the same, without an inverse. The symmetric
      scale is max|w| / (2^(b-1) - 1) as in `rtn`; the paper's code has 1/2 for 1 and clips the largest weight. A group
      narrower than block has its scale found on weights that are corrected up to its first input (the paper's code: up
      to the block's). Where group is None, weights of dead inputs do not count for the scale.
    """
    if block < 1:
        raise WspaceError(f"block={block} is no number of inputs; 128 is usual")

    chosen, how = choose(bits, symmetric, grid), choice(scale)

    def apply(leaves: tuple[Array, ...], ctx: Context) -> QTensor:
        view = ctx.view()
        leaf = view.to_matrix(leaves[0])
        w, gram = gathered(leaf, -2), gathered(gathered(gram_of(ctx, leaf), -1), -2)
        shared = block_of(w, group, ctx.spec.path)
        solve = partial(gptq_array, grid=chosen, block=shared, act_order=act_order, carry=block, how=how)
        codes, scales = over_stack(lambda w, gram: solve(w, gram, damp), view.stacks)(w, gram)
        return qtensor(alike(codes, leaf), chosen, scales, ctx)

    return leafwise("gptq", apply, needs=frozenset({"gram"}))
