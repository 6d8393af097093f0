"""From the text of a recipe to the arguments of a function: names and types are checked against its signature."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from wspace.app.node import Node
from wspace.app.override import Assignment, unknown
from wspace.core.errors import RecipeError, nearest, printable

_READERS: dict[Any, Callable[[Node], Any]] = {
    bool: Node.boolean,
    int: Node.integer,
    float: Node.number,
    str: Node.text,
}
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def signature(function: Callable[..., Any]) -> inspect.Signature:
    """A function's signature with its annotations as types where they can be resolved."""
    try:
        return inspect.signature(function, eval_str=True)
    except (NameError, AttributeError, TypeError):
        return inspect.signature(function)


def bind(name: str, given: Mapping[str, Node], wanted: inspect.Signature, place: str) -> dict[str, Any]:
    """Arguments for a call, converted by annotation or, without one, by the default's type.

    Args:
      name: the function's, for messages.
      given: argument names and their nodes.
      wanted: the function's signature.
      place: where the call stands, for a missing argument.
    Raises:
      RecipeError: unknown name (with the nearest), wrong type, or a required argument that is missing.
    """
    known = {key: parameter for key, parameter in wanted.parameters.items() if parameter.kind in _NAMED}
    for key, node in given.items():
        if key not in known:
            raise RecipeError(printable(f"{node.place}: {name} has no argument {key!r}.{nearest(key, known)}"))
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in given:
            raise RecipeError(printable(f"{place}: {name} needs the argument {key!r}"))
    return {key: convert(node, known[key]) for key, node in given.items()}


def keywords(function: Callable[..., Any], assignments: Iterable[Assignment]) -> dict[str, Any]:
    """Keyword arguments from `--set name=value`; `--set name.key=value` changes a copy of a mapping default."""
    wanted = signature(function)
    known = {key: parameter for key, parameter in wanted.parameters.items() if parameter.kind in _NAMED}
    found: dict[str, Any] = {}
    for each in assignments:
        name, *inner = each.path.split(".")
        if name not in known:
            raise unknown(each.value.place, name, known)
        if not inner:
            found[name] = convert(each.value, known[name])
            continue
        default = found.get(name, known[name].default)
        found[name] = _changed(default, inner, each)
    return found


def convert(node: Node, parameter: inspect.Parameter) -> Any:
    """One value, by the parameter's annotation, else by the type of its default, else as plain data."""
    wanted = parameter.annotation
    if wanted is parameter.empty or isinstance(wanted, str):  # a string could not be resolved
        wanted = type(parameter.default) if type(parameter.default) in _READERS else Any
    union = typing.get_origin(wanted) in (typing.Union, types.UnionType)
    members = typing.get_args(wanted) if union else (wanted,)
    if node.is_null and (types.NoneType in members or parameter.default is None):
        return None
    valued = [member for member in members if member is not types.NoneType]
    if len(valued) == 1 and valued[0] in _READERS:
        return _READERS[valued[0]](node)
    value = node.plain()
    if not any(_fits(value, member) for member in valued):
        literals = [member for member in valued if typing.get_origin(member) is typing.Literal]
        choices = [str(choice) for member in literals for choice in typing.get_args(member)]
        raise node.error(
            f"does not take {node.shown}.{nearest(str(value), choices) if choices else f' Wanted: {wanted}.'}"
        )
    return value


def _fits(value: object, wanted: Any) -> bool:
    """Whether plain data is of an annotation's type; True for annotations that have no text form."""
    origin = typing.get_origin(wanted)
    if origin is typing.Literal:
        return value in typing.get_args(wanted)
    if wanted in _READERS:
        return type(value) is wanted or (wanted is float and type(value) is int)
    if (origin or wanted) in (tuple, list, Sequence):
        return isinstance(value, tuple)
    return True


def _changed(default: object, keys: list[str], each: Assignment) -> Any:
    """A copy of a mapping with one existing entry replaced by a value of the same type."""
    if not isinstance(default, Mapping):
        raise RecipeError(printable(f"{each.value.place}: the argument is no mapping, nothing lies inside it"))
    if keys[0] not in default:
        raise unknown(each.value.place, keys[0], [str(key) for key in default])
    old = default[keys[0]]
    if len(keys) > 1:
        return {**default, keys[0]: _changed(old, keys[1:], each)}
    return {**default, keys[0]: convert(each.value, inspect.Parameter("value", _NAMED[1], default=old))}
