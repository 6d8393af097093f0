"""Layer by layer: learn how to round by gradient, so that a layer gives what it gave. The Gram matrix of its inputs is
all that this needs to know of them.

    L = tr(E^T gram E) / e,   E = W^ - W        (the mean over tokens of |x W^ - x W|^2)

e is what rounding to nearest gives for a weight on average; in this unit, rates and penalties suit every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax import lax

from wspace.core.errors import WspaceError
from wspace.core.transform import Context, Transform, leafwise, over_stack
from wspace.core.typing import Array, Leaf
from wspace.quant.clip import Scale, choice, needs_gram, weighing
from wspace.quant.formats import Format, choose
from wspace.quant.grid import Group, block_of, decode
from wspace.quant.rounding import Learned, Rounding, begun
from wspace.stats.sharding import alike, gathered
from wspace.stats.side_gram import gram_of

R = TypeVar("R", bound=Rounding)
Optimizer: TypeAlias = optax.GradientTransformation
Pace: TypeAlias = Callable[[Array], Array]  # share of the steps done -> factor on the rates

ADAM: Optimizer = optax.adam(1.0, eps=1e-4)  # losses are counted in e: smaller slopes are noise
SIGN: Optimizer = optax.sign_sgd(1.0)


def constant(t: Array) -> Array:
    """The rates stay."""
    return jnp.ones_like(t)


def linear(t: Array) -> Array:
    """The rates fall to zero along a line."""
    return 1 - t


def cosine(t: Array) -> Array:
    """The rates fall to zero along half a cosine."""
    return (1 + jnp.cos(jnp.pi * t)) / 2


def output_error(e: Array, gram: Array) -> Array:
    """tr(e^T gram e) of one matrix e `[in, out]`, gram symmetric `[in, in]`; one product gives value and gradient."""
    p = lax.stop_gradient(jnp.matmul(gram, e, precision=lax.Precision.HIGHEST))
    value = jnp.sum(e * p)
    return 2 * value - lax.stop_gradient(value)


class Plan(NamedTuple):
    """How a node is learned. optimizer: with a learning rate of 1; its updates are multiplied by rates (a number for
    each name in `learned`, or one number) and by the pace."""

    steps: int
    rates: Mapping[str, Array | float] | Array | float
    optimizer: Optimizer = ADAM
    pace: Pace = constant


@partial(jax.jit, static_argnames=("optimizer", "steps", "pace"))
def reconstruct_array(
    node: R,
    gram: Array,
    rates: Mapping[str, Array | float] | Array | float,
    optimizer: Optimizer = ADAM,
    steps: int = 1000,
    pace: Pace = constant,
) -> R:
    """The node, learned for the Gram matrix `[*stack, in, in]` of its inputs; matrices of a stack are learned apart.

    What comes out has the least error of hard weights that was seen: a node whose soft weights are on the grid is
    looked at after every step, a relaxed one at the start and at the end.
    """
    named = isinstance(rates, Mapping)
    each = {n: jnp.asarray(rates[n] if named else rates, node.w.dtype) for n in node.learned}  # type: ignore[index]
    solve = partial(_descended, rates=each, optimizer=optimizer, steps=steps, pace=pace)
    return over_stack(lambda node, gram: solve(node, gram), node.w.ndim - 2)(node, gram)


def _descended(node: R, gram: Array, rates: Learned, optimizer: Optimizer, steps: int, pace: Pace) -> R:
    def objective(learned: Learned, t: Array) -> tuple[Array, Array]:
        now = node.moved(learned)
        error = output_error(now.soft() - node.w, gram)
        return error / unit + now.penalty(t), error

    def step(i: Array, carry: Any) -> Any:
        learned, state, best, least = carry
        t = i.astype(node.w.dtype) / steps
        (_, error), slope = jax.value_and_grad(objective, has_aux=True)(learned, t)
        if not node.relaxed:
            best, least = _better(learned, error, best, least)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer count
            updates, state = optimizer.update(slope, state, learned)
        moved = {n: x + (rates[n] * pace(t) * updates[n]).astype(x.dtype) for n, x in learned.items()}
        return node.moved(moved).bounded(), state, best, least

    start, first = node.learned, _hard_error(node, gram)
    unit = jnp.where(first == 0, 1, first / max(node.w.size, 1))
    with jax.numpy_dtype_promotion("standard"):
        state = optimizer.init(start)
    learned, _, best, least = lax.fori_loop(0, steps, step, (start, state, start, first))
    best, _ = _better(learned, _hard_error(node.moved(learned), gram), best, least)
    return node.moved(best)


def _better(learned: Learned, error: Array, best: Learned, least: Array) -> tuple[Learned, Array]:
    yes = error < least
    return {n: jnp.where(yes, x, best[n]) for n, x in learned.items()}, jnp.where(yes, error, least)


def _hard_error(node: Rounding, gram: Array) -> Array:
    codes, scales = node.hard()
    return output_error(decode(codes, node.grid, scales) - node.w, gram)


def layerwise(
    name: str,
    kind: type[Rounding],
    plan: Plan,
    *,
    bits: int = 4,
    group: Group = None,
    symmetric: bool = True,
    grid: Format = None,
    scale: Scale = "absmax",
    soft: bool = False,
    settings: Mapping[str, Array | float] | None = None,
) -> Transform:
    """The Transform that learns one kind of node for the Gram matrices of the inputs.

    Args:
      kind: of node. plan: how it is learned; with no steps it is rounded to nearest, and needs no Gram matrix. Static
        but for the rates. bits, group, symmetric, grid, scale: as of `rtn`.
      soft: return the nodes, for `reconstruct` or a training loop of one's own, not QTensors. Static.
      settings: numbers of the kind. Traced.
    Raises:
      WspaceError: steps below 0; as of `rtn`. SideTreeError: as of `gptq`.
    """
    if plan.steps < 0:
        raise WspaceError(f"{name}(steps={plan.steps}): give a number of steps; 0 rounds to nearest")
    chosen, how = choose(bits, symmetric, grid), choice(scale)
    informed = plan.steps > 0 or needs_gram(how)

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Leaf:
        leaf = ctx.view().to_matrix(leaves[0])
        w = gathered(leaf, -2) if informed else leaf
        block = block_of(w, group, ctx.spec.path)
        gram = gathered(gathered(gram_of(ctx, leaf), -1), -2) if informed else None
        weights = None if gram is None else weighing(gram, block, how)
        node = begun(kind, w, chosen, block, ctx, settings or {}, how, weights)
        if gram is not None and plan.steps:
            node = reconstruct_array(node, gram, plan.rates, plan.optimizer, plan.steps, plan.pace)
        if soft:
            return node
        made = node.harden()
        return replace(made, codes=alike(made.codes, leaf)) if informed else made

    return leafwise(name, apply, needs=frozenset({"gram"} if informed else ()))
