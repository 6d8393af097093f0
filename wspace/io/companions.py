"""What lies beside the weights: config, tokenizer and other files that go through unchanged, and the model card."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from wspace.core.errors import FormatError, WspaceError, printable
from wspace.io.header import PICKLES, parse_json
from wspace.io.manifest import digest_of
from wspace.io.stage import MANIFEST

WEIGHTS = (
    *PICKLES,
    ".safetensors",
    ".h5",
    ".msgpack",
    ".onnx",
    ".onnx_data",
    ".gguf",
    ".ot",
    ".npz",
    ".npy",
    ".tflite",
)
CARD = "README.md"
NOT_OURS_TO_COPY = (MANIFEST, "report.html", "ledger.json", ".git", ".cache", ".DS_Store")  # of a run, or of a tool
ORBAX = "_METADATA"


def is_companion(name: str) -> bool:
    """Whether a file goes through: not weights, an index of weights, a pickle, a manifest of ours, or a tool's own.

    >>> [is_companion(n) for n in ("config.json", "model.safetensors", "x.index.json", ".gitattributes")]
    [True, False, False, True]
    """
    low = name.lower()
    return not (low.endswith((*WEIGHTS, ".index.json")) or name in NOT_OURS_TO_COPY)


def companions(folder: str | Path) -> list[str]:
    """Relative paths of the files that go through, subfolders included; a link that leaves the folder is refused."""
    root = Path(folder)
    if (root / ORBAX).exists():
        return []  # an Orbax directory is all weights
    return sorted(path.relative_to(root).as_posix() for path in _walk(root, root.resolve()))


def _walk(folder: Path, root: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if not is_companion(entry.name) or (entry / ORBAX).exists() or (entry / "adapter_config.json").exists():
            continue
        if entry.is_symlink() and not entry.resolve().is_relative_to(root):
            where = f"{printable(entry)} is a link out of its folder"
            raise FormatError(f"{where}; copy the files themselves (cp -rL) and use the copy")
        if entry.is_dir() and entry.is_symlink():
            raise FormatError(f"{printable(entry)} is a link to a folder; copy the folder itself")
        if entry.is_dir():
            yield from _walk(entry, root)
        elif entry.is_file():
            yield entry


def copy_companions(source: str | Path, destination: str | Path) -> list[str]:
    """Copies a model folder's other files into an output that is being written (a sink's `directory`).

    A file that is there already stays. Returns the relative paths that were copied.
    """
    source, destination = Path(source), Path(destination)
    if not source.is_dir():
        return []
    copied = []
    for name in companions(source):
        target = destination / name
        if target.exists():
            continue
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target)
        except OSError as error:
            shown = f"{printable(source / name)} cannot be copied to {printable(target)}"
            raise WspaceError(f"{shown}: {error.strerror or error}") from error
        copied.append(name)
    return copied


class Difference(NamedTuple):
    """One entry in which the folders are not alike: a key of a JSON file, or a whole file (key '')."""

    file: str
    key: str
    values: tuple[str, ...]  # one a folder

    def __str__(self) -> str:
        return f"{printable(' '.join(filter(None, self[:2])))}: {' | '.join(map(printable, self.values))}"


def config_differences(folders: Iterable[str | Path]) -> list[Difference]:
    """How configs, tokenizers and other companions differ between models; the model card is not compared.

    JSON objects of up to 1 MB are compared by key, all else by digest. 'absent' stands for what a folder lacks.
    """
    roots = [Path(folder) for folder in folders]
    names = sorted({name for root in roots if root.is_dir() for name in companions(root)} - {CARD})
    return [difference for name in names for difference in _differences(name, [root / name for root in roots])]


def _differences(name: str, files: list[Path]) -> Iterator[Difference]:
    digests = [digest_of(file)[1][:12] if file.is_file() else "absent" for file in files]
    if len(set(digests)) == 1:
        return
    fields = [_json_fields(file) for file in files]
    if "absent" in digests or None in fields:
        yield Difference(name, "", tuple(digests))
        return
    tables = [table for table in fields if table is not None]
    for key in sorted(set().union(*tables)):
        values = tuple(table.get(key, "absent") for table in tables)
        if len(set(values)) > 1:
            yield Difference(name, key, values)


def _json_fields(file: Path) -> dict[str, str] | None:
    if file.suffix != ".json" or not file.is_file() or file.stat().st_size > 10**6:
        return None
    try:
        parsed = parse_json(file.read_bytes(), file.name)
    except FormatError:
        return None
    return {key: _short(value) for key, value in parsed.items()}


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 60 else f"{text[:57]}... ({len(text)} characters)"


def model_card(what: str, inputs: Mapping[str, Mapping[str, str]], recipe: str = "", base: str | None = None) -> str:
    """A short model card in Markdown: what it is, from which inputs (path -> file -> sha256), by which recipe."""
    front = ["---", "library_name: transformers", "tags:", "- wspace", "- merge"]
    if base is not None:
        front += [f"base_model: {json.dumps(base)}"]
    lines = [*front, "---", "", f"# {printable(what)}", "", "Made by wspace from:", ""]
    for path, digests in inputs.items():
        lines.append(f"- `{printable(path)}`")
        lines += [f"  - `{printable(file)}` sha256 `{digest}`" for file, digest in sorted(digests.items())]
    if recipe:
        lines += ["", "Recipe:", "", *(f"    {line}" for line in recipe.splitlines())]
    return "\n".join(lines) + "\n"


def write_card(destination: str | Path, text: str) -> None:
    """Writes the card. What the folder's README said (the base's card) follows it, without its front matter."""
    path = Path(destination) / CARD
    old = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    old = re.sub(r"\A---\n.*?\n---\n", "", old, flags=re.DOTALL).strip()
    path.unlink(missing_ok=True)
    path.write_text(f"{text}\n# The base's own card\n\n{old}\n" if old else text, encoding="utf-8")
