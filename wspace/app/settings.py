"""Values that depend on where a tensor stands: one number, a gradient over the layers, or a list of filters.

    weight: 0.5                                  # a number
    weight: [0, 0.3, 1]                          # a gradient: piecewise linear from the first layer to the last
    weight:                                      # filters: the first that matches the tensor's name wins
      - filter: mlp                              # a substring of the name
        value: [0, 1]                            # a number or a gradient
      - where: 'attn.*(query|key)'               # our addition: a regular expression, searched in the name
        value: 0.2
      - value: 0.1                               # no filter, or '*': every other tensor

This is mergekit's rule (its documentation and behaviour, version 0.1): a tensor of layer i of n stands at
t = i / (n - 1), at t = 1 if n is 1, and at t = 0 if it belongs to no layer (embeddings, final norm, head).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from wspace.app.node import ANY, Node, Range

Number = float | int | bool

_LAYER = re.compile(r"(?:^|[./])(?:layers?|h|blocks?)[._/]([0-9]+)(?=[./]|$)")


class Parameter(NamedTuple):
    """What a method accepts under one name: its type (float, int or bool), range and default."""

    kind: type[Number]
    default: Number | None = None
    range: Range = ANY
    required: bool = False


class Branch(NamedTuple):
    """The points of a gradient (one point: a constant) and the names that it is for; neither given: all names."""

    points: tuple[Number, ...]
    filter: str | None = None
    where: str | None = None

    def matches(self, name: str) -> bool:
        if self.where is not None:
            return re.search(self.where, name) is not None
        return self.filter is None or self.filter in name


@dataclass(frozen=True)
class Setting:
    """The value of one parameter: branches in order, and where it was written."""

    branches: tuple[Branch, ...]
    place: str


def read_setting(node: Node, parameter: Parameter) -> Setting:
    """Validate one parameter's value in any of its forms.

    Raises:
      RecipeError: wrong type, out of range, empty, or a mixture; with file and line.
    """
    if isinstance(node.value, dict):
        return Setting((_branch(node, parameter),), node.place)
    if isinstance(node.value, list) and any(isinstance(item.value, dict) for item in node.items()):
        return Setting(tuple(_branch(item, parameter) for item in node.items()), node.place)
    return Setting((Branch(_points(node, parameter)),), node.place)


def evaluate(setting: Setting, name: str, layer: int | None = None, layers: int = 1) -> Number | None:
    """The value for one tensor; None where no filter matches.

    Args:
      setting: from `read_setting`.
      name: the tensor's name.
      layer: its layer, 0 to layers - 1; None outside the layers.
      layers: how many layers the model (or the slice) has.
    Example:
      >>> ramp = Setting((Branch((0.0, 1.0, 0.0), filter="mlp"), Branch((0.5,))), "recipe.yml:1")
      >>> [evaluate(ramp, "layers.0.mlp", i, 5) for i in range(5)], evaluate(ramp, "layers.0.attn", 0, 5)
      ([0.0, 0.5, 1.0, 0.5, 0.0], 0.5)
    """
    for branch in setting.branches:
        if branch.matches(name):
            return _interpolate(branch.points, position(layer, layers))
    return None


def position(layer: int | None, layers: int) -> float:
    """Where a layer stands between the first (0) and the last (1)."""
    if layer is None:
        return 0.0
    return 1.0 if layers == 1 else layer / (layers - 1)


def layer_of(name: str) -> tuple[str, int] | None:
    """The stack that a tensor belongs to and its layer there; None outside the layers.

    >>> layer_of("model.layers.12.mlp.up_proj.weight"), layer_of("params/blocks_3/kernel"), layer_of("lm_head.weight")
    (('model.layers', 12), ('params/blocks', 3), None)
    """
    found = _LAYER.search(name)
    return (name[: found.start(1) - 1], int(found[1])) if found else None


def layer_counts(names: Iterable[str]) -> dict[str, int]:
    """How many layers each stack has: its greatest layer number and one."""
    counts: dict[str, int] = {}
    for stack, layer in filter(None, map(layer_of, names)):
        counts[stack] = max(counts.get(stack, 0), layer + 1)
    return counts


def _interpolate(points: tuple[Number, ...], t: float) -> Number:
    if len(points) == 1:
        return points[0]
    scaled = t * (len(points) - 1)
    left = min(int(scaled), len(points) - 2)
    part = scaled - left
    return (1 - part) * points[left] + part * points[left + 1]


def _branch(node: Node, parameter: Parameter) -> Branch:
    if not isinstance(node.value, dict):
        raise node.error(f"mixes numbers with filters: write 'value: ...' before {node.shown}")
    found = node.fields({"value", "filter", "where"})
    if "value" not in found:
        raise node.error("a filter needs a 'value'")
    if "filter" in found and "where" in found:
        raise node.error("has both 'filter' (a substring) and 'where' (a regular expression): keep one")
    text = found["filter"].text() if "filter" in found else None
    where = found["where"].pattern() if "where" in found else None
    return Branch(_points(found["value"], parameter), None if text == "*" else text, where)


def _points(node: Node, parameter: Parameter) -> tuple[Number, ...]:
    if isinstance(node.value, list):
        if parameter.kind is not float:
            raise node.error("can't change gradually from layer to layer: write one value, or filters")
        return tuple(_scalar(item, parameter) for item in node.items())
    return (_scalar(node, parameter),)


def _scalar(node: Node, parameter: Parameter) -> Number:
    if parameter.kind is bool:
        return node.boolean()
    if parameter.kind is int:
        return node.integer(parameter.range)
    return node.number(parameter.range)
