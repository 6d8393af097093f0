"""INT2.1: fine-tuning on frozen codes. The weights are decoded inside the product, forward and backward, and have no
gradient of their own; a correction of low rank beside them has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from wspace.core.implicit import dense, materialize
from wspace.core.select import join, split
from wspace.core.typing import Array, Leaf, Tree
from wspace.quant.amended import LowRank


@jax.custom_vjp
def _frozen(x: Array, leaf: Leaf) -> Array:
    return jnp.matmul(x, _matrix(leaf, x.dtype))


def _forward(x: Array, leaf: Leaf) -> tuple[Array, Leaf]:
    return _frozen(x, leaf), leaf


def _backward(leaf: Leaf, dy: Array) -> tuple[Array, None]:
    return jnp.matmul(dy, _matrix(leaf, dy.dtype).T), None


_frozen.defvjp(_forward, _backward)


def _matrix(leaf: Leaf, dtype: Any) -> Array:
    view = getattr(leaf, "view", None)
    w = dense(leaf)
    return (w if view is None else view.to_matrix(w)).astype(dtype)


def quantized_linear(x: Array, leaf: Leaf) -> Array:
    """x W of a quantized leaf, for training beside it: between the passes only its codes and scales are held.

        y = x Q + (x a) b,   dx = dy Q^T + (dy b^T) a^T,   da, db as of any product;   Q has no gradient

    Args:
      x: `[..., in]`, floating. leaf: a node or array of one matrix; of a LowRank node a and b are trained.
    Returns:
      `[..., out]`, x's dtype. The gradient for everything but x, a and b is zero.
    Example:
      >>> import wspace as ws
      >>> node = ws.quant.lorc(1, ws.quant.rtn(2))({"kernel": jnp.array([[1.0, 0.4], [0.3, 0.7]])})["kernel"]
      >>> y = quantized_linear(jnp.ones((3, 2)), node)
      >>> bool(jnp.allclose(y, jnp.ones((3, 2)) @ node.materialize(), atol=1e-6))
      True

    Reference: Chai, Gkountouras, Ko, Brooks, Wei, 2023, "INT2.1: Towards Fine-Tunable Quantized Large Language Models
      with Error Correction through Low-Rank Adaptation". Differs from the paper: no dropout; no kernel of its own.
    """
    if not isinstance(leaf, LowRank):
        return _frozen(x, leaf)
    return _frozen(x, leaf.base) + jnp.matmul(jnp.matmul(x, leaf.a.astype(x.dtype)), leaf.b.astype(x.dtype))


def divergence(teacher: Array, student: Array) -> Array:
    """The mean over tokens of KL(softmax(teacher) | softmax(student)), of logits `[..., classes]`."""
    p, q = (jax.nn.log_softmax(z.astype(jnp.float32), axis=-1) for z in (teacher, student))
    return jnp.mean(jnp.sum(jnp.exp(p) * (p - q), axis=-1))


def lrec(
    apply: Callable[[Tree, Any], Array],
    params: Tree,
    quantized: Tree,
    batches: Iterable[Any],
    tx: optax.GradientTransformation,
    loss: Callable[[Array, Array], Array] = divergence,
) -> Tree:
    """Low-rank error correction: train what nodes have beside their codes, so that outputs are the original's again.

        min over a, b of  loss(f(x; W), f(x; Q + a b));   codes and scales stay

    Args:
      apply: pure function of params and a batch. params: of the original model.
      quantized: the same tree with nodes; all their trainable fields are trained: LowRank's a and b (start with
        `lorc`), KeptInputs' rows (weak column tuning).
      batches: one step each. tx: any optimizer. loss: of (teacher's output, student's output).
    Returns:
      quantized with new trainable fields.
    Raises:
      SelectionError: no node has anything to train.
    Reference: as of `quantized_linear`. Differs from the paper: its loss was not at hand; this one is the divergence of
      the outputs' distributions.
    """
    trained, frozen = split(quantized)
    held = materialize(params)

    @jax.jit
    def step(trained: Tree, state: Any, batch: Any) -> tuple[Tree, Any]:
        def off(trained: Tree) -> Array:
            return loss(apply(held, batch), apply(materialize(join(trained, frozen)), batch))

        updates, state = tx.update(jax.grad(off)(trained), state, trained)
        return optax.apply_updates(trained, updates), state

    state = tx.init(trained)
    for batch in batches:
        trained, state = step(trained, state, batch)
    return join(trained, frozen)
