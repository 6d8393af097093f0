"""Where the leaves of a run go: checked, cast, stored, entered in the ledger; and what a killed run left of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from wspace.app.weights import check_finite
from wspace.core.align import Aligned
from wspace.core.implicit import Implicit, dense, is_implicit, stored_bits
from wspace.core.stored import parts_of
from wspace.core.transform import narrow
from wspace.core.typing import Index, Leaf
from wspace.io import FolderSink, flatten_names
from wspace.measure import Entry, compare
from wspace.reparam import LoRA

if TYPE_CHECKING:
    from wspace.app.execute import Opened, Result


class Tee(dict[str, Leaf]):
    """What `stream` writes to: each leaf is checked, entered in the ledger, cast and stored; kept if evaluated.

    done: leaves that a killed run left whole; their entries in the ledger are taken over.
    """

    def __init__(self, sink: FolderSink, job: Opened, result: Result, *, keep: bool, bare: bool) -> None:
        super().__init__()
        self.sink, self.job, self.result, self.keep, self.bare = sink, job, result, keep, bare
        self.streams = sink.streams and bare and not keep  # the ledger compares whole leaves
        self.kept: dict[str, Leaf] = {}
        self.dtype = job.recipe.output.dtype or job.dtype
        self.done: set[str] = set()
        self.read = 0  # bytes of the reference, for the ledger
        for fact in sink.journal.facts if sink.journal is not None else ():
            if "done" in fact and sink.done.issuperset(fact["parts"]):
                self.done.add(fact["done"])
                self.result.ledger += [_entry(fact["entry"])] if fact["entry"] else []
        self.result.resumed = len(self.done)

    def part(self, name: str, index: Index, leaf: Leaf) -> None:
        """A part of a leaf; with a ledger, compared with the reference when it is whole, from the file."""
        leaf = cast(leaf, self.dtype)
        self._check(leaf, name, index)
        self.sink.part(name, index, np.asarray(leaf))
        if name in self.sink:
            self._enter(name, [name], self.sink.leaf(name) if not self.bare else None)

    def __setitem__(self, name: str, leaf: Leaf) -> None:
        leaf = cast(leaf, self.dtype)
        self._check(leaf.materialize() if isinstance(leaf, Implicit) else leaf, name)
        if isinstance(leaf, LoRA) and "peft" in self.job.recipe.output.formats:
            self.result.adapters[name] = replace(leaf, base=None)
        if self.keep:
            self.kept[name] = leaf
        parts = flatten_names({name: parts_of(leaf)}).leaves
        for part, array in parts.items():
            if part not in self.sink:  # the others may be there from a killed run
                self.sink[part] = array
        self._enter(name, list(parts), leaf)

    def _check(self, leaf: Leaf, name: str, index: Index = ()) -> None:
        if not self.job.recipe.allow_nonfinite:
            check_finite(leaf, name, "the result", [rows.start for rows in index])

    def _enter(self, name: str, parts: list[str], leaf: Leaf) -> None:
        """A leaf that is whole: into the ledger and the journal."""
        entry = None
        if not self.bare:
            reference = self.job.reference.source[name]
            self.read += stored_bits(reference) // 8
            entry = compare(name, reference, leaf)
        self.result.ledger += [] if entry is None else [entry]
        if self.sink.journal is not None:
            self.sink.journal.add({"done": name, "parts": parts, "entry": entry and entry._asdict()})

    def finish(self, work: Aligned) -> None:
        """The ledger in the order of a run that nothing interrupted."""
        order = [work.names[path] for path in (*work.specs, *(p for p in work.names if p not in work.specs))]
        at = {name: k for k, name in enumerate(order)}
        self.result.ledger.sort(key=lambda entry: at[entry.path])


def _entry(fact: dict[str, Any]) -> Entry:
    return Entry(**{**fact, "shape": tuple(fact["shape"])})


def cast(leaf: Leaf, dtype: str | None) -> Leaf:
    """A floating array in the dtype asked for; Implicit nodes and other leaves as they are."""
    if dtype is None or is_implicit(leaf) or not jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating):
        return leaf
    if leaf.dtype == jax.numpy.dtype(dtype):
        return leaf
    return narrow(dense(leaf), jax.numpy.dtype(dtype))
