"""Deleted, a public method could have no row, and so obey no law at all."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

from tests.rows import ROWS

ROOMS = [
    "interpolate",
    "average",
    "merge",
    "match",
    "prune",
    "quant",
    "reparam",
    "optim",
    "init",
    "supernet",
    "generate",
    "objectives",
    "budget",
]


def factories(kind: str) -> dict[str, object]:
    """Public functions of the method rooms whose annotated result is `kind`."""
    found = {}
    for room in ROOMS:
        try:
            module = import_module(f"wspace.{room}")
        except ModuleNotFoundError as error:
            if error.name == f"wspace.{room}":
                continue
            raise
        for name, item in vars(module).items():
            if inspect.isfunction(item) and not name.startswith("_"):
                returns = str(item.__annotations__.get("return", ""))
                if returns.rsplit(".", 1)[-1] == kind:
                    found[f"{room}.{name}"] = item
    return found


def test_every_transform_has_a_row() -> None:
    assert factories("Transform").keys() - {r.name.partition("(")[0] for r in ROWS} == set()


def test_every_gradient_transformation_has_a_row() -> None:
    made = factories("GradientTransformation") | factories("GradientTransformationExtraArgs")
    if made:
        rows = import_module("tests.optax_rows").OPTAX_ROWS
        assert made.keys() - {r.name.partition("(")[0] for r in rows} == set()


def test_rows_name_real_factories_and_are_unique() -> None:
    names = [r.name for r in ROWS]
    assert len(set(names)) == len(names)
    for row in ROWS:
        room, name = row.name.partition("(")[0].split(".")
        assert getattr(import_module(f"wspace.{room}"), name)


@pytest.mark.parametrize("section", ["Scope:", "Returns:", "Example:", "Reference:", "Differs from the paper:"])
def test_every_factory_documents(section: str) -> None:
    silent = [name for name, f in factories("Transform").items() if section not in (inspect.getdoc(f) or "")]
    assert silent == []
