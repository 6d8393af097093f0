"""AdaQuant: move weights, ranges and bias of one layer so that its output survives rounding of weights and inputs."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax import lax

from wspace.core.errors import ShapeError
from wspace.core.implicit import implicit
from wspace.core.learn import descend
from wspace.core.transform import Transform, working
from wspace.core.typing import Array, Progress
from wspace.quant.formats import Format, choose
from wspace.quant.grid import Grid, Group, Scales, decode, fit_ends, straight, units
from wspace.quant.layerwise import ADAM, Optimizer, Plan, layerwise
from wspace.quant.qtensor import QTensor
from wspace.quant.rounding import Learned, Rounding, rounded_codes

ENDS = (0.05, 2.0)  # bounds of the factors on the ends of ranges


@implicit
class AdaQuant(Rounding):
    """learned: move `[in, out]`, of the weights, in steps of the grid that they started on; low and high
    `[in/group, out/width]`, factors of the ends of the range, 1 at the start."""

    @classmethod
    def begin(cls, w: Array, grid: Grid, scales: Scales, settings: Scales) -> Learned:
        whole = jnp.ones_like(scales["scale"])
        return {"move": jnp.zeros_like(w), "low": whole, "high": whole}

    def moved_weights(self) -> tuple[Array, dict[str, Array]]:
        """What is rounded, and the scales that it is rounded on."""
        step = units(self.w, self.grid, self.scales)
        scales = fit_ends(self.w, self.grid, self.learned["low"], self.learned["high"])
        return self.w + self.learned["move"] * step, scales

    def soft(self) -> Array:
        x, scales = self.moved_weights()
        return straight(x, self.grid, scales)

    def hard(self) -> tuple[Array, Scales]:
        x, scales = self.moved_weights()
        return rounded_codes(x, self.grid, scales)

    def bounded(self) -> Learned:
        return {n: x if n == "move" else jnp.clip(x, *ENDS) for n, x in self.learned.items()}


def adaquant(
    bits: int = 4,
    group: Group = None,
    steps: int = 1000,
    lr: Array | float = 3e-3,
    range_lr: Array | float = 3e-3,
    symmetric: bool = False,
    grid: Format = None,
    soft: bool = False,
    optimizer: Optimizer = ADAM,
) -> Transform:
    """Move the weights and the ends of their ranges so that rounding hurts least, given the Gram matrix of the inputs.

        min over V and the ranges of tr((Q(W + V) - W)^T gram (Q(W + V) - W)),   straight through the rounding of Q

    This is AdaQuant for weights alone; with the bias and quantized inputs it is `adaquant_layer`.

    Scope: leaf (1 pass). Needs: gram (nothing with steps=0). Random: no. Output leaf: QTensor.

    Sharding: a leaf whose inputs are sharded is gathered, and its Gram matrix always is.

    Args:
      bits, group, symmetric, grid: as of `rtn`. Static.
      steps: of the optimizer. Static. lr: of V, in steps of the grid; range_lr: of the ends, as shares. Traced.
      soft: return AdaQuant nodes, for `reconstruct`. Static.
      optimizer: any of optax, with a learning rate of 1. Static.
    Returns:
      Transform, 1 -> 1, for matrices; QTensor as of `rtn`: the least loss that was seen, `rtn` being the first.
    Raises:
      SideTreeError: no gram for a leaf, or of another shape than `[*stack, in, in]`. ShapeError, WspaceError: as `rtn`.
    Example:
      >>> w, gram = jnp.array([[3.0], [1.4]]), jnp.array([[1.0, 0.9], [0.9, 1.0]])
      >>> q = adaquant(bits=3, steps=100, symmetric=True)({"kernel": w}, gram={"kernel": gram})["kernel"]
      >>> error = q.materialize() - w
      >>> bool(jnp.sum(error * (gram @ error)) < 0.16)  # of rounding to nearest
      True

    Reference: Hubara, Nahshan, Hanani, Banner, Soudry, 2020, "Improving Post Training Neural Quantization: Layer-wise
      Calibration and Integer Programming".
    Differs from the paper: rates are relative to the step and the range (the authors' code: 1e-5 of weights, 1e-3 of
      their range, as they are); the best is kept.
    """
    plan = Plan(steps, {"move": lr, "low": range_lr, "high": range_lr}, optimizer)
    how = {"bits": bits, "group": group, "symmetric": symmetric, "grid": grid, "soft": soft}
    return layerwise("adaquant", AdaQuant, plan, **how)  # type: ignore[arg-type]


class Calibrated(NamedTuple):
    """kernel: QTensor. bias: [out]. input_scales: of `quantize_activations(..., symmetric=False, per="tensor")`.
    before, after: mean squared errors of the output on the given inputs."""

    kernel: QTensor
    bias: Array
    input_scales: dict[str, Array]
    before: Array
    after: Array


def tune_bias(bias: Array, got: Array, wanted: Array) -> Array:
    """The bias with which the outputs have the means that they had.

        b <- b - (mean over tokens of got - mean of wanted)

    Args:
      bias: [out]. got, wanted: outputs with and without quantization, `[..., out]`.
    Returns:
      The new bias, in its dtype.
    Raises:
      ShapeError: another number of outputs than biases.
    Example:
      >>> tune_bias(jnp.zeros(2), jnp.array([[1.0, 5.0], [3.0, 5.0]]), jnp.array([[1.0, 4.0], [1.0, 4.0]]))
      Array([-1., -1.], dtype=float32)

    Reference: Hubara et al., 2020, section 4 (bias tuning); Nagel et al., 2019, "Data-Free Quantization Through Weight
      Equalization and Bias Correction", the empirical form.
    Differs from the paper: none.
    """
    if got.shape[-1:] != bias.shape or wanted.shape[-1:] != bias.shape:
        raise ShapeError(f"tune_bias: bias {bias.shape}, outputs {got.shape} and {wanted.shape}; wanted one bias each")
    away = [jnp.mean(working(x), axis=tuple(range(x.ndim - 1))) for x in (got, wanted)]
    return (working(bias) - (away[0] - away[1])).astype(bias.dtype)


def adaquant_layer(
    kernel: Array,
    bias: Array,
    x: Array,
    y: Array | None = None,
    bits: int = 4,
    input_bits: int = 8,
    group: Group = None,
    steps: int = 500,
    lr: float = 3e-3,
    bias_lr: float = 1e-3,
    range_lr: float = 3e-3,
    input_lr: float = 3e-3,
    symmetric: bool = False,
    progress: Progress | None = None,
) -> Calibrated:
    """Calibrate one linear layer whose weights and inputs are quantized, on inputs and outputs that were kept.

        min mean |y - (Q_x(x) Q_w(W + V) + b)|^2  over V, b and the ends of both ranges, straight through the rounding

    Args:
      kernel: [in, out]. bias: [out]. x: inputs `[n, in]`. y: outputs `[n, out]`; default x W + b.
      bits, group, symmetric: of the weights, as of `rtn`. input_bits: one static range for all inputs, asymmetric.
      steps: of Adam. lr: of V, in steps of the grid; bias_lr: of b; range_lr, input_lr: of the ends, as shares of them.
      progress: called as (steps done, steps, loss in words).
    Returns:
      Calibrated. Where nothing better than the start was found, that is it: rounding to nearest.
    Raises:
      ShapeError: shapes that do not fit; as of `rtn`. WspaceError: as of `rtn`.
    Example:
      >>> x = jnp.array([[1.0, 0.9], [0.9, 1.0], [2.0, 1.7]])
      >>> found = adaquant_layer(jnp.array([[3.0], [1.4]]), jnp.zeros(1), x, bits=2, steps=50)
      >>> bool(found.after < found.before)
      True

    Reference: Hubara, Nahshan, Hanani, Banner, Soudry, 2020, "Improving Post Training Neural Quantization: Layer-wise
      Calibration and Integer Programming".
    Differs from the paper: rates are relative to steps and ranges (the authors' code: 1e-5 of weights, 1e-3 of bias and
      weight range, 1e-1 of input range, as they are); all inputs at each step, where the code draws 50; an activation
      after the layer is the caller's, in `reconstruct`.
    """
    if x.ndim != 2 or kernel.ndim != 2 or x.shape[1] != kernel.shape[0] or bias.shape != kernel.shape[1:]:
        raise ShapeError(f"adaquant_layer: x {x.shape}, kernel {kernel.shape}, bias {bias.shape} do not fit together")
    node = adaquant(bits, group, steps=0, symmetric=symmetric, soft=True)({"kernel": kernel})["kernel"]
    inputs = choose(input_bits, False, None)
    x, b = working(x), working(bias)
    wanted = jnp.matmul(x, node.w, precision=lax.Precision.HIGHEST) + b[None] if y is None else working(y)
    one = jnp.ones((1, 1), x.dtype)
    start = {"kernel": node.learned, "bias": b, "input": {"low": one, "high": one}}
    fixed = (node, x, wanted)
    objective = _objective(inputs)
    rates = _rates(lr, bias_lr, range_lr, input_lr)
    values = descend(objective, start, fixed, None, rates, steps=steps, progress=progress).values
    made = [_hard(v, node, x, wanted, inputs) for v in (start, values)]
    best = made[1] if made[1][-1] < made[0][-1] else made[0]
    return Calibrated(best[0], best[1].astype(bias.dtype), best[2], made[0][-1], best[-1])


@cache
def _rates(lr: float, bias_lr: float, range_lr: float, input_lr: float) -> Optimizer:
    """Adam with a rate for each part."""
    each = {"move": lr, "bias": bias_lr, "range": range_lr, "input": input_lr}
    ends = {"low": "range", "high": "range"}
    labels = {"kernel": {"move": "move", **ends}, "bias": "bias", "input": {"low": "input", "high": "input"}}
    return optax.partition({name: optax.adam(rate) for name, rate in each.items()}, labels)


@cache
def _objective(inputs: Grid) -> Any:
    def objective(values: Any, fixed: Any, batch: Any, key: Array) -> Array:
        node, x, wanted = fixed
        seen = straight(x, inputs, _input_scales(values, x, inputs))
        return _error(seen, node.moved(node.moved(values["kernel"]).bounded()).soft(), values["bias"], wanted)

    return objective


def _input_scales(values: Any, x: Array, inputs: Grid) -> dict[str, Array]:
    low, high = (jnp.clip(values["input"][n], *ENDS) for n in ("low", "high"))
    return fit_ends(x, inputs, low, high)


def _error(x: Array, w: Array, b: Array, wanted: Array) -> Array:
    return jnp.mean(jnp.square(jnp.matmul(x, w, precision=lax.Precision.HIGHEST) + b[None] - wanted))


def _hard(values: Any, node: AdaQuant, x: Array, wanted: Array, inputs: Grid) -> tuple[Any, Array, Any, Array]:
    q = node.moved(node.moved(values["kernel"]).bounded()).harden()
    codes, scales = rounded_codes(x, inputs, _input_scales(values, x, inputs))
    error = _error(decode(codes, inputs, scales), decode(q.codes, q.grid, q.scales), values["bias"], wanted)
    return q, values["bias"], dict(scales), error
