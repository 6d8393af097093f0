"""Merge methods that need a base and no data, on two families of three fine-tunes: what is left of each task.

    python configs/merge_zoo.py out/merge_zoo               digits, and MiniLM if its package is there (make minilm)
    python configs/merge_zoo.py out/merge_zoo --only digits

The page `report.html` has for each family a table and a bar chart of scores, the cosines between task vectors, how much
of each layer's movement two fine-tunes undo, and for digits the training loss on the plane through the three. The scale
of a method that has one is the best of LAMS on training data; other settings are the defaults of its paper or of
mergekit. Methods of two models take the third one after the first two.

Hardware: 2 CPU cores. Time: 20 minutes of CPU, one of them for digits. Data: scikit-learn's digits; docstrings of the
standard library. Nothing is downloaded. Mean scores that came out (jax 0.10.2):

    digits    base .873, fine-tunes .871 to .879; TSV .961, DELLA .951, WUDI .950, breadcrumbs and nearswap .947, task
              arithmetic, slerp and multislerp of task vectors, DARE with election, DELLA's sum .946, DARE's sum and
              EMR .944, consensus, breadcrumbs with election .943, OPCM .942, MagMax, OrthoMerge .937, Arcee fusion
              .936, SCE .935, geometric median .934, soup, slerp, nuslerp, multislerp, Karcher mean .933, RAM and RAM+
              .931, delta-weighted .930, TIES .926, WUDI in closed form .909, Iso-CTS .907, model stock .903, Iso-C
              .901
    MiniLM    base .699, fine-tunes .721 to .742; OPCM .761, RAM and RAM+ .760, soup, slerp, nuslerp, multislerp,
              Karcher mean, SCE, delta-weighted, geometric median .759, MagMax, multislerp of task vectors .755,
              Arcee fusion .754, nearswap, breadcrumbs with election, slerp of task vectors .753, EMR .751, DARE with
              election .750, TIES and consensus .748, breadcrumbs .736, DARE's sum .734, DELLA's .732, task
              arithmetic .731, DELLA .725, model stock .714

MiniLM's fine-tunes know their training pairs by heart, so scales chosen on these are too large: the plain means win.
Scores are of 300 queries.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import wspace as ws
from wspace.app import plots
from wspace.app.report import Block, Figure, Table, Text, page
from wspace.core.errors import MissingExtra
from wspace.data import digits, docstrings, minilm, tasks

Tree = Any
Models = Sequence[Tree]
KEY = jax.random.key(0)
LAMS = (0.3, 0.5, 0.7, 1.0, 1.5, 2.0)


def folded(t: Callable[[float], Callable[..., Tree]], models: Models) -> Tree:
    """A method of two models, on more: model k enters with weight 1/k."""
    return reduce(lambda made, k: t(1 / (k + 1))(made, models[k]), range(1, len(models)), models[0])


def one_by_one(t: Callable[[Tree], ws.Transform], models: Models) -> Tree:
    """A method that moves a base towards one model, on more: what came out is the base of the next one."""
    return reduce(lambda made, model: t(made)(model, base=made), models[1:], models[0])


def based(t: ws.Transform, base: Tree) -> Callable[..., Tree]:
    """A transform on the task vectors to one base."""
    return lambda *models: ws.around_base(t)(*models, base=base)


def typical(models: Models, base: Tree) -> float:
    """The mean |entry| of the task vectors: the scale of a threshold in weight units."""
    moved = [jnp.abs(x - y) for m in models for x, y in zip(jax.tree.leaves(m), jax.tree.leaves(base), strict=True)]
    return float(sum(jnp.sum(d) for d in moved)) / sum(d.size for d in moved)


# name -> (models, base) -> merged. A new method is one line here or below. The methods of mergekit are all here but
# passthrough, which merges nothing.
PLAIN: dict[str, Callable[[Models, Tree], Tree]] = {
    "uniform soup": lambda m, b: ws.average.uniform_soup()(*m),
    "Karcher mean": lambda m, b: ws.average.karcher()(*m),
    "slerp": lambda m, b: folded(ws.interpolate.slerp, m),
    "slerp of task vectors": lambda m, b: folded(lambda t: based(ws.interpolate.slerp(t), b), m),
    "nuslerp": lambda m, b: folded(lambda t: ws.interpolate.nuslerp((1 - t, t)), m),
    "multislerp": lambda m, b: ws.interpolate.multislerp()(*m),
    "multislerp of task vectors": lambda m, b: ws.around_base(ws.interpolate.multislerp())(*m, base=b),
    "model stock": lambda m, b: ws.average.model_stock()(*m, base=b),
    "delta-weighted": lambda m, b: ws.merge.delta_weighted()(*m, base=b),
    "SCE": lambda m, b: ws.merge.sce()(*m, base=b),
    "RAM": lambda m, b: ws.merge.ram()(*m, base=b),
    "RAM+": lambda m, b: ws.merge.ramplus_tl()(*m, base=b),
    "Arcee fusion": lambda m, b: one_by_one(lambda made: ws.merge.arcee_fusion(), m),
    "geometric median": lambda m, b: ws.merge.geometric_median()(*m),
    "EMR, unified": lambda m, b: ws.merge.weighted_sum()(b, ws.merge.emr()(*m, base=b)),
    "OPCM": lambda m, b: reduce(ws.merge.opcm_update, m[1:], ws.merge.opcm_init(b, m[0])).merged,
}
# name -> (models, base, lam) -> merged
SCALED: dict[str, Callable[[Models, Tree, float], Tree]] = {
    "task arithmetic": lambda m, b, lam: ws.merge.task_arithmetic(lam=lam)(*m, base=b),
    "MagMax": lambda m, b, lam: ws.merge.magmax(lam)(*m, base=b),
    "consensus": lambda m, b, lam: ws.merge.consensus(lam=lam)(*m, base=b),
    "TIES": lambda m, b, lam: ws.merge.ties(lam=lam)(*m, base=b),
    "DARE": lambda m, b, lam: ws.merge.dare(0.5, lam=lam)(*m, base=b, key=KEY),
    "DARE, elect": lambda m, b, lam: ws.merge.dare(0.5, lam=lam, consensus=ws.merge.elect)(*m, base=b, key=KEY),
    "DELLA": lambda m, b, lam: ws.merge.della(0.5, lam=lam)(*m, base=b, key=KEY),
    "DELLA, sum": lambda m, b, lam: ws.merge.della(0.5, lam=lam, consensus=ws.merge.weighted_sum)(*m, base=b, key=KEY),
    "breadcrumbs": lambda m, b, lam: ws.merge.breadcrumbs(0.9, lam=lam)(*m, base=b),
    "breadcrumbs, elect": lambda m, b, lam: ws.merge.breadcrumbs(0.9, lam=lam, consensus=ws.merge.elect)(*m, base=b),
    "nearswap": lambda m, b, lam: one_by_one(lambda made: ws.merge.nearswap(lam * typical(m, b)), m),  # t in |d|
}
# The same; SVDs, rotations or descent for every matrix, which take many minutes on a transformer.
SPECTRAL: dict[str, Callable[[Models, Tree, float], Tree]] = {
    "TSV-Merge": lambda m, b, lam: ws.merge.tsv(lam)(*m, base=b),
    "Iso-C": lambda m, b, lam: ws.merge.iso_c(lam)(*m, base=b),
    "Iso-CTS": lambda m, b, lam: ws.merge.iso_cts(lam)(*m, base=b),
    "WUDI, closed form": lambda m, b, lam: ws.merge.wudi(None, lam=lam)(*m, base=b),
    "WUDI": lambda m, b, lam: ws.merge.wudi(lam=lam)(*m, base=b),
    "OrthoMerge": lambda m, b, lam: ws.merge.ortho_merge(lam)(*m, base=b),
}


class Family(NamedTuple):
    """Fine-tunes of one base, by task in order. score: params -> value of each task on test data, larger is better.
    train_score: the mean over tasks on training data. loss: training loss, traceable; None draws no surface.
    spectral: whether SPECTRAL is run."""

    title: str
    lead: str
    base: Tree
    models: Mapping[str, Tree]
    score: Callable[[Tree], Mapping[str, float]]
    train_score: Callable[[Tree], float]
    loss: Callable[[Tree], Any] | None = None
    spectral: bool = False


class Scored(NamedTuple):
    """One row of the table. lam: the scale that was chosen. seconds: of one merge, compilation included."""

    scores: Mapping[str, float]
    lam: float | None = None
    seconds: float | None = None

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.scores.values())))


def digits_family() -> Family:
    """A perceptron of width 128: the base knows all ten classes a little, each fine-tune some of them well."""
    model = tasks.classifier(128)
    images, labels = digits.load("train")
    names = [f"digits {part[0]}-{part[-1]}" for part in tasks.PARTS]
    init, *keys = jax.random.split(jax.random.key(0), 2 + len(names))
    options = {"steps": 250, "lr": 1e-3}
    start = model.init(init, jnp.zeros((1, 64)))
    base = tasks.train(model.apply, start, *tasks.starter(images, labels), key=keys[0], **options)
    models = {
        name: tasks.train(model.apply, base, *tasks.part(images, labels, part), key=key, **options)
        for name, part, key in zip(names, tasks.PARTS, keys[1:], strict=True)
    }

    def score(params: Tree, split: str = "test") -> dict[str, float]:
        parts = (tasks.only(*digits.load(split), part) for part in tasks.PARTS)
        return {n: float(tasks.accuracy(model.apply, params, *xy)) for n, xy in zip(names, parts, strict=True)}

    return Family(
        "Digits",
        "A perceptron (two hidden layers of 128) trained on 20 images a class, and three fine-tunes of it, each with "
        "all images of some classes. Score: accuracy on the test images of each part, of all ten classes to choose.",
        base, models, score,
        lambda params: float(np.mean(list(score(params, "train").values()))),
        lambda params: tasks.loss(model.apply, params, images, labels),
        spectral=True,
    )  # fmt: skip


def minilm_family(steps: int = 40, batch: int = 24, length: int = 64, tested: int = 100) -> Family:
    """MiniLM, and three fine-tunes that learned to find docstrings of three parts of the standard library."""
    pairs = docstrings.docstring_pairs()
    parts = [pairs[k * len(pairs) // 3 : (k + 1) * len(pairs) // 3] for k in range(3)]
    names = [f"docstrings {k}" for k in range(1, 4)]
    base = {k: jnp.asarray(x) for k, x in minilm.load().items() if k != "embeddings.position_ids"}
    optimizer = optax.adamw(5e-5)

    def rows(texts: Sequence[str]) -> tuple[np.ndarray, ...]:
        found = (np.asarray(x)[:, :length] for x in minilm.tokenize(texts, longest=length))
        return tuple(np.pad(x, ((0, 0), (0, length - x.shape[1]))) for x in found)

    @jax.jit
    def step(params: Tree, state: Any, queries: Any, documents: Any) -> tuple[Tree, Any]:
        def loss(params: Tree) -> jax.Array:
            alike = 20.0 * minilm.encode(params, *queries) @ minilm.encode(params, *documents).T
            return optax.softmax_cross_entropy_with_integer_labels(alike, jnp.arange(batch)).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    def tuned(part: Sequence[docstrings.Pair], seed: int) -> Tree:
        params, state, draw = base, optimizer.init(base), np.random.default_rng(seed)
        for _ in range(steps):
            chosen = [part[i] for i in draw.choice(len(part), batch, replace=False)]
            params, state = step(params, state, *(rows([pair[k] for pair in chosen]) for k in range(2)))
        return params

    def score(params: Tree, half: int = 1) -> dict[str, float]:
        return {n: docstrings.retrieval(params, p[half::2][:tested])["mrr"] for n, p in zip(names, parts, strict=True)}

    return Family(
        "MiniLM",
        f"The sentence encoder MiniLM-L6 and three fine-tunes of it ({steps} steps, in-batch contrast) on docstrings "
        f"of three parts of the standard library. Score: mean reciprocal rank of the right one of {tested} held out.",
        base,
        {name: tuned(part[::2], k) for k, (name, part) in enumerate(zip(names, parts, strict=True))},
        score,
        lambda params: float(np.mean(list(score(params, 0).values()))),
    )


def scored(family: Family, lams: Sequence[float]) -> dict[str, Scored]:
    """Base, fine-tunes, then every method of the zoo."""
    found = {name: Scored(family.score(p)) for name, p in {"base": family.base, **family.models}.items()}
    models = list(family.models.values())
    scaled = SCALED | (SPECTRAL if family.spectral else {})

    def merged(name: str, lam: float | None) -> tuple[Tree, float]:
        start = time.perf_counter()
        made = PLAIN[name](models, family.base) if lam is None else scaled[name](models, family.base, lam)
        return jax.block_until_ready(made), time.perf_counter() - start

    for name in (*PLAIN, *scaled):
        tried = [(lam, *merged(name, lam)) for lam in (lams if name in scaled else (None,))]
        lam, made, seconds = max(tried, key=lambda one: family.train_score(one[1])) if len(tried) > 1 else tried[0]
        found[name] = Scored(family.score(made), lam, seconds)
        print(f"{family.title:8} {name:16} {found[name].mean:.3f}")
    return found


def sections(family: Family, found: Mapping[str, Scored]) -> list[tuple[str, list[Block]]]:
    """The family's part of the page."""
    names, models = list(family.models), list(family.models.values())
    best = {task: max(found[name].scores[task] for name in names) for task in names}
    rows = [
        (
            name,
            *(f"{row.scores[task]:.3f}" for task in names),
            f"{row.mean:.3f}",
            f"{np.mean([row.scores[task] / best[task] for task in names]):.3f}",
            "" if row.lam is None else f"{row.lam:g}",
        )
        for name, row in sorted(found.items(), key=lambda item: -item[1].mean)
    ]
    table = Table(("", *names, "mean", "of the best fine-tune", "scale"), rows, note=TABLE)
    order = {name: row.mean for name, row in sorted(found.items(), key=lambda item: -item[1].mean)}
    low = min(order.values())
    low -= 0.25 * (max(order.values()) - low)
    drawn = Figure(plots.bars(order, "mean score over the three tasks", low=low, grey=("base", *names)), BARS)
    cosines = ws.measure.cosines(models, family.base)
    angles = Figure(plots.heat(cosines, names, names, "cosine", (0.0, 1.0)), COSINES)
    pairs = [(i, k) for i in range(len(names)) for k in range(i)]
    lost = by_layer(ws.measure.interference(models, family.base), pairs)
    heads = [f"{names[k]}\n{names[i]}" for i, k in pairs]
    layers = Figure(plots.heat(list(lost.values()), list(lost), heads, "share undone", (0.0, 0.5)), UNDONE)
    out: list[tuple[str, list[Block]]] = [
        (f"{family.title}: scores", [Text(family.lead), drawn, table]),
        (f"{family.title}: task vectors", [angles, layers]),
    ]
    if family.loss is not None:
        plane = ws.measure.plane(*models)
        points = {name: tuple(at) for name, at in zip(names, plane.corners, strict=True)}
        x, y, away = plane.at(family.base)
        points |= {f"base (off the plane by {away:.1f})": (x, y), "mean": tuple(plane.corners.mean(0))}
        surface = ws.measure.surface(family.loss, plane, steps=41)
        seen = Figure(plots.landscape(surface, points, "training loss, nats"), PLANE)
        out.append((f"{family.title}: the plane through the three", [seen]))
    return out


