"""Sinkhorn: doubly stochastic matrices in place of permutations, so that any loss can be trained through them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wspace.core.axes import Axes
from wspace.core.errors import SideTreeError
from wspace.core.typing import Array, Path, Tree
from wspace.match.assignment import solve
from wspace.match.blocks import Block, blocks, leaves_of, mix
from wspace.match.floats import floats
from wspace.trace.by_hand import Rules, by_hand
from wspace.trace.groups import Symmetries

RIDGE = 1e-6  # on the system of the gradient, singular where the matrix is a permutation


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def sinkhorn(gain: Array, temperature: Array | float = 1.0, steps: int = 200) -> Array:
    """The doubly stochastic matrix of largest gain and entropy, by scaling rows and columns in the log domain.

        argmax_P  <P, gain> + temperature * entropy(P),   rows and columns of P sum to one

    The gradient is that of the limit, by the implicit function theorem: one [n, n] solve, no memory for the steps.

    Args:
      gain: f32 [n, n]. temperature: > 0, traced; as it falls, P goes to the best permutation and steps must grow.
      steps: rounds of scaling. Static.
    Returns:
      f32 [n, n]; rows sum to one exactly, columns as far as it has converged.
    Example:
      >>> [round(float(x), 3) for x in sinkhorn(jnp.array([[5.0, 0.0], [0.0, 5.0]]))[0]]
      [0.993, 0.007]

    Reference: Cuturi, 2013, "Sinkhorn Distances"; Eisenberger, Toker, Leal-Taixe, Bernard, Cremers, 2022, "A Unified
    Framework for Implicit Sinkhorn Differentiation". Differs from the paper: a ridge of 1e-6 in the solve.
    """
    x = gain / jnp.asarray(temperature, gain.dtype)

    def scale(_: Array, x: Array) -> Array:
        return jax.nn.log_softmax(jax.nn.log_softmax(x, axis=0), axis=1)

    return jnp.exp(jax.lax.fori_loop(0, steps, scale, x))


def _forward(gain: Array, temperature: Array | float, steps: int) -> tuple[Array, tuple[Array, Array, Array]]:
    p = sinkhorn(gain, temperature, steps)
    return p, (p, gain, jnp.asarray(temperature, gain.dtype))


def _backward(steps: int, saved: tuple[Array, Array, Array], bar: Array) -> tuple[Array, Array]:
    """Multipliers alpha + P beta = rows of P*bar, P' alpha + beta = columns of it; then P * (bar - alpha - beta)."""
    p, gain, temperature = saved
    weighted = p * bar
    rows, columns = weighted.sum(1), weighted.sum(0)
    n = p.shape[0]
    hollow = (1.0 + RIDGE) * jnp.eye(n, dtype=p.dtype) - p.T @ p + jnp.full((n, n), 1.0 / n, p.dtype)
    beta = jnp.linalg.solve(hollow, columns - p.T @ rows)
    alpha = rows - p @ beta
    slope = p * (bar - alpha[:, None] - beta[None, :])
    return slope / temperature, -(slope * gain).sum() / temperature**2


sinkhorn.defvjp(_forward, _backward)


