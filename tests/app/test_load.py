"""Without this file `--set` and Python configs could change the wrong value, or fail with someone else's traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from wspace.app import Folder, load
from wspace.core.errors import MissingExtra, RecipeError

OURS = """
sources: {base: BASE, other: BASE}
models: [base]
steps:
  - merge.ties: {density: 0.2}
output: {dtype: float32}
"""
STAGES = """
name: first
merge_method: karcher
models: [{model: BASE}]
---
merge_method: linear
models: [{model: first, parameters: {weight: 1}}]
"""
PYTHON = """
from __future__ import annotations
import math
from wspace.app import Recipe
FOLDER = "BASE"

def helper(steps: int) -> int:
    return math.floor(steps)

def recipe(steps: int = 100, rate: float = 1e-3, name="base", sizes: dict = {"width": 8, "deep": {"on": True}}):
    if rate > 1:
        raise ZeroDivisionError("rate")
    return Recipe(sources={name: FOLDER}, models=[name], steps=[sizes], seed=helper(steps))
"""

Writer = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    (tmp_path / "base").mkdir()

    def made(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text.replace("BASE", str(tmp_path / "base")))
        return tmp_path / name

    return made


def test_yaml_overrides(write: Writer) -> None:
    sets = ["steps.0.merge.ties.density=1e-1", "models.0=other", "output.formats=[orbax]", "seed=5", "output.dtype="]
    recipe = load(write("r.yml", OURS), sets)
    assert recipe.steps[0].arguments["density"].number() == 0.1
    assert (recipe.models, recipe.output.formats, recipe.output.dtype, recipe.seed) == (("other",), ("orbax",), None, 5)
    assert recipe.sets == tuple(sets)
    assert recipe.file.endswith("r.yml")
    assert "merge.ties" in recipe.text


def test_overrides_go_to_the_stage_that_they_name(write: Writer) -> None:
    first, last = load(write("r.yml", STAGES), ["first.parameters.max_iter=3", "dtype=float16"]).merges
    assert first.values("w", None, 1).whole["max_iter"] == 3
    assert (first.dtype, last.dtype) == (None, "float16")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps.0.merge.ties", "--set steps.0.merge.ties: must be written as name=value"),
        ("=3", "must be written as name=value"),
        ("a..b=3", "must be written as name=value"),
        ("modles.0=base", "--set modles.0=base: unknown key 'modles'. Did you mean 'models'?"),
        ("output.dtyp=float16", "--set output.dtyp=float16: unknown key 'dtyp' in output. Did you mean 'dtype'?"),
        ("models.1=base", "models has items 0 to 0, not '1'"),
        ("models.x=base", "models has items 0 to 0, not 'x'"),
        ("output.dtype.x=1", "output.dtype is one value ('float32'): nothing lies inside it"),
        ("seed=0o17", "seed: '0o17' is read differently by YAML versions"),
        ("seed=!!python/name:os.x", "the tag '!!python/name:os.x' is refused"),
        ("output=[1", "--set output=[1: not YAML"),
        ("models.0=bsae", "no source 'bsae'. Did you mean 'base'?"),
    ],
)
def test_bad_overrides_name_themselves(write: Writer, text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(write("r.yml", OURS), [text])
    assert message in str(caught.value)


def test_a_folder_that_is_not_there_comes_last(write: Writer) -> None:
    missing = "merge_method: karcher\nmodels:\n- model: org/name"
    with pytest.raises(RecipeError, match=r"r.yml:3: no such folder ./org/name: wspace reads local folders only"):
        load(write("r.yml", missing))
    with pytest.raises(RecipeError, match="unknown value 'karchr'"):
        load(write("r.yml", missing.replace("karcher", "karchr")))


def test_a_python_config_is_run_with_its_arguments(write: Writer) -> None:
    path = write("r.py", PYTHON)
    assert load(path).seed == 100
    recipe = load(path, ["steps=7", "name=other", "sizes.width=9", "sizes.deep.on=off"])
    assert (recipe.seed, recipe.models, recipe.steps) == (7, ["other"], [{"width": 9, "deep": {"on": False}}])
    assert recipe.sources == {"other": Folder(path.parent / "base", str(path))}
    assert load(path).steps == [{"width": 8, "deep": {"on": True}}]


@pytest.mark.parametrize(
    ("text", "sets", "message"),
    [
        (PYTHON, ["step=7"], "--set step=7: no argument 'step'. Did you mean 'steps'?"),
        (PYTHON, ["steps=7.5"], "--set steps=7.5: steps: must be a whole number, not '7.5'"),
        (PYTHON, ["sizes.widht=7"], "no argument 'widht'. Did you mean 'width'?"),
        (PYTHON, ["steps.x=7"], "the argument is no mapping"),
        (PYTHON, ["rate=2"], "r.py:12: ZeroDivisionError: rate"),
        ("x = 1", [], "r.py: must define recipe()"),
        ("def recip(): ...", [], "r.py: must define recipe() -> wspace.app.Recipe. Did you mean 'recip'?"),
        ("def recipe():\n    return 3", [], "r.py: recipe() must return a wspace.app.Recipe, not int"),
        ("x = (\n", [], "r.py:1: SyntaxError: '(' was never closed"),
        ("x = 1\nimport no_such_module", [], "r.py:2: ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_bad_python_configs_are_one_line(write: Writer, text: str, sets: list[str], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(write("r.py", text), sets)
    assert message in str(caught.value)


def test_an_error_of_ours_keeps_its_kind_in_a_python_config(write: Writer) -> None:
    text = "from wspace.core.errors import MissingExtra\ndef recipe():\n    raise MissingExtra('pip install it')"
    with pytest.raises(MissingExtra, match=r"r.py:3: pip install it"):
        load(write("r.py", text))


def test_other_files_are_no_recipes(write: Writer) -> None:
    with pytest.raises(RecipeError, match=r"a recipe is a .yml, .yaml or .py file"):
        load(write("r.json", "{}"))
