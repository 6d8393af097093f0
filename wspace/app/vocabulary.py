"""One vocabulary for models that have several: the rows of embeddings and heads put in the order of one tokenizer.

mergekit's rule (its documentation and behaviour, version 0.1): a row of the result is, for each model, its own row of
that token. A model without the token takes the row of the only model that has it, else of the base if it has it, else
the mean of those that have it; zeros if none has. So every model has every row, and any method can merge them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from wspace.app.changes import set_vocabulary
from wspace.app.mergekit_recipe import MergeRecipe
from wspace.app.mergekit_tokens import Rule, Vocabulary
from wspace.app.settings import layer_of
from wspace.app.tokenizer import (
    PLAIN,
    Tokenizer,
    read_tokenizer,
    set_template,
    set_tokenizer,
    stripped,
    united,
    with_tokens,
)
from wspace.app.weights import Weights
from wspace.core.errors import RecipeError, TreeMismatch, nearest, printable
from wspace.core.implicit import Implicit, dense
from wspace.io import Spec
from wspace.io.source import Named

MEAN, ZERO = -1, -2  # donors that are no model
_BY_TOKEN = re.compile(r"embed|embd|wte|head|shared|output|vocab_projector|predictions")
_NOT_BY_TOKEN = re.compile(r"pos|token_type|segment|patch|norm|dense|transform")


class Rows(NamedTuple):
    """Where the rows of the result come from.

    own: model -> for each row the model's own row of that token, -1 if it has none or must not use it.
    has: model -> the same without regard to rules: what a mean is taken of.
    donor: for each row the place of the model that gives it to the others, MEAN or ZERO. row: the donor's row.
    token: which rows are tokens; the others are padding, the mean of these.
    """

    own: dict[str, np.ndarray[Any, Any]]
    has: dict[str, np.ndarray[Any, Any]]
    donor: np.ndarray[Any, Any]
    row: np.ndarray[Any, Any]
    token: np.ndarray[Any, Any]


class Reindexed(Named[Any]):
    """A model's leaves, those with a row a token in the rows of the common vocabulary."""

    def __init__(self, model: str, sources: Mapping[str, Weights], rows: Rows, by_token: Sequence[str]) -> None:
        self.model, self.sources, self.rows = model, sources, rows
        self.of, self.by_token = sources[model], frozenset(by_token)
        self.specs = {
            name: Spec((len(rows.donor), *spec.shape[1:]), np.dtype(spec.dtype)) if name in self.by_token else spec
            for name, spec in self.of.specs.items()
        }

    def __getitem__(self, name: str) -> Any:
        if name not in self.by_token:
            return self.of[name]
        rows, own, spec = self.rows, self.rows.own[self.model], self.specs[name]
        out = np.zeros(spec.shape, np.float64 if spec.dtype == np.float64 else np.float32)
        out[own >= 0] = self._leaf(self.model, name)[own[own >= 0]]
        lacks = rows.token & (own < 0)
        for place, other in enumerate(rows.own):
            if (taken := lacks & (rows.donor == place)).any():
                out[taken] = self._leaf(other, name)[rows.row[taken]]
        if (mixed := lacks & (rows.donor == MEAN)).any():
            out[mixed] = self._mean(name, mixed, out.dtype)
        if not rows.token.all():
            out[~rows.token] = out[rows.token].mean(axis=0)
        return out.astype(spec.dtype)

    def _mean(self, name: str, mixed: np.ndarray[Any, Any], dtype: Any) -> np.ndarray[Any, Any]:
        total = np.zeros((int(mixed.sum()), *self.specs[name].shape[1:]), dtype)
        count = np.zeros((len(total), *(1,) * (total.ndim - 1)), dtype)
        for other, has in self.rows.has.items():
            there = has[mixed] >= 0
            total[there] += self._leaf(other, name)[has[mixed][there]]
            count[there] += 1
        return total / count

    def _leaf(self, model: str, name: str) -> np.ndarray[Any, Any]:
        if name not in self.sources[model].specs:
            raise TreeMismatch(
                printable(f"{model} has no {name}, and {self.model} needs rows of it for its new tokens")
            )
        leaf = self.sources[model][name]
        return np.asarray(dense(leaf) if isinstance(leaf, Implicit) else leaf)


def with_vocabulary(merge: MergeRecipe, sources: Mapping[str, Weights]) -> dict[str, Weights]:
    """The sources of a document in the vocabulary that it asks for, and what that changes in the other files.

    Raises:
      RecipeError: a model without a folder, a rule for a token that its model lacks, an embedding with other rows than
        config.json says; with the line. FormatError: a tokenizer that is not understood.
    """
    models = list(dict.fromkeys(s.model for group in merge.groups for s in group.sources))
    models = [merge.base, *(m for m in models if m != merge.base)] if merge.base else models
    made = dict(sources)
    if merge.tokenizer is not None:
        made |= _reindexed(merge.tokenizer, merge.base, {name: sources[name] for name in models}, sources)
    if merge.chat_template is not None:
        folders = [folder for folder in (sources[name].folder for name in models) if folder is not None]
        for name in models:
            made[name] = made[name].changed(set_template(merge.chat_template, folders))
    return made


