"""Small classifiers of the digits, trained in seconds: one base and fine-tunes of it that know different things.

    base        trained on a starter set: 20 images of every class
    fine-tune k trained from the base on part k: the starter set and every image of some classes (0-3, 4-6, 7-9)

Each fine-tune learns its own classes and loses some of the others; a merge has to keep all of them. Test accuracy in
per cent, width 128, 250 steps each, lr 1e-3, batch 64; mean (standard deviation) over 5 keys, jax 0.10.2 on CPU:

    tested on                       0-3    4-6    7-9    all
    base                           82.1   92.5   90.5   87.7 (1.1)
    fine-tune 1, on 0-3           100.0   83.7   77.9   88.5 (1.0)
    fine-tune 2, on 4-6            81.5   99.3   85.2   88.0 (0.6)
    fine-tune 3, on 7-9            74.9   86.1   99.3   85.5 (0.5)
    plain average of the three     90.1   97.4   93.1   93.2 (0.6)
    task arithmetic, scale 1       95.4   97.2   92.7   95.2 (0.6)
    TIES, density 0.5              90.8   97.1   94.0   93.7 (0.6)
    trained on all parts at once   99.2   97.4   94.2   97.2 (0.7)

Everything is a pure function of its arguments; the same key gives the same weights. The four trainings take 5 s on two
cores, nearly all of it compilation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from wspace.core.errors import SelectionError, ShapeError

PARTS = ((0, 1, 2, 3), (4, 5, 6), (7, 8, 9))  # the classes of each fine-tune

Apply = Callable[..., Any]  # (params, images [n, ...]) -> logits [n, classes]
Array = np.ndarray | jax.Array
Examples = tuple[np.ndarray, np.ndarray]


def classifier(width: int = 128, classes: int = 10) -> nn.Module:
    """A perceptron with two hidden layers: `hidden0`, `hidden1`, `out`; images f32 [n, 64] to logits f32 [n, classes].

    Example:
      >>> model = classifier(width=16)
      >>> params = model.init(jax.random.key(0), jnp.zeros((1, 64)))
      >>> params["params"]["hidden0"]["kernel"].shape, model.apply(params, jnp.zeros((3, 64))).shape
      ((64, 16), (3, 10))
    """
    return _Perceptron(width=width, classes=classes)


def conv_classifier(width: int = 16, classes: int = 10) -> nn.Module:
    """The same with convolutions: `conv0`, `conv1` (3x3, stride 2) and `out`; takes the same flat images."""
    return _Convolutional(width=width, classes=classes)


class _Perceptron(nn.Module):
    width: int
    classes: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = nn.relu(nn.Dense(self.width, name="hidden0")(images))
        x = nn.relu(nn.Dense(self.width, name="hidden1")(x))
        return nn.Dense(self.classes, name="out")(x)


class _Convolutional(nn.Module):
    width: int
    classes: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images.reshape(-1, 8, 8, 1)
        x = nn.relu(nn.Conv(self.width, (3, 3), name="conv0")(x))
        x = nn.relu(nn.Conv(self.width, (3, 3), strides=2, name="conv1")(x))
        return nn.Dense(self.classes, name="out")(x.reshape(x.shape[0], -1))


def only(images: np.ndarray, labels: np.ndarray, classes: Sequence[int]) -> Examples:
    """The examples of some classes, in their order.

    Raises:
      SelectionError: there are none.
    """
    keep = np.isin(labels, classes)
    if not keep.any():
        raise SelectionError(f"only: no example has a label in {tuple(classes)}; labels are {np.unique(labels)}.")
    return images[keep], labels[keep]


def starter(images: np.ndarray, labels: np.ndarray, each: int = 20) -> Examples:
    """The first `each` examples of every class: what the base is trained on.

    Example:
      >>> starter(np.zeros((4, 64)), np.array([1, 0, 1, 1]), each=1)[1].tolist()
      [1, 0]
    """
    first = np.sort(np.concatenate([np.flatnonzero(labels == c)[:each] for c in np.unique(labels)]))
    return images[first], labels[first]


def part(images: np.ndarray, labels: np.ndarray, classes: Sequence[int], each: int = 20) -> Examples:
    """What a fine-tune is trained on: the starter set, and all examples of its own classes."""
    halves = starter(images, labels, each), only(images, labels, classes)
    return np.concatenate([x for x, _ in halves]), np.concatenate([y for _, y in halves])


def train(
    apply: Apply, params: Any, images: Array, labels: Array, *, steps: int, lr: float, key: jax.Array, batch: int = 64
) -> Any:
    """AdamW on random batches, drawn with replacement; the whole training is one compiled `scan`.

    Args:
      apply: (params, images) -> logits; compiled once per function, number of steps and batch size.
      params: any pytree of float leaves.
      images, labels: f32 [n, ...] and int32 [n]. `steps * batch` examples are gathered before the start.
      steps, lr, batch: number of updates, learning rate (traced: a sweep doesn't recompile), examples in an update.
      key: `jax.random.key`; decides the batches and nothing else.
    Returns:
      The trained params, same structure and dtypes.
    Raises:
      ShapeError: not as many labels as images, or none of them.
    """
    if len(images) != len(labels) or not len(images):
        raise ShapeError(
            f"train: wanted as many labels as images and at least one, got {len(labels)} and {len(images)}."
        )
    picks = jax.random.randint(key, (steps, batch), 0, len(images))
    return _train(apply, params, jnp.asarray(images)[picks], jnp.asarray(labels)[picks], jnp.float32(lr))


@functools.partial(jax.jit, static_argnums=0)
def _train(apply: Apply, params: Any, images: jax.Array, labels: jax.Array, lr: jax.Array) -> Any:
    optimizer = optax.adamw(lr)

    def step(carry: tuple[Any, Any], examples: tuple[jax.Array, jax.Array]) -> tuple[tuple[Any, Any], None]:
        params, state = carry
        gradient = jax.grad(lambda p: _cross_entropy(apply(p, examples[0]), examples[1]))(params)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer count
            updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), (images, labels))
    return params


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@functools.partial(jax.jit, static_argnums=0)
def loss(apply: Apply, params: Any, images: Array, labels: Array) -> jax.Array:
    """Mean cross entropy in nats, f32 []; differentiable in params."""
    return _cross_entropy(apply(params, jnp.asarray(images)), jnp.asarray(labels))


@functools.partial(jax.jit, static_argnums=0)
def accuracy(apply: Apply, params: Any, images: Array, labels: Array) -> jax.Array:
    """Fraction of examples whose largest logit is the label's, f32 [] in [0, 1]; NaN logits count as wrong."""
    logits = apply(params, jnp.asarray(images))
    right: jax.Array = (jnp.argmax(logits, axis=-1) == jnp.asarray(labels)) & jnp.isfinite(logits).all(axis=-1)
    return right.mean()
