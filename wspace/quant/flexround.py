"""FlexRound: learn what each weight is divided by before it is rounded, so that large weights move further."""

from __future__ import annotations

import jax.numpy as jnp

from wspace.core.implicit import implicit
from wspace.core.transform import Transform
from wspace.core.typing import Array
from wspace.quant.clip import Scale
from wspace.quant.formats import Format
from wspace.quant.grid import Grid, Group, Scales, straight
from wspace.quant.layerwise import ADAM, Optimizer, Plan, cosine, layerwise
from wspace.quant.rounding import Learned, Rounding, rounded_codes


@implicit
class FlexRound(Rounding):
    """learned logarithms, 0 at the start: size (of the grid's scale, over what it was), each `[in, out]`, output
    `[1, out]`."""

    @classmethod
    def begin(cls, w: Array, grid: Grid, scales: Scales, settings: Scales) -> Learned:
        return {
            "size": jnp.zeros_like(scales["scale"]),
            "each": jnp.zeros_like(w),
            "output": jnp.zeros_like(jnp.sum(w, axis=-2, keepdims=True)),
        }

    def divided(self) -> tuple[Array, dict[str, Array]]:
        """What is rounded, and the scales that it is rounded on."""
        size = {"scale": self.scales["scale"] * jnp.exp(self.learned["size"])}
        return self.w * jnp.exp(-self.learned["each"] - self.learned["output"]), {**self.scales, **size}

    def soft(self) -> Array:
        x, scales = self.divided()
        return straight(x, self.grid, scales)

    def hard(self) -> tuple[Array, Scales]:
        x, scales = self.divided()
        return rounded_codes(x, self.grid, scales)


def flexround(
    bits: int = 4,
    group: Group = None,
    steps: int = 1000,
    lr: Array | float = 3e-3,
    symmetric: bool = True,
    grid: Format = None,
    scale: Scale = "absmax",
    soft: bool = False,
    optimizer: Optimizer = ADAM,
) -> Transform:
    """Learn a divisor for each weight, each output and each group's scale, given the Gram matrix of the layer's inputs.

        W^ = s1 round(W / (s1 S2 s3)) clipped to the grid,   s1 > 0 a group, S2 > 0 a weight, s3 > 0 an output
        min tr((W^ - W)^T gram (W^ - W)) over their logarithms, straight through the rounding;   S2 = s3 = 1 at first

    As dW^/dS2 = -W / S2^2 times the slope, a large weight moves further than a small one, and may pass several codes.

    Scope: leaf (1 pass). Needs: gram (nothing with steps=0). Random: no. Output leaf: QTensor.

    Sharding: a leaf whose inputs are sharded is gathered, and its Gram matrix always is.

    Args:
      bits, group, symmetric, grid, scale: as of `rtn`; the code that stands for 0 stays. Static.
      steps: of the optimizer. Static. lr: learning rate at the start, falling along half a cosine. Traced.
      soft: return FlexRound nodes, for `reconstruct`. Static.
      optimizer: any of optax, with a learning rate of 1. Static.
    Returns:
      Transform, 1 -> 1, for matrices; QTensor as of `rtn`, scales the learned s1: the least loss that was seen, `rtn`
      being the first.
    Raises:
      SideTreeError: no gram for a leaf, or of another shape than `[*stack, in, in]`. ShapeError, WspaceError: as `rtn`.
    Example:
      >>> w, gram = jnp.array([[3.0], [1.4]]), jnp.array([[1.0, 0.9], [0.9, 1.0]])
      >>> q = flexround(bits=3, steps=100, lr=0.01)({"kernel": w}, gram={"kernel": gram})["kernel"]
      >>> error = q.materialize() - w
      >>> bool(jnp.sum(error * (gram @ error)) < 0.16)  # of rounding to nearest
      True

    Reference: Lee, Kim, Kwon, Lee, 2023, "FlexRound: Learnable Rounding based on Element-wise Division for
      Post-Training Quantization".
    Differs from the paper: the loss comes from the Gram matrix of one layer (the paper: blocks; see `reconstruct`);
      no s4 for the inputs of convolutions; the best is kept; any grid.
    """
    plan = Plan(steps, lr, optimizer, cosine)
    how = {"bits": bits, "group": group, "symmetric": symmetric, "grid": grid, "scale": scale, "soft": soft}
    return layerwise("flexround", FlexRound, plan, **how)  # type: ignore[arg-type]
