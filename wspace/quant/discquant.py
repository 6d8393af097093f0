"""DiscQuant: round as a discrepancy problem; among the roundings that keep the loss, walk to a vertex of the cube."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from wspace.core.implicit import implicit
from wspace.core.transform import Transform
from wspace.core.typing import Array
from wspace.quant.adaround import UpOrDown, between
from wspace.quant.clip import Scale
from wspace.quant.formats import Format
from wspace.quant.grid import Grid, Group, Scales
from wspace.quant.layerwise import ADAM, Optimizer, Plan, layerwise, linear
from wspace.quant.rounding import Learned


@partial(jax.custom_vjp)
def slope_bounded(x: Array, most: Array) -> Array:
    """x; its gradient is drawn into -most..most."""
    return x


def _forward(x: Array, most: Array) -> tuple[Array, Array]:
    return x, most


def _backward(most: Array, slope: Array) -> tuple[Array, Array]:
    return jnp.clip(slope, -most, most), jnp.zeros_like(most)


slope_bounded.defvjp(_forward, _backward)


@implicit
class DiscQuant(UpOrDown):
    """learned x `[in, out]`: the share. settings: rho, clamp."""

    @classmethod
    def begin(cls, w: Array, grid: Grid, scales: Scales, settings: Scales) -> Learned:
        return {"x": between(w, grid, scales)[2]}

    def share(self) -> Array:
        return slope_bounded(self.learned["x"], self.settings["clamp"] / self.settings["rho"])

    def penalty(self, t: Array) -> Array:
        y = between(self.w, self.grid, self.scales)[2]
        return -jnp.sum((2 * y - 1) * self.learned["x"] / self.settings["rho"])

    def bounded(self) -> Learned:
        return {"x": jnp.clip(self.learned["x"], 0, 1)}


def discquant(
    bits: int = 4,
    group: Group = None,
    steps: int = 600,
    lr: Array | float = 0.1,
    rho: Array | float = 0.03,
    clamp: Array | float = 1.0,
    symmetric: bool = True,
    grid: Format = None,
    scale: Scale = "absmax",
    soft: bool = False,
    optimizer: Optimizer = ADAM,
) -> Transform:
    """Learn for each weight whether to round up or down: a linear term drives it to one of both, under the loss.

        W(x) = (1 - x) d + x u,   0 <= x <= 1,   d <= W <= u neighbours on the grid,   W(y) = W
        min_x rho L(x) / e - <2 y - 1, x>,   L = tr((W(x) - W)^T gram (W(x) - W)),   x clipped to 0..1 after each step

    The linear term alone rounds to nearest. The slope of rho L / e is drawn into -clamp..clamp. At the end x >= 1/2 is
    up. e is the loss of rounding to nearest over the number of weights.

    Scope: leaf (1 pass). Needs: gram (nothing with steps=0). Random: no. Output leaf: QTensor.

    Sharding: a leaf whose inputs are sharded is gathered, and its Gram matrix always is.

    Args:
      bits, group, symmetric, grid, scale: as of `rtn`. Static.
      steps: of the optimizer. Static. lr: learning rate at the start, falling along a line. Traced.
      rho: weight of the loss. Traced. clamp: bound of its slopes; those of the linear term are at most 1. Traced.
      soft: return DiscQuant nodes, for `reconstruct` with a divergence of the model's outputs as its loss. Static.
      optimizer: any of optax, with a learning rate of 1. Static.
    Returns:
      Transform, 1 -> 1, for matrices; QTensor as of `rtn`: every weight is one of its two neighbours. Never worse than
      `rtn` on the Gram matrix: if it is, that is what comes out.
    Raises:
      SideTreeError: no gram for a leaf, or of another shape than `[*stack, in, in]`. ShapeError, WspaceError: as `rtn`.
    Example:
      >>> w, gram = jnp.array([[7.0], [1.4]]), jnp.array([[1.0, 0.9], [0.9, 1.0]])
      >>> discquant(bits=4, group="tensor", steps=50)({"kernel": w}, gram={"kernel": gram})["kernel"].codes.ravel()
      Array([7, 1], dtype=int8)

    Reference: Chee, Backurs, Heck, Zhang, Kulkarni, Rothvoss, Gopi, 2025, "DiscQuant: A Quantization Method for Neural
      Networks Inspired by Discrepancy Theory".
    Differs from the paper: L is the error of one layer's outputs, where the paper has the divergence of the model's
      predictions (give `reconstruct` that loss); it is counted in e, where the authors' code divides by 12 times the
      mean squared error of rounding and has rho 200; Adam, where the code has AdamW with a decay of 0.01; a weight on
      the grid may still go up; rounding to nearest is kept where it is better.
    """
    plan = Plan(steps, lr, optimizer, linear)
    how = {"bits": bits, "group": group, "symmetric": symmetric, "grid": grid, "scale": scale, "soft": soft}
    return layerwise("discquant", DiscQuant, plan, settings={"rho": rho, "clamp": clamp}, **how)  # type: ignore[arg-type]
