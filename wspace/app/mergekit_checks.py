"""What must hold between the parts of a mergekit document, checked before any file is opened.

How many models a method takes, where its base must and must not stand, that required parameters have a value
somewhere, and that weights do not sum to zero where they are divided by their sum. Filters are tried out on the names
that they ask for, and gradients at both ends, which some tensor always has; `MergeRecipe.values` repeats the checks
for the tensors that there are.
"""

from __future__ import annotations

from collections.abc import Iterable

from wspace.app.mergekit_methods import METHODS
from wspace.app.mergekit_recipe import MergeRecipe, Slice
from wspace.app.settings import Setting
from wspace.core.errors import RecipeError, listed, nearest, printable

_ENDS = (0, 1)


def check_models(recipe: MergeRecipe, group: Slice) -> None:
    """The number of models and the place of the base.

    Raises:
      RecipeError: a model listed twice, a base that is missing or is one too many, too few or too many models, or
        parameters on a base whose parameters are never read.
    """
    method, name = METHODS[recipe.method], recipe.method
    listed_models = [source.model for source in group.sources]
    for i, source in enumerate(group.sources):
        if source.model in listed_models[:i]:
            raise _error(source.place, f"model {source.model} is listed twice")
    if method.base == "required" and group.base is None:
        raise _error(recipe.place, f"{name} needs a 'base_model'")
    if group.base is not None and group.base not in listed_models:
        if method.base == "none" and not recipe.slices:
            advice = "list it under 'models' or remove 'base_model'"
            raise _error(recipe.referenced[group.base], f"{name} has no base, it merges all its models: {advice}")
        if method.base != "none" and recipe.slices:
            raise _error(
                group.place, f"{name} needs the base {group.base} among the sources of the slice, with its layers"
            )
    merged = recipe.merged(group)
    base = " besides the base" if method.base != "none" and group.base is not None else ""
    if len(merged) < method.least or (method.most is not None and len(merged) > method.most):
        wanted = f"{'exactly' if method.least == method.most else 'at least'} {_models(method.least)}"
        found = listed(source.model for source in merged) or "none"
        raise _error(group.place, f"{name} takes {wanted}{base}, found {len(merged)}: {found}")
    for source in group.sources:
        if source not in merged and source.parameters:
            advice = f"remove its {listed(source.parameters)}"
            raise _error(
                source.place, f"{source.model} is the base, its parameters have no effect under {name}: {advice}"
            )


def check_vocabulary(recipe: MergeRecipe) -> None:
    """Rules for tokens name models of the document.

    Raises:
      RecipeError: one that is not merged here.
    """
    models = {source.model for group in recipe.groups for source in group.sources} | {recipe.base}
    for token, rule in recipe.tokenizer.tokens.items() if recipe.tokenizer else ():
        if rule.model is not None and rule.model not in models:
            known = nearest(rule.model, filter(None, models))
            raise _error(rule.place, f"token {token!r} comes from {rule.model}, which is not merged here.{known}")


def check_parameters(recipe: MergeRecipe, group: Slice) -> None:
    """Required parameters, and parameters that do not go together.

    Raises:
      RecipeError: a required parameter set nowhere; weights that sum to zero under normalization; a DELLA window
        that leaves (0, 1).
    """
    method, merged = METHODS[recipe.method], recipe.merged(group)
    shared = {**recipe.parameters, **group.parameters}
    for source in merged:
        for name, parameter in method.each.items():
            if parameter.required and name not in source.parameters and name not in shared:
                raise _error(source.place, f"{recipe.method} needs a {name!r} for model {source.model}")
    for name, parameter in method.whole.items():
        if parameter.required and name not in shared:
            raise _error(recipe.place, f"{recipe.method} needs {name!r} under 'parameters'")
    settings = [*(setting for source in merged for setting in source.parameters.values()), *shared.values()]
    for tensor in ["", *sorted(_filters(settings))]:
        for end in _ENDS:
            if problem := recipe.problem(recipe.unchecked(tensor, end, len(_ENDS), group)):
                at = f" for tensors with {tensor!r} in their name" if tensor else ""
                raise _error(_first(settings, recipe.place), f"{recipe.method}: {problem}{at}")


def _filters(settings: Iterable[Setting]) -> set[str]:
    branches = [branch for setting in settings for branch in setting.branches]
    return {branch.filter for branch in branches if branch.filter is not None}


def _first(settings: Iterable[Setting], otherwise: str) -> str:
    return next((setting.place for setting in settings), otherwise)


def _models(count: int) -> str:
    return "one model" if count == 1 else f"{count} models"


def _error(place: str, message: str) -> RecipeError:
    return RecipeError(printable(f"{place}: {message}"))
