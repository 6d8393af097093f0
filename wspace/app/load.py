"""Opens a recipe file: YAML is read as data, a Python config is run.

A `.py` recipe is a program: loading it runs its code with your rights, so run only configs that you trust. It defines
`recipe(**arguments) -> wspace.app.Recipe`, and `--set name=value` gives an argument. A `.yml` recipe never runs code.
"""

from __future__ import annotations

import runpy
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from wspace.app.arguments import keywords
from wspace.app.override import Assignment, assignment, overridden
from wspace.app.recipe import Recipe, read_recipe
from wspace.app.sources import folder, located
from wspace.app.yaml_strict import parse, read
from wspace.core.errors import RecipeError, WspaceError, nearest, printable


def load(path: str | Path, sets: Sequence[str] = ()) -> Recipe:
    """A recipe from its file, with `--set` overrides, validated, its folders found.

    Args:
      path: a `.yml`, `.yaml` or `.py` file.
      sets: texts of the form `a.b=c`.
    Raises:
      RecipeError: with file and line.
      MissingExtra: a package that a source names is not installed.
    """
    assignments = [assignment(text) for text in sets]
    suffix = Path(path).suffix.lower()
    if suffix not in (".yml", ".yaml", ".py"):
        raise RecipeError(printable(f"{path}: a recipe is a .yml, .yaml or .py file"))
    text = read(path)
    if suffix == ".py":
        recipe = _run(str(path), assignments)
    else:
        recipe = read_recipe(overridden(parse(text, str(path)), assignments))
    paths = {
        name: folder(str(source), str(path))
        for name, source in recipe.sources.items()
        if isinstance(source, (str, Path))
    }
    sources = located({**recipe.sources, **paths})
    return replace(recipe, sources=sources, file=str(path), text=text, sets=tuple(sets))


def _run(path: str, assignments: Sequence[Assignment]) -> Recipe:
    function = _function(path)
    arguments = keywords(function, assignments)
    result = _guarded(path, lambda: function(**arguments))
    if not isinstance(result, Recipe):
        raise RecipeError(printable(f"{path}: recipe() must return a wspace.app.Recipe, not {type(result).__name__}"))
    return result


def _function(path: str) -> Callable[..., Any]:
    names: dict[str, Any] = _guarded(path, lambda: runpy.run_path(path, run_name="wspace_recipe"))
    if not callable(function := names.get("recipe")):
        own = [name for name in names if not name.startswith("_") and callable(names[name])]
        raise RecipeError(
            printable(f"{path}: must define recipe() -> wspace.app.Recipe.{nearest('recipe', own) if own else ''}")
        )
    return cast("Callable[..., Any]", function)


def _guarded(path: str, call: Callable[[], Any]) -> Any:
    """Call into a config; what it raises becomes one line with the config's file and line."""
    try:
        return call()
    except Exception as problem:
        lines = [frame.lineno for frame in traceback.extract_tb(problem.__traceback__) if frame.filename == path]
        kind: type[WspaceError] = RecipeError
        what, message = f"{type(problem).__name__}: ", str(problem)
        if isinstance(problem, SyntaxError) and problem.filename == path:
            lines, message = [problem.lineno], problem.msg
        if isinstance(problem, WspaceError):
            kind, what = type(problem), ""
        line = f":{lines[-1]}" if lines else ""
        raise kind(printable(f"{path}{line}: {what}{message}")) from problem
