"""QuantEase: coordinate descent on the layer's output, one input of all outputs at a time, again and again."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.errors import WspaceError
from wspace.core.implicit import Implicit
from wspace.core.transform import Context, Transform, leafwise, narrow, over_stack
from wspace.core.typing import Array
from wspace.quant.amended import KeptEntries, check_single, entries, facts, inside
from wspace.quant.clip import Scale, choice, fitted
from wspace.quant.formats import Format, choose
from wspace.quant.gptq import by_input
from wspace.quant.grid import Grid, Group, Scales, block_of, decode, encode, rounded
from wspace.quant.qtensor import QTensor, qtensor
from wspace.quant.rtn import weights_of
from wspace.quant.sweep import CARRY, nested, sweep
from wspace.stats.halves import product
from wspace.stats.quantile import check_fraction, largest_mask
from wspace.stats.sharding import alike, gathered
from wspace.stats.side_gram import gram_of

FREE = 3  # the second of every so many sweeps does not round, if the heuristic is on


class Found(NamedTuple):
    """codes `[in, out]`; values `[k]` of the entries left out, at inputs and outputs `[k]`; k may be 0."""

    codes: Array
    values: Array
    inputs: Array
    outputs: Array


@partial(jax.jit, static_argnames=("grid", "sweeps", "relax", "outliers", "carry"))
def quantease_array(
    w: Array,
    gram: Array,
    start: Array,
    scales: Scales,
    grid: Grid,
    sweeps: int,
    relax: bool = False,
    outliers: int = 0,
    carry: int = CARRY,
) -> Found:
    """Codes on given scales after `sweeps` cycles of coordinate descent from start `[in, out]`.

    Minimizes tr(e^T gram e), e = q + h - w, with `outliers` entries of h that are not 0. What is walked down is the
    value that each input would best have, given all others: t_i = q_i - (gram e)_i / gram_ii. Dead inputs stay at their
    start, rounded.
    """
    if w.size == 0:
        return Found(encode(w, grid, scales), *_sparse(w, jnp.zeros(w.shape, bool), 0))
    size = max(s.shape[0] for s in scales.values())
    shared, own = by_input(scales, jnp.arange(len(w)) // (len(w) // size))
    diagonal = jnp.diagonal(gram)
    alive = jnp.where(diagonal == 0, 1, diagonal)
    factor = gram / alive[:, None]  # [j, i]: how the error of i moves the best value of j
    step = 1 / largest_eigenvalue(gram) if outliers else 0.0
    w = jnp.where(diagonal[:, None] == 0, start, w)

    def cycle(state: tuple[Array, Array, Array], rounds: Array) -> tuple[tuple[Array, Array, Array], None]:
        errors, _, rest = state
        aim = w - rest

        def solve(best: Array, corner: Array, rows: tuple[Array, Scales]) -> tuple[Array, Array]:
            aim, own = rows
            new = jnp.where(rounds, rounded(best, grid, {**shared, **own}), best)
            return new - aim, new

        errors, now = sweep(aim, factor, (aim, own), nested(len(w), len(w), carry), solve, errors)
        if outliers:
            new = rest - step * product(gram, errors)
            new = jnp.where(largest_mask(new, outliers), new, 0)
            errors, rest = errors + (new - rest), new
        return (errors, now, rest), None

    rest = jnp.where(largest_mask(w, outliers), w, 0) if outliers else jnp.zeros_like(w)
    k = jnp.arange(sweeps)
    rounds = (k % FREE != 1) | (k == sweeps - 1) if relax else jnp.ones(sweeps, bool)
    (_, now, rest), _ = lax.scan(cycle, (start - w, start - rest, rest), rounds)
    return Found(encode(now, grid, scales), *_sparse(now + rest, rest != 0, outliers))


def _sparse(w: Array, mask: Array, count: int) -> tuple[Array, Array, Array]:
    at = entries(mask, count)
    return w[at[0].astype(jnp.int32), at[1].astype(jnp.int32)], *at


def largest_eigenvalue(gram: Array) -> Array:
    """An upper bound of the largest eigenvalue of a positive semidefinite matrix: at most n^(1/32) times it.

    The Frobenius norm of gram^16, to the power of 1/16; gram is divided by its norm before each squaring.
    """
    x, bound = gram, jnp.ones((), gram.dtype)
    for k in range(5):
        norm = jnp.sqrt(jnp.sum(jnp.square(x)))
        bound = bound * norm ** (0.5**k)
        x = x / jnp.where(norm == 0, 1, norm)
        if k < 4:
            x = jnp.matmul(x, x, precision=lax.Precision.HIGHEST)
    return jnp.where(bound == 0, 1, bound)


def quantease(
    bits: int = 4,
    group: Group = None,
    sweeps: int = 20,
    start: Transform | None = None,
    relax: bool = False,
    outliers: float = 0.0,
    symmetric: bool = True,
    grid: Format = None,
    scale: Scale = "absmax",
) -> Transform:
    """Coordinate descent: each input takes the grid point that is best given all others, in turn.

        min |X W - X Q|^2 over codes:   q_i <- nearest(q_i - (gram (q - w))_i / gram_ii),   i = 1 .. in,  sweeps times
        with outliers, W ~ Q + H:   H <- the largest entries of H - gram (Q + H - W) / lambda_max   after each sweep

    Scope: leaf (1 pass). Needs: gram, and what start needs. Random: no. Output leaf: QTensor (in KeptEntries).

    After the first sweep no sweep makes the objective larger. From a start on the grid the first does not either.

    Sharding: as of `gptq`.

    Args:
      bits, group, symmetric, grid, scale: as of `rtn`; scales are those of the weights as they come. Static.
      sweeps: how often all inputs are gone through. Static.
      start: where from: None is the weights themselves; `gptq(...)` or `rtn(...)` its result, on its grid and scales.
      relax: the second of every three sweeps does not round (never the last one). Static.
      outliers: share of the entries that a sparse H of full precision has, 0..1; not with a start. Static.
    Returns:
      Transform, 1 -> 1, for matrices; QTensor as of `rtn`. Inputs that were always zero stay at their start, rounded.
    Raises:
      SideTreeError, ShapeError: as `gptq`. WspaceError: as `rtn`; sweeps below 1; start gives no QTensor, or comes with
        outliers; a share outside 0..1.
    Example:
      >>> w, gram = jnp.array([[0.7], [0.12]]), jnp.array([[1.0, 0.9], [0.9, 1.0]])
      >>> quantease(bits=4, sweeps=2)({"kernel": w}, gram={"kernel": gram})["kernel"].codes.ravel()
      Array([7, 1], dtype=int8)

    Reference: Behdin, Acharya, Gupta, Song, Zhu, Keerthi, Mazumder, 2023, "QuantEase: Optimization-based Quantization
      for Language Models".
    Differs from the paper: inputs are solved in nested blocks, which costs matrix products and changes nothing; relax
      is off unless asked for, and inputs are taken as they lie, where the authors' code goes in the order of their
      size. H's step is 1 / lambda_max with a bound of lambda_max from above; the code's is half of it, or less.
    """
    if sweeps < 1:
        raise WspaceError(f"quantease goes through the inputs at least once, but got sweeps={sweeps}; 20 is usual")
    if start is not None and outliers:
        raise WspaceError("quantease with outliers starts from the weights; leave start or outliers away")
    chosen, how, share = choose(bits, symmetric, grid), choice(scale), check_fraction(outliers)
    first = None if start is None else check_single(start, "quantease")

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Implicit:
        view = ctx.view()
        leaf = view.to_matrix(leaves[0])
        w, gram = gathered(leaf, -2), gathered(gathered(gram_of(ctx, leaf), -1), -2)
        count = round(share * leaf.shape[-2] * leaf.shape[-1])
        if first is None:
            w = gathered(w, -1) if count else w
            block = block_of(w, group, ctx.spec.path)
            on, here = chosen, w
            rest = w if not count else jnp.where(over_stack(partial(largest_mask, keep=count), view.stacks)(w), 0, w)
            scales = fitted(rest, on, block, how, weights_of(ctx, w, block, how))
        else:
            node = first.apply((leaves[0],), ctx)
            if not isinstance(node, QTensor):
                raise WspaceError(f"quantease starts from codes, which {first.name} does not give; start from a solver")
            scales = {n: gathered(s, -2) for n, s in node.scales.items()}
            on, here = node.grid, gathered(decode(node.codes, node.grid, node.scales), -2)
        solve = partial(quantease_array, grid=on, sweeps=sweeps, relax=relax, outliers=count)
        found = over_stack(solve, view.stacks)(w, gram, here, scales)
        codes = alike(found.codes, leaf)
        if not share:
            return qtensor(codes, on, scales, ctx)
        base, values = qtensor(codes, on, scales, inside(ctx)), narrow(found.values, ctx.spec.dtype)
        return KeptEntries(base, values, found.inputs, found.outputs, **facts(ctx))

    return leafwise("quantease", apply, needs=frozenset({"gram"}) | (first.needs if first else frozenset()))
