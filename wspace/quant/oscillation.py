"""Weights that oscillate between two codes: how often they do, and how OFQ stops them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wspace.core.axes import Axes, matrix_view
from wspace.core.containers import as_params, is_weight, show
from wspace.core.errors import SideTreeError, WspaceError
from wspace.core.implicit import Implicit
from wspace.core.select import Spec, matches, matrices
from wspace.core.transform import working
from wspace.core.typing import Array, Tree, Where
from wspace.quant.fake_quant import FakeQuant


@jax.jit
def confidence_array(w: Array, bits: Array | int, boundary: Array | float) -> Array:
    """True where a weight lies next to a border between two codes of StatsQ: those that may still move.

        s = 2 mean_i |w_ij|,   t = 2^(b-1) clip(w / s, -1, 1 - 1e-6) - 1/2,   | frac(t) - 1/2 | <= boundary

    w: `[..., in, out]`; s is of each output.
    """
    n = 2.0 ** (jnp.asarray(bits, w.dtype) - 1)
    s = 2 * jnp.mean(jnp.abs(w), axis=-2, keepdims=True)
    t = n * jnp.clip(w / jnp.where(s > 0, s, 1), -1, 1 - 1e-6) - 0.5
    return jnp.abs(t - jnp.floor(t) - 0.5) <= jnp.asarray(boundary, w.dtype)


class GuidedState(NamedTuple):
    """step: how many so far, int32."""

    step: Array


def confidence_guided(
    bits: int, boundary: float = 0.005, start: int = 0, where: Where = matrices, axes: Axes | None = None
) -> optax.GradientTransformation:
    """Confidence-guided annealing: from step `start` on, only weights next to a border between two codes move.

        u <- u [| frac(t(w)) - 1/2 | <= boundary],   t as of `confidence_array`

    It comes last in the chain, so that a frozen weight stays bit by bit, whatever momentum or decay wanted.

    Args:
      bits: of StatsQ codes. boundary: half the width of the free zone, in codes; the paper takes 0.003 to 0.01.
      start: first step that freezes. where: the weights that are quantized; FakeQuant leaves and matrices. axes: roles.
    Returns:
      optax.GradientTransformation; its update needs params. State: int32 step.
    Raises:
      SideTreeError: update without params. WspaceError: bits below 1.
    Example:
      >>> tx = confidence_guided(bits=2, boundary=0.1)
      >>> params = {"kernel": jnp.array([[1.0], [0.5], [0.3]])}
      >>> updates, _ = tx.update({"kernel": jnp.ones((3, 1))}, tx.init(params), params)
      >>> updates["kernel"].ravel()
      Array([0., 0., 0.], dtype=float32)

    Reference: Liu, Liu, Cheng, 2023, "Oscillation-free Quantization for Low-bit Vision Transformers".
    Differs from the paper: none; there the gradient is masked and the value restored after the step, to the same end.
    """
    if bits < 1:
        raise WspaceError(f"confidence_guided: bits={bits} is no number of bits; 2 is usual")
    layout = axes or Axes()

    def init(params: Tree) -> GuidedState:
        return GuidedState(jnp.zeros((), jnp.int32))

    def update(updates: Tree, state: GuidedState, params: Tree | None = None) -> tuple[Tree, GuidedState]:
        if params is None:
            raise SideTreeError("confidence_guided needs the parameters; call it as update(updates, state, params)")
        moves, weights = as_params(updates), as_params(params).leaves
        out = {path: _guided(path, u, weights.get(path)) for path, u in moves.leaves.items()}
        frozen = state.step < start
        kept = {p: jax.tree.map(lambda a, b: jnp.where(frozen, a, b), u, out[p]) for p, u in moves.leaves.items()}
        return moves.rebuild(kept), GuidedState(state.step + 1)

    def _guided(path: Any, u: Any, w: Any) -> Any:
        if isinstance(u, FakeQuant) and isinstance(w, FakeQuant):
            return FakeQuant(_masked(u.w, w.w, w.view), u.step, format=u.format, block=u.block, view=u.view)
        if not is_weight(u) or isinstance(u, Implicit) or w is None:
            return u
        spec = Spec(show(path), u.shape, u.dtype, layout.of(path, u.shape))
        return _masked(u, w, matrix_view(spec.axes, spec.shape, spec.path)) if matches(where, spec) else u

    def _masked(u: Array, w: Array, view: Any) -> Array:
        free = confidence_array(view.to_matrix(working(w)), bits, boundary)
        return jnp.where(view.from_matrix(free), u, jnp.zeros((), u.dtype))

    return optax.GradientTransformation(init, update)


class Oscillation(NamedTuple):
    """codes: of the last step. direction: of each one's last change, -1, 0 or 1. frequency: moving average of turns."""

    codes: Array
    direction: Array
    frequency: Array


def watch(codes: Array) -> Oscillation:
    """The start of a watch over codes, of any shape."""
    nothing = jnp.zeros(codes.shape, jnp.int8)
    return Oscillation(codes.astype(jnp.int32), nothing, jnp.zeros(codes.shape, jnp.float32))


@jax.jit
def watched(state: Oscillation, codes: Array, momentum: Array | float = 0.01) -> Oscillation:
    """One step further: a turn is a change of a code against the direction of its last change.

        f <- (1 - momentum) f + momentum [sgn(c - c_last) = -last direction != 0]

    Example:
      >>> state = watch(jnp.array([0]))
      >>> for code in (1, 0, 1):
      ...     state = watched(state, jnp.array([code]), momentum=0.5)
      >>> state.frequency
      Array([0.75], dtype=float32)

    Reference: Nagel, Fournarakis, Bondarenko, Blankevoort, 2022, "Overcoming Oscillations in Quantization-Aware
      Training"; as in Liu, Liu, Cheng, 2023, "Oscillation-free Quantization for Low-bit Vision Transformers".
    """
    codes = codes.astype(jnp.int32)
    turned = jnp.sign(codes - state.codes).astype(jnp.int8)
    flipped = (turned != 0) & (turned == -state.direction)
    share = jnp.asarray(momentum, jnp.float32)
    frequency = (1 - share) * state.frequency + share * flipped.astype(jnp.float32)
    return Oscillation(codes, jnp.where(turned != 0, turned, state.direction), frequency)


@jax.jit
def qk_product(query: Array, key: Array) -> Array:
    """Queries and keys of attention as one matrix a head: logits are x M x^T, and M is quantized instead of both.

        M_h = W_q,h W_k,h^T

    Args:
      query, key: `[in, heads, head_dim]`, without biases.
    Returns:
      `[heads, in, in]`, heads in^2 numbers instead of 2 in heads head_dim.
    Example:
      >>> qk_product(jnp.ones((2, 1, 3)), jnp.ones((2, 1, 3)))[0]
      Array([[3., 3.],
             [3., 3.]], dtype=float32)

    Reference: Liu, Liu, Cheng, 2023, "Oscillation-free Quantization for Low-bit Vision Transformers" (query-key
      reparameterization).
    """
    return jnp.einsum("ihd,jhd->hij", query, key, precision=jax.lax.Precision.HIGHEST)
