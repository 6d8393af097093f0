"""What a merge changes in the files that go through beside the weights: the number of layers, the vocabulary, texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wspace.core.errors import FormatError, printable
from wspace.io.header import LONGEST, parse_json

CONFIG = "config.json"
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
KINDS = "layer_types"  # one entry a layer


class Change(NamedTuple):
    """What it is about, and what it does to a folder that is still hidden; returns what the user should know."""

    about: str
    apply: Callable[[Path], list[str]]


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file; None without one.

    Raises:
      FormatError: larger than 100 MB, not JSON, a key twice; names the file.
    """
    if not path.is_file():
        return None
    if path.stat().st_size > LONGEST:
        raise FormatError(f"{printable(path)}: more than {LONGEST} bytes of JSON")
    return parse_json(path.read_bytes(), printable(path))


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """An object as Hugging Face's files have it."""
    path.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def set_layers(count: int, taken: Sequence[int]) -> Change:
    """The number of layers into config.json; of a list with an entry a layer, the entries of the layers taken."""

    def apply(folder: Path) -> list[str]:
        config = read_json(folder / CONFIG)
        named = [key for key in LAYERS if config and key in config]
        if config is None or not named:
            return [f"{CONFIG} names no number of layers ({', '.join(LAYERS)}): set it to {count} by hand"]
        kinds = config.get(KINDS)
        if isinstance(kinds, list) and max(taken) < len(kinds):
            config[KINDS] = [kinds[i] for i in taken]
        write_json(folder / CONFIG, config | dict.fromkeys(named, count))
        return [f"{CONFIG}: {named[0]} is {count} now"]

    return Change("layers", apply)


def set_vocabulary(rows: int) -> Change:
    """The rows of the embedding into config.json."""

    def apply(folder: Path) -> list[str]:
        config = read_json(folder / CONFIG)
        if config is None or "vocab_size" not in config:
            return [f"{CONFIG} has no vocab_size: set it to {rows} by hand"]
        if config["vocab_size"] == rows:
            return []
        write_json(folder / CONFIG, config | {"vocab_size": rows})
        return [f"{CONFIG}: vocab_size is {rows} now"]

    return Change("vocabulary", apply)


def set_dtype(dtype: str) -> Change:
    """The dtype of the weights into config.json, under the name that it has there."""

    def apply(folder: Path) -> list[str]:
        config = read_json(folder / CONFIG) or {}
        named = [key for key in ("torch_dtype", "dtype") if config.get(key, dtype) != dtype]
        if named:
            write_json(folder / CONFIG, config | dict.fromkeys(named, dtype))
        return []

    return Change("dtype", apply)
