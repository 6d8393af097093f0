"""Straight-through matching: search the element whose midpoint with a has the lowest loss."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wspace.core.axes import Axes
from wspace.core.errors import NonFinite
from wspace.core.typing import Array, Tree
from wspace.match.act import act
from wspace.match.element import Element
from wspace.match.floats import floats, mixed
from wspace.match.weight import weight
from wspace.trace.by_hand import Rules, by_hand
from wspace.trace.groups import Symmetries

Report = Callable[[int, float], None]


def ste(
    loss: Callable[[Tree, Array], Array],
    a: Tree,
    b: Tree,
    axes: Symmetries | Rules | Axes,
    *,
    key: Array,
    steps: int = 100,
    lr: float = 1e-2,
    momentum: float = 0.9,
    start: Element | None = None,
    on_step: Report | None = None,
) -> dict[str, Array]:
    """Weight matching against parameters that learn where the midpoint is good.

        g_t = weight(c_t, b),   q_t = act(b, g_t)
        c_(t+1) = c_t - lr * momentum(grad_q loss((a + q) / 2) at q_t),   c_0 = a

    The gradient passes through the assignment as if it were the identity. Of all g_t the one with the lowest midpoint
    loss is returned, so the result is never worse at the midpoint than weight matching (on the same data).

    Args:
      loss: (params, key) -> scalar, differentiable; use the key to draw a batch, or leave it.
      a, b: trees; axes: from `ws.trace.axes`, or rules by hand.
      key: typed; decides the orders of the matching and is folded with the step for the loss.
      steps: matchings. lr, momentum: of SGD; the paper's are 1e-2 and 0.9.
      start: element of the first step's search; None as in `weight`.
      on_step: called with (step, midpoint loss).
    Returns:
      dict, int32 `[*over, size]` a group: g of `act(b, axes, g)`.
    Raises:
      NonFinite: the midpoint loss is; and all that `weight` raises.
    Example:
      >>> p = {"w1": jnp.array([[1.0, 2.0]]), "w2": jnp.array([[4.0], [5.0]])}
      >>> q = {"w1": jnp.array([[2.0, 1.0]]), "w2": jnp.array([[5.0], [4.0]])}
      >>> loss = lambda p, key: (jnp.sum(p["w1"] @ p["w2"]) - 14.0) ** 2
      >>> ste(loss, p, q, {"w1": (None, "h"), "w2": ("h", None)}, key=jax.random.key(0), steps=2)["h"]
      Array([1, 0], dtype=int32)

    Reference: Ainsworth, Hayase, Srinivasa, 2023, "Git Re-Basin", Algorithm 2 and its published script.
    Differs from the paper: matching may start from sorted values in the first step.
    """
    groups = axes if isinstance(axes, Symmetries) else by_hand(axes, a)
    search, rebuild = floats(a)
    fixed = dict(search)

    @jax.jit
    def midpoint(ours: list[Array], theirs: list[Array], draw: Array) -> tuple[Array, list[Array]]:
        def at(q: list[Array]) -> Array:
            middle = [(x + y) * jnp.asarray(0.5, x.dtype) for x, y in zip(ours, q, strict=True)]
            return loss(rebuild(dict(zip(fixed, middle, strict=True))), draw)

        return jax.value_and_grad(at)(theirs)

    optimizer = optax.sgd(lr, momentum)
    state = optimizer.init(list(search.values()))
    best, lowest, g = None, np.inf, start
    for step in range(steps):
        own = jax.random.fold_in(key, step)
        g = weight(rebuild(search), b, groups, key=own, start=g)
        projected = floats(act(b, groups, g))[0]
        value, grads = midpoint(list(fixed.values()), [projected[p] for p in fixed], own)
        if not np.isfinite(value):
            raise NonFinite(f"ste: the midpoint loss is {float(value)} in step {step}; look at a, b and the loss")
        if float(value) < lowest:
            best, lowest = g, float(value)
        if on_step:
            on_step(step, float(value))
        updates, state = optimizer.update(grads, state)
        search = dict(zip(search, optax.apply_updates(list(search.values()), updates), strict=True))
    return dict(best or weight(a, b, groups, key=key, start=start))


def midpoint(a: Tree, b: Tree) -> Tree:
    """(a + b) / 2, leaf by leaf.

    Example:
      >>> midpoint({"w": jnp.array([1.0])}, {"w": jnp.array([3.0])})
      {'w': Array([2.], dtype=float32)}
    """
    return mixed([a, b], [0.5, 0.5])
