"""A matrix that learns by online gradient steps as a sequence goes by, and is read at every token."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from wspace.core.errors import ShapeError
from wspace.core.typing import Array
from wspace_kernels.dispatch import Choice, Implementation, choose, with_gradient_of


def delta_rule(
    q: Array,
    k: Array,
    v: Array,
    beta: Array,
    *,
    log_gate: Array | None = None,
    initial_state: Array | None = None,
    chunk: int = 64,
    implementation: Implementation = None,
) -> tuple[Array, Array]:
    """DeltaNet: each token moves a matrix S so that its key recalls its value, then reads it with its query.

        S_t = a_t S_{t-1} + beta_t k_t (v_t - (a_t S_{t-1})^T k_t)^T,   o_t = S_t^T q_t,   a_t = exp(log_gate_t) or 1

    The bracket is a gradient step of size beta on |S^T k - v|^2 / 2. Chunks of tokens are products of matrices: with
    K, V, Q of a chunk, B = diag(beta) and the state S before it,

        T = (I + tril(B K K^T, -1))^{-1} B,   U = T V - T K S,   O = Q S + tril(Q K^T) U,   S <- S + K^T U

    Args:
      q, k: `[..., length, d_k]`. v: `[..., length, d_v]`. Floating; keys are taken as they come: normalize them, and
        scale queries (by d_k^-1/2), before. beta: `[..., length]`, 0..2.
      log_gate: `[..., length]`, <= 0: Gated DeltaNet. initial_state: `[..., d_k, d_v]`; None: zeros.
      chunk: tokens at once, a power of two. Static.
      implementation: None, "ref", "tpu" or "gpu". Static.
    Returns:
      o `[..., length, d_v]` of v's dtype, and the last state, float32 `[..., d_k, d_v]` (float64 if v is). Gradients
      reach all arrays; they are those of the chunks in plain jnp.
    Raises:
      ShapeError: shapes that do not fit, a chunk that is no power of two. As `dispatch.choose` for a named
        implementation.
    Example:
      >>> k, v = jnp.eye(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> delta_rule(k[::-1], k, v, jnp.ones(2))[0]  # what k_2 recalls before it has come, what k_1 recalls after it
      Array([[0., 0.],
             [1., 2.]], dtype=float32)

    Reference: Yang, Wang, Zhang, Shen, Kim, 2024, "Parallelizing Linear Transformers with the Delta Rule over Sequence
      Length"; Yang, Kautz, Hatamizadeh, 2025, "Gated Delta Networks: Improving Mamba2 with Delta Rule".
    Differs from the paper: T by products of blocks twice as large each time, not by substitution row after row.
    """
    stack, (length, keys), values = q.shape[:-2], q.shape[-2:] if q.ndim > 1 else (0, 0), v.shape[-1:]
    state = (*stack, keys, *values)
    wanted = {
        "k": (k, q.shape),
        "v": (v, (*stack, length, *values)),
        "beta": (beta, (*stack, length)),
        "log_gate": (log_gate, (*stack, length)),
        "initial_state": (initial_state, state),
    }
    for name, (x, shape) in wanted.items():
        if x is not None and (x.shape != shape or q.ndim < 2):
            raise ShapeError(f"delta_rule: {name} has shape {x.shape}; wanted {shape}, for q {q.shape} and v {v.shape}")
    if chunk < 1 or chunk & (chunk - 1):
        raise ShapeError(f"delta_rule: chunk={chunk} is no power of two; use 64")
    wide = jnp.float64 if v.dtype == jnp.float64 else jnp.float32
    start = jnp.zeros(state, wide) if initial_state is None else initial_state.astype(wide)
    sequences = [None if x is None else _padded(x, len(stack), chunk) for x in (q, k, v, beta, log_gate)]
    args = (*sequences, start.reshape(-1, keys, *values))
    o, last = _run(*args, choice=choose("delta_rule", implementation, *args, chunk=chunk), chunk=chunk)
    return o[:, :length].reshape(v.shape), last.reshape(state)


def _padded(x: Array, stack: int, chunk: int) -> Array:
    """`[heads, length, ...]` in whole chunks. Tokens of zeros change no state."""
    flat = x.reshape(-1, *x.shape[stack:])
    return jnp.pad(flat, [(0, 0), (0, -x.shape[stack] % chunk), *[(0, 0)] * (flat.ndim - 2)])


@partial(jax.jit, static_argnames=("choice", "chunk"))
def _run(
    q: Array, k: Array, v: Array, beta: Array, log_gate: Array | None, start: Array, choice: Choice, chunk: int
) -> tuple[Array, Array]:
    args = (q, k, v, beta, log_gate, start)
    reference = choice._replace(name="ref").function("delta_rule", chunk=chunk)
    if choice.name == "ref":
        return reference(*args)
    return with_gradient_of(reference, choice.function("delta_rule", chunk=chunk))(*args)


def delta_product(
    q: Array,
    k: Array,
    v: Array,
    beta: Array,
    *,
    log_gate: Array | None = None,
    initial_state: Array | None = None,
    chunk: int = 64,
    implementation: Implementation = None,
) -> tuple[Array, Array]:
    """DeltaProduct: n steps of the delta rule a token; the state's transition is a product of n Householder-like maps.

        S <- a_t S,   S <- S + beta_tj k_tj (v_tj - S^T k_tj)^T  for j = 1..n,   o_t = S^T q_t

    With unit keys and beta up to 2 the transitions include reflections, and two of these rotations, which no single
    step has. It is `delta_rule` over n length steps, read at every n-th.

    Args:
      q: `[..., length, d_k]`. k: `[..., length, n, d_k]`. v: `[..., length, n, d_v]`. beta: `[..., length, n]`, 0..2.
      log_gate, initial_state, chunk, implementation: as for `delta_rule`; a gate acts once a token.
    Returns:
      As `delta_rule`.
    Raises:
      ShapeError: as `delta_rule`.
    Example:
      >>> k = jnp.array([[1.0, 0.0], [0.6, 0.8]])[None]  # reflections at a quarter turn's half
      >>> _, s = delta_product(jnp.zeros((1, 2)), k, 0 * k, 2 * jnp.ones((1, 2)), initial_state=jnp.eye(2))
      >>> jnp.round(s, 2)
      Array([[-0.28, -0.96],
             [ 0.96, -0.28]], dtype=float32)

    Reference: Siems, Carstensen, Zela, Hutter, Pontil, Grazzi, 2025, "DeltaProduct: Improving State-Tracking in Linear
      RNNs via Householder Products".
    Differs from the paper: none; normalizing keys and the range of beta are the caller's.
    """
    if k.ndim != q.ndim + 1 or k.shape[:-2] != q.shape[:-1] or v.shape[:-1] != k.shape[:-1]:
        raise ShapeError(
            f"delta_product: q {q.shape}, k {k.shape} and v {v.shape} do not fit; wanted [..., length, d_k], "
            f"[..., length, n, d_k], [..., length, n, d_v]"
        )
    steps = k.shape[-2]
    one = [(0, 0)] * (q.ndim - 1)
    reads = jnp.pad(q[..., None, :], [*one, (steps - 1, 0), (0, 0)])
    gates = None if log_gate is None else jnp.pad(log_gate[..., None], [*one, (0, steps - 1)])
    along = [x.reshape(*q.shape[:-2], -1, *x.shape[q.ndim :]) for x in (reads, k, v, beta)]
    o, last = delta_rule(
        *along,
        log_gate=None if gates is None else gates.reshape(*q.shape[:-2], -1),
        initial_state=initial_state,
        chunk=chunk,
        implementation=implementation,
    )
    return o[..., steps - 1 :: steps, :], last
