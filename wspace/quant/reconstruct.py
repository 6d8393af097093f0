"""Block by block: learn how to round by gradient through a block's own program, on data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import optax

from wspace.core.containers import as_params
from wspace.core.errors import SelectionError, ShapeError
from wspace.core.implicit import materialize
from wspace.core.select import join, split
from wspace.core.typing import Array, Progress, Tree, Where
from wspace.quant.rounding import Rounding, harden

Loss = Callable[[Any, Any], Array]  # (what the block gives, what it gave) -> scalar
LOOKS = 20  # how often the hard weights are looked at, and progress is told


def mean_square(got: Any, wanted: Any) -> Array:
    """The mean squared difference of all numbers of two trees."""
    pairs = list(zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True))
    count = sum(x.size for x, _ in pairs)
    return sum((jnp.sum(jnp.square(x.astype(jnp.float32) - y)) for x, y in pairs), jnp.float32(0)) / count


def original(params: Tree) -> Tree:
    """The parameters before they were rounded: every Rounding node as the array that it was made from."""
    flat = as_params(params)
    return flat.rebuild({p: x.original() if isinstance(x, Rounding) else x for p, x in flat.leaves.items()})


def reconstruct(
    apply: Callable[[Tree, Any], Any],
    params: Tree,
    batches: Iterable[Any],
    optimizer: optax.GradientTransformation,
    *,
    steps: int | None = None,
    targets: Iterable[Any] | None = None,
    loss: Loss = mean_square,
    where: Where | None = None,
    progress: Progress | None = None,
) -> Tree:
    """Learn the Rounding nodes of a block together, so that the block gives what it gave.

        min loss(apply(params, x), y) / e + sum of the nodes' penalties,   y = apply(original params, x)

    e is the loss at the start, of hard weights, over their number: in this unit penalties suit every block.

    Nodes are made by a method with soft=True, on the Gram matrices (`adaround(soft=True)(params, gram=G)`) or at
    rounding to nearest (`adaround(steps=0, soft=True)(params)`). Blocks with the same apply, shapes, loss and optimizer
    share one compiled program.

    Args:
      apply: (params, x) -> what the block gives; pure. params: a tree with Rounding nodes.
      batches: inputs x, all of one shape; step i takes batch i modulo their number. If the blocks before this one are
        quantized, these are best the outputs of the quantized ones (asymmetric reconstruction).
      optimizer: any of optax, with its learning rate and schedule.
      steps: how many; default one pass over the batches.
      targets: y for each batch, if not what the block gives on these inputs with its original weights.
      loss: (got, y) -> scalar; default the mean squared error.
      where: plain leaves that are trained as well (biases, norms); by default none.
      progress: called as (steps done, steps, loss in words).
    Returns:
      The tree with QTensors for the nodes: the best of up to 20 looks at the hard weights, by the mean loss over all
      batches; rounding as it came is one of them.
    Raises:
      SelectionError: no Rounding node, or no batches. ShapeError: batches of several shapes, or fewer targets.
    Example:
      >>> import wspace as ws
      >>> x = jnp.array([[1.0, 0.9], [0.9, 1.0]])
      >>> nodes = ws.quant.signround(bits=3, steps=0, soft=True)({"kernel": jnp.array([[3.0], [1.4]])})
      >>> block = lambda p, x: x @ p["kernel"]
      >>> q = reconstruct(block, nodes, [x], optax.sign_sgd(0.05), steps=10)
      >>> before, after = (mean_square(block(materialize(p), x), block(original(nodes), x)) for p in (nodes, q))
      >>> bool(after < before)
      True

    Reference: Li, Gong, Tan, Yang, Hu, Zhang, Yu, Wang, Gu, 2021, "BRECQ: Pushing the Limit of Post-Training
      Quantization by Block Reconstruction".
    Differs from the paper: the loss is not weighted by the diagonal Fisher information unless `loss` does it.
    """
    inputs = list(batches)
    nodes = [x for x in as_params(params).leaves.values() if isinstance(x, Rounding)]
    if not nodes or not inputs:
        raise SelectionError(
            f"reconstruct: {len(nodes)} Rounding nodes and {len(inputs)} batches; wanted at least one of each "
            "(make nodes with adaround(steps=0, soft=True))"
        )
    run, before = jax.jit(apply), materialize(original(params))
    wanted = [run(before, x) for x in inputs] if targets is None else list(targets)
    data = _stacked(inputs, wanted)
    block, n = _Block(apply, loss), len(inputs)
    total = n if steps is None else steps
    train, rest = split(params, where)
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer count
        carry = (train, optimizer.init(train))
    best, least = train, _looked(train, rest, data, block=block)
    unit = jnp.where(least == 0, 1, least / sum(x.w.size for x in nodes))
    stops = sorted({-(-total * k // LOOKS) for k in range(LOOKS + 1)})
    for first, last in pairwise(stops):
        carry = _advance(carry, first, last, total, unit, rest, data, block=block, optimizer=optimizer)
        now = _looked(carry[0], rest, data, block=block)
        if now < least:
            best, least = carry[0], now
        if progress is not None:
            progress(last, total, f"loss {float(now):.4g}, best {float(least):.4g}")
    return harden(join(best, rest))


def _stacked(inputs: list[Any], wanted: list[Any]) -> tuple[Any, Any]:
    """Batches as trees of arrays with one more axis, in front."""
    if len(inputs) != len(wanted):
        raise ShapeError(f"reconstruct: {len(inputs)} batches and {len(wanted)} targets; give one a batch")
    shapes = {str(jax.tree.map(jnp.shape, pair)) for pair in zip(inputs, wanted, strict=True)}
    if len(shapes) > 1:
        raise ShapeError(f"reconstruct: batches have {len(shapes)} shapes; drop or pad the last one")
    x, y = (jax.tree.map(lambda *xs: jnp.stack(xs), *trees) for trees in (inputs, wanted))
    return x, y


@dataclass(frozen=True)
class _Block:
    """The program and its loss. Equal ones share what was compiled."""

    apply: Callable[[Tree, Any], Any]
    loss: Loss

    def __call__(self, params: Tree, x: Any, y: Any) -> Array:
        return self.loss(self.apply(materialize(params), x), y)

    def objective(self, train: Tree, rest: Tree, x: Any, y: Any, t: Array, unit: Array) -> Array:
        params = join(train, rest)
        nodes = [x for x in as_params(params).leaves.values() if isinstance(x, Rounding)]
        value = self(params, x, y) / unit
        return value + sum((jnp.asarray(node.penalty(t), value.dtype) for node in nodes), jnp.zeros_like(value))


@partial(jax.jit, static_argnames="block")
def _looked(train: Tree, rest: Tree, data: tuple[Any, Any], *, block: _Block) -> Array:
    """The mean loss of the hard weights over all batches."""
    params = harden(join(train, rest))
    return jnp.mean(jax.lax.map(lambda pair: block(params, *pair), data))


@partial(jax.jit, static_argnames=("block", "optimizer"))
def _advance(
    carry: Any,
    first: Array,
    last: Array,
    total: Array,
    unit: Array,
    rest: Tree,
    data: tuple[Any, Any],
    *,
    block: _Block,
    optimizer: optax.GradientTransformation,
) -> Any:
    """Steps first .. last - 1 of total; all are traced, so that every chunk is one program."""

    def step(i: Array, carry: Any) -> Any:
        train, state = carry
        n = len(jax.tree.leaves(data)[0])
        x, y = jax.tree.map(lambda a: a[i % n], data)
        t = i.astype(jnp.float32) / total
        slope = jax.grad(block.objective)(train, rest, x, y, t, unit)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(slope, state, train)
        return _bounded(optax.apply_updates(train, updates), rest), state

    return jax.lax.fori_loop(first, last, step, carry)


def _bounded(train: Tree, rest: Tree) -> Tree:
    """What is trained, every node's drawn back to where it may be."""
    flat, every = as_params(train), as_params(join(train, rest)).leaves
    return flat.rebuild(
        {p: x.moved(every[p].bounded()) if isinstance(x, Rounding) else x for p, x in flat.leaves.items()}
    )
