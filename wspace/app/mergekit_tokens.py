"""The tokenizer part of a mergekit document: which vocabulary the result has, and rules for single tokens.

tokenizer:
  source: union                       # or base, or a model; 'tokenizer_source: union' is the same without rules
  tokens:
    <|im_start|>: {source: ./chat, force: true}
    <|pad|>: {source: {kind: zero}}
    <|end|>: {source: {kind: model_token, model: ./base, token: </s>}}   # or token_id: 2
  pad_to_multiple_of: 64
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from wspace.app.node import Node, Range


class Rule(NamedTuple):
    """Where the row of one token comes from: a model's row for `token` (text, or a row's number; None is the token
    itself), or zeros if `model` is None. `force`: also in models that have the token."""

    model: str | None
    token: str | int | None
    force: bool
    place: str


@dataclass(frozen=True)
class Vocabulary:
    """source: "base", "union" or a model's name. tokens: token -> Rule. multiple: of which the rows are a multiple."""

    source: str
    place: str
    tokens: Mapping[str, Rule] = field(default_factory=dict)
    multiple: int = 1


def read_vocabulary(found: Mapping[str, Node], model: Callable[[Node], str]) -> Vocabulary | None:
    """The keys `tokenizer_source` and `tokenizer` of a document; `model` reads a model's name.

    Raises:
      RecipeError: both keys, an unknown one, a rule that says nothing; with file and line.
    """
    if "tokenizer" in found and "tokenizer_source" in found:
        raise found["tokenizer"].error("give either 'tokenizer' or 'tokenizer_source'")
    if "tokenizer_source" in found:
        return Vocabulary(_source(found["tokenizer_source"], model), found["tokenizer_source"].place)
    if "tokenizer" not in found:
        return None
    node = found["tokenizer"]
    parts = node.fields(("source", "tokens", "pad_to_multiple_of"))
    rules = (
        {token: _rule(child, model) for token, child in parts["tokens"].mapping().items()} if "tokens" in parts else {}
    )
    multiple = parts["pad_to_multiple_of"].integer(Range(1)) if "pad_to_multiple_of" in parts else 1
    return Vocabulary(_source(parts["source"], model) if "source" in parts else "union", node.place, rules, multiple)


def _source(node: Node, model: Callable[[Node], str]) -> str:
    return str(node.value) if node.value in ("base", "union") else model(node)


def _rule(node: Node, model: Callable[[Node], str]) -> Rule:
    found = node.fields(("source", "force"))
    if "source" not in found:
        raise node.error("needs 'source': a model, {kind: model_token, ...} or {kind: zero}")
    force = found["force"].boolean() if "force" in found else False
    source = found["source"]
    if not isinstance(source.value, dict) or "kind" not in source.value:
        return Rule(model(source), None, force, node.place)
    kind = source.value["kind"].text(("model_token", "zero"))
    if kind == "zero":
        source.fields(("kind",))
        return Rule(None, None, force, node.place)
    parts = source.fields(("kind", "model", "token", "token_id"))
    if "model" not in parts or ("token" in parts) == ("token_id" in parts):
        raise source.error("a model_token needs a 'model' and either 'token' or 'token_id'")
    token = parts["token"].text() if "token" in parts else parts["token_id"].integer(Range(0))
    return Rule(model(parts["model"]), token, force, node.place)
