"""mergekit's slices: the layers of a model put together from layers of others, as sources under the new numbers.

Each source of the result stands at one place in the slices' lists: tree k has the k-th model of each, renumbered.

Tensors outside of the layers come from the first slice if their name says embedding, else (final norm, head) from the
last one, as mergekit's tables of architectures have it; wspace has no such tables and goes by the names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from wspace.app.changes import set_layers
from wspace.app.mergekit_recipe import Input, MergeRecipe, Slice
from wspace.app.settings import layer_counts, layer_of
from wspace.app.weights import Weights
from wspace.core.errors import RecipeError, listed, printable
from wspace.io.source import Named

_BEFORE = re.compile(r"embed(?!_out)|(?:^|[._])(?:wte|wpe|embd|shared|rotary\w*)(?:[._]|$)")


class Place(NamedTuple):
    """Where a tensor of the result stands: its slice, its layer there (None outside), how many layers the slice has,
    and the name of the tensor in each of the slice's models."""

    group: Slice
    layer: int | None
    layers: int
    inputs: Mapping[str, str]


class Stack(NamedTuple):
    """Sources by name, the models among them in order, the base; and the place of every tensor."""

    sources: dict[str, Weights]
    models: tuple[str, ...]
    base: str | None
    places: dict[str, Place]


class Renamed(Named[Any]):
    """Leaves of several sources under other names."""

    def __init__(self, where: Mapping[str, tuple[Weights, str]]) -> None:
        self.where = where
        self.specs = {name: source.specs[own] for name, (source, own) in where.items()}

    def __getitem__(self, name: str) -> Any:
        source, own = self.where[name]
        return source[own]


def order(merge: MergeRecipe, group: Slice) -> tuple[str, ...]:
    """The models of a slice in the order of the transform's trees: those that are merged, slerp's base before them."""
    merged = tuple(source.model for source in merge.merged(group))
    return (group.base, *merged) if merge.method == "slerp" and group.base is not None else merged


def restacked(merge: MergeRecipe, sources: Mapping[str, Weights]) -> Stack:
    """The sources of a recipe of slices.

    Raises:
      RecipeError: a model without layers or with several stacks of them, a range beyond its last layer, models of one
        slice whose layers have other tensors; with the line.
    """
    places = _places(merge, sources)
    lists = {group.place: order(merge, group) for group in merge.groups}
    most = max(len(models) for models in lists.values())
    made: dict[str, Weights] = {}

    def source(label: str, choose: Any) -> str:
        where = {}
        for name, place in places.items():
            model = choose(place.group)
            where[name] = (sources[model], place.inputs[model])
        renamed = Renamed(where)
        weights = made[label] = Weights(label, renamed, renamed.specs)
        donor = sources[merge.base or merge.groups[0].sources[0].model]
        weights.folder, weights.metadata, weights.allow_nonfinite = (
            donor.folder,
            donor.metadata,
            True,
        )  # checked below it
        weights.changes = (*donor.changes, _layers(merge))
        weights.origin = f"layers of {listed(dict.fromkeys(w.label for w, _ in where.values()))}"
        return label

    models = tuple(
        source(f"stack {k + 1}", lambda g, k=k: lists[g.place][min(k, len(lists[g.place]) - 1)]) for k in range(most)
    )
    based = any(group.base in {source.model for source in group.sources} for group in merge.groups)
    first = {group.place: group.sources[0].model for group in merge.groups}
    base = source("stack of the base", lambda g: g.base or first[g.place]) if based else None
    return Stack(made, models, base, places)


def _layers(merge: MergeRecipe) -> Any:
    taken = [i for group in merge.groups for i in range(*(group.sources[0].layers or (0, 0)))]
    return set_layers(len(taken), taken)


def _places(merge: MergeRecipe, sources: Mapping[str, Weights]) -> dict[str, Place]:
    """Every tensor of the result, in the order of the layers."""
    stacks = {s.model: _stack(s, sources[s.model]) for group in merge.groups for s in group.sources}
    first, last = merge.groups[0], merge.groups[-1]
    found: dict[str, Place] = {}
    for name in sources[first.sources[0].model].specs:
        if layer_of(name) is None and _BEFORE.search(name):
            found[name] = Place(first, None, _count(first), _outside(name, first, sources))
    start = 0
    for group in merge.groups:
        found |= _slice(group, start, stacks, sources)
        start += _count(group)
    for name in sources[last.sources[0].model].specs:
        if layer_of(name) is None and not _BEFORE.search(name):
            found[name] = Place(last, None, _count(last), _outside(name, last, sources))
    return found


def _slice(group: Slice, start: int, stacks: Mapping[str, str], sources: Mapping[str, Weights]) -> dict[str, Place]:
    """The tensors of one slice, its first layer becoming layer `start`; named as in its first model."""
    found: dict[str, Place] = {}
    lead, count = group.sources[0], _count(group)
    stack = stacks[lead.model]
    for i in range(count):
        first, *others = [_layer_names(s, stacks[s.model], i, sources[s.model]) for s in group.sources]
        for own, names in zip(group.sources[1:], others, strict=True):
            if odd := sorted(first.keys() ^ names.keys()):
                where = f"layer {_layer(own, i)} of {own.model} and layer {_layer(lead, i)} of {lead.model}"
                raise _error(own.place, f"{where} differ in {listed(odd, 5)}")
        for end, name in first.items():
            inputs = {s.model: names[end] for s, names in zip(group.sources, (first, *others), strict=True)}
            found[f"{stack}{name[len(stack)]}{start + i}{end}"] = Place(group, i, count, inputs)
    return found


def _stack(source: Input, weights: Weights) -> str:
    """The one stack of layers that a model has."""
    counts = layer_counts(weights.specs)
    if len(counts) != 1:
        what = f"{len(counts)} stacks of layers ({listed(counts)})" if counts else "no layers (no name like layers.0.)"
        raise _error(source.place, f"slices need a model with one stack of layers, and {source.model} has {what}")
    ((stack, count),) = counts.items()
    if source.layers is not None and source.layers[1] > count:
        raise _error(source.place, f"layer_range {list(source.layers)} of {source.model} ends after its {count} layers")
    return stack


def _layer_names(source: Input, stack: str, i: int, weights: Weights) -> dict[str, str]:
    """What stands after the number in the names of one layer -> the name."""
    number = _layer(source, i)
    names = [name for name in weights.specs if layer_of(name) == (stack, number)]
    return {name[len(stack) + 1 + len(str(number)) :]: name for name in names}


def _outside(name: str, group: Slice, sources: Mapping[str, Weights]) -> dict[str, str]:
    for source in group.sources:
        if name not in sources[source.model].specs:
            raise _error(source.place, f"{source.model} has no {name}, which {group.sources[0].model} has")
    return {source.model: name for source in group.sources}


def _layer(source: Input, i: int) -> int:
    return (source.layers or (0, 0))[0] + i


def _count(group: Slice) -> int:
    start, end = group.sources[0].layers or (0, 0)
    return end - start


def _error(place: str, message: str) -> RecipeError:
    return RecipeError(printable(f"{place}: {message}"))
