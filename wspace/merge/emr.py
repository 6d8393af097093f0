"""EMR: one unified task vector for all tasks, and of each task a mask and a scale that bring its model back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from wspace.core.errors import WspaceError
from wspace.core.fold import Fold
from wspace.core.implicit import Implicit, dense, implicit
from wspace.core.transform import Context, Transform, leafwise, narrow, working, working_dtype
from wspace.core.typing import Array
from wspace.merge.consensus import tall_mask_array


@jax.jit
def emr_array(deltas: Sequence[Array]) -> Array:
    """The largest magnitude among the task vectors that have the sign of their sum, with that sign.

        g = sgn(sum_k d_k),   out = g max{|d_k| : sgn(d_k) = g}

    deltas: n arrays of one shape and dtype. Where the sum is 0, g is -1.
    """
    g = jnp.where(sum(deltas[1:], deltas[0]) > 0, 1, -1).astype(deltas[0].dtype)
    farthest = jnp.maximum(g * deltas[0], 0)
    for d in deltas[1:]:
        farthest = jnp.maximum(farthest, g * d)
    return g * farthest


def emr() -> Transform:
    """Elect the unified task vector of n models: what `modulate` masks and scales for each of them.

        d_k = theta_k - base,   g = sgn(sum_k d_k),   out = g max{|d_k| : sgn(d_k) = g}

    Scope: leaf (1 pass). Needs: base. Random: no. Output leaf: array, dtype of the first tree.

    Returns:
      Transform, n -> 1; a task vector, not a model.
    Raises:
      SideTreeError: no base. TreeMismatch: trees or base differ in structure.
    Example:
      >>> base, a, b = ({"w": jnp.array(w)} for w in ([0.0, 0.0], [4.0, 1.0], [2.0, -3.0]))
      >>> unified = emr()(a, b, base=base)
      >>> unified["w"]
      Array([ 4., -3.], dtype=float32)
      >>> modulate()(b, base=base, unified=unified)["w"].materialize()  # as far from base as b is
      Array([ 2.857..., -2.142...], dtype=float32)

    Reference: Huang, Ye, Chen, He, Yue, Ouyang, 2024, "EMR-Merging: Tuning-Free High-Performance Model Merging".
    Differs from the paper: none. Where task vectors add up to exactly 0 the sign is negative, as in its code.
    """

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        return emr_array([x - dense(ctx.side("base")).astype(x.dtype) for x in leaves])

    return leafwise("emr", apply, arity=None, needs=frozenset({"base"}))


@implicit
class Modulated(Implicit):
    """base + scale mask unified: a task's weights. Tasks share the arrays base and unified.

    base, unified: one shape. mask: bool of that shape. scale: float32 (float64) scalar.
    """

    base: Array
    unified: Array
    mask: Array
    scale: Array

    def materialize(self) -> Array:
        return _modulated(self.base, self.unified, self.mask, self.scale)


@jax.jit
def _modulated(base: Array, unified: Array, mask: Array, scale: Array) -> Array:
    dtype = working_dtype(base.dtype)
    return narrow(base.astype(dtype) + scale.astype(dtype) * jnp.where(mask, unified.astype(dtype), 0), base.dtype)


class _Sizes(NamedTuple):
    """Sums of absolute entries: of a task vector, and of what the mask leaves of the unified one."""

    own: Array
    masked: Array


def modulate(rule: Literal["sign", "tall"] = "sign", strictness: Array | float = 0.4) -> Transform:
    """A model as a mask and a scale of a task vector that it shares with others.

        d = theta - base
        rule "sign" (EMR):   m = [d unified > 0],   s = sum |d| / sum |m unified|, over all leaves
        rule "tall" (TALL):  m = [|d| > strictness |unified - d|],   s = 1
        weights = base + s m unified

    Scope: global (2 passes); with rule "tall", leaf (1 pass). Needs: base, unified. Random: no. Output leaf: Modulated.

    Args:
      rule: how entries are chosen. Static. strictness: lambda of TALL masks. Traced, in steps.
    Returns:
      Transform, 1 -> 1. Modulated holds `base` and `unified` as they are, so n tasks share them and add a bit an entry,
      kept as a byte. unified: a task vector, of `emr` or any merge of task vectors such as `weighted_sum`.
    Raises:
      SideTreeError: no base or no unified. TreeMismatch: structures differ. WspaceError: another word for rule.
    Example:
      >>> base, a, b = ({"w": jnp.array(w)} for w in ([0.0, 0.0], [4.0, 1.0], [2.0, -3.0]))
      >>> modulate()(a, base=base, unified={"w": jnp.array([4.0, -3.0])})["w"].mask
      Array([ True, False], dtype=bool)

    Reference: as `emr`; for rule "tall", Wang et al., 2024, "Localizing Task Information for Improved Model Merging and
      Compression".
    Differs from the paper: EMR's code adds up means of leaves for s, its text sums of all entries, which this does.
    """
    if rule not in ("sign", "tall"):
        raise WspaceError(f"modulate has no rule {rule!r}; use 'sign' (EMR) or 'tall' (TALL masks)")

    def chosen(leaves: tuple[Array, ...], ctx: Context) -> tuple[Array, Array, Array]:
        w = working(leaves[0])
        base, unified = (dense(ctx.side(name)).astype(w.dtype) for name in ("base", "unified"))
        delta = w - base
        mask = _same_sign(delta, unified) if rule == "sign" else tall_mask_array(delta, unified, strictness)
        return delta, unified, mask

    def lift(leaves: tuple[Array, ...], ctx: Context) -> _Sizes:
        return _sizes(*chosen(leaves, ctx))

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Modulated:
        _, _, mask = chosen(leaves, ctx)
        scale = ctx.summaries[0] if rule == "sign" else jnp.ones((), jnp.float32)
        return Modulated(dense(ctx.side("base")), dense(ctx.side("unified")), mask, scale)

    folds = (Fold(lift, partial(jax.tree.map, jnp.add), _ratio),) if rule == "sign" else ()
    return leafwise("modulate", apply, folds=folds, needs=frozenset({"base", "unified"}))


@jax.jit
def _same_sign(delta: Array, unified: Array) -> Array:
    return jnp.sign(delta) * jnp.sign(unified) > 0


@jax.jit
def _sizes(delta: Array, unified: Array, mask: Array) -> _Sizes:
    own, masked = jnp.sum(jnp.abs(delta)), jnp.sum(jnp.where(mask, jnp.abs(unified), 0))
    wide = jnp.result_type(float)  # float64 in 64-bit mode, which a float64 leaf turns on
    return _Sizes(own.astype(wide), masked.astype(wide))


def _ratio(s: _Sizes) -> Array:
    return jnp.where(s.masked > 0, s.own / jnp.where(s.masked > 0, s.masked, 1), 0)
