"""What is learned or searched against what is set by hand, on digits: coefficients, divisors, and a curve.

    PYTHONPATH=. python configs/learned.py            # five seeds; --seeds 1 --quick for a look

The base saw 20 images a class, three fine-tunes of it all images of some classes; all merges are of these three, test
accuracy over all ten classes. AdaMerging sees training images and no label; the learned soup and the search (CMA-ES)
see their labels. DAREx keeps 5 % of one fine-tune's change. The curve goes from one network to another one trained from
its own start; its barrier is how far the training loss rises above the line between those of the ends.

Hardware: 2 CPU cores, 53 s of CPU time for five seeds. Expected, mean (standard deviation) over five seeds, accuracy in
per cent and loss in nats, jax 0.10.2:

    uniform soup                  93.2 (0.57)
    learned soup                  93.9 (0.54)
    learned soup, by leaf         93.8 (0.32)
    task arithmetic, 0.3          92.4 (0.28)
    AdaMerging, by task           95.1 (0.74)
    AdaMerging, by leaf           95.3 (0.75)
    TIES, density 0.2             92.2 (0.91)
    TIES, searched                94.9 (0.59)
    one fine-tune                 88.5 (0.96)
    5 % of it, DARE               80.2 (5)
    5 % of it, not rescaled       88.4 (1.1)
    5 % of it, learned q          90.6 (1.1)
    barrier, line                 0.79 (0.055)
    barrier, bezier, one bend   0.0317 (0.0056)
    barrier, polygon, one bend  0.0202 (0.0039)
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import wspace as ws
from wspace.data import digits, tasks

MODEL = tasks.classifier(width=128)
Tree = Any


def fit(start: Tree, images: Any, labels: Any, key: jax.Array, steps: int) -> Tree:
    """A network, trained on."""
    return tasks.train(MODEL.apply, start, images, labels, steps=steps, lr=1e-3, key=key)


def accuracy(params: Tree, split: str = "test") -> float:
    """Fraction of right answers."""
    return float(tasks.accuracy(MODEL.apply, params, *digits.load(split)))


def random_batches(key: jax.Array, steps: int, size: int) -> tuple[jax.Array, jax.Array]:
    """Training examples, stacked: images [steps, size, 64] and labels [steps, size]."""
    images, labels = digits.load("train")
    draws = jax.random.randint(key, (steps, size), 0, len(images))
    return jnp.asarray(images)[draws], jnp.asarray(labels)[draws]


def undecided(params: Tree, images: jax.Array) -> jax.Array:
    """What AdaMerging lowers."""
    return ws.objectives.entropy(MODEL.apply(params, images))


def supervised(params: Tree, batch: Any, beta: Any = 1.0) -> jax.Array:
    """Cross entropy; beta multiplies the logits."""
    images, labels = batch
    return optax.softmax_cross_entropy_with_integer_labels(beta * MODEL.apply(params, images), labels).mean()


def matched(params: Tree, tuned: Tree, images: jax.Array) -> jax.Array:
    """How far the largest logits are from those of the whole fine-tune."""
    return ws.objectives.top_logits(MODEL.apply(params, images), MODEL.apply(tuned, images))


def trimmed(values: Any) -> ws.Transform:
    """TIES with numbers that a search may move anywhere."""
    return ws.merge.ties(density=jnp.clip(values["density"], 0, 1), lam=values["lam"])


def searched(base: Tree, models: list[Tree], key: jax.Array, start: Any, generations: int) -> Tree:
    """TIES with the density and scale of the highest training accuracy."""

    def score(params: Tree) -> float:
        return accuracy(params, "train")

    return ws.merge.evolve(trimmed, start, score, models, key=key, generations=generations, base=base).params


def merges(base: Tree, models: list[Tree], key: jax.Array, share: float) -> dict[str, float]:
    """Accuracy of each way to merge; share: of the usual number of steps."""
    images, labels = random_batches(key, 100, 48)
    fast, steps = optax.adam(1e-2), int(300 * share)
    start = {"density": 0.2, "lam": 1.0}
    made = {
        "uniform soup": ws.average.uniform_soup()(*models),
        "learned soup": ws.average.learned_soup(supervised, models, (images, labels), steps=steps).params,
        "learned soup, by leaf": ws.average.learned_soup(
            supervised, models, (images, labels), scope="leaf", steps=steps
        ).params,
        "task arithmetic, 0.3": ws.merge.task_arithmetic(lam=0.3)(*models, base=base),
        "AdaMerging, by task": ws.merge.adamerging(
            undecided, base, models, images, fast, scope="tree", steps=steps
        ).params,
        "AdaMerging, by leaf": ws.merge.adamerging(undecided, base, models, images, fast, steps=steps).params,
        "TIES, density 0.2": trimmed(start)(*models, base=base),
        "TIES, searched": searched(base, models, key, start, max(1, round(10 * share))),
    }
    return {name: 100 * accuracy(params) for name, params in made.items()}


def pruned(base: Tree, tuned: Tree, key: jax.Array, share: float) -> dict[str, float]:
    """Accuracy of one fine-tune with 5 % of its change left."""
    images, _ = random_batches(key, 100, 48)
    steps = int(300 * share)
    learned = ws.merge.darex_q(matched, base, tuned, images, 0.05, optax.adam(1e-2), key=key, steps=steps)
    matrices = functools.partial(ws.on, ws.matrices)
    made = {
        "one fine-tune": tuned,
        "5 % of it, DARE": matrices(ws.merge.dare(0.05))(tuned, base=base, key=key),
        "5 % of it, not rescaled": matrices(ws.merge.dare(0.05, rescale=False))(tuned, base=base, key=key),
        "5 % of it, learned q": learned.params,
    }
    return {name: 100 * accuracy(params) for name, params in made.items()}


def curves(key: jax.Array, share: float) -> dict[str, float]:
    """Barriers between two networks of their own starts."""
    data, steps = digits.load("train"), int(400 * share)
    ends = [fit(MODEL.init(k, jnp.zeros((1, 64))), *data, k, 400) for k in jax.random.split(key)]
    whole = jax.jit(lambda p: supervised(p, data))
    found = {"line": ws.interpolate.segment(*ends)}
    for by in (ws.interpolate.bezier, ws.interpolate.polygon):
        batches = random_batches(key, 100, 128)
        name = f"{by.__name__}, one bend"
        found[name] = ws.interpolate.connect(supervised, *ends, batches, optax.adam(1e-3), by=by, steps=steps).path
    return {f"barrier, {name}": float(ws.measure.barrier(whole, path).value) for name, path in found.items()}


def run(seed: int, share: float = 1.0) -> dict[str, float]:
    """All numbers of one seed."""
    images, labels = digits.load("train")
    init, first, *keys = jax.random.split(jax.random.key(seed), 7)
    base = fit(MODEL.init(init, jnp.zeros((1, 64))), *tasks.starter(images, labels), first, 250)
    parts = [tasks.part(images, labels, classes) for classes in tasks.PARTS]
    models = [fit(base, *part, key, 250) for part, key in zip(parts, keys, strict=False)]
    return {**merges(base, models, keys[3], share), **pruned(base, models[0], keys[3], share), **curves(keys[4], share)}


def main() -> None:
    """The table of the docstring, for the seeds that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps")
    given = parser.parse_args()
    each = [run(seed, 0.1 if given.quick else 1.0) for seed in range(given.seeds)]
    for name in each[0]:
        values = np.array([row[name] for row in each])
        print(f"    {name:26}{values.mean():8.3g} ({values.std():.2g})")


if __name__ == "__main__":
    main()
