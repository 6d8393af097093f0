"""Without this file a mergekit recipe could be misread, or a mistake in it could go through, as it does in mergekit."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from wspace.app.mergekit import read_mergekit
from wspace.app.mergekit_methods import METHODS
from wspace.app.mergekit_recipe import MergeRecipe
from wspace.app.settings import Parameter
from wspace.app.yaml_strict import parse
from wspace.core.errors import RecipeError

TIES = """
models:
  - model: m/base          # no parameters: it is the base
  - model: m/math
    parameters:
      density: [1, 0.7, 0.1]
      weight: 1.0
  - model: ./m/code/
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1]
  - model: m/chat
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: ./m/base
parameters:
  normalize: true
  int8_mask: true
dtype: torch.float16
"""
SLICES = """
slices:
  - sources:
      - {model: a, layer_range: [0, 24]}
      - {model: b, layer_range: [0, 24], parameters: {weight: 3}}
    parameters: {weight: 2}
  - sources:
      - model: {model: {path: b}}
        layer_range: [20, 40]
merge_method: linear
parameters: {weight: 1, normalize: off}
base_model: a
"""
# method: parameters of each model, parameters of the whole; "name!" is required. From mergekit 0.1.5's registry.
TASK = "normalize={n} rescale={r} lambda=1.0 int8_mask=False"
TABLE = {
    "linear": ("weight!", "normalize=True"),
    "slerp": ("", "t!"),
    "nuslerp": ("weight!", "nuslerp_row_wise=False nuslerp_flatten=True"),
    "multislerp": ("weight!", "normalize_weights=True eps=1e-08"),
    "karcher": ("", "max_iter=10 tol=1e-05"),
    "task_arithmetic": ("weight! density=1.0", TASK.format(n=False, r=False)),
    "ties": ("weight! density=1.0", TASK.format(n=True, r=False)),
    "dare_linear": ("weight! density=1.0", TASK.format(n=False, r=True)),
    "dare_ties": ("weight! density=1.0", TASK.format(n=False, r=True)),
    "della": ("weight! density=1.0 epsilon=0.15", TASK.format(n=True, r=True)),
    "della_linear": ("weight! density=1.0 epsilon=0.15", TASK.format(n=False, r=True)),
    "breadcrumbs": ("weight! density=1.0 gamma=0.01", TASK.format(n=False, r=False)),
    "breadcrumbs_ties": ("weight! density=1.0 gamma=0.01", TASK.format(n=False, r=False)),
    "sce": ("", "select_topk=1.0 int8_mask=False"),
    "ram": ("", "epsilon=1e-05"),
    "ramplus_tl": ("", "epsilon=1e-05 r=0.1 alpha=0.2"),
    "model_stock": ("", "filter_wise=False"),
    "nearswap": ("", "t!"),
    "arcee_fusion": ("", ""),
    "passthrough": ("scale=None", ""),
}


def read(text: str) -> MergeRecipe:
    (recipe,) = read_mergekit(parse(text, "r.yml"))
    return recipe


def test_names_and_defaults_are_mergekits() -> None:
    def shown(parameters: Mapping[str, Parameter]) -> str:
        return " ".join(f"{name}!" if p.required else f"{name}={p.default}" for name, p in parameters.items())

    assert {name: (shown(method.each), shown(method.whole)) for name, method in METHODS.items()} == TABLE


def test_models_with_gradients_and_filters() -> None:
    recipe = read(TIES)
    assert (recipe.method, recipe.base, recipe.dtype) == ("ties", "m/base", "float16")
    assert recipe.referenced == {"m/base": "r.yml:20", "m/math": "r.yml:4", "m/code": "r.yml:8", "m/chat": "r.yml:12"}
    last = recipe.values("layers.3.mlp.up", 3, 4)
    assert last.whole == {"normalize": True, "rescale": False, "lambda": 1.0, "int8_mask": True}
    assert last.each == {
        "m/math": {"weight": 1.0, "density": 0.1},
        "m/code": {"weight": 1.0, "density": 0.5},
        "m/chat": {"weight": 0.5, "density": 0.33},
    }
    middle = recipe.values("layers.1.attn.q", 1, 3)
    assert middle.each["m/math"] == {"weight": 1.0, "density": 0.7}
    assert middle.each["m/code"]["weight"] == 0.5  # half-way between 0.3 and 0.7
    assert middle.each["m/chat"]["weight"] == 0


def test_slices_and_precedence() -> None:
    recipe = read(SLICES)
    first, second = recipe.groups
    assert [source.layers for source in (*first.sources, *second.sources)] == [(0, 24), (0, 24), (20, 40)]
    assert recipe.values("w", 0, 24, first).each == {"a": {"weight": 2}, "b": {"weight": 3}}
    assert recipe.values("w", 0, 20, second).each == {"b": {"weight": 1}}
    assert recipe.values("w", 0, 20, second).whole == {"normalize": False}


def test_a_model_with_an_adapter_is_named_by_both() -> None:
    for model in ("./m/a+b/", "{model: m/a, lora: {path: b}}", "{model: {path: m/a}, lora: b}"):
        recipe = read(f"merge_method: linear\nmodels: [{{model: {model}}}]\nparameters: {{weight: 1}}")
        assert [m.model for m in recipe.models] == ["m/a+b"] and list(recipe.referenced) == ["m/a", "m/a+b"]


def test_a_filter_without_fallback_falls_through_to_the_next_level() -> None:
    text = """
