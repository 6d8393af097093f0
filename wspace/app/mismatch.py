"""A recipe's models made to match by its policy, and what that changes in the files that go through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wspace.app.changes import Change, set_vocabulary
from wspace.app.vocabulary import holds_tokens
from wspace.app.weights import Weights
from wspace.core.reconcile import Reconciled, reconcile
from wspace.core.transform import Transform


def matched(
    policy: str,
    models: Sequence[str],
    base: str | None,
    sources: Mapping[str, Weights],
    build: Callable[[Mapping[str, Weights]], Transform],
) -> tuple[Mapping[str, Weights], Transform, tuple[str, ...]]:
    """The sources with models and base that match, the transform that `build` makes for them, and a note a leaf.

    Raises:
      TreeMismatch: shapes that the policy can't make match.
    """
    if policy == "refuse":
        return sources, build(sources), ()
    own = [name for name in models if name != base]
    found = reconcile(*(sources[name] for name in own), base=sources[base] if base else None, policy=policy)  # type: ignore[arg-type]
    changes = _changes(found)
    made = dict(sources)
    fitted = dict(zip(own, found.trees, strict=True)) | ({base: found.base} if base is not None else {})
    for name, leaves in fitted.items():
        made[name] = _weights(sources[name], leaves, changes) if found.treated else sources[name]
    notes = tuple(f"mismatch {policy}: {leaf}" for leaf in found.treated)
    return made, found.merge(build(made)), notes


def _weights(like: Weights, leaves: Any, changes: Sequence[Change]) -> Weights:
    made = like.changed(*changes)
    made.source, made.specs, made.allow_nonfinite = leaves, leaves.specs, True  # the weights below it are checked
    names = set(made.specs)
    if like.structure is not None and names != set(like.specs):
        made.structure = None  # names nest as dots say
    return made


def _changes(found: Reconciled) -> list[Change]:
    """The rows of the embedding into config.json, if they are others now."""
    rows = {
        leaf.shape[0]
        for leaf in found.treated
        if leaf.shape and holds_tokens(leaf.path) and len({s[0] for s in leaf.shapes if s}) > 1
    }
    return [set_vocabulary(rows.pop())] if len(rows) == 1 else []
