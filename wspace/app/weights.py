"""Sources as mappings of arrays: folders, noisy copies, trees in memory; each refused where it is not finite."""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wspace.app.changes import Change
from wspace.app.sources import Adapter, Folder, Perturbed
from wspace.core.align import abstract
from wspace.core.errors import FormatError, NonFinite, printable
from wspace.core.implicit import Implicit, dense
from wspace.io import Adapted, AdapterFolder, Checkpoint, Spec, Whole, flatten_names, open_checkpoint, quantized_by
from wspace.io.source import Named


class Weights(Named[Any]):
    """A named source: arrays by name with `specs`, and what a writer needs to give the same kind of thing back.

    Attributes:
      label: its name in the recipe. specs: name -> Spec, or a node of shapes. structure: how names nest, or None for a
        flat checkpoint.
      folder: the checkpoint folder it comes from, or None. metadata: of its files. origin: in words, for the report.
      checkpoints: what is read from disk. changes: what is changed in the files that go through from its folder.
      allow_nonfinite: give out NaN and infinity instead of refusing them.
    """

    def __init__(
        self, label: str, source: Mapping[str, Any], specs: Mapping[str, Any], *, structure: Any = None
    ) -> None:
        self.label = label
        self.source = source
        self.specs = specs
        self.structure = structure
        self.folder: Path | None = None
        self.checkpoints: tuple[Checkpoint | AdapterFolder, ...] = ()
        self.changes: tuple[Change, ...] = ()
        self.metadata: Mapping[str, str] = {}
        self.origin = "computed by the recipe"
        self.allow_nonfinite = False

    def __getitem__(self, name: str) -> Any:
        leaf = self.source[name]
        if not self.allow_nonfinite:
            check_finite(leaf, name, self.label)
        return leaf

    def part(self, name: str, index: tuple[slice, ...]) -> Any:
        """A part of a leaf, refused like the whole."""
        leaf = self.source.part(name, index)  # type: ignore[attr-defined]
        if not self.allow_nonfinite:
            check_finite(leaf, name, self.label)
        return leaf

    def parts(self, name: str) -> bool:
        """Whether a part of a leaf can be had without the rest of it in memory."""
        return hasattr(self.source, "parts") and bool(self.source.parts(name))

    def reading(self, name: str) -> int:
        """Bytes of anonymous memory that reading a leaf takes, at most."""
        return int(self.source.reading(name)) if hasattr(self.source, "reading") else 0

    def changed(self, *changes: Change) -> Weights:
        """The same weights, with more to change in the files that go through."""
        made = Weights(self.label, self.source, self.specs, structure=self.structure)
        made.folder, made.checkpoints, made.metadata = self.folder, self.checkpoints, self.metadata
        made.origin, made.allow_nonfinite, made.changes = self.origin, self.allow_nonfinite, (*self.changes, *changes)
        return made

    def check_unchanged(self) -> None:
        """IntegrityError if the files changed since they were opened."""
        getattr(self.source, "check_unchanged", bool)()


def check_finite(leaf: Any, name: str, label: str, start: Sequence[int] = ()) -> None:
    """Raises NonFinite: which leaf of what (or a part of a node), how many, the first index.

    start: where on its first axes it begins, if it is a part of a leaf.
    """
    if isinstance(leaf, Implicit):
        for part in jax.tree.leaves(leaf):
            check_finite(part, name, label)
        return
    if not jnp.issubdtype(getattr(leaf, "dtype", np.int32), np.inexact):
        return
    values = np.asarray(leaf)
    if _surely_finite(values):
        return
    finite = np.isfinite(values if values.dtype.kind in "fc" else values.astype(np.float32))
    if not finite.all():
        place = np.unravel_index(int(np.argmin(finite)), finite.shape)
        first = tuple(int(i) + at for i, at in itertools.zip_longest(place, start, fillvalue=0))
        raise NonFinite(
            printable(
                f"{label}: {name} has {int(np.sum(~finite))} of {finite.size} values that are NaN or infinite, the "
                f"first at {first}; mend the checkpoint, or add --allow-nonfinite to let them through"
            )
        )