def by_layer(found: Mapping[str, np.ndarray], pairs: Sequence[tuple[int, int]]) -> dict[str, list[float]]:
    """The mean over the matrices of a layer, one number a pair; biases and norms are left out."""
    layers: dict[str, list[list[float]]] = {}
    for path, shares in found.items():
        if path.endswith(("kernel", "weight")) and "LayerNorm" not in path:
            words = [w for w in path.replace(".", "/").split("/") if w not in ("params", "kernel", "weight", "encoder")]
            name = "/".join(words[:2]) if words[0] in ("layer", "embeddings") else "/".join(words)
            layers.setdefault(name, []).append([shares[i, k] for i, k in pairs])
    return {name: [float(x) for x in np.nanmean(each, 0)] for name, each in layers.items() if np.isfinite(each).any()}


LEAD = "Three fine-tunes of one base, merged into one model without any data: what is left of each task."
TABLE = "Sorted by the mean. 'Of the best fine-tune': each task's score over the best fine-tune's, averaged over tasks."
BARS = "Mean over the three tasks, the base and its fine-tunes in grey; the axis does not start at zero."
COSINES = "Cosine between task vectors over all weights: 0 is orthogonal, 1 the same direction."
UNDONE = (
    "Share of two task vectors' L1 length that is lost when they are added, mean over the matrices of a layer: "
    "independent vectors of one length lose 0.29."
)
PLANE = "Training loss on the plane through the three fine-tunes, logarithmic; distances are those of the weights."


def main() -> None:
    """Train, merge, measure, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", choices=("digits", "minilm"))
    given = parser.parse_args()
    makers = {"digits": (digits_family, LAMS), "minilm": (minilm_family, (0.5, 1.0, 1.5))}
    parts: list[tuple[str, list[Block]]] = []
    for name in [given.only] if given.only else makers:
        make, lams = makers[name]
        try:
            family = make()
        except MissingExtra as missing:
            print(f"without {name}: {missing}")
            continue
        parts += sections(family, scored(family, lams))
    given.out.mkdir(parents=True, exist_ok=True)
    where = given.out / "report.html"
    where.write_text(page("A zoo of merges", LEAD, parts), encoding="utf-8")
    print(f"open {where}")


if __name__ == "__main__":
    main()
