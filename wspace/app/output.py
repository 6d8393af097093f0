"""What a recipe says about its output: file formats, shard size, dtype."""

from __future__ import annotations

from dataclasses import dataclass

from wspace.app.node import Node
from wspace.core.errors import WspaceError
from wspace.core.sizes import bytes_in

DTYPES = ("bfloat16", "float16", "float32", "float64")
FORMATS = ("safetensors", "orbax", "peft")
SHARD_SIZE = 5_000_000_000
TRANSFORM = "transform"  # the label of the progress that is told in bytes, not in steps


@dataclass(frozen=True)
class Output:
    """Formats to write, bytes of a shard at most, and the dtype of float leaves (None keeps each leaf's own)."""

    formats: tuple[str, ...] = ("safetensors",)
    shard_size: int = SHARD_SIZE
    dtype: str | None = None


def read_output(node: Node | None) -> Output:
    """Validate the `output` section; absent keys take their defaults."""
    found = node.fields(("formats", "shard_size", "dtype")) if node is not None else {}
    formats, shard = found.get("formats"), found.get("shard_size")
    names = tuple(item.text(FORMATS) for item in formats.items()) if formats else Output.formats
    if formats and len(set(names)) < len(names):
        raise formats.error("names a format twice")
    try:
        count = bytes_in(shard.text()) if shard else SHARD_SIZE
    except WspaceError as problem:
        raise shard.error(str(problem)) if shard else problem from None
    return Output(names, count, found["dtype"].text(DTYPES) if "dtype" in found else None)
