"""Fold: a summary over leaves, or over batches of data.

`lift` makes a summary of one leaf (or one batch), `merge` joins two and is associative and commutative, `finish` reads
the result. So a summary can be taken leaf by leaf, file by file, device by device, in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Literal, NamedTuple

FoldScope = Literal["group", "global"]


def everything(spec: Any) -> Hashable:
    """One summary for the whole tree."""
    return ""


class Fold(NamedTuple):
    """A mergeable summary.

    lift: over leaves `(leaves, ctx) -> S`, over batches `(x) -> S`. None means: nothing to add.
    merge: `(S, S) -> S`. finish: `S -> R`.
    group: spec of a leaf -> the summary it feeds and reads; `everything` is one for the whole tree, and then scope is
      "global".

    models: of how many models run side by side a lift over batches takes what they see.

    Over leaves, `ctx.summaries` holds the results of the transform's earlier folds.
    """

    lift: Callable[..., Any]
    merge: Callable[[Any, Any], Any]
    finish: Callable[[Any], Any] = lambda s: s
    group: Callable[[Any], Hashable] = everything
    scope: FoldScope = "global"
    models: int = 1
