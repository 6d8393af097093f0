"""WARP: merge the task vectors of several policies on the arc, then step back towards where they started."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from wspace.core.compose import around_base
from wspace.core.errors import ShapeError
from wspace.core.typing import Array, Tree
from wspace.interpolate.lerp import lerp
from wspace.interpolate.slerp import slerp


def warp(
    init: Tree, trained: Sequence[Tree], eta: Array | float = 0.3, scope: Literal["leaf", "tree"] = "leaf"
) -> Tree:
    """One iteration of WARP after its training: the next initialization.

        merged_m = init + slerp(merged_{m-1} - init, theta_m - init; 1/m),   merged_1 = theta_1      (SLERP)
        next = (1 - eta) init + eta merged_M                                                         (LITI)

    The other parts are in place already: the anchor of the reward's KL term while training is `average.ema(1 - mu)`
    with mu = 0.01, and the front at the end is `[warp(init, trained, eta) for eta in linspace(0, 1, n)]`, the models on
    `segment(init, merged)`. The loop: `init = warp(init, [train(init, key) for key in keys])`.

    Args:
      init: where all of `trained` started. trained: trees of one structure; the paper has 2.
      eta: 0 is init, 1 the merged model. Traced.
      scope: an angle for each leaf (the paper's), or one for the tree. Static.
    Returns:
      tree in the container and dtypes of `init`.
    Raises:
      ShapeError: no trained tree. TreeMismatch: trees differ in structure.
    Example:
      >>> import jax.numpy as jnp
      >>> init, a, b = ({"w": jnp.array(w)} for w in ([0.0, 0.0], [1.0, 0.0], [0.0, 1.0]))
      >>> warp(init, [a, b], eta=1.0)["w"]
      Array([0.707..., 0.707...], dtype=float32)

    Reference: Rame et al., 2024, "WARP: On the Benefits of Weight Averaged Rewarded Policies".
    Differs from the paper: none known; numbers and the fold of more than two models were not checked against code (none
      is official).
    """
    if not trained:
        raise ShapeError("warp has nothing to merge; give it at least one trained tree")
    merged = trained[0]
    for m, model in enumerate(trained[1:], 2):
        merged = around_base(slerp(1 / m, scope))(merged, model, base=init)
    return lerp(eta)(init, merged)
