"""PowerQuant: one exponent for the whole network, found without data, and rounding to nearest on its power grid."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.axes import Axes, matrix_view
from wspace.core.containers import as_params, is_weight, show
from wspace.core.errors import SelectionError, WspaceError
from wspace.core.select import Spec, matches, matrices
from wspace.core.transform import Context, Transform, leafwise, working
from wspace.core.typing import Array, Tree, Where
from wspace.quant.formats import named
from wspace.quant.grid import Block, Group, Scales, block_of, decode, encode
from wspace.quant.power import Power, power_fit
from wspace.quant.qtensor import QTensor, qtensor

CANDIDATES = tuple(k / 20 for k in range(4, 21))


def power_grid(bits: int) -> Power:
    """The power grid of this many bits.

    Raises:
      WspaceError: bits outside 2..8.
    """
    if not 2 <= bits <= 8:
        raise WspaceError(f"bits={bits} is not supported; a code has 2 to 8 bits")
    grid = named(f"power{bits}")
    return grid if isinstance(grid, Power) else Power(grid.name, bits)


@partial(jax.jit, static_argnames=("grid", "block"))
def power_quantize(w: Array, exponent: Array | float, grid: Power, block: Block) -> tuple[Array, Scales]:
    """Codes `[..., in, out]` and scales of w `[..., in, out]` on the power grid of an exponent."""
    scales = power_fit(w, grid, block, exponent)
    return encode(w, grid, scales), scales


@partial(jax.jit, static_argnames=("grid", "block"))
def _norms(w: Array, exponents: Array, p: Array | float, grid: Power, block: Block) -> Array:
    """|w - w^|_p for each exponent, one after another."""

    def norm(a: Array) -> Array:
        codes, scales = power_quantize(w, a, grid, block)
        return jnp.sum(jnp.abs(decode(codes, grid, scales) - w) ** p) ** (1 / p)

    return lax.map(norm, exponents)


class Exponents(NamedTuple):
    """exponent: the best one. candidates: those that were tried, [n]; errors: of each, [n]."""

    exponent: Array
    candidates: Array
    errors: Array


def search_exponent(
    params: Tree,
    bits: int = 4,
    group: Group = None,
    p: float = 2.0,
    candidates: Sequence[float] = CANDIDATES,
    where: Where = matrices,
    axes: Axes | None = None,
) -> Exponents:
    """The one exponent for all matrices of a tree that rounding to nearest likes best, without data.

        a* = argmin over a of sum over matrices |W - W^(a)|_p

    Args:
      bits, group: as of `powerquant`. p: of the norm. candidates: exponents to try; with 1 among them the result is
        never worse than the uniform grid.
      where: which leaves. axes: roles of their axes; by name if not given.
    Returns:
      Exponents; give its `exponent` to `powerquant` or `nupes`.
    Raises:
      SelectionError: no matrix. ShapeError, WspaceError: as of `powerquant`.
    Example:
      >>> w = jax.random.laplace(jax.random.key(0), (64, 8))
      >>> found = search_exponent({"kernel": w}, bits=4)
      >>> bool(found.exponent < 0.8), bool(found.errors.min() < found.errors[-1])
      (True, True)

    Reference: Yvinec, Dapogny, Cord, Bailly, 2023, "PowerQuant: Automorphism Search for Non-Uniform Quantization".
    Differs from the paper: candidates on a line, where the paper takes Nelder and Mead's search of the same number.
    """
    grid, tried, total = power_grid(bits), jnp.asarray(candidates, jnp.float32), jnp.zeros(len(candidates))
    found = 0
    for path, leaf in as_params(params).leaves.items():
        if not is_weight(leaf):
            continue
        shape = tuple(leaf.shape)
        spec = Spec(show(path), shape, leaf.dtype, (axes or Axes()).of(path, shape))
        if matches(where, spec):
            w = matrix_view(spec.axes, shape, spec.path).to_matrix(working(leaf))
            errors = _norms(w, tried.astype(w.dtype), p, grid, block_of(w, group, spec.path))
            total, found = total + errors.astype(total.dtype), found + 1
    if not found:
        raise SelectionError("search_exponent found no matrix; name leaves with where=")
    return Exponents(tried[jnp.argmin(total)], tried, total)


def powerquant(bits: int = 4, group: Group = None, exponent: Array | float = 0.5) -> Transform:
    """Round to nearest on a power grid: equal steps of |w|^a.

        q = round(sign(w) |w / s|^a),   w^ = s sign(q) |q|^(1/a),   s = max|w| / (2^(b-1) - 1)^(1/a)

    With s^a for the scale this is the paper's: round(phi_a(w) / s) and phi_1/a(s q).

    Scope: leaf (1 pass). Needs: nothing. Random: no. Output leaf: QTensor, format "power<bits>".

    Args:
      bits: width of a code, 2..8. Static. group: as of `rtn`. Static.
      exponent: a, above 0; 1 is the uniform grid; `search_exponent` finds one. Traced.
    Returns:
      Transform, 1 -> 1, for matrices. codes int8 `[*stack, in, out]`; scales: "scale" `[*stack, in/group, out]`, weight
      units; "exponent" `[*stack, 1, 1]`.
    Raises:
      ShapeError, WspaceError: as of `rtn`.
    Example:
      >>> q = powerquant(bits=4, exponent=0.5)({"kernel": jnp.array([[49.0], [-4.2], [0.3], [0.0]])})["kernel"]
      >>> q.codes.ravel(), q.materialize().ravel().round(4)
      (Array([ 7, -2,  1,  0], dtype=int8), Array([49., -4.,  1.,  0.], dtype=float32))

    Reference: Yvinec, Dapogny, Cord, Bailly, 2023, "PowerQuant: Automorphism Search for Non-Uniform Quantization".
    Differs from the paper: weights only; the scale is kept in units of the weight, which changes no value.
    """
    grid = power_grid(bits)

    def apply(leaves: tuple[Array, ...], ctx: Context) -> QTensor:
        w = ctx.view().to_matrix(leaves[0])
        codes, scales = power_quantize(w, exponent, grid, block_of(w, group, ctx.spec.path))
        return qtensor(codes, grid, scales, ctx)

    return leafwise("powerquant", apply)
