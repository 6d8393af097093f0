"""Gradients over batches: the diagonal of the Fisher information, and the mean gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from wspace.core.typing import Array, Tree

Model: TypeAlias = Callable[[Tree, Any], Any]  # (floating leaves, batch) -> outputs
Loss: TypeAlias = Callable[[Any, Any], Array]  # (outputs, batch) -> scalar, a mean over the examples of the batch


class Mean(NamedTuple):
    """Sum over examples, one array a leaf, and their number (or sum of weights)."""

    total: Tree
    examples: Array


class Gradients(NamedTuple):
    """A summary with an entry for every floating leaf, from gradients instead of activations.

    lift: (model, leaves, batch, weights, key) -> S. merge: (S, S) -> S. finish: S -> leaves. random: whether it
    takes a key.
    """

    lift: Callable[[Model, Tree, Any, Array | None, Array | None], Mean]
    merge: Callable[[Mean, Mean], Mean]
    finish: Callable[[Mean], Tree]
    random: bool = False


def fisher(loss: Loss, sample: Callable[[Array, Any], Any] | None = None, chunk: int = 8) -> Gradients:
    """The diagonal of the Fisher information: the mean over examples of the squared gradient of one example's loss.

        F_i = mean_n (d loss(f(x_n), y_n) / d w_i)²

    Empirical with the batch's own labels; with `sample`, labels are drawn from the model, which makes it the Fisher
    information itself, in expectation over the draws.

    Args:
      loss: (outputs, batch) -> scalar: the negative log-likelihood of a batch of one example, summed over its
        positions. With `sample`, (outputs, drawn) -> scalar.
      sample: (key, outputs) -> drawn, such as jax.random.categorical.
      chunk: examples whose gradients are held at once. Static.
    Returns:
      Gradients: f32 of each leaf's shape.
    Example:
      >>> found = fisher(lambda outputs, batch: outputs.sum()).lift(
      ...     lambda p, x: x @ p["w"], {"w": jnp.ones(2)}, jnp.array([[1.0, 2.0], [3.0, 0.0]]), None, None)
      >>> found.total["w"], found.examples
      (Array([10.,  4.], dtype=float32), Array(2., dtype=float32))

    Reference: Amari, 1998, "Natural Gradient Works Efficiently in Learning"; on the difference between the two,
    Kunstner, Balles, Hennig, 2019, "Limitations of the Empirical Fisher Approximation for Natural Gradient Descent".
    """

    def lift(model: Model, leaves: Tree, batch: Any, weights: Array | None, key: Array | None) -> Mean:
        n = examples(batch)
        share = jnp.ones(n, jnp.float32) if weights is None else example_weights(weights)

        def drawn(own: Array | None, outputs: Any, example: Any) -> Any:
            if sample is None or own is None:
                return jax.tree.map(lambda x: x[None], example)
            return sample(own, outputs)

        def squared(example: Any, weight: Array, own: Array | None) -> Tree:
            def objective(leaves: Tree) -> Array:
                outputs = model(leaves, jax.tree.map(lambda x: x[None], example))
                return loss(outputs, lax.stop_gradient(drawn(own, outputs, example))).astype(jnp.float32)

            gradient = jax.grad(objective)(leaves)
            return jax.tree.map(lambda g: weight * jnp.square(g.astype(jnp.float32)), gradient)

        keys = None if sample is None or key is None else jax.random.split(key, n)
        total = _sum_of(lambda args: squared(*args), (batch, share, keys), n, min(chunk, n))
        return Mean(total, jnp.sum(share))

    return Gradients(lift, _add, _mean, random=sample is not None)


def grad(loss: Loss) -> Gradients:
    """The mean over all examples of the gradient of a loss that is a mean over the examples of a batch.

    Args:
      loss: (outputs, batch) -> scalar. It sees the whole batch, so it leaves padding out itself.
    """

    def lift(model: Model, leaves: Tree, batch: Any, weights: Array | None, key: Array | None) -> Mean:
        n = jnp.float32(examples(batch))
        gradient = jax.grad(lambda p: loss(model(p, batch), batch).astype(jnp.float32))(leaves)
        return Mean(jax.tree.map(lambda g: n * g.astype(jnp.float32), gradient), n)

    return Gradients(lift, _add, _mean)


def examples(batch: Any) -> int:
    """The length of a batch: that of the first axis of its arrays."""
    return next(x.shape[0] for x in jax.tree.leaves(batch) if x.ndim)


def example_weights(weights: Array) -> Array:
    """One weight an example, `[batch]`: the largest of its positions'."""
    return weights.astype(jnp.float32).max(axis=tuple(range(1, weights.ndim)))


def _sum_of(f: Callable[[Any], Tree], args: Any, n: int, chunk: int) -> Tree:
    """The sum of f over examples, `chunk` at a time."""

    def part(args: Any) -> Tree:
        return jax.tree.map(lambda g: g.sum(0), jax.vmap(f)(args))

    whole, rest = divmod(n, chunk)
    total = part(jax.tree.map(lambda x: x[whole * chunk :], args)) if rest else None
    if whole:
        blocks = jax.tree.map(lambda x: x[: whole * chunk].reshape(whole, chunk, *x.shape[1:]), args)
        if whole == 1:
            sums = part(jax.tree.map(lambda x: x[0], blocks))
        else:
            shapes = jax.eval_shape(part, jax.tree.map(lambda x: x[0], blocks))
            zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
            sums, _ = lax.scan(lambda s, block: (jax.tree.map(jnp.add, s, part(block)), None), zeros, blocks)
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
    return total


def _add(a: Mean, b: Mean) -> Mean:
    return jax.tree.map(jnp.add, a, b)


def _mean(s: Mean) -> Tree:
    n = jnp.where(s.examples > 0, s.examples, jnp.float32(1))
    return jax.tree.map(lambda x: x / n, s.total)
