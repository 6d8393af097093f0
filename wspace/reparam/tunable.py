"""Tunable weights: several kernels in one leaf, mixed by parameters that are chosen when the model is used."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from wspace.core.containers import as_params
from wspace.core.errors import SelectionError, ShapeError
from wspace.core.implicit import Implicit, implicit
from wspace.core.transform import Context, Transform, leafwise, narrow, per_model, working
from wspace.core.typing import Array, Tree


@jax.jit
def tunable_array(kernels: Array, mix: Array) -> Array:
    """`sum_i p_i k_i`; kernels: [n, *shape], mix: p, [n]. At a vertex exactly that kernel."""
    parts = [mix[i].astype(kernels.dtype) * kernels[i] for i in range(kernels.shape[0])]
    return sum(parts[1:], parts[0])


@implicit
class Tunable(Implicit):
    """sum_i p_i k_i. kernels: [n, *shape]. mix: p, f32 [n]."""

    kernels: Array
    mix: Array

    trainable = frozenset({"kernels"})

    def materialize(self) -> Array:
        return narrow(tunable_array(working(self.kernels), self.mix), self.kernels.dtype)


def tunable(mix: Sequence[float] | Array | None = None) -> Transform:
    """Put n models in one, to train together and to mix after training.

        W(p) = sum_i p_i k_i,   b(p) = sum_i p_i b_i

    Training draws p at each step and minimizes `sum_i p_i L_i(f(x; W(p)))`, the same p in loss and weights; `tune` sets
    it. Inference chooses p once and materializes.

    Scope: leaf (1 pass). Needs: nothing. Random: no. Output leaf: Tunable.

    Args:
      mix: p, [n], default 1/n each. Traced.
    Returns:
      Transform, n -> 1, n at most about 16. Kernels in the dtype of the first tree, trained by `split`; the mix is not.
    Raises:
      ShapeError: another number of weights than of trees.
    Example:
      >>> import wspace as ws
      >>> a, b = {"w": jnp.array([0.0, 4.0])}, {"w": jnp.array([8.0, 4.0])}
      >>> p = tunable()(a, b)
      >>> ws.materialize(tune(p, (0.75, 0.25)))["w"]
      Array([2., 4.], dtype=float32)

    Reference: Maggioni, Tanay, Babiloni, McDonagh, Leonardis, 2023, "Tunable Convolutions with Parametric Multi-Loss
      Optimization".
    Differs from the paper: p is given; the paper's learned map from the user's parameters to p is the caller's.
    """

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Implicit:
        stacked = jnp.stack([narrow(x, ctx.spec.dtype) for x in leaves])
        return Tunable(stacked, per_model(mix, len(leaves), 1 / len(leaves)))

    return leafwise("tunable", apply, arity=None)


def tune(params: Tree, mix: Sequence[float] | Array) -> Tree:
    """The same parameters with another mix in every Tunable node. Traceable.

    Args:
      mix: p, [n].
    Raises:
      SelectionError: no Tunable node. ShapeError: another number of weights than of kernels.
    Example:
      >>> p = tunable()({"w": jnp.array([1.0])}, {"w": jnp.array([3.0])})
      >>> tune(p, (0.0, 1.0))["w"].materialize()
      Array([3.], dtype=float32)
    """
    p, found, flat = jnp.asarray(mix, jnp.float32), 0, as_params(params)
    out = dict(flat.leaves)
    for path, leaf in flat.leaves.items():
        if isinstance(leaf, Tunable):
            if p.shape != leaf.mix.shape:
                raise ShapeError(f"tune: the mix has shape {p.shape}, but the nodes have {leaf.mix.shape[0]} kernels")
            out[path], found = Tunable(leaf.kernels, p), found + 1
    if not found:
        raise SelectionError("tune found no Tunable node; make them with tunable()(a, b, ...)")
    return flat.rebuild(out)
