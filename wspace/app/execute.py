"""Running a recipe: sources, transforms, evaluation, then a folder that appears whole with everything in it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax

from wspace.app import blocks
from wspace.app.build import Work, merge_work, steps, work
from wspace.app.forecast import Cost, check_memory, forecast
from wspace.app.mesh import Spread, check_spread, run_spread
from wspace.app.output import TRANSFORM
from wspace.app.recipe import Blocks, Recipe
from wspace.app.records import write_records
from wspace.app.resume import resume_key
from wspace.app.sources import check_out, inputs
from wspace.app.tee import Tee, cast
from wspace.app.watch import Watch
from wspace.app.weights import Weights, from_tree, opened
from wspace.core.containers import show
from wspace.core.errors import RecipeError, TreeMismatch, nearest, printable
from wspace.core.implicit import Implicit, materialize
from wspace.core.plan import Plan, Row, tabulate
from wspace.core.run import Ready, prepare, stream, transfer
from wspace.core.stored import facts_of, parts_of
from wspace.core.transform import Transform
from wspace.core.typing import Leaf, Progress
from wspace.interpolate import segment
from wspace.io import NODES, flatten_names, is_unfinished, nest_names, write_folder
from wspace.measure import Entry
from wspace.reparam import LoRA

PATH = tuple(i / 10 for i in range(11))  # where the path from the base to the merged model is evaluated
Track = Callable[[str], Progress]  # a name for what is going on -> its progress callback


@dataclass(frozen=True)
class Opened:
    """A recipe with its sources open and its transforms built; nothing read, nothing computed but computed sources."""

    recipe: Recipe
    sources: dict[str, Weights]
    work: Work
    memory: int | None = None

    @property
    def models(self) -> list[Weights]:
        return [self.sources[name] for name in self.work.models]

    @cached_property
    def ready(self) -> Ready:
        """All of it, checked."""
        check_memory(self)
        if self.recipe.blocks is not None:
            return blocks.ready(self)
        t = self.work.transform
        if self.memory is not None and self.recipe.evaluate is not None:
            raise RecipeError(printable(f"{self.recipe.file}: evaluates whole models in memory: leave --memory out"))
        try:
            return prepare(t, self.models, key=self.key(t), sides=self.sides(), memory=self.memory, weigh=True)
        except TreeMismatch as problem:
            if self.recipe.mismatch != "refuse":
                raise
            raise TreeMismatch(f"{problem}; --mismatch says what becomes of such leaves") from None

    @cached_property
    def blocks(self) -> Blocks:
        """How the one model is calibrated block by block."""
        return blocks.blocks_of(self)

    @property
    def reference(self) -> Weights:
        """What the result is compared with: the base, or the first model."""
        return self.sources[self.work.base] if self.work.base else self.models[0]

    @property
    def dtype(self) -> str | None:
        """The dtype that a mergekit document asks for."""
        last = self.recipe.merges[-1] if self.recipe.merges else None
        return (last.out_dtype or last.dtype) if last else None

    def sides(self) -> dict[str, Any]:
        """Side trees by name; the base among them."""
        given = {n: self.sources.get(s, s) if isinstance(s, str) else s for n, s in self.recipe.sides.items()}
        return given | ({"base": self.sources[self.work.base]} if self.work.base else {})

    def key(self, t: Transform) -> Any:
        """The recipe's random key if a transform is random."""
        return jax.random.key(self.recipe.seed) if "key" in t.needs else None


def open_recipe(recipe: Recipe, track: Track, memory: int | None = None) -> Opened:
    """Build the transforms first (so that a bad recipe costs nothing), then open the sources, run earlier merges.

    Raises:
      RecipeError, FormatError, TreeMismatch, ShapeError, SideTreeError, SelectionError, NonFinite.
    """
    made = steps(recipe)
    computed = dict(recipe.make(track)) if recipe.make else {}
    sources = opened({**recipe.sources, **computed}, allow_nonfinite=recipe.allow_nonfinite)
    for name in (*recipe.models, *([recipe.base] if recipe.base else [])):
        if name not in sources:
            raise RecipeError(printable(f"{recipe.file}: no source {name!r}.{nearest(name, sources)}"))
    notes: list[str] = []
    for merge in recipe.merges[:-1]:
        job = _opened(recipe, *merge_work(merge, sources, mismatch=recipe.mismatch))
        notes += job.work.notes
        t, name, first = job.work.transform, str(merge.name), job.models[0]
        found: dict[str, Any] = {}
        stream(t, job.models, found, key=job.key(t), progress=track(name), **job.sides())
        kept = from_tree(name, {path: cast(leaf, merge.out_dtype or merge.dtype) for path, leaf in found.items()})
        kept.folder, kept.metadata, kept.structure, kept.changes = (
            first.folder,
            first.metadata,
            first.structure,
            first.changes,
        )
        sources[name] = kept
    if recipe.merges:
        job = _opened(recipe, *merge_work(recipe.merges[-1], sources, made, recipe.mismatch))
    else:
        job = _opened(recipe, *work(recipe, made, sources))
    return Opened(recipe, job.sources, job.work._replace(notes=(*notes, *job.work.notes)), memory)


