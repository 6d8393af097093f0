"""Tokenizers as Hugging Face's tokenizer.json has them: read, cut to the rows that a model has, united, written.

No tokenizer is run: tokens have texts and numbers, and a new one is appended behind the old.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wspace.app.changes import CONFIG, Change, read_json, write_json
from wspace.core.errors import FormatError, printable

JSON, SETTINGS, ADDED, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "added_tokens.json", "chat_template.jinja"
FILES = (
    JSON, SETTINGS, ADDED, TEMPLATE, "special_tokens_map.json", "tokenizer.model", "merges.txt", "vocab.json",
    "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "chat_template.json",
)  # fmt: skip
PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}


class Tokenizer(NamedTuple):
    """A model's tokenizer: its folder, tokenizer.json, and token -> row, of the rows that the model has."""

    folder: Path
    raw: dict[str, Any]
    ids: dict[str, int]
    rows: int

    @property
    def added(self) -> list[dict[str, Any]]:
        """The entries of tokens that were added to the vocabulary, by number."""
        entries = [entry for entry in self.raw.get("added_tokens", []) if entry["id"] < self.rows]
        return sorted(entries, key=lambda entry: entry["id"])


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder.

    Raises:
      FormatError: no tokenizer.json, or one without a vocabulary that is understood; names the file.
    """
    shown = printable(folder / JSON)
    raw = read_json(folder / JSON)
    if raw is None:
        raise FormatError(f"{shown}: no such file: which rows of the embedding are which tokens is not known")
    ids = dict(_vocabulary(raw, shown))
    added = raw.get("added_tokens") or []
    if not all(isinstance(e, dict) and type(e.get("id")) is int and isinstance(e.get("content"), str) for e in added):
        raise FormatError(f"{shown}: added_tokens must be a list of entries with id and content")
    ids |= {entry["content"]: entry["id"] for entry in added}
    config = read_json(folder / CONFIG) or {}
    rows = config.get("vocab_size", max(ids.values(), default=-1) + 1)
    if type(rows) is not int or rows < 1:
        raise FormatError(f"{printable(folder / CONFIG)}: vocab_size must be a number of rows, not {printable(rows)}")
    return Tokenizer(folder, raw, {token: i for token, i in ids.items() if i < rows}, rows)


def _vocabulary(raw: Mapping[str, Any], shown: str) -> Iterable[tuple[str, int]]:
    model = raw.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, dict) and all(type(i) is int for i in vocab.values()):
        return vocab.items()
    if isinstance(vocab, list) and all(isinstance(e, list) and e and isinstance(e[0], str) for e in vocab):
        return ((entry[0], i) for i, entry in enumerate(vocab))
    raise FormatError(f"{shown}: model.vocab must map tokens to numbers, or list tokens with scores")


def stripped(tokenizer: Tokenizer) -> Tokenizer:
    """Without the tokens that the model has no row for.

    Raises:
      FormatError: some of them are in a vocabulary other than BPE's, from which none can be taken.
    """
    raw = dict(tokenizer.raw, added_tokens=tokenizer.added)
    model = dict(raw["model"])
    vocab = model["vocab"]
    beyond = {token for token, i in _vocabulary(raw, "") if i >= tokenizer.rows}
    if beyond:
        if model.get("type") != "BPE":
            where = f"{printable(tokenizer.folder / JSON)}: {len(beyond)} tokens have numbers from {tokenizer.rows} on"
            raise FormatError(f"{where}, beyond the rows of the model; only a BPE vocabulary can be cut")
        model["vocab"] = {token: i for token, i in vocab.items() if token not in beyond}
        model["merges"] = [m for m in model.get("merges", []) if not beyond & _merged(m)]
        raw["model"] = model
    return tokenizer._replace(raw=raw)


def _merged(merge: Any) -> set[str]:
    """The two tokens of a merge and the one that they become."""
    pair = merge.split(" ") if isinstance(merge, str) else list(merge)
    return {*pair, "".join(pair)}


def united(base: Tokenizer, others: Sequence[Tokenizer]) -> Tokenizer:
    """The base with every token that another model has and it has not, in the order of the models and their numbers."""
    result = stripped(base)
    infos: dict[str, dict[str, Any]] = {}
    plain: dict[str, None] = {}
    for tokenizer in (base, *others):
        own = {entry["content"]: entry for entry in tokenizer.added}
        for token, _ in sorted(tokenizer.ids.items(), key=lambda item: item[1]):
            if token not in own:
                plain[token] = None
        for token, entry in own.items():
            infos.setdefault(token, entry)
    new = [PLAIN | {"content": token} for token in plain if token not in base.ids and token not in infos]
    return with_tokens(result, [*new, *infos.values()])


def with_tokens(tokenizer: Tokenizer, entries: Iterable[Mapping[str, Any]]) -> Tokenizer:
    """The tokenizer with more added tokens; one that is in its vocabulary keeps its number."""
    ids, added = dict(tokenizer.ids), list(tokenizer.raw.get("added_tokens") or [])
    known = {entry["content"] for entry in added}
    following = max(ids.values(), default=-1) + 1
    for entry in entries:
        token = entry["content"]
        if token in known:
            continue
        known.add(token)
        if token not in ids:
            ids[token], following = following, following + 1
        added.append({"id": ids[token], **{key: value for key, value in entry.items() if key != "id"}})
    raw = tokenizer.raw | {"added_tokens": sorted(added, key=lambda entry: entry["id"])}
    return tokenizer._replace(raw=raw, ids=ids, rows=max(tokenizer.rows, following))


def set_tokenizer(tokenizer: Tokenizer) -> Change:
    """A tokenizer's files into the folder: its folder's own, with the tokens that were added or cut."""

    def apply(folder: Path) -> list[str]:
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
            if (tokenizer.folder / name).is_file():
                shutil.copyfile(tokenizer.folder / name, folder / name)
        if tokenizer.raw != read_json(tokenizer.folder / JSON):
            write_json(folder / JSON, tokenizer.raw)
        entries = {str(entry["id"]): entry for entry in tokenizer.raw.get("added_tokens") or []}
        settings = read_json(folder / SETTINGS)
        if settings is not None and "added_tokens_decoder" in settings:
            bare = {n: {k: v for k, v in entry.items() if k != "id"} for n, entry in entries.items()}
            old = {n: entry for n, entry in settings["added_tokens_decoder"].items() if n in bare}
            write_json(folder / SETTINGS, settings | {"added_tokens_decoder": {n: old.get(n, bare[n]) for n in bare}})
        if read_json(folder / ADDED) is not None:
            write_json(folder / ADDED, {entry["content"]: entry["id"] for entry in entries.values()})
        return []

    return Change("tokenizer", apply)


def set_template(text: str, folders: Sequence[Path]) -> Change:
    """A chat template into the folder; "auto" takes the one that most of the models have."""

    def apply(folder: Path) -> list[str]:
        found = text
        if text == "auto":
            theirs = [template for template in map(template_of, folders) if template]
            if not theirs:
                return ["chat_template: auto, but no model has a template"]
            found = max(theirs, key=theirs.count)
        settings = read_json(folder / SETTINGS) or {}
        write_json(folder / SETTINGS, settings | {"chat_template": found})
        if (folder / TEMPLATE).exists():
            (folder / TEMPLATE).write_text(found, encoding="utf-8")
        return []

    return Change("chat_template", apply)


def template_of(folder: Path) -> str | None:
    """A model's chat template: of chat_template.jinja, or of tokenizer_config.json."""
    if (folder / TEMPLATE).is_file():
        return (folder / TEMPLATE).read_text(encoding="utf-8").strip()
    template = (read_json(folder / SETTINGS) or {}).get("chat_template")
    if isinstance(template, list):  # [{"name": ..., "template": ...}]
        template = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
    if isinstance(template, dict):
        template = template.get("default")
    return template.strip() if isinstance(template, str) else None
