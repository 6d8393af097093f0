"""Without this module every test on trained models would train its own: small digits classifiers, each trained once.

All with the same number of steps, so that the training compiles once. Data: `wspace.data.digits`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wspace.data import digits, tasks

STEPS = 200
MODEL = tasks.classifier(width=32)


def shifted(images: np.ndarray) -> np.ndarray:
    """The scans moved down by one pixel."""
    return np.roll(images.reshape(-1, 8, 8), 1, axis=1).reshape(-1, 64)


def fit(params: Any, images: np.ndarray, labels: np.ndarray, seed: int) -> Any:
    return tasks.train(MODEL.apply, params, images, labels, steps=STEPS, lr=3e-3, key=jax.random.key(seed))


@cache
def base(seed: int = 0) -> Any:
    """Trained from its own initialization."""
    start = MODEL.init(jax.random.key(100 + seed), jnp.zeros((1, 64)))
    return fit(start, *digits.load("train"), seed)


@cache
def child(seed: int) -> Any:
    """Trained on from `base()`, with other batches for each seed."""
    return fit(base(), *digits.load("train"), 10 + seed)


@cache
def moved() -> Any:
    """`base()`, fine-tuned on shifted scans."""
    images, labels = digits.load("train")
    return fit(base(), shifted(images), labels, 20)


@cache
def on_parts(seed: int = 0) -> tuple[Any, list[Any]]:
    """A base that saw 20 scans of every class, and its fine-tunes on classes 0-3, 4-6 and 7-9."""
    images, labels = digits.load("train")
    start = fit(MODEL.init(jax.random.key(200 + seed), jnp.zeros((1, 64))), *tasks.starter(images, labels), 30 + seed)
    parts = [tasks.part(images, labels, classes) for classes in tasks.PARTS]
    return start, [fit(start, *part, 40 + 10 * seed + k) for k, part in enumerate(parts)]


def batches(steps: int, size: int = 48) -> tuple[jax.Array, jax.Array]:
    """Training scans and labels in random batches, stacked: [steps, size, 64] and [steps, size]."""
    images, labels = digits.load("train")
    draws = jax.random.randint(jax.random.key(1), (steps, size), 0, len(images))
    return jnp.asarray(images)[draws], jnp.asarray(labels)[draws]


def loss(params: Any) -> jax.Array:
    """On the training scans."""
    return tasks.loss(MODEL.apply, params, *digits.load("train"))


def accuracy(params: Any, images: np.ndarray | None = None, labels: np.ndarray | None = None) -> float:
    """On the test scans, or on others."""
    scans, truth = digits.load("test")
    scans, truth = scans if images is None else images, truth if labels is None else labels
    return float(tasks.accuracy(MODEL.apply, params, scans, truth))