def _opened(recipe: Recipe, made: Work, sources: Mapping[str, Weights]) -> Opened:
    return Opened(recipe, dict(sources), made)


def planned(job: Opened, bare: bool = False) -> Plan:
    """The table of what would happen; of what is written in another dtype, in that."""
    table = tabulate(job.ready, streams=bare and job.recipe.evaluate is None)
    dtype = job.recipe.output.dtype or job.dtype

    def written(row: Row) -> Row:
        floats = row.made != dtype and row.made in FLOATS
        if dtype is None or not floats:
            return row
        size = row.bytes_out * jax.numpy.dtype(dtype).itemsize // jax.numpy.dtype(row.made).itemsize
        return row._replace(made=dtype, bytes_out=size, writes=row.writes + int(size * row.share))

    return table._replace(rows=tuple(map(written, table.rows)))


FLOATS = ("bfloat16", "float16", "float32", "float64")


def by_bytes(table: Plan, tell: Progress) -> Progress:
    """A callback for a run of the plan that passes on bytes read and written, where a run tells leaves: they differ in
    size by thousands, so time left and speed can only be told from bytes."""
    rows = {row.path: row for row in table.rows if row.steps}
    total = sum(table.passes * row.bytes_in + row.bytes_out for row in rows.values())
    moved = 0

    def told(done: int, leaves: int, path: str) -> None:
        nonlocal moved
        moved += rows[path].bytes_in + (rows[path].bytes_out if done > leaves - len(rows) else 0)
        tell(moved, total, path)

    return told


