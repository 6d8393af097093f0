"""Merge three fine-tunes of a small digits classifier, prune half of the kernels' weights, quantize them to 4 bits.

The base is trained on 20 images a class; each fine-tune sees all images of some classes (0-3, 4-6, 7-9) and forgets
some of the others. One composed Transform makes one small model of the three.

    wspace run configs/quickstart.py out/quickstart

Hardware: 2 CPU cores. Time: 12 s, 4 s of it training. Data: scikit-learn's digits, nothing is downloaded.
Expected accuracy on the 360 test images (jax 0.10.2, CPU): base 0.867, fine-tunes 0.858 to 0.886, merged 0.939, then
0.917 with half of the kernels' weights zero and 0.908 in 4 bits, at a sixth of the size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

import wspace as ws
from wspace.app import Output, Recipe
from wspace.data import digits, tasks

NAMES = ("digits 0-3", "digits 4-6", "digits 7-9")


def recipe(width: int = 128, density: float = 0.5, lam: float = 1.0, sparsity: float = 0.5, bits: int = 4) -> Recipe:
    """The main job. Arguments can be given on the command line: `--set sparsity=0.7`."""
    model = tasks.classifier(width)
    test_images, test_labels = digits.load("test")

    def train(track: Any) -> Mapping[str, Any]:
        """The base, and a fine-tune of it for each part."""
        tell = track("train")
        tell(0, 1 + len(tasks.PARTS), "base")
        images, labels = digits.load("train")
        init, *keys = jax.random.split(jax.random.key(0), 2 + len(tasks.PARTS))
        start = model.init(init, jnp.zeros((1, 64)))
        base = tasks.train(model.apply, start, *tasks.starter(images, labels), steps=250, lr=1e-3, key=keys[0])
        found = {"base": base}
        for name, classes, key in zip(NAMES, tasks.PARTS, keys[1:], strict=True):
            tell(len(found), 1 + len(tasks.PARTS), name)
            part = tasks.part(images, labels, classes)
            found[name] = tasks.train(model.apply, base, *part, steps=250, lr=1e-3, key=key)
        tell(len(found), len(found), "")
        return found

    def evaluate(params: Any) -> Mapping[str, float]:
        """Accuracy on all test images and on those of each part."""
        parts = {name: tasks.only(test_images, test_labels, c) for name, c in zip(NAMES, tasks.PARTS, strict=True)}
        examples = {"all": (test_images, test_labels), **parts}
        return {name: float(tasks.accuracy(model.apply, params, *xy)) for name, xy in examples.items()}

    return Recipe(
        title="Digits: merge, prune, quantize",
        sources={},
        make=train,
        models=NAMES,
        base="base",
        steps=(
            ("merged (TIES)", ws.merge.ties(density=density, lam=lam)),
            (f"{sparsity:.0%} pruned", ws.on("kernel$", ws.prune.magnitude(sparsity))),
            (f"{bits} bits", ws.on("kernel$", ws.quant.rtn(bits=bits, group=32))),
        ),
        evaluate=evaluate,
        output=Output(formats=("safetensors", "orbax")),
    )