merge_method: linear
models:
  - {model: a, parameters: {weight: {filter: mlp, value: 3}}}
  - {model: b, parameters: {weight: 1}}
"""
    assert read(text + "parameters: {weight: 2}").values("attn", 0, 2).each["a"] == {"weight": 2}
    with pytest.raises(
        RecipeError, match=r"r.yml:2: linear: no 'weight' for model a at tensor attn: no filter matches"
    ):
        read(text).values("attn", 0, 2)


def test_the_checks_are_repeated_for_the_tensors_that_there_are() -> None:
    """The weights sum to zero half-way from the first layer to the last, where one stands if their number is odd."""
    recipe = read("""
merge_method: linear
models:
  - {model: a, parameters: {weight: [-1, 2]}}
  - {model: b, parameters: {weight: [0, -1]}}
""")
    assert recipe.values("w", 1, 4).each["a"]["weight"] == pytest.approx(0)
    with pytest.raises(RecipeError, match=r"the weights 0.5, -0.5 sum to zero under 'normalize: true' at tensor w"):
        recipe.values("w", 1, 3)


def test_stages_run_in_the_order_of_their_use() -> None:
    stages = """
name: second
merge_method: slerp
base_model: first
models: [{model: x}]
parameters: {t: 0.5}
---
name: first
merge_method: linear
models: [{model: x}, {model: y}]
parameters: {weight: 1}
---
merge_method: dare_ties
base_model: y
models: [{model: second, parameters: {weight: 0.5}}]
"""
    assert [stage.name for stage in read_mergekit(parse(stages, "r.yml"))] == ["first", "second", None]
    for text, message in [
        (stages.replace("model: second", "model: first"), "r.yml:3: no later stage uses 'second'"),
        (stages.replace("[{model: x}, {model: y}]", "[{model: x}, {model: second}]"), "is made of itself"),
        (stages.replace("name: second\n", "name: first\n"), "r.yml:9: two stages are named 'first'"),
        (stages.replace("name: second\n", ""), "r.yml:2: only the last stage may go without a 'name'"),
    ]:
        with pytest.raises(RecipeError, match=message):
            read_mergekit(parse(text, "r.yml"))


TWO = "models: [{model: a}, {model: b}]\n"
BASED = "base_model: base\n" + TWO
WEIGHED = "parameters: {weight: 1}\n"
GOOD = [
    "merge_method: linear\n" + TWO + WEIGHED,
    "merge_method: linear\nmodels: [{model: a}]\n" + WEIGHED,  # one model: an identity
    "merge_method: linear\nbase_model: a\n" + TWO + WEIGHED,
    "merge_method: slerp\nbase_model: a\nmodels: [{model: b}]\nparameters: {t: [0, 1, 0]}",
    "merge_method: slerp\nbase_model: a\nparameters: {t: 0}\n" + TWO,
    "merge_method: nuslerp\n" + BASED + WEIGHED,
    "merge_method: multislerp\n" + TWO + "parameters: {weight: 1, eps: 1e-9}",
    "merge_method: karcher\nparameters: {max_iter: 3}\n" + TWO,
    "merge_method: task_arithmetic\n" + BASED + "parameters: {weight: -1, lambda: 0.5}",
    "merge_method: ties\n" + BASED + "parameters: {weight: 1, density: 1}",
    "merge_method: della\n" + BASED + "parameters: {weight: 1, density: 0.5, epsilon: 0.4}",
    "merge_method: della_linear\n" + BASED + WEIGHED,  # density 1 prunes nothing, so epsilon 0.15 is fine
    "merge_method: sce\nparameters: {select_topk: 0.1}\n" + BASED,
    "merge_method: ramplus_tl\n" + BASED,
    "merge_method: model_stock\n" + BASED,
    "merge_method: nearswap\nparameters: {t: 0.0001}\nbase_model: a\n" + TWO,
    "merge_method: arcee_fusion\nbase_model: a\n" + TWO,
    "merge_method: passthrough\nmodels: [{model: a, parameters: {scale: {filter: down, value: 0}}}]",
    "merge_method: linear\ntokenizer_source: base\nchat_template: auto\nparameters:\n  weight: 1\n" + TWO,
    "merge_method: linear\ntokenizer: {source: union}\nchat_template: '{{ messages }}'\n" + TWO + WEIGHED,
    "merge_method: linear\nout_dtype: bfloat16\ndtype:\n" + TWO + WEIGHED,
]


@pytest.mark.parametrize("text", GOOD)
def test_what_mergekit_takes_and_means_something(text: str) -> None:
    recipe = read(text)
    base = None if METHODS[recipe.method].base == "none" else recipe.base
    assert list(recipe.values("w", None, 1).each) == [model.model for model in recipe.models if model.model != base]


BAD = [
    # names
    ("merge_method: tiess\n" + BASED + WEIGHED, "r.yml:1: merge_method: unknown value 'tiess'. Did you mean 'ties'?"),
    (
        "merge_method: ties\nparamters: {weight: 1}\n" + BASED,
        "r.yml:2: unknown key 'paramters'. Did you mean 'parameters'?",
    ),
    (
        "merge_method: ties\n" + BASED + "parameters:\n  weight: 1\n  densty: 0.5",
        "r.yml:6: unknown key 'densty' in parameters. Did you mean 'density'?",
    ),
    (
        "merge_method: ties\nbase_model: x\nmodels:\n- model: a\n  paramters: {weight: 1}",
        "r.yml:5: unknown key 'paramters' in models[0]",
    ),
    (
        "merge_method: ties\nbase_model: x\nmodels:\n- model: a\n  parameters: {normalize: true}",
        "r.yml:5: models[0].parameters.normalize: is a setting of the whole merge",
    ),
    (
        "merge_method: slerp\nbase_model: a\nmodels: [{model: b, parameters: {weight: 1}}]",
        "a model takes no parameters here",
    ),
    ("merge_method: linear\nmodels:\n- {modl: a}", "r.yml:3: unknown key 'modl' in models[0]. Did you mean 'model'?"),
    ("models: []", "no 'merge_method'"),
    # values
    (
        "merge_method: ties\n" + BASED + "parameters: {weight: 1, density: 1.5}",
        "r.yml:4: parameters.density: 1.5 is out of range (0, 1]",
    ),
    ("merge_method: ties\n" + BASED + "parameters: {weight: 1, density: 0}", "0 is out of range (0, 1]"),
    (
        "merge_method: ties\n" + BASED + "parameters: {weight: 1, density: [0.5, -0.5]}",
        "parameters.density[1]: -0.5 is out of range",
    ),
    (
        "merge_method: ties\n" + BASED + "parameters: {weight: 1, normalize: maybe}",
        "must be true or false, not 'maybe'",
    ),
    (
        "merge_method: ties\n" + BASED + "parameters: {weight: heavy}",
        "parameters.weight: must be a number, not 'heavy'",
    ),
    ("merge_method: slerp\nbase_model: a\nparameters: {t: 1.1}\n" + TWO, "1.1 is out of range [0, 1]"),
    ("merge_method: karcher\nparameters: {max_iter: 2.5}\n" + TWO, "must be a whole number"),
    (
        "merge_method: linear\ndtype: flaot16\n" + TWO + WEIGHED,
        "r.yml:2: dtype: unknown value 'flaot16'. Did you mean 'float16'?",
    ),
    ("merge_method: linear\nchat_template: chatml\n" + TWO + WEIGHED, "neither 'auto' nor a Jinja text"),
    # required
    ("merge_method: ties\n" + BASED, "r.yml:3: ties needs a 'weight' for model a"),
    ("merge_method: slerp\nbase_model: a\n" + TWO, "r.yml:1: slerp needs 't' under 'parameters'"),
    ("merge_method: ties\n" + TWO + WEIGHED, "r.yml:1: ties needs a 'base_model'"),
    # models and base
    ("merge_method: linear\nbase_model: c\n" + TWO + WEIGHED, "r.yml:2: linear has no base, it merges all its models"),
    (
        "merge_method: slerp\nbase_model: c\nparameters: {t: 0.5}\n" + TWO,
        "slerp takes exactly one model besides the base, found 2: a, b",
    ),
    (
        "merge_method: nuslerp\nbase_model: a\n" + TWO + WEIGHED,
        "nuslerp takes exactly 2 models besides the base, found 1: b",
    ),
    ("merge_method: model_stock\nbase_model: a\n" + TWO, "model_stock takes at least 2 models besides the base"),
    ("merge_method: sce\nbase_model: a\nmodels: [{model: a}]", "found 0: none"),
    ("merge_method: passthrough\n" + TWO, "passthrough takes exactly one model, found 2"),
    ("merge_method: linear\nmodels:\n- model: a\n- model: ./a\n" + WEIGHED, "r.yml:4: model a is listed twice"),
    (
        "merge_method: ties\nbase_model: a\nmodels:\n- {model: b}\n- {model: a, parameters: {density: 0.5}}\n"
        + WEIGHED,
        "r.yml:5: a is the base, its parameters have no effect under ties: remove its density",
    ),
    ("merge_method: linear\nslices: []\n" + TWO, "give either 'models' or 'slices'"),
    # sums and windows
    (
        "merge_method: linear\nmodels:\n- {model: a, parameters: {weight: 1}}\n- {model: b, parameters: {weight: -1}}",
        "r.yml:3: linear: the weights 1, -1 sum to zero under 'normalize: true'",
    ),
    (
        "merge_method: linear\nmodels:\n- {model: a, parameters: {weight: [1, 2]}}\n"
        "- {model: b, parameters: {weight: [0, -2]}}",
        "the weights 2, -2 sum to zero",
    ),
    (
        "merge_method: linear\nmodels:\n- {model: a, parameters: {weight: [{filter: mlp, value: 2}, {value: 1}]}}\n"
        "- {model: b, parameters: {weight: [{filter: mlp, value: -2}, {value: 1}]}}",
        "sum to zero under 'normalize: true' for tensors with 'mlp' in their name",
    ),
    ("merge_method: nuslerp\nparameters: {weight: 0}\n" + TWO, "the weights 0, 0 sum to zero"),
    (
        "merge_method: della\n" + BASED + "parameters: {weight: 1, density: 0.9}",
        "density 0.9 +- epsilon 0.15 leaves the open interval (0, 1)",
    ),
    ("merge_method: della\n" + BASED + "parameters: {weight: 1, density: 0.1}", "density 0.1 +- epsilon 0.15 leaves"),
    # slices
    (
        "merge_method: passthrough\nslices:\n- sources: [{model: a, layer_range: [4, 4]}]",
        "r.yml:3: slices[0].sources[0].layer_range: [4, 4] has no layers",
    ),
    ("merge_method: passthrough\nslices:\n- sources: [{model: a, layer_range: [0]}]", "must be [start, end]"),
    ("merge_method: passthrough\nslices:\n- sources: [{model: a}]", "slices[0].sources[0]: needs 'layer_range'"),
    (
        "merge_method: linear\nslices:\n- sources: [{model: a, layer_range: [0, 4]}, {model: b, layer_range: [0, 5]}]",
        "the same number of layers from each model, not [4, 5]",
    ),
    (
        "merge_method: ties\nbase_model: c\nslices:\n- sources: [{model: a, layer_range: [0, 4]}]\n" + WEIGHED,
        "r.yml:4: ties needs the base c among the sources of the slice",
    ),
    # known to mergekit, not supported
    ("merge_method: linear\nmodules: {vision: {}}\n", "r.yml:2: modules: not supported"),
    (
        "merge_method: linear\ntokenizer: {tokens: {a: {source: c}}}\n" + TWO + WEIGHED,
        "r.yml:2: token 'a' comes from c, which is not merged here",
    ),
    ("merge_method: linear\ntokenizer: {source: base}\ntokenizer_source: base\n" + TWO + WEIGHED, "give either"),
    ("merge_method: linear\nmodels: [{model: a+b+c}]\n" + WEIGHED, "models[0].model: takes one adapter on one model"),
    ("merge_method: linear\nmodels: [{model: {model: a, lora: {}}}]\n" + WEIGHED, "models[0].model.lora: needs 'path'"),
    (
        "merge_method: linear\nmodels: [{model: 'https://example.org/m'}]\n" + WEIGHED,
        "is a URL: wspace reads local folders only",
    ),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_what_mergekit_ignores_or_trips_over_is_an_error_with_its_line(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_mergekit(parse(text, "r.yml"))
    assert message in str(caught.value)
    assert str(caught.value).startswith("r.yml:")
    assert "\n" not in str(caught.value)