@dataclass
class Result:
    """What a run found out, for the report and the table.

    scores: stage -> metric -> number. path: t, and metric -> numbers, along base -> merged. ledger: base (or first
    model) against the result, leaf by leaf. notes: what the user should know. files: that went through from the base.
    adapters: LoRA leaves without their bases, if they are to be written for PEFT. resumed: how many leaves a killed
    run left; anew: or why nothing is taken of what it left.
    """

    scores: dict[str, Mapping[str, float]] = field(default_factory=dict)
    path: tuple[list[float], dict[str, list[float]]] | None = None
    ledger: list[Entry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    adapters: dict[str, Leaf] = field(default_factory=dict)
    resumed: int = 0
    anew: str = ""
    predicted: Cost | None = None
    actual: Cost | None = None


class Expanded(NamedTuple):
    """What the output holds: a spec for each stored array, how names nest, and what Implicit leaves were."""

    specs: dict[str, Any]
    structure: Any
    nodes: dict[str, Any]


def run_recipe(
    recipe: Recipe,
    out: Path,
    track: Track,
    *,
    overwrite: bool = False,
    bare: bool = False,
    memory: int | None = None,
    restart: bool = False,
    digests: bool = False,
    spread: Spread | None = None,
) -> tuple[Opened, Result]:
    """Run a recipe into a folder: complete when this returns, absent if it raises.

    bare: the weights and what belongs to them, but no ledger, report or record of the inputs' files.
    memory: bytes of anonymous memory that the process may take; leaves that don't fit go through in parts.
    restart: don't go on from what a killed run that would have written the same left.
    digests: the sha256 of the inputs' values too, not of their headers alone.
    spread: over which devices; then bare, and in memory.
    """
    check_out(out, inputs(recipe.sources), overwrite=overwrite)
    if spread is not None:
        check_spread(recipe)
    job = open_recipe(recipe, track, memory)
    result = Result(notes=list(job.work.notes))
    ready = job.ready
    made = expanded(job, {show(path): x for path, x in (ready.made or {}).items()})
    if "peft" in recipe.output.formats and bare:
        raise RecipeError(printable(f"{recipe.file}: an adapter folder needs the ledger; leave --bare out"))
    if "peft" in recipe.output.formats and not any(facts["kind"] == LoRA.__name__ for facts in made.nodes.values()):
        raise RecipeError(printable(f"{recipe.file}: format peft: the result has no LoRA leaf to write as an adapter"))
    notes = {key: text for key, text in job.models[0].metadata.items() if key != NODES}
    notes |= {NODES: json.dumps(made.nodes, sort_keys=True)} if made.nodes else {}
    read = [checkpoint for w in job.sources.values() for checkpoint in w.checkpoints]
    options: dict[str, Any] = {"shard_size": recipe.output.shard_size, "overwrite": overwrite, "inputs": read}
    options["metadata"] = notes
    if spread is not None:
        run_spread(job, out, made, options, result, spread, by_bytes(tabulate(ready), track(TRANSFORM)))
        return job, result
    options["resume"], why = (None, "as asked for") if restart else resume_key(job, bare)
    left, table = is_unfinished(out), planned(job, bare)
    result.predicted, began = forecast(job, table, bare=bare), time.perf_counter()
    with Watch() as watch, write_folder(out, made.specs, structure=made.structure, **options) as sink:
        tee = Tee(sink, job, result, keep=recipe.evaluate is not None, bare=bare)
        result.anew = why or "that was another run" if left and not result.resumed else ""
        if recipe.blocks is None:
            transfer(ready, tee, by_bytes(table, track(TRANSFORM)))
        else:
            blocks.transfer(job, tee, track("blocks"))
        tee.finish(ready.work)
        if recipe.evaluate is not None:
            evaluate(job, tee.kept, result, track("evaluate"))
        write_records(job, sink, result, bare=bare, digests=digests)
        moved = sum(ready.work.read.values()) + tee.read, sink.moved
    result.actual = Cost(*moved, table.passes, watch.peak, time.perf_counter() - began)
    return job, result


def evaluate(job: Opened, last: Mapping[str, Leaf], result: Result, tell: Progress) -> None:
    """Score every model, every stage and the path from the base to the first stage's result."""
    metrics, structure = job.recipe.evaluate or dict, job.models[0].structure

    def score(named: Mapping[str, Leaf]) -> Mapping[str, float]:
        tree = nest_names(named, structure) if structure else dict(named)
        return {k: float(v) for k, v in metrics(materialize(tree)).items()}

    names = [*([job.work.base] if job.work.base else []), *job.work.models]
    total, done = len(names) + len(job.work.stages) + len(PATH), 0

    def step(label: str) -> None:
        nonlocal done
        done += 1
        tell(done, total, label)

    for name in names:
        result.scores[name] = score({k: job.sources[name].source[k] for k in job.sources[name].specs})
        step(name)
    first: dict[str, Leaf] = {}
    for n, (label, _) in enumerate(job.work.stages, start=1):
        made = dict(last)
        if n < len(job.work.stages):
            made, part = {}, job.work.upto(n)
            stream(part, job.models, made, key=job.key(part), **job.sides())
        first = first or made
        result.scores[label] = score(made)
        step(label)
    if job.work.base:
        line = segment(materialize(dict(job.sources[job.work.base].source)), materialize(first))
        points: list[Mapping[str, float]] = []
        for t in PATH:
            points.append(score(line(t)))
            step(f"path at {t:g}")
        result.path = (list(PATH), {metric: [p[metric] for p in points] for metric in points[0]})


def expanded(job: Opened, out: Mapping[str, Any]) -> Expanded:
    """The arrays that will be written, from shapes alone: an Implicit leaf is a small dict of its parts."""
    like, dtype = job.models[0], job.recipe.output.dtype or job.dtype
    leaves = {name: jax.ShapeDtypeStruct(spec.shape, spec.dtype) for name, spec in like.specs.items()}
    leaves |= {name: jax.eval_shape(lambda x: cast(x, dtype), leaf) if dtype else leaf for name, leaf in out.items()}
    nodes = {name: facts_of(leaf) for name, leaf in leaves.items() if isinstance(leaf, Implicit)}
    stored = {name: jax.eval_shape(parts_of, x) if name in nodes else x for name, x in leaves.items()}
    flat, structure = flatten_names(nest_names(stored, like.structure) if like.structure else stored)
    return Expanded(flat, structure, nodes)
