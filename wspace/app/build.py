"""From a validated recipe to transforms: what is taken, and the stages it goes through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from wspace.app.catalog import catalog, transforms
from wspace.app.mergekit_build import merge_transform, placed_transform
from wspace.app.mergekit_recipe import MergeRecipe
from wspace.app.mismatch import matched
from wspace.app.recipe import Recipe, Step
from wspace.app.restack import order, restacked
from wspace.app.vocabulary import with_vocabulary
from wspace.app.weights import Weights
from wspace.core.compose import chain, on
from wspace.core.errors import RecipeError, printable
from wspace.core.transform import Transform


class Work(NamedTuple):
    """Names of the models and of their base, and the stages, each `(label, Transform)`; the first takes all models.

    notes: what was done to make the models match.
    """

    models: tuple[str, ...]
    base: str | None
    stages: tuple[tuple[str, Transform], ...]
    notes: tuple[str, ...] = ()

    def upto(self, n: int) -> Transform:
        """The first n stages as one Transform."""
        return chain(*(t for _, t in self.stages[:n]))

    @property
    def transform(self) -> Transform:
        """All stages as one Transform."""
        return self.upto(len(self.stages))


def steps(recipe: Recipe) -> tuple[tuple[str, Transform], ...]:
    """A recipe's steps as labelled transforms; no source is looked at.

    Raises:
      RecipeError: unknown method or argument, or a value that the method refuses.
    """
    return tuple(_step(step) for step in recipe.steps)


def work(
    recipe: Recipe, made: Sequence[tuple[str, Transform]], sources: Mapping[str, Weights]
) -> tuple[Work, Mapping[str, Weights]]:
    """What a recipe without a mergekit part runs, and the sources it takes."""
    if not made:
        raise RecipeError(printable(f"{recipe.file}: no steps: there is nothing to do"))
    models = tuple(recipe.models)
    (label, first), *rest = made
    sources, first, notes = matched(recipe.mismatch, models, recipe.base, sources, lambda sources: first)
    return Work(models, recipe.base, ((label, first), *rest), notes), sources


def merge_work(
    merge: MergeRecipe,
    sources: Mapping[str, Weights],
    after: Sequence[tuple[str, Transform]] = (),
    mismatch: str = "refuse",
) -> tuple[Work, Mapping[str, Weights]]:
    """What one mergekit document runs on these sources, and the steps after it; and the sources it takes.

    Raises:
      RecipeError: what only the tensors show, with the line. TreeMismatch: shapes that the policy can't make match.
    """
    sources = with_vocabulary(merge, sources)
    notes: tuple[str, ...] = ()
    if merge.slices:
        made, models, base, places = restacked(merge, sources)
        transform = placed_transform(merge, places, len(models))
        sources = {**sources, **made}
    else:
        base = merge.base
        models = order(merge, merge.groups[0])

        def build(sources: Mapping[str, Weights]) -> Transform:
            return merge_transform(merge, list(sources[base or models[0]].specs))[1]

        sources, transform, notes = matched(mismatch, models, base, sources, build)
    base = base if "base" in transform.needs else None
    return Work(models, base, ((merge.method, transform), *after), notes), sources


def _step(step: Any) -> tuple[str, Transform]:
    if isinstance(step, Transform):
        return step.name, step
    if isinstance(step, tuple):
        label, transform = step
        return str(label), transform
    if not isinstance(step, Step):
        raise RecipeError(f"a step is a Transform or (label, Transform), not a {type(step).__name__}")
    arguments = step.bound(transforms())
    try:
        made = catalog()[step.method].function(**arguments)
    except (TypeError, ValueError) as problem:
        raise RecipeError(printable(f"{step.place}: {step.method}: {problem}")) from problem
    return step.method, made if step.where is None else on(step.where, made)
