"""Gradient-based post-training quantization: a harness to compare how rounding may be learned.

The paper calls its subject GPTQ as well; it is not the solver of Frantar et al., which is `quant.gptq`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp

from wspace.core.containers import as_params, is_weight, show
from wspace.core.errors import SideTreeError, WspaceError, nearest
from wspace.core.transform import Transform, working
from wspace.core.typing import Array, Tree
from wspace.quant.adaquant import AdaQuant
from wspace.quant.adaround import AdaRound
from wspace.quant.clip import Scale
from wspace.quant.flexround import FlexRound
from wspace.quant.formats import Format
from wspace.quant.grid import Group
from wspace.quant.layerwise import ADAM, Optimizer, Pace, Plan, constant, layerwise
from wspace.quant.rounding import Rounding
from wspace.quant.signround import SignRound

Variable = Literal["choice", "divisor", "offset", "weight"]
KINDS: dict[str, type[Rounding]] = {"choice": AdaRound, "divisor": FlexRound, "offset": SignRound, "weight": AdaQuant}
SETTINGS = {"weight": 3.0, "warmup": 0.2, "beta_first": 20.0, "beta_last": 2.0}  # of AdaRound's penalty


def gradient_based(
    variable: Variable = "choice",
    bits: int = 4,
    group: Group = None,
    steps: int = 1000,
    lr: Array | float = 0.01,
    fixed_scales: bool = False,
    symmetric: bool = True,
    grid: Format = None,
    scale: Scale = "absmax",
    soft: bool = False,
    optimizer: Optimizer = ADAM,
    pace: Pace = constant,
) -> Transform:
    """Learn how to round by gradient, one thing changed at a time: the variable, the grid, the optimizer, its pace.

        min tr((W^ - W)^T gram (W^ - W)) over the variable, by the optimizer at the rate lr pace(share of the steps)

        "choice"    W^ between its two neighbours on the grid, with AdaRound's penalty
        "divisor"   W^ = s round(W / (s S)), S and s learned, as FlexRound
        "offset"    W^ = s round(W / s + V), V and the ends of the range learned, as SignRound
        "weight"    W^ = s round((W + V) / s), V and the ends of the range learned, as AdaQuant

    Scope: leaf (1 pass). Needs: gram (nothing with steps=0). Random: no. Output leaf: QTensor.

    Sharding: a leaf whose inputs are sharded is gathered, and its Gram matrix always is.

    Args:
      variable: as above. Static. bits, group, symmetric, grid, scale: as of `rtn` ("offset" and "weight" start from
        the full range). Static.
      steps: of the optimizer. Static. lr: of all that is learned. Traced.
      fixed_scales: leave the scales (the ends of ranges) as they are: fewer degrees of freedom. Static.
      soft: return the nodes, for `reconstruct`. Static. optimizer: any of optax, with a learning rate of 1. Static.
      pace: share of the steps done -> factor on lr: `constant`, `linear` or `cosine` of `wspace.quant.layerwise`, or a
        function of one's own. Static.
    Returns:
      Transform, 1 -> 1, for matrices; QTensor as of `rtn`, never worse than it on the Gram matrix.
    Raises:
      SideTreeError: no gram for a leaf. ShapeError: as `rtn`. WspaceError: as `rtn`; an unknown variable.
    Example:
      >>> w, gram = jnp.array([[3.0], [1.4]]), jnp.array([[1.0, 0.9], [0.9, 1.0]])
      >>> t = gradient_based("weight", bits=3, steps=60, fixed_scales=True)
      >>> t({"kernel": w}, gram={"kernel": gram})["kernel"].codes.ravel()
      Array([3, 1], dtype=int8)

    Reference: Yvinec, Dapogny, Bailly, 2023, "Gradient-Based Post-Training Quantization: Challenging the Status Quo".
    Differs from the paper: its code is not public and its abstract has no formulas, so the family is that of the papers
      which it compares; data augmentation and the choice of calibration data are the caller's.
    """
    if variable not in KINDS:
        raise WspaceError(f"gradient_based: there is no variable {variable!r}.{nearest(variable, KINDS)}")
    free = {"choice": ("v",), "divisor": ("each", "output"), "offset": ("v",), "weight": ("move",)}[variable]
    scales = {"choice": (), "divisor": ("size",), "offset": ("low", "high"), "weight": ("low", "high")}[variable]
    rates: Mapping[str, Any] = {**dict.fromkeys(free, lr), **dict.fromkeys(scales, 0.0 if fixed_scales else lr)}
    first: Scale = scale if variable in ("choice", "divisor") else "absmax"
    how = {"bits": bits, "group": group, "symmetric": symmetric, "grid": grid, "scale": first, "soft": soft}
    settings = SETTINGS if variable == "choice" else {}
    plan = Plan(steps, rates, optimizer, pace)
    return layerwise("gradient_based", KINDS[variable], plan, settings=settings, **how)  # type: ignore[arg-type]


def gradient_importance(params: Tree, gradients: Tree) -> dict[str, float]:
    """How much the loss leans on each leaf: sum |w dL/dw|. Times 4^-bits it is a cost for `ws.budget.allocate`.

    Args:
      params: a tree. gradients: of the loss, by the same paths (see the fold `grad` of `calibrate`, or `jax.grad`).
    Returns:
      path -> importance, for every floating leaf that has a gradient.
    Raises:
      SideTreeError: no leaf has a gradient.
    Example:
      >>> gradient_importance({"a": jnp.array([2.0, -1.0]), "b": jnp.ones(1)}, {"a": jnp.array([1.0, 3.0]), "b": None})
      {'a': 5.0}

    Reference: Yvinec, Dapogny, Bailly, 2023, "Gradient-Based Post-Training Quantization: Challenging the Status Quo".
    Differs from the paper: which importance it takes was not found; this is the usual first-order one.
    """
    slopes = as_params(gradients).leaves
    found = {
        show(path): float(jnp.sum(jnp.abs(working(w) * working(slopes[path]))))
        for path, w in as_params(params).leaves.items()
        if is_weight(w) and slopes.get(path) is not None
    }
    if not found:
        raise SideTreeError("gradient_importance: no leaf has a gradient; the trees need the same paths")
    return found
