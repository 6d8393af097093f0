"""AdaRound: up or down? Each weight goes to the one of its two neighbours on the grid that suits the layer's output."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.implicit import implicit
from wspace.core.transform import Transform
from wspace.core.typing import Array
from wspace.quant.clip import Scale
from wspace.quant.formats import Format
from wspace.quant.grid import Grid, Group, Scales, decode, neighbours
from wspace.quant.layerwise import ADAM, Optimizer, Plan, layerwise
from wspace.quant.rounding import Learned, Rounding

ZETA, GAMMA = 1.1, -0.1  # how far the sigmoid is stretched
MARGIN = 1e-4  # of h, beyond which it is clipped


def rectified_sigmoid(v: Array) -> Array:
    """h(v) = clip((zeta - gamma) sigmoid(v) + gamma, 0, 1): it reaches 0 and 1.

    A weight that starts on the grid is at the border of the clip, on either side by rounding: it has a gradient.
    """
    h = jax.nn.sigmoid(v) * (ZETA - GAMMA) + GAMMA
    free = (h > -MARGIN) & (h < 1 + MARGIN)
    return lax.stop_gradient(jnp.clip(h, 0, 1)) + jnp.where(free, h - lax.stop_gradient(h), 0)


def unrectified(h: Array) -> Array:
    """The v of an h in [0, 1]."""
    p = (h - GAMMA) / (ZETA - GAMMA)
    return jnp.log(p) - jnp.log1p(-p)


def undecided(h: Array, beta: Array) -> Array:
    """1 - |2 h - 1|^beta: least where h is 0 or 1."""
    return 1 - jnp.abs(2 * h - 1) ** beta


def annealed_beta(t: Array, warmup: Array, first: Array, last: Array) -> Array:
    """beta when the share t of the steps is done: first until warmup, then along half a cosine to last."""
    share = jnp.clip((t - warmup) / (1 - warmup), 0, 1)
    return last + (first - last) / 2 * (1 + jnp.cos(jnp.pi * share))


def between(w: Array, grid: Grid, scales: Scales) -> tuple[Array, Array, Array]:
    """The values on either side of w, and where w lies between them, 0..1 (1/2 where they are one)."""
    below, above = neighbours(w, grid, scales)
    low, high = (decode(codes, grid, scales) for codes in (below, above))
    one = below == above
    return low, high, jnp.where(one, 0.5, jnp.clip((w - low) / jnp.where(one, 1, high - low), 0, 1))


class UpOrDown(Rounding):
    """Each weight goes to one of its two neighbours on the grid; until then it is low + share (high - low)."""

    relaxed = True

    def share(self) -> Array:
        """How far up each weight is, 0..1."""
        raise TypeError(f"{type(self).__name__} does not define share()")

    def soft(self) -> Array:
        low, high, _ = between(self.w, self.grid, self.scales)
        return low + self.share() * (high - low)

    def hard(self) -> tuple[Array, Scales]:
        low, high = neighbours(self.w, self.grid, self.scales)
        return jnp.where(self.share() >= 0.5, high, low), self.scales


@implicit
class AdaRound(UpOrDown):
    """learned v: the share is h(v). settings: weight, warmup, beta_first, beta_last, of the penalty."""

    @classmethod
    def begin(cls, w: Array, grid: Grid, scales: Scales, settings: Scales) -> Learned:
        return {"v": unrectified(between(w, grid, scales)[2])}

    def share(self) -> Array:
        return rectified_sigmoid(self.learned["v"])

    def penalty(self, t: Array) -> Array:
        s, t = self.settings, t.astype(self.w.dtype)
        beta = annealed_beta(t, s["warmup"], s["beta_first"], s["beta_last"])
        on = jnp.where(t >= s["warmup"], s["weight"], 0)
        return jnp.sum(on * undecided(self.share(), beta))


def adaround(
    bits: int = 4,
    group: Group = None,
    steps: int = 1000,
    lr: Array | float = 0.01,
    weight: Array | float = 3.0,
    warmup: Array | float = 0.2,
    beta: tuple[Array | float, Array | float] = (20.0, 2.0),
    symmetric: bool = True,
    grid: Format = None,
    scale: Scale = "absmax",
    soft: bool = False,
    optimizer: Optimizer = ADAM,
) -> Transform:
    """Learn for each weight whether to round it up or down, given the Gram matrix of the layer's inputs.

        W^ = d + h(V) (u - d),   d <= W <= u neighbours on the grid,   h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1)
        min_V tr((W^ - W)^T gram (W^ - W)) / e + weight sum (1 - |2 h(V) - 1|^beta),   at the start W^ = W

    e is the loss of rounding to nearest over the number of weights. After a warm-up without penalty beta falls from 20
    to 2 along half a cosine; so h goes to 0 or 1. Then h >= 1/2 is up.

    Scope: leaf (1 pass). Needs: gram (nothing with steps=0). Random: no. Output leaf: QTensor.

    Sharding: a leaf whose inputs are sharded is gathered, and its Gram matrix always is.

    Args:
      bits, group, symmetric, grid, scale: as of `rtn`. Static.
      steps: of the optimizer; the paper takes 10,000. Static.
      lr: learning rate. Traced. weight: of the penalty. Traced. warmup: share of the steps without it. Traced.
      beta: first and last. Traced.
      soft: return AdaRound nodes, for `reconstruct`. Static.
      optimizer: any of optax, with a learning rate of 1. Static.
    Returns:
      Transform, 1 -> 1, for matrices; QTensor as of `rtn`: every weight is one of its two neighbours. Never worse than
      `rtn` on the Gram matrix: if it is, that is what comes out.
    Raises:
      SideTreeError: no gram for a leaf, or of another shape than `[*stack, in, in]`. ShapeError, WspaceError: as `rtn`.
    Example:
      >>> w, gram = jnp.array([[7.0], [1.4]]), jnp.array([[1.0, 0.9], [0.9, 1.0]])
      >>> adaround(bits=4, group="tensor", steps=300)({"kernel": w}, gram={"kernel": gram})["kernel"].codes.ravel()
      Array([7, 1], dtype=int8)

    Reference: Nagel, Amjad, van Baalen, Louizos, Blankevoort, 2020, "Up or Down? Adaptive Rounding for Post-Training
      Quantization".
    Differs from the paper: the loss comes from the Gram matrix, so the activation after the layer is not in it (that of
      a block has it: `reconstruct`), and where the Gram matrix is of inputs from quantized layers
      (`calibrate.blockwise`), both sides see those; the loss is counted in e, so that one weight of the penalty suits
      all layers (the paper: 0.01, for the loss as it is); any grid, not only integers; rounding to nearest is kept
      where it is better. 1.1, -0.1, the cosine of beta and the warm-up are those of the authors' toolkit (AIMET).
    """
    plan = Plan(steps, lr, optimizer)
    settings = {"weight": weight, "warmup": warmup, "beta_first": beta[0], "beta_last": beta[1]}
    how = {"bits": bits, "group": group, "symmetric": symmetric, "grid": grid, "scale": scale, "soft": soft}
    return layerwise("adaround", AdaRound, plan, settings=settings, **how)  # type: ignore[arg-type]
