"""The check that a group element leaves a function as it is. What is saved comes from `act_checked`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wspace.core.axes import Axes
from wspace.core.errors import WspaceError, listed
from wspace.core.typing import Tree
from wspace.match.act import act
from wspace.match.element import Element, identity
from wspace.trace.by_hand import Rules, by_hand
from wspace.trace.groups import Symmetries


def check_invariance(
    apply: Callable[..., Any],
    params: Tree,
    axes: Symmetries | Rules | Axes,
    g: Element,
    *inputs: Any,
    tolerance: float = 1e-5,
) -> float:
    """Compare `apply(params, *inputs)` with `apply(act(params, axes, g), *inputs)`.

    Args:
      apply: the model; matrix products run at highest precision.
      g: a group element, as for `act`.
      tolerance: largest allowed `|new - old| / |old|` (Euclidean norms) of an output array.
    Returns:
      that error, the largest over the output arrays; 0.0 if there are none.
    Raises:
      WspaceError: the error is above the tolerance or not finite; names the groups that alone break it.
    Example:
      >>> mlp = lambda p, x: jnp.maximum(x @ p["w1"], 0) @ p["w2"]
      >>> p = {"w1": jnp.array([[1.0, 2.0, 3.0]]), "w2": jnp.array([[4.0], [5.0], [6.0]])}
      >>> rules, g = {"w1": (None, "h"), "w2": ("h", None)}, {"h": jnp.array([2, 0, 1])}
      >>> check_invariance(mlp, p, rules, g, jnp.ones((1, 1)))
      0.0
    """
    return act_checked(apply, params, axes, g, *inputs, tolerance=tolerance).error


class Checked(NamedTuple):
    """params: moved by the element. error: how much the outputs changed, relative; for the report or the ledger."""

    params: Tree
    error: float


def act_checked(
    apply: Callable[..., Any],
    params: Tree,
    axes: Symmetries | Rules | Axes,
    g: Element,
    *inputs: Any,
    tolerance: float = 1e-5,
) -> Checked:
    """`act(params, axes, g)` together with its check: what one saves.

    `act` by itself looks whether g is an element of these groups at all (bijections, positive scales, orthogonal
    matrices, of the right sizes), but not whether the groups are symmetries of the model: rules by hand may be wrong.

    Args, Raises: as of `check_invariance`; nothing comes out of a model that changes.
    Example:
      >>> mlp = lambda p, x: jnp.maximum(x @ p["w1"], 0) @ p["w2"]
      >>> p = {"w1": jnp.array([[1.0, 2.0, 3.0]]), "w2": jnp.array([[4.0], [5.0], [6.0]])}
      >>> rules, g = {"w1": (None, "h"), "w2": ("h", None)}, {"h": jnp.array([2, 0, 1])}
      >>> saved = act_checked(mlp, p, rules, g, jnp.ones((1, 1)))
      >>> saved.params["w1"], saved.error
      (Array([[3., 1., 2.]], dtype=float32), 0.0)
    """
    groups = axes if isinstance(axes, Symmetries) else by_hand(axes, params)
    moved = act(params, groups, g)
    with jax.default_matmul_precision("highest"):
        before = apply(params, *inputs)
        error = _distance(before, apply(moved, *inputs))
        if error <= tolerance:
            return Checked(moved, error)
        still = identity(groups)
        alone = {name: apply(act(params, groups, still | {name: g[name]}), *inputs) for name in groups.groups}
    broken = [name for name, after in alone.items() if not _distance(before, after) <= tolerance]
    raise WspaceError(
        f"the function changes by {error:.2e} (allowed {tolerance:.0e}) under an element; groups that alone change it: "
        f"{listed(broken) or 'none'}; derive the groups with ws.trace.axes, or mend the rules"
    )


def _distance(a: Any, b: Any) -> float:
    def one(x: Any, y: Any) -> float:
        x, y = (np.asarray(jnp.asarray(v), np.float64).ravel() for v in (x, y))
        with np.errstate(invalid="ignore"):  # infinity less infinity: the result says nan
            size, apart = float(np.linalg.norm(x)), float(np.linalg.norm(x - y))
        return apart / size if size else apart

    return max((one(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)), default=0.0)
