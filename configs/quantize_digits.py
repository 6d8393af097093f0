"""Digits nets trained at 2 bits, and activations in 8: what training through the grid is worth, and which grid.

    python configs/quantize_digits.py            a perceptron, a convolutional net, a small vision transformer
    python configs/quantize_digits.py --seeds 1  one seed instead of three

Each net is trained in full precision, then its matrices are kept at 2 bits, one scale an output: rounded (`rtn`),
fine-tuned with a learned step (`lsq`), with StatsQ's half steps (`fake_quant(grid="statsq2")`), and the last one
annealed with most weights frozen (`confidence_guided`). BitsFusion's recipe gives each matrix 1, 2 or 3 bits and a
level more (`balanced`), on average at most 2 with it, by what rounding that matrix alone does to the logits; half of
its training is for the logits of full precision, half for the labels (`lsq(bits, balanced=True)`). Turns: codes that
went back the way they came, per 1000 weights and step, over the last 50 steps. Accuracy is that of the 360 test images,
after `harden`.

Hardware: 2 CPU cores. Time: 230 s of CPU while others computed too, most of it compilation. Data: scikit-learn's
digits, nothing is downloaded.
Measured, jax 0.10.2, mean and standard deviation of three seeds:

                        perceptron, 64        convolutional, 16     vision transformer
    full precision      98.0% (0.5)           97.3% (0.1)           93.6% (0.5)
    rtn, 3 bits         97.8% (0.6)           96.9% (0.6)           86.8% (1.8)
    rtn, 2 bits         95.3% (1.4)           94.4% (2.6)           28.8% (3.9)
    lsq, 2 bits         98.2% (0.3), 0.12     97.9% (0.6), 0.10     93.4% (0.5), 0.14 turns
    statsq, 2 bits      98.4% (0.3), 0.08     98.1% (0.7), 0.10     93.8% (1.2), 0.13 turns
    statsq, annealed    98.7% (0.1), 0.31     98.0% (0.8), 0.33     93.9% (1.3), 0.30 turns
    balanced, 1-3 bits  97.1% (0.7)           97.2% (0.6)           84.2% (1.7)
    balanced, distilled 98.1% (0.2)           97.1% (0.3)           94.1% (1.0)
    balanced, trained   98.5% (0.3), 0.16     97.3% (0.3), 0.20     94.4% (1.0), 0.23 turns

Two bits cost nothing here once they are trained. StatsQ turns hardly less than a learned step, and annealing does not
lower the turns, as OFQ says it does for large nets: what stays free lies on the borders. The balanced rows have 1.58
bits a weight in the first two nets, whose one inner matrix gets one bit and the level more, and 1.93 in the third,
where mixed bits and the level more beat 2 bits for all before training (84.2% and 28.8%); after it nets do not differ
by more than their standard deviations.

    activations in 8 bits, squared error of the other channels      INT8      FP8 E4M3  FP8 E5M2
    as they are                                                     3.6e-05   5.4e-04   2.0e-03
    one channel 30 times larger                                     2.7e-03   6.6e-04   2.7e-03
    one channel 100 times larger                                    3.0e-02   7.0e-04   2.7e-03
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import wspace as ws
from wspace.core.containers import as_params, show
from wspace.data import digits, tasks

BOUNDARY = 0.05  # of codes; the paper has 0.005 for nets of millions of weights
WATCHED = 50  # steps at the end over which turns are counted
MEAN_BITS, ETA = 2.0, 0.0  # of BitsFusion: bits a weight that all matrices may have on average; pressure on large ones


class VisionTransformer(nn.Module):
    """Patches of 2 x 2, two blocks of attention and a perceptron; images f32 [n, 64] to logits f32 [n, 10]."""

    width: int = 32
    heads: int = 4

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images.reshape(-1, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 16, 4)
        x = nn.Dense(self.width, name="patches")(x)
        x = x + self.param("position", nn.initializers.normal(0.02), (16, self.width))[None]
        for k in range(2):
            y = nn.LayerNorm(name=f"norm{k}a")(x)
            x = x + nn.MultiHeadDotProductAttention(self.heads, name=f"attention{k}")(y)
            y = nn.LayerNorm(name=f"norm{k}b")(x)
            x = x + nn.Dense(self.width, name=f"down{k}")(nn.gelu(nn.Dense(2 * self.width, name=f"up{k}")(y)))
        return nn.Dense(10, name="out")(nn.LayerNorm(name="norm")(x).mean(1))


MODELS = {
    "perceptron, 64": tasks.classifier(64),
    "convolutional, 16": tasks.conv_classifier(16),
    "vision transformer": VisionTransformer(),
}
INNER = r"^(?!.*(out|patches|conv0|hidden0)/).*kernel$"  # first and last layers stay, as in the papers


def fine_tune(
    apply: Any, params: Any, extra: list[Any], steps: int, key: jax.Array, teacher: Any = None
) -> tuple[Any, float]:
    """Adam through the grid; the params, and the turns of codes per 1000 weights and step over the last steps.

    With a teacher (params in full precision) the loss is the distance to its logits instead of that to the labels.
    """
    images, labels = digits.load("train")
    picks = jax.random.randint(key, (steps, 64), 0, len(images))
    tx = optax.chain(optax.adam(optax.cosine_decay_schedule(1e-3, steps)), *extra)

    def loss(params: Any, pick: jax.Array) -> jax.Array:
        logits = apply(ws.materialize(params), jnp.asarray(images)[pick])
        if teacher is not None:
            return jnp.mean(jnp.square(logits - apply(teacher, jnp.asarray(images)[pick])))
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels)[pick]).mean()

    def codes(params: Any) -> list[jax.Array]:
        nodes = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, ws.quant.FakeQuant))
        return [x.harden().codes for x in nodes if isinstance(x, ws.quant.FakeQuant)]

    @jax.jit
    def run(params: Any) -> tuple[Any, list[jax.Array]]:
        def step(carry: Any, pick: jax.Array) -> Any:
            params, state, watch = carry
            gradient = jax.grad(loss)(params, pick)
            with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer count
                updates, state = tx.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            pairs = zip(watch, codes(params), strict=True)
            return (params, state, [ws.quant.watched(w, c, 1 / WATCHED) for w, c in pairs]), None

        start = (params, tx.init(params), [ws.quant.watch(c) for c in codes(params)])
        (params, _, watch), _ = jax.lax.scan(step, start, picks)
        return params, [w.frequency for w in watch]

    made, frequency = run(params)
    return made, 1000 * float(sum(f.sum() for f in frequency) / sum(f.size for f in frequency))


def mixed_bits(apply: Any, params: Any) -> tuple[dict[str, int], float]:
    """BitsFusion's 1, 2 or 3 bits for each matrix, and how many they are on average, the level more included.

    A matrix gets the fewest bits at which rounding it alone changes the logits by less than a threshold; of all
    thresholds the smallest that keeps the average.
    """
    images = jnp.asarray(digits.load("train")[0][:256])
    wanted = apply(params, images)
    off = jax.jit(lambda params: jnp.mean(jnp.square(apply(params, images) - wanted)))
    table = ws.budget.measured(lambda p: off(ws.materialize(p)), params, ws.quant.balanced, (1, 2, 3), where=INNER)
    counts = {show(p): w.size for p, w in as_params(params).leaves.items() if show(p) in table.costs}
    found = []
    for threshold in sorted(cost * counts[name] ** -ETA for name, row in table.costs.items() for cost in row.values()):
        choices = ws.budget.by_threshold(table, counts, np.nextafter(threshold, np.inf), ETA)
        mean = sum(ws.quant.effective_bits(b) * counts[n] for n, b in choices.items()) / sum(counts.values())
        found.append((choices, mean))
    return next(((c, mean) for c, mean in found if mean <= MEAN_BITS), found[-1])


Rows = dict[str, tuple[float, float, float]]  # method -> (accuracy, turns, bits a weight)


def score(apply: Any, params: Any) -> float:
    """Test accuracy of what params stand for, as codes."""
    return float(tasks.accuracy(apply, ws.materialize(ws.quant.harden(params)), *digits.load("test")))


def compare(model: Any, seed: int, steps: int) -> Rows:
    """One net: full precision, rounded, trained at 2 bits, and by BitsFusion."""
    init, draw, tune, anneal = jax.random.split(jax.random.key(seed), 4)
    start = model.init(init, jnp.zeros((1, 64)))
    params = tasks.train(model.apply, start, *digits.load("train"), steps=2 * steps, lr=1e-3, key=draw)
    rows = {"full precision": (score(model.apply, params), 0.0, 32.0)}
    for bits in (3, 2):
        rows[f"rtn, {bits} bits"] = (score(model.apply, ws.on(INNER, ws.quant.rtn(bits))(params)), 0.0, float(bits))
    for name, make in {"lsq": ws.quant.lsq(2), "statsq": ws.quant.fake_quant(grid="statsq2")}.items():
        tuned, turns = fine_tune(model.apply, ws.on(INNER, make)(params), [], steps, tune)
        rows[f"{name}, 2 bits"] = (score(model.apply, tuned), turns, 2.0)
    guided = ws.quant.confidence_guided(2, BOUNDARY, where=INNER)
    tuned, turns = fine_tune(model.apply, tuned, [guided], steps // 4, anneal)
    rows["statsq, annealed"] = (score(model.apply, tuned), turns, 2.0)
    return rows | bitsfusion(model.apply, params, steps, tune, anneal)


def bitsfusion(apply: Any, params: Any, steps: int, tune: jax.Array, anneal: jax.Array) -> Rows:
    """Bits by sensitivity, steps by least squares; half of the training for the teacher's logits, half for labels."""
    choices, mean = mixed_bits(apply, params)
    rows = {"balanced, 1-3 bits": (score(apply, ws.budget.assign(choices, ws.quant.balanced)(params)), 0.0, mean)}
    start = ws.budget.assign(choices, lambda bits: ws.quant.lsq(bits, balanced=True))(params)
    taught, _ = fine_tune(apply, start, [], steps - steps // 2, tune, teacher=params)
    rows["balanced, distilled"] = (score(apply, taught), 0.0, mean)
    tuned, turns = fine_tune(apply, taught, [], steps // 2, anneal)
    return rows | {"balanced, trained": (score(apply, tuned), turns, mean)}


def activations(key: jax.Array) -> dict[str, tuple[float, ...]]:
    """Relative squared errors of activations in 8 bits, a scale a token: INT8, FP8 E4M3, FP8 E5M2."""
    model = MODELS["perceptron, 64"]
    images, _ = digits.load("test")
    params = model.init(key, jnp.asarray(images))["params"]
    x = nn.relu(jnp.asarray(images) @ params["hidden0"]["kernel"] + params["hidden0"]["bias"][None])
    kinds = {"as they are": x, "one channel 30 times larger": x.at[:, 3].mul(30.0), "100 times": x.at[:, 3].mul(100.0)}
    found = {}
    for name, given in kinds.items():
        rest = jnp.arange(x.shape[1]) != 3
        off = []
        for grid in ("int8", "fp8_e4m3", "fp8_e5m2"):
            made = ws.quant.fake_quantize_activations(given, per="token", grid=grid)
            off.append(float(jnp.sum((made - given)[:, rest] ** 2) / jnp.sum(given[:, rest] ** 2)))
        found[name] = tuple(off)
    return found


def main() -> None:
    """Train, quantize, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    for name, model in MODELS.items():
        start = time.process_time()
        runs = [compare(model, seed, given.steps) for seed in range(given.seeds)]
        print(f"{name} ({time.process_time() - start:.0f} s of CPU)")
        for method in runs[0]:
            scores, turns, bits = zip(*(run[method] for run in runs), strict=True)
            words = f"{np.mean(scores):8.1%} ({np.std(scores):.1%}){np.mean(bits):7.2f} bits"
            print(f"  {method:20}{words}" + (f"{np.mean(turns):8.2f} turns" if any(turns) else ""))
    print("activations in 8 bits, relative squared error of the other channels: INT8, FP8 E4M3, FP8 E5M2")
    for name, off in activations(jax.random.key(0)).items():
        print(f"  {name:28}" + "".join(f"{x:11.2e}" for x in off))


if __name__ == "__main__":
    main()