def _surely_finite(values: np.ndarray[Any, Any]) -> bool:
    """Whether no exponent is all ones, looked at a piece at a time in the cache; False for dtypes that have none.

    As integers with a sign the largest of all are infinity and NaN; without one those with a minus.
    """
    ones = EXPONENTS.get(values.dtype.name)
    if ones is None or not values.flags.c_contiguous:
        return False
    bits = values.reshape(-1).view(ones.dtype)
    signed, minus = bits.view(f"i{ones.itemsize}"), ones + (np.iinfo(ones.dtype).max // 2 + 1)
    pieces = (slice(i, i + PIECE) for i in range(0, bits.size, PIECE))
    return all(signed[piece].max() < ones and bits[piece].max() < minus for piece in pieces)


PIECE = 2**19
EXPONENTS: Mapping[str, np.unsignedinteger[Any]] = {
    "bfloat16": np.uint16(0x7F80), "float16": np.uint16(0x7C00), "float32": np.uint32(0x7F800000),
    "float64": np.uint64(0x7FF << 52),
}  # fmt: skip


class Noisy(Mapping[str, Any]):
    """A source plus Gaussian noise: on each selected float leaf `noise` times the leaf's own deviation.

    The noise of a leaf depends on the seed and its name alone.
    """

    def __init__(self, of: Weights, how: Perturbed) -> None:
        self.of, self.how = of, how
        self.specs = {n: Spec(s.shape, s.dtype) if self._takes(n, s) else s for n, s in of.specs.items()}

    def _takes(self, name: str, leaf: Any) -> bool:
        floating = jnp.issubdtype(leaf.dtype, np.floating)
        return floating and (self.how.where is None or re.search(self.how.where, name) is not None)

    def __getitem__(self, name: str) -> Any:
        leaf = self.of[name]
        if not self._takes(name, leaf):
            return leaf
        values = np.asarray(dense(leaf) if isinstance(leaf, Implicit) else leaf, np.float32)
        rng = np.random.default_rng((self.how.seed, zlib.crc32(name.encode())))
        spread = float(values.std()) if values.size else 0.0
        noise = rng.standard_normal(values.shape, np.float32) * np.float32(self.how.noise * spread)
        return (values + noise).astype(leaf.dtype)

    def reading(self, name: str) -> int:
        """Values and noise in float32, and the sum of them as it comes out."""
        spec = self.specs[name]
        own = math.prod(spec.shape) * (12 + spec.dtype.itemsize) if self._takes(name, spec) else 0
        return own + self.of.reading(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.of)

    def __len__(self) -> int:
        return len(self.of)

    def check_unchanged(self) -> None:
        self.of.check_unchanged()


def opened(sources: Mapping[str, Any], *, allow_nonfinite: bool = False) -> dict[str, Weights]:
    """Every source of a recipe, opened; no leaf is read.

    Raises:
      FormatError: a folder is no checkpoint, or one that another tool quantized.
    """
    found: dict[str, Weights] = {}

    def get(name: str) -> Weights:
        if name not in found:
            found[name] = _opened(name, sources[name])
            found[name].allow_nonfinite = allow_nonfinite
        return found[name]

    def _opened(name: str, source: Any) -> Weights:
        if isinstance(source, Folder):
            checkpoint = open_checkpoint(source.path)
            if method := quantized_by(checkpoint):
                raise FormatError(
                    f"{printable(source.path)} holds {method} codes, which a run would take for weights; "
                    "first write what they stand for: ws.io.save(OUT, ws.materialize(ws.io.load(IN)))"
                )
            whole = Whole(checkpoint)
            made = Weights(name, whole, whole.specs, structure=whole.structure)
            made.folder, made.metadata, made.origin = Path(source.path), checkpoint.metadata, str(source.path)
            made.checkpoints = (checkpoint,)
            return made
        if isinstance(source, Perturbed):
            of = get(source.of)
            noisy = Noisy(of, source)
            made = Weights(name, noisy, noisy.specs, structure=of.structure)
            made.folder, made.metadata = of.folder, of.metadata
            where = f" on leaves that match {source.where!r}" if source.where else ""
            made.origin = f"{source.of} plus noise of {source.noise:g} deviations{where}, seed {source.seed}"
            return made
        if isinstance(source, Adapter):
            return _adapted(name, source, get(source.of))
        return from_tree(name, source)

    return {name: get(name) for name in sources}


def _adapted(name: str, source: Adapter, of: Weights) -> Weights:
    adapter = AdapterFolder(source.path)
    whole = Adapted(of, adapter, merged=source.merged)
    made = Weights(name, whole, whole.specs, structure=of.structure)
    made.folder, made.metadata, made.checkpoints = of.folder, of.metadata, (*of.checkpoints, adapter)
    made.changes = of.changes
    made.origin = f"{source.of} with the adapter {source.path}"
    return made


def from_tree(name: str, tree: Any) -> Weights:
    """A tree in memory as a source."""
    leaves, structure = flatten_names(tree)
    specs = {key: abstract(x) if isinstance(x, Implicit) else Spec(np.shape(x), x.dtype) for key, x in leaves.items()}
    return Weights(name, leaves, specs, structure=structure)
