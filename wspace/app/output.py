"""What a recipe says about its output: file formats, shard size, dtype."""

from __future__ import annotations

import re
from dataclasses import dataclass

from wspace.app.node import Node
from wspace.core.errors import RecipeError, printable

DTYPES = ("bfloat16", "float16", "float32", "float64")
FORMATS = ("safetensors", "orbax", "peft")
SHARD_SIZE = 5_000_000_000
TRANSFORM = "transform"  # the label of the progress that is told in bytes, not in steps

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]?)(i?)B?", re.IGNORECASE)


@dataclass(frozen=True)
class Output:
    """Formats to write, bytes of a shard at most, and the dtype of float leaves (None keeps each leaf's own)."""

    formats: tuple[str, ...] = ("safetensors",)
    shard_size: int = SHARD_SIZE
    dtype: str | None = None


def size(text: str) -> int:
    """Bytes from a size as people write it: KB, MB, GB, TB in thousands, KiB, MiB, GiB, TiB in 1024.

    >>> size("5GB"), size("1.5 MiB"), size("4096")
    (5000000000, 1572864, 4096)
    """
    found = _SIZE.fullmatch(text.strip())
    count = (
        0
        if found is None
        else int(float(found[1]) * (1024 if found[3] else 1000) ** " KMGT".index(found[2].upper() or " "))
    )
    if count < 1:
        raise RecipeError(printable(f"{text!r} is not a size: write bytes or, say, 500MB or 5GB"))
    return count


def read_output(node: Node | None) -> Output:
    """Validate the `output` section; absent keys take their defaults."""
    found = node.fields(("formats", "shard_size", "dtype")) if node is not None else {}
    formats, shard = found.get("formats"), found.get("shard_size")
    names = tuple(item.text(FORMATS) for item in formats.items()) if formats else Output.formats
    if formats and len(set(names)) < len(names):
        raise formats.error("names a format twice")
    try:
        count = size(shard.text()) if shard else SHARD_SIZE
    except RecipeError as problem:
        raise shard.error(str(problem)) if shard else problem from None
    return Output(names, count, found["dtype"].text(DTYPES) if "dtype" in found else None)
