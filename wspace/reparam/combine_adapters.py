"""Merging LoRA adapters into one: peft's words for it, on the factors, side by side, or on the whole updates."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from wspace.core.errors import ShapeError, WspaceError, nearest
from wspace.core.transform import Context, Transform, over_stack, per_model
from wspace.core.typing import Array, Leaf
from wspace.reparam.extract_lora import low_rank_array, low_rank_product_array
from wspace.reparam.lora import LoRA, lora_array
from wspace.stats.quantile import count_of, keep_largest

Combination = Literal[
    "linear", "cat", "svd", "ties", "ties_svd", "dare_linear", "dare_ties", "dare_linear_svd", "dare_ties_svd",
    "magnitude_prune", "magnitude_prune_svd",
]  # fmt: skip
Kind = Literal["linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"]
Majority = Literal["total", "frequency"]


@partial(jax.jit, static_argnames=("how", "majority", "stacks"))
def consensus_array(
    tensors: Sequence[Array],
    weights: Array,
    keys: Array | None = None,
    density: Array | float = 1.0,
    how: Kind = "linear",
    majority: Majority = "total",
    stacks: int = 0,
) -> Array:
    """n tensors of one shape into one, as peft does it: sparsify, elect a sign, add what agrees.

    ties, magnitude_prune: x_k <- the floor(density N) largest magnitudes of x_k. dare_*: x_k <- m x_k / density,
    m ~ Bernoulli(density). Then

        linear, dare_linear, magnitude_prune:   sum_k w_k x_k
        ties, dare_ties:   sum_{k in A} w_k x_k / max(|A|, 1),   A = {k : sgn(x_k) = s}
                           s = 1 if sum_k x_k >= 0 (total), if sum_k sgn(x_k) >= 0 (frequency), else -1

    tensors: [*stack, ...], each layer of the first `stacks` axes is trimmed apart. weights: [n], or [n, ...] of the
    tensors' rank. keys: typed keys [n], for dare_*.
    """
    if how in ("ties", "magnitude_prune"):
        trim = over_stack(lambda x: keep_largest(x, count_of(density, x.size, floor=True)), stacks)
        tensors = [trim(x) for x in tensors]
    elif keys is not None:
        tensors = [_dropped(x, keys[k], density) for k, x in enumerate(tensors)]
    weighted = [weights[k].astype(x.dtype) * x for k, x in enumerate(tensors)]
    if not how.endswith("ties"):
        return sum(weighted[1:], weighted[0])
    votes = [jnp.sign(x) for x in tensors] if majority == "frequency" else list(tensors)
    sign = jnp.where(sum(votes[1:], votes[0]) >= 0, 1, -1)
    agrees = [(jnp.sign(x) == sign).astype(x.dtype) for x in tensors]
    kept = [yes * x for yes, x in zip(agrees, weighted, strict=True)]
    return sum(kept[1:], kept[0]) / jnp.maximum(sum(agrees[1:], agrees[0]), 1)


def _dropped(x: Array, key: Array, density: Array | float) -> Array:
    share = jnp.asarray(density, jnp.float32)
    draws = jax.random.uniform(key, x.shape, jnp.float32, out_sharding=jax.typeof(x).sharding)
    return jnp.where(draws < share, x / jnp.where(share > 0, share, 1).astype(x.dtype), jnp.zeros((), x.dtype))


def combine_adapters(
    how: Combination = "linear",
    weights: Sequence[float] | Array | None = None,
    density: Array | float | None = None,
    majority_sign_method: Majority = "total",
    rank: int | None = None,
) -> Transform:
    """One LoRA from n of them on the same base, by the combination types of peft.

        linear, ties, dare_linear, dare_ties, magnitude_prune, on the factors apart (all of one rank):
            a = C(a_1, ..., a_n; sgn(v_k) sqrt|v_k|),   b = C(b_1, ..., b_n; sqrt|v_k|),   v_k = w_k scale_k
        cat:   a = [v_1 a_1, ..., v_n a_n],   b = [b_1; ...; b_n],   so a b = sum_k v_k a_k b_k exactly
        svd, *_svd, on the updates:   a b = the best approximation of rank `rank` of C(D_1, ..., D_n; w_k),   D_k =
            scale_k a_k b_k

    C is in `consensus_array`; svd takes its sum. Of a product of sums `linear` keeps the cross terms: it is the sum of
    the updates only for one adapter. Use cat or svd for that.

    Scope: leaf (1 pass). Needs: nothing; key for dare. Random: for dare, by leaf path and the adapter's place. Output
    leaf: LoRA on the first adapter's base.

    Args:
      how: the combination. Static.
      weights: [n], of each adapter, of either sign; default all 1. Traced.
      density: share of entries that stay, 0..1, where the word needs one. Traced.
      majority_sign_method: how ties elects a sign. Static.
      rank: of the result, for svd; default the largest of the adapters, at most what the sum can have. Static.
    Returns:
      Transform, n -> 1. a, b float32 (float64), scale 1. A leaf that is a plain array in some trees is merged from the
      others, as peft does with adapters that do not target a layer; one that is plain in all stays as in the first.
    Raises:
      WspaceError: an unknown word; a density that is missing, not wanted or outside 0..1; a rank without svd.
      ShapeError: another number of weights than of trees; factors of different ranks where they must be alike, or
        adapters on bases of different layouts (names the path).
    Example:
      >>> def adapter(x): return LoRA(jnp.zeros((2, 1)), jnp.array([[x], [1.0]]), jnp.ones((1, 1)), jnp.ones(()), view)
      >>> from wspace.core.axes import MatrixView
      >>> view = MatrixView((0, 1), (2, 1), 0, 1)
      >>> both = combine_adapters("cat", weights=(1.0, -1.0))({"kernel": adapter(3.0)}, {"kernel": adapter(1.0)})
      >>> both["kernel"].a.shape, both["kernel"].materialize().ravel()
      ((2, 2), Array([2., 0.], dtype=float32))

    Reference: Mangrulkar et al., 2022, "PEFT: State-of-the-art Parameter-Efficient Fine-Tuning methods",
      add_weighted_adapter of release 0.21.2; ties and dare as `merge.ties` and `merge.dare`.
    Differs from the paper: peft's ties votes with the trimmed values before they are weighted and divides by the number
      that agree, and this does too; its svd_clamp is left out; svd gives a and b an even share of the singular values;
      one adapter alone is sparsified like several, where peft takes linear whatever the word.
    """
    _check(how, density, rank)

    def apply(leaves: tuple[Leaf, ...], ctx: Context) -> Leaf:
        nodes = [(k, x) for k, x in enumerate(leaves) if isinstance(x, LoRA)]
        shares = per_model(weights, len(leaves))
        if not nodes:
            return leaves[0]
        first = nodes[0][1]
        _check_alike(how, [x for _, x in nodes], ctx)
        a, b = combined_array(
            [(x.a, x.b, x.scale) for _, x in nodes],
            shares,
            ctx.key if how.startswith("dare") else None,
            1.0 if density is None else density,
            how=how,
            majority=majority_sign_method,
            rank=rank,
            places=tuple(k for k, _ in nodes),
        )
        return LoRA(first.base, a, b, jnp.ones(a.shape[:-2], jnp.float32), first.view)

    needs = frozenset({"key"}) if how.startswith("dare") else frozenset()
    return Transform(apply, f"combine_adapters({how})", needs=needs, arity=None)


@partial(jax.jit, static_argnames=("how", "majority", "rank", "places"))
def combined_array(
    factors: Sequence[tuple[Array, Array, Array]],
    weights: Array,
    key: Array | None,
    density: Array | float,
    *,
    how: str,
    majority: Majority,
    rank: int | None,
    places: tuple[int, ...],
) -> tuple[Array, Array]:
    """The factors of the result, from a, b and scale of the adapters at these places among the weights [n]."""
    stacks = factors[0][0].ndim - 2
    own, keys = [weights[k] for k in places], _keys(key, places)
    v = jnp.stack([w * scale for w, (_, _, scale) in zip(own, factors, strict=True)])[..., None, None]
    size = rank or max(a.shape[-1] for a, _, _ in factors)
    if how in ("cat", "svd"):
        wide = jnp.concatenate([v[k].astype(a.dtype) * a for k, (a, _, _) in enumerate(factors)], axis=-1)
        high = jnp.concatenate([b for _, b, _ in factors], axis=-2)
        if how == "svd":
            wide, high = over_stack(partial(low_rank_product_array, rank=size), stacks)(wide, high)
        return wide, high
    settings: Any = {"density": density, "majority": majority, "stacks": stacks}
    if how.endswith("_svd"):
        updates = [lora_array(*x) for x in factors]
        kind: Any = how.removesuffix("_svd")
        whole = consensus_array(updates, jnp.stack(own), None if keys is None else keys[:, 0], how=kind, **settings)
        a, b = over_stack(partial(low_rank_array, rank=size), stacks)(whole)
        return a, b
    root = jnp.sqrt(jnp.abs(v))
    sides = (jnp.where(v >= 0, root, -root), root)
    made = [
        consensus_array([x[i] for x in factors], sides[i], None if keys is None else keys[:, i], how=how, **settings)
        for i in range(2)
    ]
    return made[0], made[1]


def _keys(key: Array | None, places: Sequence[int]) -> Array | None:
    """A key for either factor of every adapter, [n, 2], from the leaf's key and the adapter's place."""
    return key if key is None else jnp.stack([jax.random.split(jax.random.fold_in(key, 2**31 + k), 2) for k in places])


def _check(how: str, density: Array | float | None, rank: int | None) -> None:
    if how not in get_args(Combination):
        raise WspaceError(f"combine_adapters has no combination {how!r}.{nearest(how, get_args(Combination))}")
    sparse = how not in ("linear", "cat", "svd")
    if sparse and density is None:
        raise WspaceError(f"combine_adapters({how!r}) needs a density, the share of entries that stay, in 0..1")
    if not sparse and density is not None:
        raise WspaceError(f"combine_adapters({how!r}) drops nothing: leave density out, or take ties, dare_... ")
    if isinstance(density, int | float) and not 0 <= density <= 1:
        raise WspaceError(f"combine_adapters: density {density} is no share of entries; it is within 0..1")
    if rank is not None and (rank < 1 or not how.endswith("svd")):
        raise WspaceError(f"combine_adapters({how!r}) takes no rank {rank}: svd and ..._svd take one of at least 1")


def _check_alike(how: str, nodes: Sequence[LoRA], ctx: Context) -> None:
    ranks = [x.a.shape[-1] for x in nodes]
    if len(set(ranks)) > 1 and how != "cat" and not how.endswith("svd"):
        raise ShapeError(
            f"combine_adapters({how!r}) needs adapters of one rank, but at {ctx.spec.path} they have {ranks}; "
            f"take cat, or a word that ends in svd"
        )
    if len({x.view for x in nodes}) > 1:
        raise ShapeError(
            f"combine_adapters: the adapters at {ctx.spec.path} stand on bases of different layouts: "
            f"{', '.join(str(x.view.shape) for x in nodes)}"
        )
