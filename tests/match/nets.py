"""Without these digits nets each test of matching would train its own; two seeds of one width, and what they lose."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

import wspace as ws
from wspace.data import digits, tasks


@cache
def pair(width: int, count: int = 2) -> tuple[Any, list[Any], Any]:
    """(model, nets of different seeds, symmetries)."""
    model = tasks.classifier(width)
    images, labels = digits.load("train")
    nets = []
    for seed in range(count):
        init, draw = jax.random.split(jax.random.key(seed))
        start = model.init(init, jnp.zeros((1, 64)))
        nets.append(tasks.train(model.apply, start, images, labels, steps=300, lr=1e-3, key=draw))
    return model, nets, ws.trace.axes(model.apply, nets[0], jnp.zeros((1, 64)))


def loss(model: Any, params: Any) -> float:
    """On the training images: what a barrier is made of."""
    return float(tasks.loss(model.apply, params, *digits.load("train")))
