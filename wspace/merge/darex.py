"""DAREx: drop nearly all of a task vector and divide the rest by a q that keeps the layer's output, not its mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from wspace.core.compose import around_base, chain
from wspace.core.errors import WspaceError
from wspace.core.transform import Context, Transform, leafwise, of_model, over_stack
from wspace.core.typing import Array
from wspace.merge.by_matrix import times
from wspace.merge.dare import check_density, drop_array
from wspace.merge.task_arithmetic import weighted_sum
from wspace.stats.sharding import gathered
from wspace.stats.side_gram import gram_of, second_moments


@jax.jit
def least_error_q_array(delta: Array, gram: Array, moments: Array, density: Array | float) -> Array:
    """The q with the least expected squared error of the layer's output, in closed form.

        q = density + (1 - density) v / m,   v = mean_i sum_j d_ji^2 E[x_j^2],   m = mean_i E[(sum_j d_ji x_j)^2]

    delta: [in, out]. gram: [in, in], mean of x x'. moments: [in], its diagonal. Scalar out, 1 where the output does not
    change (m = 0). The expected error relative to m is (density / q - 1)^2 + density (1 - density) / q^2 v / m.
    """
    density = jnp.asarray(density, delta.dtype)
    v = jnp.sum(delta**2 * moments[:, None])
    m = jnp.sum(delta * times(gathered(gram, 1), delta))
    return jnp.where(m > 0, density + (1 - density) * v / jnp.where(m > 0, m, 1), 1)


@jax.jit
def analytic_q_array(
    delta: Array, mean: Array, density: Array | float, eta: Array | float, confidence: Array | float = 0.95
) -> Array:
    """The paper's analytic q of a layer: the mean over outputs of the q with the least bound on its change.

        q_i = argmin_q |eta (1 - density / q) sum_j c_ij + eta^2 Phi sum_j c_ij^2 / (4 q^2) + ln(2 / (1 - confidence))|
        c_ij = d_ji mean_j,   Phi = (1 - 2p) / ln((1 - p) / p),   p = 1 - density,   q in density, + 0.001, ... 0.999

    delta: [in, out]. mean: [in], mean input. Scalar out. It depends strongly on eta, which has to be tuned.
    """
    dtype = delta.dtype
    density, eta, confidence = (jnp.asarray(x, dtype) for x in (density, eta, confidence))
    c = delta * mean[:, None]
    first, second = jnp.sum(c, axis=0), jnp.sum(c * c, axis=0)
    even = jnp.abs(density - 0.5) < 1e-4  # the limit at p = 1/2 is 1/2
    safe = jnp.where(even, 0.25, density)
    phi = jnp.where(even, 0.5, (2 * safe - 1) / jnp.log(safe / (1 - safe)))
    shift = jnp.log(2 / (1 - confidence))

    def value(q: Array) -> Array:
        return jnp.abs(eta * (1 - density / q) * first + eta**2 * phi * second / (4 * q**2) + shift)

    def better(i: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
        q = density + i.astype(dtype) * jnp.asarray(0.001, dtype)
        new = jnp.where(q <= 0.999, value(q), jnp.inf)
        return jnp.where(new < best[1], q, best[0]), jnp.minimum(new, best[1])

    start = (jnp.zeros_like(first) + density, value(density))
    return jnp.mean(jax.lax.fori_loop(1, 1000, better, start)[0])


def darex(
    density: Array | float | Sequence[float],
    q: Array | float | Sequence[float] | None = None,
    weights: Sequence[float] | Array | None = None,
    lam: Array | float = 1.0,
    consensus: Callable[..., Transform] = weighted_sum,
) -> Transform:
    """DARE with the kept entries divided by q instead of density: less noise for some bias.

        d_k = theta_k - base,   d_k,i <- m_k,i d_k,i / q,   m_k,i ~ Bernoulli(density)
        theta = base + lam sum_k w_k d_k

    q = density is DARE, q = 1 plain dropping. Without q, each matrix has the q of the least expected output error on
    the calibration data (`least_error_q_array`); select the matrices with `on(matrices, darex(...), otherwise=...)`.
    DAREx-L2 is `optim.adam_r` while fine-tuning, then this.

    Scope: leaf (1 pass). Needs: base, key; without q also gram. Random: yes, by leaf path and the model's place.
    Output leaf: array, dtype of the first tree.

    Args:
      density: probability of an entry to stay, 0..1; the paper's drop rate is p = 1 - density. A tuple gives each model
        its own. Traced, in steps.
      q: divisor, density..1, such as one found by a score on held-out data; a tuple as above. Traced.
      weights, lam: as in `dare`. Traced. consensus: as in `dare`. Static.
    Returns:
      Transform, n -> 1. The expected change is density / q of the task vector.
    Raises:
      SideTreeError: no base, key or gram. ShapeError: no q, and the leaf is no matrix; or as in `dare`.
      WspaceError: a density outside 0..1, or a q that is not positive.
    Example:
      >>> base, tuned = {"w": jnp.zeros(6)}, {"w": jnp.ones(6)}
      >>> darex(density=0.5, q=0.8)(tuned, base=base, key=jax.random.key(1))["w"]
      Array([0.  , 0.  , 0.  , 1.25, 0.  , 1.25], dtype=float32)

    Reference: Deng et al., 2025, "DARE the Extreme: Revisiting Delta-Parameter Pruning For Fine-Tuned Models".
    Differs from the paper: without q it takes the minimum of the expected squared error, which needs no tuning, where
      the paper bounds the change with high probability (`analytic_q_array`) or searches.
    """
    check_density(density)
    for each in q if isinstance(q, list | tuple) else (q,):
        if isinstance(each, int | float) and not each > 0:
            raise WspaceError(f"darex: q is {each}; it divides what is kept, so it is positive, from density to 1")

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        (delta,) = leaves
        kept = of_model(density, ctx)
        dropped = drop_array(delta, ctx.key, kept, False)
        if q is not None:
            return dropped / jnp.asarray(of_model(q, ctx), delta.dtype)
        view = ctx.view()

        def scaled(d: Array, gram: Array, moments: Array, x: Array) -> Array:
            return x / least_error_q_array(d, gram, moments, kept)

        matrix = view.to_matrix(delta)
        out = over_stack(scaled, view.stacks)(
            matrix, gram_of(ctx, matrix), second_moments(ctx, matrix), view.to_matrix(dropped)
        )
        return view.from_matrix(out)

    part = leafwise("drop", apply, needs=frozenset({"key"} | ({"gram"} if q is None else set())))
    return around_base(chain(part, consensus(weights, lam)), name="darex")
