"""mergekit's YAML, read strictly: what mergekit ignores or stumbles over later is an error with its line here.

Top keys, the model and slice forms, precedence of parameters and defaults are mergekit's; the forms of a value are in
`settings`, the methods in `mergekit_methods`, the checks between parts in `mergekit_checks`. No file is opened.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from wspace.app.mergekit_checks import check_models, check_parameters, check_vocabulary
from wspace.app.mergekit_methods import METHODS, Method
from wspace.app.mergekit_recipe import Input, MergeRecipe, Slice
from wspace.app.mergekit_tokens import read_vocabulary
from wspace.app.node import Node, Range
from wspace.app.output import DTYPES
from wspace.app.settings import Parameter, Setting, read_setting
from wspace.core.errors import RecipeError, nearest, printable

KEYS = (
    "merge_method", "base_model", "models", "slices", "parameters", "dtype", "out_dtype", "tokenizer_source",
    "tokenizer", "chat_template", "name",
)  # fmt: skip

_REFUSED = {"modules": "not supported: wspace knows no architectures; list the whole models under 'models'"}
_REFUSED_SLICE = {"residual_weight": "not supported (mergekit reads it and does nothing with it): remove it"}
_REFUSED_MODEL = {
    "revision": "not supported: wspace reads local folders, which have no revisions",
    "override_architecture": "not supported: wspace knows no architectures",
}


def read_mergekit(documents: Sequence[Node], known: Collection[str] | None = None) -> tuple[MergeRecipe, ...]:
    """Validate the documents of a mergekit file; the stages come back in the order to run them in, the result last.

    Args:
      documents: from `yaml_strict.parse`; all but the last have a `name`.
      known: names that models must be among; None takes any name as a folder.
    Raises:
      RecipeError: anything that mergekit would ignore, misread or fail on later; with file and line.
    """
    stages = [_Document().read(node) for node in documents]
    named: dict[str, MergeRecipe] = {}
    for stage in stages:
        if stage.name is None and stage is not stages[-1]:
            raise RecipeError(printable(f"{stage.place}: only the last stage may go without a 'name'"))
        if stage.name is not None and stage.name in named:
            raise RecipeError(printable(f"{stage.place}: two stages are named {stage.name!r}"))
        named |= {stage.name: stage} if stage.name is not None else {}
    for stage in stages:
        for model, place in stage.referenced.items():
            base, _, adapter = model.partition("+")
            if adapter and (known is not None or base in named):
                where = "in 'sources', as {adapter: {path: ..., of: ...}}" if known is not None else "on a folder"
                raise RecipeError(printable(f"{place}: {model!r}: an adapter is put {where}, not on a stage here"))
            if known is not None and model not in known and model not in named:
                raise RecipeError(printable(f"{place}: no source {model!r}.{nearest(model, {*known, *named})}"))
    return _ordered(stages, named)


def _ordered(stages: Sequence[MergeRecipe], named: Mapping[str, MergeRecipe]) -> tuple[MergeRecipe, ...]:
    """The stages that the last one needs, each after what it is made of; any other is an error."""
    done: list[MergeRecipe] = []

    def visit(stage: MergeRecipe, above: tuple[MergeRecipe, ...]) -> None:
        if any(stage is other for other in above):
            raise RecipeError(printable(f"{stage.place}: stage {stage.name!r} is made of itself"))
        if any(stage is other for other in done):
            return
        for model in stage.referenced:
            if model in named:
                visit(named[model], (*above, stage))
        done.append(stage)

    visit(stages[-1], ())
    for stage in stages:
        if not any(stage is other for other in done):
            raise RecipeError(printable(f"{stage.place}: no later stage uses {stage.name!r}: its result would be lost"))
    return tuple(done)


class _Document:
    """Reads one document and remembers where each model was named first."""

    def __init__(self) -> None:
        self.named: dict[str, str] = {}

    def read(self, node: Node) -> MergeRecipe:
        found = node.fields(KEYS, _REFUSED)
        if "merge_method" not in found:
            raise node.error("no 'merge_method'")
        name = found["merge_method"].text(METHODS)
        method = METHODS[name]
        if ("models" in found) == ("slices" in found):
            raise node.error("give either 'models' or 'slices'")
        base = self.model(found["base_model"]) if "base_model" in found else None
        listed = found["models"].items() if "models" in found else []
        sliced = found["slices"].items() if "slices" in found else []
        recipe = MergeRecipe(
            method=name,
            base=base,
            models=tuple(self.input(item, method, sliced=False) for item in listed),
            slices=tuple(self.slice(item, method, base) for item in sliced),
            parameters=_parameters(found.get("parameters"), {**method.each, **method.whole}, name),
            dtype=_dtype(found.get("dtype")),
            out_dtype=_dtype(found.get("out_dtype")),
            tokenizer=read_vocabulary(found, self.model),
            chat_template=_chat_template(found.get("chat_template")),
            name=found["name"].text() if "name" in found else None,
            referenced=self.named,
            place=found["merge_method"].place,
        )
        for group in recipe.groups:
            check_models(recipe, group)
            check_parameters(recipe, group)
        check_vocabulary(recipe)
        return recipe

    def slice(self, node: Node, method: Method, base: str | None) -> Slice:
        found = node.fields({"sources", "base_model", "parameters"}, _REFUSED_SLICE)
        if "sources" not in found:
            raise node.error("a slice needs 'sources'")
        sources = tuple(self.input(item, method, sliced=True) for item in found["sources"].items())
        counts = {source.layers[1] - source.layers[0] for source in sources if source.layers}
        if len(counts) > 1:
            raise found["sources"].error(f"must take the same number of layers from each model, not {sorted(counts)}")
        own = self.model(found["base_model"]) if "base_model" in found else base
        parameters = _parameters(found.get("parameters"), {**method.each, **method.whole}, "a slice")
        return Slice(sources, own, parameters, node.place)

    def input(self, node: Node, method: Method, *, sliced: bool) -> Input:
        wanted = ("model", "layer_range", "parameters") if sliced else ("model", "parameters")
        found = node.fields(wanted)
        for name in wanted[:-1]:
            if name not in found:
                raise node.error(f"needs {name!r}")
        own = found.get("parameters")
        for name, child in own.mapping().items() if own else ():
            if name in method.whole:
                raise child.error("is a setting of the whole merge: write it under the top 'parameters'")
        layers = _layer_range(found["layer_range"]) if sliced else None
        return Input(self.model(found["model"]), _parameters(own, method.each, "a model"), found["model"].place, layers)

    def model(self, node: Node) -> str:
        """A model's name: a folder, a source or an earlier stage, perhaps with an adapter on it, as `model+adapter`; or
        mergekit's mapping {model: {path: ...}, lora: {path: ...}}."""
        if isinstance(node.value, dict):
            found = node.fields({"model", "path", "lora"}, _REFUSED_MODEL)
            adapter = found.pop("lora", None)
            if len(found) != 1:
                raise node.error("must name one model")
            return (
                self.adapted(self.model(*found.values()), [_folder(adapter)], node)
                if adapter
                else self.model(*found.values())
            )
        name, *adapters = _folder(node).split("+")
        name = os.path.normpath(name)
        self.named.setdefault(name, node.place)
        return self.adapted(name, adapters, node) if adapters else name

    def adapted(self, model: str, adapters: Sequence[str], node: Node) -> str:
        if len(adapters) > 1 or "+" in model or not model or not all(adapters):
            raise node.error("takes one adapter on one model: model+adapter")
        name = f"{model}+{os.path.normpath(adapters[0])}"
        self.named.setdefault(name, node.place)
        return name


