"""Without this file rooms would grow into each other, files into drawers, and a door to other people's code could open.

One function a rule: it takes a source file and yields what is wrong with it. Each rule is shown a file that breaks it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {
    *("interpolate", "average", "merge", "match", "prune", "quant", "reparam", "optim"),
    *("init", "supernet", "generate", "measure", "objectives", "budget"),
}
FOUNDATION = {"core", "trace", "stats", "calibrate"}  # what the rooms stand on
DRAWERS = {"utils", "util", "common", "helpers", "helper", "base", "misc"}
UNSAFE_MODULES = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
NETWORK_MODULES = {"urllib.request", "http", "socket", "requests", "ftplib", "huggingface_hub"}
UNSAFE_CALLS = {"eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}
MARKS = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|raise NotImplementedError|placeholder|stub\b")


class Source(NamedTuple):
    """One file of the product: where it lies, as parts from the repository root, and what it says."""

    parts: tuple[str, ...]
    text: str
    tree: ast.Module
    nodes: tuple[ast.AST, ...]  # of the tree, walked once

    @property
    def room(self) -> str:
        """`merge` for wspace/merge/ties.py; empty for the files of the package itself and for the kernels."""
        return self.parts[1] if self.parts[0] == "wspace" and len(self.parts) > 2 else ""


def source(path: str, text: str) -> Source:
    tree = ast.parse(text)
    return Source(tuple(path.split("/")), text, tree, tuple(ast.walk(tree)))


@cache
def product() -> list[Source]:
    files = [p for top in ("wspace", "kernels") for p in sorted((ROOT / top).rglob("*.py"))]
    return [source(p.relative_to(ROOT).as_posix(), p.read_text(encoding="utf-8")) for p in files]


def imports(s: Source) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of everything that a file imports, at any depth."""
    for node in s.nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(s.parts[: len(s.parts) - node.level]) if node.level else ""
            module = ".".join(filter(None, (above, node.module)))
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def dotted(node: ast.AST) -> str:
    """`a.b.c` for a chain of attributes, else the empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := dotted(node.value)):
        return f"{owner}.{node.attr}"
    return ""


def files_are_short(s: Source) -> Iterator[str]:
    lines = len(s.text.splitlines())
    if lines > 400:
        yield f"1: {lines} lines; a file has at most 400: split it by concept"


def functions_are_short(s: Source) -> Iterator[str]:
    for node in s.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            doc = ast.get_docstring(node, clean=False)
            lines = (node.end_lineno or 0) - node.lineno + 1 - (doc.count("\n") + 1 if doc else 0)
            if lines > 60:
                yield f"{node.lineno}: {node.name} has {lines} lines of code; a function has at most 60"


def no_drawers(s: Source) -> Iterator[str]:
    for name in DRAWERS.intersection(part.removesuffix(".py") for part in s.parts):
        yield f"1: {name} is a drawer; name the file after what it holds"


def no_other_peoples_code(s: Source) -> Iterator[str]:
    """No pickle, no evaluation of text, no loader that runs what it loads, no network."""
    for line, name in imports(s):
        if any(within(name, module) for module in UNSAFE_MODULES | NETWORK_MODULES):
            yield f"{line}: imports {name}"
    for node in s.nodes:
        if isinstance(node, ast.Call) and dotted(node.func).removeprefix("builtins.") in UNSAFE_CALLS:
            yield f"{node.lineno}: calls {dotted(node.func)}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            yield f"{node.value.lineno}: passes allow_pickle"
        if isinstance(node, ast.keyword | ast.arg) and node.arg == "trust_remote_code":
            yield f"{node.lineno}: has trust_remote_code"


def no_private_jax(s: Source) -> Iterator[str]:
    if s.room == "trace":
        return
    names = [*imports(s), *((n.lineno, dotted(n)) for n in s.nodes if isinstance(n, ast.Attribute))]
    for line, name in names:
        if re.match(r"(jax|jaxlib)\.(\w+\.)*_[a-z]", name):
            yield f"{line}: {name} is private to jax"


def rooms_are_independent(s: Source) -> Iterator[str]:
    """Method rooms meet in the foundation; only the application, and the package itself, know them all."""
    if s.parts[0] != "wspace" or s.room in ("", "app"):
        return
    closed = {f"wspace.{room}" for room in ROOMS - {s.room}} if s.room in ROOMS | FOUNDATION else set()
    for line, name in imports(s):
        if name == "wspace" or any(within(name, room) for room in closed | {"wspace.app"}):
            yield f"{line}: {s.room} imports {name}; meet in core, stats or trace, or take the transform as an argument"


def only_the_application_faces_people(s: Source) -> Iterator[str]:
    if s.room == "app" or s.parts[-1] == "bench.py":
        return
    for line, name in imports(s):
        if within(name, "argparse") or within(name, "matplotlib"):
            yield f"{line}: imports {name}; wspace/app parses flags and plots"


def init_only_re_exports(s: Source) -> Iterator[str]:
    if s.parts[-1] != "__init__.py" or s.parts == ("wspace", "__init__.py"):
        return
    for node in s.tree.body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        names = isinstance(node, ast.Assign) and [dotted(t) for t in node.targets] == ["__all__"]
        if not (docstring or names or isinstance(node, ast.ImportFrom)):
            yield f"{node.lineno}: a room's __init__ only re-exports"


def no_asserts(s: Source) -> Iterator[str]:
    for node in s.nodes:
        if isinstance(node, ast.Assert):
            yield f"{node.lineno}: assert; raise one of wspace.core.errors"


def nothing_is_left_open(s: Source) -> Iterator[str]:
    for line, text in enumerate(s.text.splitlines(), 1):
        if mark := MARKS.search(text):
            yield f"{line}: {mark.group()}"


Rule = Callable[[Source], Iterator[str]]
BROKEN: list[tuple[Rule, str, str]] = [
    (files_are_short, "wspace/merge/long.py", "x = 1\n" * 401),
    (functions_are_short, "wspace/merge/long.py", "def f():\n    '''A\n    b.'''\n" + "    x = 1\n" * 60),
    (no_drawers, "wspace/merge/utils.py", ""),
    (no_drawers, "wspace/common/ties.py", ""),
    (no_other_peoples_code, "wspace/io/a.py", "import pickle"),
    (no_other_peoples_code, "wspace/io/a.py", "from joblib import load"),
    (no_other_peoples_code, "wspace/io/a.py", "def f():\n    from urllib.request import urlopen"),
    (no_other_peoples_code, "wspace/io/a.py", "eval('1')"),
    (no_other_peoples_code, "wspace/io/a.py", "import builtins\nbuiltins.exec('1')"),
    (no_other_peoples_code, "wspace/io/a.py", "yaml.load(text, Loader=yaml.Loader)"),
    (no_other_peoples_code, "wspace/io/a.py", "np.load(path, allow_pickle=flag)"),
    (no_other_peoples_code, "wspace/io/a.py", "load(path, trust_remote_code=False)"),
    (no_private_jax, "wspace/core/a.py", "from jax._src import core"),
    (no_private_jax, "wspace/core/a.py", "import jax\njax.lax._reduce(1)"),
    (rooms_are_independent, "wspace/merge/a.py", "from wspace.prune.magnitude import magnitude"),
    (rooms_are_independent, "wspace/merge/a.py", "from wspace import prune"),
    (rooms_are_independent, "wspace/merge/a.py", "from ..prune import magnitude"),
    (rooms_are_independent, "wspace/merge/a.py", "from .. import prune"),
    (rooms_are_independent, "wspace/merge/a.py", "import wspace as ws"),
    (rooms_are_independent, "wspace/core/a.py", "import wspace.merge.ties"),
    (rooms_are_independent, "wspace/io/a.py", "from wspace.app import cli"),
    (only_the_application_faces_people, "wspace/measure/a.py", "import matplotlib.pyplot as plt"),
    (init_only_re_exports, "wspace/merge/__init__.py", "def f(): ..."),
    (init_only_re_exports, "wspace/merge/__init__.py", "import os"),
    (no_asserts, "wspace/merge/a.py", "assert x"),
    (nothing_is_left_open, "wspace/merge/a.py", "x = 1  # TO" + "DO: y"),
]
FINE: list[tuple[Rule, str, str]] = [
    (files_are_short, "wspace/merge/a.py", "x = 1\n" * 400),
    (functions_are_short, "wspace/merge/a.py", "def f():\n    '''A\n    b.'''\n" + "    x = 1\n" * 59),
    (no_drawers, "wspace/merge/around_base.py", ""),
    (
        no_other_peoples_code,
        "wspace/io/a.py",
        "'eval(x)'\nyaml.safe_load(t)\nnp.load(p, allow_pickle=False)",
    ),
    (no_private_jax, "wspace/trace/a.py", "from jax._src import core"),
    (no_private_jax, "wspace/core/a.py", "import jax\nself._x = jax.Array.__add__"),
    (
        rooms_are_independent,
        "wspace/merge/a.py",
        "from wspace.core import chain\nfrom .ties import ties",
    ),
    (rooms_are_independent, "wspace/app/a.py", "import wspace as ws\nfrom wspace import merge"),
    (init_only_re_exports, "wspace/merge/__init__.py", "'''Doc.'''\nfrom .ties import ties\n__all__ = ['ties']"),
    (init_only_re_exports, "wspace/__init__.py", "def __getattr__(name): ..."),
]
RULES = list(dict.fromkeys(rule for rule, _, _ in BROKEN))


def label(value: object) -> str:
    return getattr(value, "__name__", "")


@pytest.mark.parametrize("rule", RULES, ids=label)
def test_the_product_keeps_the_rule(rule: Rule) -> None:
    wrong = [f"{'/'.join(s.parts)}:{what}" for s in product() for what in rule(s)]
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize(("rule", "path", "text"), BROKEN, ids=label)
def test_the_rule_catches(rule: Rule, path: str, text: str) -> None:
    assert list(rule(source(path, text)))


@pytest.mark.parametrize(("rule", "path", "text"), FINE, ids=label)
def test_the_rule_allows(rule: Rule, path: str, text: str) -> None:
    assert not list(rule(source(path, text)))
