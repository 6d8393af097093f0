"""Where a recipe's weights come from: local folders, folders inside an installed package, noisy copies of either.

Nothing is downloaded and nothing is imported: a package's folder is found without running the package.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wspace.app.node import Node, Range
from wspace.core.errors import MissingExtra, RecipeError, listed, nearest, printable


@dataclass(frozen=True)
class Folder:
    """A checkpoint on disk (a folder, or one file in it), and where the recipe names it."""

    path: Path
    place: str = ""


@dataclass(frozen=True)
class Package:
    """An installed package that ships a checkpoint folder."""

    name: str
    place: str = ""


@dataclass(frozen=True)
class Perturbed:
    """Source `of` plus Gaussian noise, its deviation `noise` times the leaf's own, on leaves that match `where`."""

    of: str
    noise: float
    seed: int = 0
    where: str | None = None
    place: str = ""


@dataclass(frozen=True)
class Adapter:
    """Source `of` with the PEFT adapter of a folder on it: its leaves as LoRA nodes, or merged."""

    path: Path
    of: str
    merged: bool = False
    place: str = ""


Source = Folder | Package | Perturbed | Adapter


def read_sources(node: Node) -> dict[str, Source]:
    """Validate the `sources` section; no folder is looked at yet.

    Raises:
      RecipeError: unknown key, bad value, a URL, a perturbation of what does not exist or of itself.
    """
    found: dict[str, Source] = {}
    for name, child in node.mapping().items():
        if not name or os.path.normpath(name) != name:
            raise child.error(f"{name!r} can't name a source: write it without ./, // or a slash at the end")
        found[name] = _source(child)
    if not found:
        raise node.error("names no source")
    for name, source in found.items():
        _check_origin(name, source, found)
    return found


def located(sources: Mapping[str, Any]) -> dict[str, Any]:
    """The same sources with packages replaced by their folder; every folder is there. Other kinds pass through.

    Raises:
      RecipeError: no such folder, or a package that ships none.
      MissingExtra: the package is not installed.
    """
    found: dict[str, Any] = {}
    for name, source in sources.items():
        if isinstance(source, Package):
            found[name] = Folder(_shipped(source), source.place)
            continue
        if isinstance(source, Folder | Adapter) and not source.path.exists():
            advice = "wspace reads local folders only and downloads nothing"
            raise RecipeError(printable(f"{source.place}: no such folder {_shown(source.path)}: {advice}"))
        if isinstance(source, Folder | Adapter):
            _check_kind(source)
        found[name] = source
    return found


def _check_kind(source: Folder | Adapter) -> None:
    """A PEFT folder is named as one, with its base."""
    peft = (source.path / "adapter_config.json").is_file()
    if isinstance(source, Folder) and peft:
        advice = "write {adapter: {path: ..., of: SOURCE}}, or model+adapter in a mergekit file"
        raise RecipeError(printable(f"{source.place}: {_shown(source.path)} is a PEFT adapter, no model: {advice}"))
    if isinstance(source, Adapter) and not peft:
        raise RecipeError(printable(f"{source.place}: {_shown(source.path)} is no PEFT adapter (adapter_config.json)"))


def inputs(sources: Mapping[str, Any]) -> list[Folder | Adapter]:
    """The sources that lie in a folder."""
    return [source for source in sources.values() if isinstance(source, Folder | Adapter)]


def check_out(out: str | Path, folders: Iterable[Folder | Adapter], *, overwrite: bool = False) -> None:
    """Refuse an output folder that is, holds, or lies inside an input; or that has something in it.

    Raises:
      RecipeError: names both folders, or says that `--overwrite` is needed.
    """
    target = Path(out).resolve()
    for folder in folders:
        source = folder.path.resolve()
        if target == source or source in target.parents or target in source.parents:
            relation = "is" if target == source else "lies inside" if source in target.parents else "holds"
            raise RecipeError(printable(f"the output {out} {relation} the input {folder.path} ({folder.place})"))
    if target.exists() and not target.is_dir():
        raise RecipeError(printable(f"the output {out} exists and is not a folder"))
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise RecipeError(
            printable(f"the output {out} exists and is not empty: add --overwrite or name another folder")
        )


def folder(text: str, place: str) -> Folder:
    """A folder as a recipe writes it: relative to where the command runs, `~` for home."""
    return Folder(Path(text).expanduser(), place)


def _source(node: Node) -> Source:
    if not isinstance(node.value, dict):
        return folder(_path(node), node.place)
    found = node.fields(("path", "package", "perturb", "adapter"))
    if len(found) != 1:
        raise node.error("needs exactly one of path, package, perturb, adapter")
    if "adapter" in found:
        return _adapter(found["adapter"])
    if "path" in found:
        return folder(_path(found["path"]), found["path"].place)
    if "package" in found:
        name = found["package"].text()
        if not name.isidentifier():
            raise found["package"].error(f"{name!r} is not the name of a package (a dotted name would run code)")
        return Package(name, found["package"].place)
    return _perturbed(found["perturb"])


def _path(node: Node) -> str:
    text = node.text()
    if "://" in text:
        raise node.error(f"{text!r} is a URL: wspace reads local folders only")
    return text


def _adapter(node: Node) -> Adapter:
    found = node.fields(("path", "of"))
    for name in ("path", "of"):
        if name not in found:
            raise node.error(f"needs {name!r}")
    return Adapter(Path(_path(found["path"])).expanduser(), found["of"].text(), place=node.place)


def _perturbed(node: Node) -> Perturbed:
    found = node.fields(("of", "noise", "seed", "where"))
    for name in ("of", "noise"):
        if name not in found:
            raise node.error(f"needs {name!r}")
    return Perturbed(
        of=found["of"].text(),
        noise=found["noise"].number(Range(0)),
        seed=found["seed"].integer(Range(0)) if "seed" in found else 0,
        where=found["where"].pattern() if "where" in found else None,
        place=node.place,
    )


def _check_origin(name: str, source: Source, every: Mapping[str, Source]) -> None:
    seen = [name]
    while isinstance(source, Perturbed | Adapter):
        if source.of not in every:
            raise RecipeError(printable(f"{source.place}: no source {source.of!r}.{nearest(source.of, every)}"))
        if source.of in seen:
            raise RecipeError(printable(f"{source.place}: source {name!r} is made of itself"))
        seen.append(source.of)
        source = every[source.of]


def _shipped(package: Package) -> Path:
    spec = importlib.util.find_spec(package.name)
    if spec is None:
        install = f"pip install --no-deps {package.name.replace('_', '-')}"
        raise MissingExtra(printable(f"{package.place}: package {package.name} is not installed: {install}"))
    roots = [Path(root) for root in spec.submodule_search_locations or []]
    around = [path for root in roots for path in [root, *sorted(root.iterdir())] if path.is_dir()]
    found = [path for path in around if any(path.glob("*.safetensors"))]
    if len(found) != 1:
        what = listed(path for path in found) or "none"
        raise RecipeError(
            printable(f"{package.place}: package {package.name} must ship one model folder, found {what}")
        )
    return found[0]


def _shown(path: Path) -> str:
    return str(path) if path.is_absolute() else f"./{path}"
