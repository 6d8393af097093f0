"""A run that is calibrated block by block: of the model and of its statistics one block is in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax

from wspace import calibrate
from wspace.app.recipe import Blocks
from wspace.core.compose import keep
from wspace.core.containers import as_params
from wspace.core.errors import RecipeError, TooLarge, printable
from wspace.core.implicit import materialize, stored_bits
from wspace.core.memory import RESERVE, Held, anonymous
from wspace.core.run import Ready, prepare
from wspace.core.sizes import size
from wspace.core.typing import Leaf, Path, Progress

if TYPE_CHECKING:
    from wspace.app.execute import Opened

COMPILED = 288 << 20  # the programs of a model's blocks and of a solver, as measured; others are far smaller


def ready(job: Opened) -> Ready:
    """What the run will do to every leaf, from shapes: the blocks are calibrated and transformed abstractly.

    Raises:
      RecipeError: not one model, or steps that need what calibration can't give. TooLarge: a block does not fit.
    """
    recipe, t = job.recipe, job.work.transform
    if len(job.models) != 1 or t.needs & {"base"} or recipe.sides:
        raise RecipeError(printable(f"{recipe.file}: blocks are of one model, without a base or side trees"))
    if t.folds or recipe.evaluate or not folds(job):
        why = "folds over leaves" if t.folds else "evaluate" if recipe.evaluate else "no step that needs statistics"
        raise RecipeError(printable(f"{recipe.file}: blocks and {why} don't go together"))
    found = prepare(keep(), job.models)
    source = job.models[0]
    structs = {name: found.work.sources[0].abstract((name,)) for name in source}
    blocks, made = job.blocks, dict(found.made or {})
    steps, costs = dict(found.work.steps), dict[Path, Held]()
    x = jax.eval_shape(lambda: blocks.batches[0])
    held = 2 * sum(map(_bytes, jax.tree.leaves(list(blocks.batches))))  # before a block and after it
    for k, (apply, tree) in enumerate(blocks.parts):
        params = jax.tree.map(structs.__getitem__, tree)

        def run(params: Any, x: Any, apply: Any = apply, k: int = k) -> Any:
            share = blocks.weights
            stats = calibrate.calibrate(apply, params, [x], folds(job), weights=share, beside=_beside(job, [x]))
            new = solve(job, k)(params, stats)
            return new, apply(materialize(new), x), dict(stats)

        new, x, stats = jax.eval_shape(run, params, x)
        names, leaves = as_params(tree).leaves, as_params(new).leaves
        taken = 2 * _bytes(params) + _bytes(leaves) + 2 * _bytes(stats) + held + COMPILED
        for path, name in names.items():
            made[(name,)] = leaves[path]
            steps[(name,)] = (t.name,)
            costs[(name,)] = Held(0, taken, _bytes(leaves[path]))
    whole = Ready(t, replace(found.work, steps=steps), job.key(t), made, costs)
    return whole if job.memory is None else _within(whole, job.memory)


def _within(whole: Ready, memory: int) -> Ready:
    path = max(whole.costs, key=lambda path: whole.costs[path].whole)
    wanted, taken = whole.costs[path].whole, anonymous() + RESERVE
    if wanted > memory - taken:
        given = f"{-(-(taken + wanted) // 2**20)}MiB"
        raise TooLarge(
            f"the block of {path[0]} takes {size(wanted)} with statistics and batches: {size(memory)} are too "
            f"few beside the {size(taken)} of the process; give it memory={given!r}, or fewer batches, or cut the block"
        )
    return whole


def transfer(job: Opened, sink: Any, tell: Progress) -> None:
    """Run it: each leaf is read once, and written when its block is done."""
    source, solves = Read(job), iter(solve(job, k) for k in range(len(job.blocks.parts)))
    blocks = job.blocks
    calibrate.stream(
        blocks.parts, source, sink, blocks.batches, lambda params, found: next(solves)(params, found), folds(job),
        weights=blocks.weights, beside="cross" in folds(job), progress=tell,
    )  # fmt: skip


class Read(Mapping[str, Leaf]):
    """The one model; what is read is counted."""

    def __init__(self, job: Opened) -> None:
        self.work = job.ready.work

    def __getitem__(self, name: str) -> Leaf:
        return self.work.given((name,))[0][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self.work.names.values())

    def __len__(self) -> int:
        return len(self.work.names)


def solve(job: Opened, k: int) -> Any:
    """What turns block k and its statistics into the new block: every block draws numbers of its own."""
    t = job.work.transform
    key = job.key(t)
    own = None if key is None else jax.random.fold_in(key, k)
    return lambda params, found: t(params, key=own, axes=found.axes, **found)


def folds(job: Opened) -> list[str]:
    """The statistics that the steps need."""
    return sorted(job.work.transform.needs - {"key", "base"})


def blocks_of(job: Opened) -> Blocks:
    """The recipe's blocks of its model."""
    if job.recipe.blocks is None:
        raise RecipeError(printable(f"{job.recipe.file}: has no blocks"))
    return job.recipe.blocks(job.models[0])


def _beside(job: Opened, batches: list[Any]) -> list[Any] | None:
    return batches if "cross" in folds(job) else None


def _bytes(tree: Any) -> int:
    return -(-stored_bits(tree) // 8)