def _folder(node: Node) -> str:
    """The text of a path, which may stand in a mapping {path: ...}."""
    if isinstance(node.value, dict):
        found = node.fields({"path"}, _REFUSED_MODEL)
        if not found:
            raise node.error("needs 'path'")
        return _folder(found["path"])
    text = node.text()
    if "://" in text:
        raise node.error(f"{text!r} is a URL: wspace reads local folders only")
    return text


def _layer_range(node: Node) -> tuple[int, int]:
    ends = node.items()
    if len(ends) != 2:
        raise node.error("must be [start, end]: the first layer, and the layer after the last")
    start, end = (item.integer(Range(0)) for item in ends)
    if start >= end:
        raise node.error(f"[{start}, {end}] has no layers: the end is the layer after the last")
    return start, end


def _parameters(node: Node | None, known: Mapping[str, Parameter], owner: str) -> dict[str, Setting]:
    if node is None:
        return {}
    if not known and node.mapping():
        raise node.error(f"{owner} takes no parameters here")
    return {name: read_setting(child, known[name]) for name, child in node.fields(known).items()}


def _dtype(node: Node | None) -> str | None:
    return None if node is None else replace(node, value=node.text().removeprefix("torch.")).text(DTYPES)


def _chat_template(node: Node | None) -> str | None:
    if node is None:
        return None
    text = node.text()
    if text != "auto" and "{" not in text:
        raise node.error(
            f"{text!r} is neither 'auto' nor a Jinja text: wspace ships no templates, write the text itself"
        )
    return text
