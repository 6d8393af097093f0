"""NUPES: codes and the exponent of a power grid, both learned by gradient."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from wspace.core.implicit import implicit
from wspace.core.transform import Transform
from wspace.core.typing import Array
from wspace.quant.grid import Grid, Group, Scales, decode, units
from wspace.quant.layerwise import ADAM, Optimizer, Plan, cosine, layerwise
from wspace.quant.power import USUAL, Power, power
from wspace.quant.powerquant import power_grid
from wspace.quant.rounding import Learned, Rounding

LEAST, MOST = 0.2, 1.0  # bounds of the exponent


@implicit
class Nupes(Rounding):
    """learned: codes `[in, out]`, before they are rounded; exponent `[1, 1]`. settings: exponent, where it starts."""

    @classmethod
    def begin(cls, w: Array, grid: Grid, scales: Scales, settings: Scales) -> Learned:
        last = 2 ** (grid.bits - 1) - 1
        share = w / (units(w, grid, scales) * power(jnp.full_like(scales["exponent"], last), 1 / scales["exponent"]))
        return {"codes": last * power(share, settings["exponent"]), "exponent": settings["exponent"]}

    @property
    def last(self) -> int:
        return int(2 ** (self.grid.bits - 1) - 1)

    def moving(self) -> dict[str, Array]:
        """The scales of the exponent as it is now: the largest weight of a block stays where it is."""
        top = jnp.full_like(self.learned["exponent"], self.last)
        was, now = self.scales["exponent"], self.learned["exponent"]
        scale = self.scales["scale"] * power(top, 1 / was) / power(top, 1 / now)
        return {"scale": scale, "exponent": now}

    def soft(self) -> Array:
        """As the codes that they round to; slopes: of a code as if it were at least 1/2, of the exponent exact."""
        a, v = lax.stop_gradient(self.learned["exponent"]), lax.stop_gradient(self.learned["codes"])
        codes, scales = self.hard()
        made = lax.stop_gradient(decode(codes, self.grid, scales))
        size = jnp.maximum(jnp.abs(v), 0.5)
        by_code = lax.stop_gradient(units(self.w, self.grid, self.moving())) * power(size, 1 / a - 1) / a
        share = jnp.maximum(jnp.abs(codes).astype(v.dtype), 1) / self.last
        by_exponent = -made * jnp.log(share) / a**2
        return made + by_code * (self.learned["codes"] - v) + by_exponent * (self.learned["exponent"] - a)

    def hard(self) -> tuple[Array, Scales]:
        grid = self.grid
        codes = jnp.round(self.learned["codes"])
        return (grid if isinstance(grid, Power) else power_grid(grid.bits)).code_of(codes), self.moving()

    def bounded(self) -> Learned:
        codes = jnp.clip(self.learned["codes"], -self.last, self.last)
        return {"codes": codes, "exponent": jnp.clip(self.learned["exponent"], LEAST, MOST)}


def nupes(
    bits: int = 4,
    group: Group = None,
    steps: int = 1000,
    lr: Array | float = 3e-3,
    exponent_lr: Array | float = 1e-3,
    exponent: Array | float = USUAL,
    soft: bool = False,
    optimizer: Optimizer = ADAM,
) -> Transform:
    """Learn the codes of a power grid, anywhere on it, and its exponent, given the Gram matrix of the layer's inputs.

        W^ = m sign(q) (|q| / n)^(1/a),   q = round(v),   n = 2^(b-1) - 1,   m: the largest magnitude of the group
        min over v and a of tr((W^ - W)^T gram (W^ - W)),   at the start v = n sign(W) |W / m|^a

    Straight through the rounding: dW^/dv = m/(a n) (|v| / n)^(1/a - 1), where |v| counts as at least 1/2 so that zeros
    can leave; dW^/da = -W^ ln(|q| / n) / a^2, zero for q = 0. a stays within 0.2..1.

    Scope: leaf (1 pass). Needs: gram (nothing with steps=0). Random: no. Output leaf: QTensor, format "power<bits>".

    Sharding: a leaf whose inputs are sharded is gathered, and its Gram matrix always is.

    Args:
      bits, group: as of `powerquant`. Static. exponent: a at the start, from `search_exponent`, say. Traced.
      steps: of the optimizer. Static. lr: of v, in codes; exponent_lr: of a; both fall along half a cosine. Traced.
      soft: return Nupes nodes, for `reconstruct`. Static. optimizer: any of optax, with a learning rate of 1. Static.
    Returns:
      Transform, 1 -> 1, for matrices; QTensor as of `powerquant`: the least loss that was seen, `powerquant` being the
      first.
    Raises:
      SideTreeError: no gram for a leaf, or of another shape than `[*stack, in, in]`. ShapeError, WspaceError: as `rtn`.
    Example:
      >>> w, gram = jnp.array([[9.0], [2.2]]), jnp.array([[1.0, 0.9], [0.9, 1.0]])
      >>> q = nupes(bits=3, steps=100)({"kernel": w}, gram={"kernel": gram})["kernel"]
      >>> error = q.materialize() - w
      >>> bool(jnp.sum(error * (gram @ error)) < 1.44)  # of powerquant
      True

    Reference: Yvinec, Dapogny, Bailly, 2023, "NUPES: Non-Uniform Post-Training Quantization via Power Exponent Search".
    Differs from the paper: its code is not public, and how it softens the codes was not found; ours is the plain
      straight-through form above. One exponent a matrix; its range stays when the exponent moves; the loss comes from
      the Gram matrix of one layer (`reconstruct` has blocks); the best is kept.
    """
    plan = Plan(steps, {"codes": lr, "exponent": exponent_lr}, optimizer, cosine)
    grid = power_grid(bits)
    return layerwise("nupes", Nupes, plan, group=group, grid=grid, soft=soft, settings={"exponent": exponent})
