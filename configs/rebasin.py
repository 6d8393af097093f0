"""Two digits nets from different seeds: how far the loss rises on the line between them, before and after matching.

    python configs/rebasin.py              a perceptron of width 512, and a small convolutional net
    python configs/rebasin.py out/rebasin  and a page, report.html: the table, the loss along both lines, the groups

Nobody writes down which axis belongs to which layer: `ws.trace.axes` reads it from the model. The barrier is that of
the training loss (mean cross entropy, nats), 25 positions; accuracy is that of the midpoint on the 360 test images.

Hardware: 2 CPU cores. Time: 40 s of CPU, most of it compilation and the convolutional net's training; matching 0.8 s
and 0.02 s. Data: scikit-learn's digits, nothing is downloaded. Measured, jax 0.10.2:

    seeds 0 and 1                    barrier  midpoint  distance  aligned
    perceptron, 512    as trained      0.475     91.4%      50.9    0.005
    perceptron, 512    matched         0.020     98.6%      43.6    0.296
    convolutional, 32  as trained      1.355     47.5%      16.8    0.022
    convolutional, 32  matched         0.058     97.8%      13.8    0.264

Seeds 2 and 3: 0.378 to 0.028 and 0.545 to 0.080; seeds 4 and 5: 0.401 to 0.025 and 0.744 to 0.078. The distance falls
by a sixth only; what matching aligns is the directions of large singular values (`aligned`, 1 for equal nets).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import wspace as ws
from wspace.app import plots
from wspace.app.report import Block, Figure, Table, Text, page
from wspace.data import digits, tasks

MODELS = {"perceptron, 512": tasks.classifier(512), "convolutional, 32": tasks.conv_classifier(32)}


def train(model: Any, seed: int, steps: int) -> Any:
    """One net; the seed decides its start and its batches."""
    init, draw = jax.random.split(jax.random.key(seed))
    start = model.init(init, jnp.zeros((1, 64)))
    return jax.block_until_ready(tasks.train(model.apply, start, *digits.load("train"), steps=steps, lr=1e-3, key=draw))


class Row(NamedTuple):
    """Of b as it is, or matched to a. path: the loss along the line from a. aligned: of singular directions."""

    path: Any
    accuracy: float
    distance: float
    aligned: float

    @property
    def words(self) -> tuple[str, ...]:
        return f"{self.path.value:.3f}", f"{self.accuracy:.1%}", f"{self.distance:.1f}", f"{self.aligned:.3f}"


class Compared(NamedTuple):
    """rows: "as trained" and "matched". change: of matched b's outputs, relative. seconds: of the matching."""

    rows: Mapping[str, Row]
    axes: Any
    change: float
    seconds: float


def compare(model: Any, a: Any, b: Any, key: jax.Array) -> Compared:
    """Barrier, midpoint accuracy and distance, for b as it is and for b matched to a."""
    images, labels = digits.load("train")
    test = digits.load("test")
    axes = ws.trace.axes(model.apply, a, images[:1])
    match = ws.match.weight  # imports the room before the clock starts
    start = time.perf_counter()
    g = match(a, b, axes, key=key)
    seconds = time.perf_counter() - start
    matched = ws.match.act_checked(model.apply, b, axes, g, images[:8])

    def row(net: Any) -> Row:
        path = ws.measure.barrier(
            lambda params: tasks.loss(model.apply, params, images, labels), ws.interpolate.segment(a, net)
        )
        squares = jax.tree.map(lambda x, y: jnp.sum(jnp.square(x - y)), a, net)
        return Row(
            path,
            float(tasks.accuracy(model.apply, ws.match.midpoint(a, net), *test)),
            float(jnp.sqrt(sum(jax.tree.leaves(squares)))),
            float(ws.match.singular_alignment(a, net, 0.3)),
        )

    return Compared({"as trained": row(b), "matched": row(matched.params)}, axes, matched.error, seconds)


HEAD = ("barrier", "midpoint", "distance", "aligned")
LEAD = "The loss rises on the line between two nets from different seeds, and hardly once one's units are paired."
TABLE = (
    "Barrier: the most that the training loss lies above the line between its ends, nats. Midpoint: test accuracy of "
    "the mean of both nets. Distance: Euclidean. Aligned: of directions of large singular values, 1 for equal nets."
)
LINES = "Training loss from net a (0) to net b (1), as trained and with its units in a's order."
GROUPS = "Found in the program of `apply`: the axes that move together. Nobody wrote them down."


def sections(found: Mapping[str, Compared], seeds: tuple[int, int]) -> list[tuple[str, list[Block]]]:
    """The page's parts: all nets, then each."""
    rows = [(name, state, *row.words) for name, one in found.items() for state, row in one.rows.items()]
    out: list[tuple[str, list[Block]]] = [
        (f"Seeds {seeds[0]} and {seeds[1]}", [Table(("", "", *HEAD), rows, note=TABLE)])
    ]
    for name, one in found.items():
        lines = {state: [float(x) for x in row.path.losses] for state, row in one.rows.items()}
        ts = [float(t) for t in one.rows["matched"].path.ts]
        checked = f"Matched in {one.seconds:.2f} s. Outputs of the matched net differ by {one.change:.1e}, relative."
        drawn = Figure(plots.curve(ts, lines, "position", "training loss, nats"), LINES)
        groups = Table(("group", "size", "members"), one.axes.rows(), note=GROUPS)
        out.append((name, [drawn, Text(checked), groups]))
    return out


def main() -> None:
    """Train, match, print, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="folder of the page; without it the table is all")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 1))
    given = parser.parse_args()
    print(f"{'':31}" + "".join(f"{word:>10}" for word in HEAD))
    found = {}
    for name, model in MODELS.items():
        a, b = (train(model, seed, given.steps) for seed in given.seeds)
        found[name] = compare(model, a, b, jax.random.key(0))
        for state, row in found[name].rows.items():
            print(f"{name:19}{state:12}" + "".join(f"{word:>10}" for word in row.words))
        print(f"matched in {found[name].seconds:.2f} s, outputs changed by {found[name].change:.1e}")
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        where = given.out / "report.html"
        where.write_text(page("Two seeds, one basin", LEAD, sections(found, given.seeds)), encoding="utf-8")
        print(f"open {where}")


if __name__ == "__main__":
    main()
