"""SignRound (AutoRound): an offset of up to half a step before rounding, and how far to draw in the range, by signs."""

from __future__ import annotations

import jax.numpy as jnp

from wspace.core.implicit import implicit
from wspace.core.transform import Transform
from wspace.core.typing import Array
from wspace.quant.formats import Format
from wspace.quant.grid import Grid, Group, Scales, fit_ends, straight, units
from wspace.quant.layerwise import SIGN, Optimizer, Plan, layerwise, linear
from wspace.quant.rounding import Learned, Rounding, rounded_codes


@implicit
class SignRound(Rounding):
    """learned: v `[in, out]`, in steps of the grid, 0 at the start; low and high `[in/group, out/width]`, factors of
    the ends of the range, 1 at the start."""

    @classmethod
    def begin(cls, w: Array, grid: Grid, scales: Scales, settings: Scales) -> Learned:
        whole = jnp.ones_like(scales["scale"])
        return {"v": jnp.zeros_like(w), "low": whole, "high": whole}

    def shifted(self) -> tuple[Array, dict[str, Array]]:
        """What is rounded, and the scales that it is rounded on."""
        scales = fit_ends(self.w, self.grid, self.learned["low"], self.learned["high"])
        return self.w + self.learned["v"] * units(self.w, self.grid, scales), scales

    def soft(self) -> Array:
        x, scales = self.shifted()
        return straight(x, self.grid, scales)

    def hard(self) -> tuple[Array, Scales]:
        x, scales = self.shifted()
        return rounded_codes(x, self.grid, scales)

    def bounded(self) -> Learned:
        bounds = {"v": (-0.5, 0.5), "low": (0, 1), "high": (0, 1)}
        return {n: jnp.clip(x, *bounds[n]) for n, x in self.learned.items()}


def signround(
    bits: int = 4,
    group: Group = None,
    steps: int = 200,
    lr: Array | float | None = None,
    range_lr: Array | float | None = None,
    symmetric: bool = True,
    grid: Format = None,
    soft: bool = False,
    optimizer: Optimizer = SIGN,
) -> Transform:
    """Learn an offset for each weight and the ends of each group's range by the signs of gradients.

        W^ = s clip(round(W / s + V) ...),   range [low min(W, 0), high max(W, 0)],   |V| <= 1/2,   0 <= low, high <= 1
        V, low, high <- x - lr (1 - t) sign(dL/dx),   L = tr((W^ - W)^T gram (W^ - W)),   t: share of the steps done

    V = 0, low = high = 1 is rounding to nearest. The best that was seen is kept.

    Scope: leaf (1 pass). Needs: gram (nothing with steps=0). Random: no. Output leaf: QTensor.

    Sharding: a leaf whose inputs are sharded is gathered, and its Gram matrix always is.

    Args:
      bits, group, symmetric, grid: as of `rtn`. Grids other than integers scale by `high` alone. Static.
      steps: of sign descent; 200 in the paper. Static.
      lr: of V, in steps of the grid; default 1 / steps, so that V can just reach 1/2. Traced. range_lr: of low and
        high; default lr. Traced.
      soft: return SignRound nodes, for `reconstruct`. Static.
      optimizer: any of optax, with a learning rate of 1. Static.
    Returns:
      Transform, 1 -> 1, for matrices; QTensor as of `rtn`, never worse than it on the Gram matrix.
    Raises:
      SideTreeError: no gram for a leaf, or of another shape than `[*stack, in, in]`. ShapeError, WspaceError: as `rtn`.
    Example:
      >>> w, gram = jnp.array([[3.0], [1.4]]), jnp.array([[1.0, 0.9], [0.9, 1.0]])
      >>> q = signround(bits=3, steps=20)({"kernel": w}, gram={"kernel": gram})["kernel"]
      >>> error = q.materialize() - w
      >>> bool(jnp.sum(error * (gram @ error)) < 0.16)  # of rounding to nearest
      True

    Reference: Cheng, Zhang, Shen, Cai, He, Lv, Liu, 2023, "Optimize Weight Rounding via Signed Gradient Descent for the
      Quantization of LLMs" (AutoRound).
    Differs from the paper: the loss comes from the Gram matrix of one layer (the paper: a block, see `reconstruct`);
      our symmetric grid uses max|w| / (2^(b-1) - 1) (the authors' code has 2^(b-1) and signed scales); V is bounded
      explicitly, which the default learning rate does by itself; the weights after the last step are looked at too.
    """
    rate = 1.0 / max(steps, 1) if lr is None else lr
    ends = rate if range_lr is None else range_lr
    plan = Plan(steps, {"v": rate, "low": ends, "high": ends}, optimizer, linear)
    how = {"bits": bits, "group": group, "symmetric": symmetric, "grid": grid, "soft": soft}
    return layerwise("signround", SignRound, plan, **how)  # type: ignore[arg-type]
