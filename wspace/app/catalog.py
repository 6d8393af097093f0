"""The catalog of methods: found in the rooms, described by their docstrings, never written by hand."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module, util
from typing import Any

from wspace.app.arguments import signature

SMOOTH = ("interpolate", "average", "merge")  # rooms whose traced arguments have gradients, unless "in steps"
ROOMS = (
    "interpolate average merge match prune quant reparam optim init supernet generate objectives budget measure".split()
)
_SECTION = re.compile(r"^(\w[\w ]*): ?(.*)$")


@dataclass(frozen=True)
class Method:
    """One public function of a room.

    Attributes:
      name: "room.function". function: it. kind: "Transform", "GradientTransformation" or "function".
      signature: with annotations as types. doc: its docstring. sections: "Scope", "Reference", ... to their text.
    """

    name: str
    function: Callable[..., Any]
    kind: str
    signature: inspect.Signature
    doc: str
    sections: Mapping[str, str]

    @property
    def summary(self) -> str:
        return self.doc.partition("\n")[0]

    @property
    def traced(self) -> dict[str, bool]:
        """The numeric arguments that may vary without compiling, and whether the result follows them smoothly.

        The docstring says "Traced." of an argument, or "Traced, in steps." if thresholds or masks hang on it.
        """
        names, args = "|".join(self.signature.parameters) or "$.", " ".join(self.sections.get("Args", "").split())
        parts = re.split(rf"(?<![\w`.])((?:{names})(?:, (?:{names}))*): ", args)
        said = dict(zip(parts[1::2], parts[2::2], strict=True))
        return {n: "Traced, in steps" not in s for names, s in said.items() if "Traced" in s for n in names.split(", ")}

    @property
    def differentiable(self) -> list[str]:
        """The arguments of a Transform through which gradients are right; a law holds each to finite differences."""
        smooth = self.kind == "Transform" and self.name.partition(".")[0] in SMOOTH
        return [name for name, follows in self.traced.items() if smooth and follows]


@cache
def catalog() -> dict[str, Method]:
    """Every public function of the rooms, by name."""
    found: dict[str, Method] = {}
    for room in ROOMS:
        if util.find_spec(f"wspace.{room}") is None:
            continue
        for name, item in vars(import_module(f"wspace.{room}")).items():
            function = inspect.unwrap(item) if callable(item) and not inspect.isclass(item) else None
            if inspect.isfunction(function) and function.__module__.startswith("wspace.") and not name.startswith("_"):
                found[f"{room}.{name}"] = _described(f"{room}.{name}", item, function)
    return dict(sorted(found.items()))


def transforms() -> dict[str, inspect.Signature]:
    """What a recipe's steps may name: factories of Transforms, with their signatures."""
    return {name: method.signature for name, method in catalog().items() if method.kind == "Transform"}


def _described(name: str, item: Callable[..., Any], function: Callable[..., Any]) -> Method:
    returns = str(function.__annotations__.get("return", "")).rsplit(".", 1)[-1]
    kind = "GradientTransformation" if returns.startswith("GradientTransformation") else returns
    doc = inspect.getdoc(function) or ""
    kind = kind if kind in ("Transform", "GradientTransformation") else "function"
    return Method(name, item, kind, signature(function), doc, _sections(doc))


def _sections(doc: str) -> dict[str, str]:
    """Text by heading; a heading starts at the margin and its text goes on in indented lines."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in doc.splitlines()[1:]:
        heading = _SECTION.match(line)
        if heading:
            current = found.setdefault(heading[1], [])
            current.append(heading[2])
        elif line.startswith(" ") or not line:
            current.append(line.strip())
    return {name: "\n".join(lines).strip() for name, lines in found.items()}