def sinkhorn_matching(
    a: Tree,
    b: Tree,
    axes: Symmetries | Rules | Axes,
    *,
    key: Array,
    loss: Callable[[Tree], Array] | None = None,
    steps: int = 200,
    lr: float = 0.1,
    temperature: float = 0.3,
    rounds: int = 20,
) -> dict[str, Array]:
    """Train a gain matrix for each group so that the softly permuted b is near a, or has a good midpoint with it.

        minimize over X   ||a - act(b, P)||^2 / ||a||^2   or   loss((a + act(b, P)) / 2),   P = sinkhorn(X, temperature)

    At the end P is rounded by an assignment.

    Args:
      a, b, axes: as for `ws.match.weight`.
      key: typed; draws the small numbers that X starts from.
      loss: params -> scalar, differentiable; None: the distance.
      steps, lr: of Adam. temperature, rounds: of `sinkhorn`.
    Returns:
      dict, int32 `[*over, size]` a group: g of `act(b, axes, g)`.
    Raises:
      SideTreeError: a raw key. NonFinite, TreeMismatch, ShapeError: as `weight`.
    Example:
      >>> p = {"w1": jnp.array([[1.0, 2.0]]), "w2": jnp.array([[4.0], [5.0]])}
      >>> q = {"w1": jnp.array([[2.0, 1.0]]), "w2": jnp.array([[5.0], [4.0]])}
      >>> sinkhorn_matching(p, q, {"w1": (None, "h"), "w2": ("h", None)}, key=jax.random.key(0))["h"]
      Array([1, 0], dtype=int32)

    Reference: Guerrero Pena, Medeiros, Dubail, Aminbeidokhti, Granger, Pedersoli, 2023, "Re-basin via implicit Sinkhorn
    differentiation". Differs from the paper: Adam on X that starts near zero; the distance is divided by ||a||^2.
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise SideTreeError(f"key is a raw {key.dtype} array; make it with jax.random.key(seed), not PRNGKey")
    groups = axes if isinstance(axes, Symmetries) else by_hand(axes, a)
    cut, ours, theirs = blocks(groups), leaves_of(a, groups, "tree a"), leaves_of(b, groups, "tree b")
    others, rebuild = floats(a)
    free = floats(b)[0]
    size = sum(jnp.vdot(x, x) for x in ours.values())

    def objective(soft: Mapping[str, Array]) -> Array:
        moved = _soft_act(theirs, cut, groups, soft)
        if loss is None:
            return sum((jnp.sum(jnp.square(x - moved[p])) for p, x in ours.items()), jnp.zeros(())) / size
        middle = {p: 0.5 * (x + moved.get(p, free[p]).astype(x.dtype)) for p, x in others.items()}
        return loss(rebuild(middle))

    start = {n: 0.01 * jax.random.normal(_own(key, n), (*g.shape, g.size)) for n, g in groups.groups.items()}
    trained = _train(lambda x: objective(soften(x, temperature, rounds)), start, steps, lr)
    soft = soften(trained, temperature, rounds)
    return {name: jnp.asarray(solve(np.asarray(p), name=name)) for name, p in soft.items()}


def soften(x: Mapping[str, Array], temperature: float, rounds: int) -> dict[str, Array]:
    """`sinkhorn` of each group's `[*over, size, size]`."""

    def one(gain: Array) -> Array:
        flat = gain.reshape(-1, *gain.shape[-2:])
        return jax.vmap(lambda m: sinkhorn(m, temperature, rounds))(flat).reshape(gain.shape)

    return {name: one(gain) for name, gain in x.items()}


def _own(key: Array, name: str) -> Array:
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def _soft_act(
    leaves: Mapping[Path, Array], cut: list[Block], groups: Symmetries, soft: Mapping[str, Array]
) -> dict[Path, Array]:
    out = dict(leaves)
    for block in cut:
        out[block.path] = block.put(out[block.path], mix(block.take(leaves[block.path]), block.names, groups, soft))
    return out


def _train(
    objective: Callable[[dict[str, Array]], Array], x: dict[str, Array], steps: int, lr: float
) -> dict[str, Array]:
    """Adam, as one compiled scan."""
    optimizer = optax.adam(lr)
    names = list(x)

    def step(carry: tuple[list[Array], optax.OptState], _: None) -> tuple[tuple[list[Array], optax.OptState], None]:
        values, state = carry
        grads = jax.grad(lambda v: objective(dict(zip(names, v, strict=True))))(values)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer count
            updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(values, updates), state), None

    values = [x[n] for n in names]
    run = jax.jit(lambda v: jax.lax.scan(step, (v, optimizer.init(v)), None, length=steps)[0][0])
    return dict(zip(names, run(values), strict=True))
