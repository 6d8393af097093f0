"""L2 compression: edges and steps of every matrix are trained against an entropy count, then the weights, in turns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wspace.core.compose import on
from wspace.core.containers import as_params
from wspace.core.errors import WspaceError
from wspace.core.implicit import implicit
from wspace.core.learn import descend
from wspace.core.select import matrices
from wspace.core.transform import Context, Transform
from wspace.core.typing import Array, Leaf, Progress, Tree, Where
from wspace.quant.edge_scale import EdgeScale, edge_scale_encode, entropy_bits, soft_bit_count
from wspace.quant.formats import named
from wspace.quant.grid import Grid, Scales, block_of, encode, straight
from wspace.quant.integer import limits
from wspace.quant.rounding import Learned, Rounding, begun, harden, rounded_codes

Apply = Callable[[Tree, Any], tuple[Array, Any]]  # (params, batch) -> (outputs, features)
REACHED = 0.01  # how much of the count's rate is left where few enough bits are
LEAST = 1 / 16  # of an edge and a step, of what they were at the start


class Compressed(NamedTuple):
    """params: with QTensors. bits: of their codes, by entropy. ratio: of the bits before to these."""

    params: Tree
    bits: float
    ratio: float


@implicit
class EdgeScaled(Rounding):
    """A matrix through the codec of `wspace.quant.edge_scale`; learned: edge and scale `[*stack, 1, 1]`."""

    @classmethod
    def begin(cls, w: Array, grid: Grid, scales: Scales, settings: Scales) -> Learned:
        return dict(scales)

    def bounded(self) -> Learned:
        return {n: jnp.maximum(x, LEAST * self.scales[n]) for n, x in self.learned.items()}

    def soft(self) -> Array:
        return straight(self.w, self.grid, self.bounded())

    def hard(self) -> tuple[Array, Scales]:
        return rounded_codes(self.w, self.grid, self.bounded())

    def bits(self) -> Array:
        """The soft count, each matrix of a stack by itself."""
        scales, last = self.bounded(), limits(self.grid.bits)[1]
        codes = jnp.clip(edge_scale_encode(self.w, scales["edge"], scales["scale"]), -last, last)
        return jnp.sum(jax.lax.map(lambda c: soft_bit_count(c, last=last), codes.reshape(-1, *codes.shape[-2:])))

    def entropy(self) -> Array:
        """The same of the codes themselves, in bits."""
        codes = encode(self.w, self.grid, self.bounded())
        each = jax.lax.map(lambda c: entropy_bits(c) * c.size, codes.reshape(-1, *codes.shape[-2:]))
        return jnp.sum(each)


def _nodes(grid: EdgeScale) -> Transform:
    def apply(leaves: tuple[Leaf, ...], ctx: Context) -> EdgeScaled:
        w = ctx.view().to_matrix(jnp.asarray(leaves[0]))
        w = w.astype(jnp.promote_types(w.dtype, jnp.float32))
        return begun(EdgeScaled, w, grid, block_of(w, "tensor", ctx.spec.path), ctx, {})

    return Transform(apply, "l2_compress")


def l2_compress(
    apply: Apply,
    params: Tree,
    batches: Tree,
    loss: Callable[[Array, Any], Array],
    ratio: float = 10.0,
    rounds: int = 3,
    steps: tuple[int, int] = (300, 1000),
    optimizers: tuple[optax.GradientTransformation, optax.GradientTransformation] | None = None,
    rate: float = 1.0,
    distill: float = 1.0,
    features: float = 1e6,
    bits: int = 8,
    where: Where = matrices,
    progress: Progress | None = None,
) -> Compressed:
    """Prune and round all matrices by one function each, until an entropy coder needs `ratio` times fewer bits.

        rounds times:   edge, scale:  min rate bits / N + distill |f(x; W^) - f(x; W)|^2
                        weights:      min loss(f(x; W^)) + features sum |h(x; W^) - h(x; W)|^2

    W^ = d(round(c(w))), edge and scale of `wspace.quant.edge_scale`, one of each a matrix; bits by `soft_bit_count`, N
    weights; f: outputs, h: features. The rate is divided by 100 where the count has reached bits / ratio.

    Args:
      apply: (params, batch) -> (outputs, features): an array, and a tree of arrays that may be empty.
      batches: a tree stacked on a first axis. loss: (outputs, batch) -> scalar.
      ratio: of the bits of the leaves as they come to those wanted. rounds: turns.
      steps, optimizers: of each half; None: Adam at 1e-4 and 5e-6, the paper's.
      rate, distill, features: as above. bits: width of a code before entropy coding. where: the leaves to compress.
      progress: called as (halves done, halves, bits a weight in words).
    Returns:
      Compressed. The other leaves are as they came.
    Raises:
      WspaceError: ratio or rounds below 1; bits outside 2..8. SelectionError: where selects nothing.
    Example:
      >>> def apply(p, x): return x @ p["kernel"], ()
      >>> x, p = jnp.eye(4)[None], {"kernel": jnp.diag(jnp.array([1.0, 0.9, 0.01, -1.0]))}
      >>> fit = lambda out, x: jnp.mean(out**2) * 0
      >>> made = l2_compress(apply, p, x, fit, ratio=4, rounds=1, steps=(20, 1))
      >>> made.ratio > 4, made.params["kernel"].format
      (True, 'edge_scale8')

    Reference: Shi, Bai, Wei, Gong, Yang, 2023, "Lossy and Lossless (L2) Post-training Model Size Compression".
    Differs from the paper: the count is divided by the number of weights, so that one rate suits nets of any size; the
      rate rises again if bits do; edges and steps stay above 1/16 of their start. No coder is run: bits are the
      entropy of the codes, without tables.
    """
    if ratio < 1 or rounds < 1:
        raise WspaceError(f"l2_compress: ratio={ratio}, rounds={rounds}: both are at least 1")
    grid = named(f"edge_scale{bits}") if 2 <= bits <= 8 else None
    if not isinstance(grid, EdgeScale):
        raise WspaceError(f"l2_compress: bits={bits}; wanted 2..8")
    flat = as_params(on(where, _nodes(grid))(params))
    nodes = {str(k): x for k, x in enumerate(flat.leaves.values()) if isinstance(x, EdgeScaled)}
    rest = {str(k): x for k, x in enumerate(flat.leaves.values()) if not isinstance(x, EdgeScaled)}
    weights = sum(x.w.size for x in nodes.values())
    before = sum(x.w.size * 8 * x.weight_dtype.itemsize for x in nodes.values())

    def whole(nodes: dict[str, EdgeScaled], rest: dict[str, Any]) -> Tree:
        leaves = {n: x.materialize() for n, x in nodes.items()} | rest
        return flat.rebuild({p: leaves[str(k)] for k, p in enumerate(flat.leaves)})

    def coded(values: Any, fixed: Any, batch: Any, key: Array) -> Array:
        nodes, rest, numbers = fixed
        now = {n: x.moved(values[n]) for n, x in nodes.items()}
        count = sum(x.bits() for x in now.values())
        price = jnp.where(count <= numbers["target"], REACHED, 1.0) * numbers["rate"]
        outputs, (wanted, _) = apply(whole(now, rest), batch[0])[0], batch[1]
        return price * count / weights + numbers["distill"] * jnp.mean(jnp.square(outputs - wanted))

    def tuned(values: Any, fixed: Any, batch: Any, key: Array) -> Array:
        nodes, rest, numbers = fixed
        outputs, made = apply(whole({n: reweighed(x, values[n]) for n, x in nodes.items()}, rest), batch[0])
        apart = jax.tree.map(lambda a, b: jnp.mean(jnp.square(a - b)), made, batch[1][1])
        return loss(outputs, batch[0]) + numbers["features"] * sum(jax.tree.leaves(apart), jnp.float32(0))

    first, second = optimizers or (optax.adam(1e-4), optax.adam(5e-6))
    numbers = {"target": before / ratio, "rate": rate, "distill": distill, "features": features}
    wanted = jax.jit(lambda p, b: jax.lax.map(lambda x: apply(p, x), b))(params, batches)
    for k in range(rounds):
        start: Any = {n: x.learned for n, x in nodes.items()}
        found = descend(coded, start, (nodes, rest, numbers), (batches, wanted), first, steps=steps[0]).values
        nodes = {n: x.moved(found[n]) for n, x in nodes.items()}
        _told(progress, 2 * k + 1, 2 * rounds, nodes, weights)
        start = {n: x.w for n, x in nodes.items()}
        found = descend(tuned, start, (nodes, rest, numbers), (batches, wanted), second, steps=steps[1]).values
        nodes = {n: reweighed(x, found[n]) for n, x in nodes.items()}
        _told(progress, 2 * k + 2, 2 * rounds, nodes, weights)
    left = float(sum(x.entropy() for x in nodes.values()))
    made = {n: harden({"w": x})["w"] for n, x in nodes.items()} | rest
    return Compressed(flat.rebuild({p: made[str(k)] for k, p in enumerate(flat.leaves)}), left, before / left)


def reweighed(node: EdgeScaled, w: Array) -> EdgeScaled:
    """The node with other weights."""
    return dataclasses.replace(node, w=w)


def _told(progress: Progress | None, done: int, halves: int, nodes: dict[str, EdgeScaled], weights: int) -> None:
    if progress is not None:
        progress(done, halves, f"{float(sum(x.entropy() for x in nodes.values())) / weights:.2f} bits a weight")