def _reindexed(
    wanted: Vocabulary, base: str | None, models: Mapping[str, Weights], sources: Mapping[str, Weights]
) -> dict[str, Weights]:
    tokenizers = {name: _tokenizer(weights, wanted.place) for name, weights in models.items()}
    first, *others = tokenizers.values()
    if wanted.source == "union":
        result = united(first, others)
    elif wanted.source == "base":
        result = stripped(first)
    else:
        result = stripped(_tokenizer(sources[wanted.source], wanted.place))
    result = with_tokens(result, [PLAIN | {"content": token} for token in wanted.tokens if token not in result.ids])
    size = max(result.ids.values()) + 1
    size += -size % wanted.multiple
    rows = _rows(wanted, base, result, size, tokenizers)
    by_token = _by_token(models, tokenizers, wanted.place)
    changes = (set_tokenizer(result), set_vocabulary(size))
    made: dict[str, Weights] = {}
    for name, weights in models.items():
        leaves = Reindexed(name, models, rows, by_token)
        made[name] = weights.changed(*changes)
        made[name].source, made[name].specs = leaves, leaves.specs
        made[name].allow_nonfinite = True  # the weights below it are checked
    return made


def _tokenizer(weights: Weights, place: str) -> Tokenizer:
    if weights.folder is None or not weights.folder.is_dir():
        raise _error(place, f"{weights.label} has no folder with a tokenizer")
    if any(change.about == "vocabulary" for change in weights.changes):
        raise _error(place, f"{weights.label} has a new vocabulary already: give every model's tokenizer to one stage")
    return read_tokenizer(weights.folder)


def _rows(
    wanted: Vocabulary, base: str | None, result: Tokenizer, size: int, tokenizers: Mapping[str, Tokenizer]
) -> Rows:
    has = {name: np.full(size, -1) for name in tokenizers}
    for name, tokenizer in tokenizers.items():
        for token, i in result.ids.items():
            has[name][i] = tokenizer.ids.get(token, -1)
    places = {name: place for place, name in enumerate(tokenizers)}
    there = np.stack([rows >= 0 for rows in has.values()])
    alone = np.argmax(there, axis=0)
    donor = np.where(there.sum(0) == 1, alone, np.where(there.any(0), MEAN, ZERO))
    if base is not None:
        donor = np.where((there.sum(0) > 1) & there[places[base]], places[base], donor)
    row = np.max(np.where(donor == np.arange(len(places))[:, None], np.stack([*has.values()]), -1), axis=0)
    own = {name: rows.copy() for name, rows in has.items()}
    for token, rule in wanted.tokens.items():
        i = result.ids[token]
        donor[i], row[i] = (ZERO, -1) if rule.model is None else (places[rule.model], _row(token, rule, tokenizers))
        for rows in own.values() if rule.force else ():
            rows[i] = -1
    tokens = np.zeros(size, bool)
    tokens[list(result.ids.values())] = True
    return Rows(own, has, donor, row, tokens)


def _row(token: str, rule: Rule, tokenizers: Mapping[str, Tokenizer]) -> int:
    """The row that a rule names."""
    tokenizer = tokenizers[str(rule.model)]
    if isinstance(rule.token, int):
        if rule.token >= tokenizer.rows:
            raise _error(rule.place, f"{rule.model} has {tokenizer.rows} rows, none with the number {rule.token}")
        return rule.token
    text = rule.token or token
    if text not in tokenizer.ids:
        raise _error(rule.place, f"{rule.model} has no token {text!r}.{nearest(text, tokenizer.ids)}")
    return tokenizer.ids[text]


def holds_tokens(name: str) -> bool:
    """Whether a leaf's name is that of an embedding of tokens or a head over them, outside of the layers.

    >>> [holds_tokens(n) for n in ("model.embed_tokens.weight", "lm_head.weight", "model.position_embeddings.weight")]
    [True, True, False]
    """
    return bool(_BY_TOKEN.search(name)) and not _NOT_BY_TOKEN.search(name) and layer_of(name) is None


def _by_token(models: Mapping[str, Weights], tokenizers: Mapping[str, Tokenizer], place: str) -> list[str]:
    """The leaves with a row a token: embeddings and heads outside of the layers, by name and number of rows."""
    first, *_ = models
    found = [
        name
        for name, spec in models[first].specs.items()
        if holds_tokens(name)
        and 1 <= len(spec.shape) <= 2 and spec.shape[0] == tokenizers[first].rows
    ]  # fmt: skip
    if not found:
        raise _error(place, f"{first} has no embedding of {tokenizers[first].rows} rows, the vocab_size of its config")
    for name in found:
        for model, weights in models.items():
            if name in weights.specs and weights.specs[name].shape[0] != tokenizers[model].rows:
                have = f"{name} of {model} has {weights.specs[name].shape[0]} rows"
                raise _error(place, f"{have}, and its config.json says vocab_size {tokenizers[model].rows}")
    return found


def _error(place: str, message: str) -> RecipeError:
    return RecipeError(printable(f"{place}: {message}"))
