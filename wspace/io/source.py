"""The reading face of every checkpoint: a lazy, read-only mapping of names to NumPy arrays."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from wspace.core.errors import IntegrityError, printable
from wspace.io.dtypes import Spec
from wspace.io.header import stamp
from wspace.io.names import Structure, nest_names

V = TypeVar("V", covariant=True)


class Named(Mapping[str, V]):
    """Leaves by name; `specs` has all of them, and what they are, without reading one.

    structure: how the names nest, None for flat ones.
    """

    specs: Mapping[str, Any]
    structure: Structure | None = None

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)

    def __contains__(self, name: object) -> bool:
        return name in self.specs

    def tree(self) -> Any:
        """All leaves in the containers they were saved from; a flat dict if nothing was recorded."""
        return dict(self) if self.structure is None else nest_names(self, self.structure)


class Checkpoint(Named[np.ndarray[Any, Any]]):
    """A checkpoint on disk. Reading a leaf reads that leaf and no other; `specs` reads none.

    Attributes:
      path: the file or folder.
      specs: name -> Spec(shape, dtype), in sorted order.
      metadata: what the file says beside the leaves, text by name.
      structure: how the names nest (see `names`), None for a flat checkpoint.
    """

    path: Path
    specs: dict[str, Spec]
    metadata: dict[str, str]
    structure: Structure | None
    _stamps: dict[Path, tuple[int, int]]

    @abstractmethod
    def _read(self, name: str) -> np.ndarray[Any, Any]: ...

    @abstractmethod
    def stored_at(self, name: str) -> Path:
        """The file or folder that holds a leaf."""

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        if name not in self.specs:
            raise KeyError(name)
        return self._read(name)

    def part(self, name: str, index: Sequence[slice]) -> np.ndarray[Any, Any]:
        """A part of a leaf, one slice for each of its first axes; only that is read where the format allows it."""
        return self[name][tuple(index)]

    def parts(self, name: str) -> bool:
        """Whether a part of a leaf can be had without the rest of it in memory."""
        return False

    def reading(self, name: str) -> int:
        """Bytes of anonymous memory that reading a leaf takes, at most; none for one that is mapped."""
        return self.specs[name].nbytes

    def placed(self, shardings: Mapping[str, Any]) -> dict[str, Any]:
        """Leaves as jax arrays in these shardings; each process reads the parts that its devices hold."""
        from jax import make_array_from_callback

        return {
            name: make_array_from_callback(self.specs[name].shape, where, partial(self.part, name))
            for name, where in shardings.items()
        }

    def __repr__(self) -> str:
        total = sum(spec.nbytes for spec in self.specs.values())
        return f"{type(self).__name__}({printable(self.path)}: {len(self)} leaves, {total} bytes)"

    def identity(self) -> list[tuple[str, int, int]]:
        """Every file, its size and time of change: equal for checkpoints that hold the same."""
        return [(str(file.absolute()), *was) for file, was in sorted(self._stamps.items())]

    def check_unchanged(self) -> None:
        """IntegrityError if a file of this checkpoint has another size or time than when it was opened."""
        for file, was in self._stamps.items():
            unchanged(file, was)


def unchanged(file: Path, was: tuple[int, int]) -> None:
    """IntegrityError if the file is gone or another."""
    try:
        now = stamp(file)
    except OSError:
        raise IntegrityError(f"{printable(file)} is gone since it was opened; start again") from None
    if now != was:
        how = f"{was[0]} bytes then, {now[0]} now" if now[0] != was[0] else "another modification time"
        raise IntegrityError(f"{printable(file)} changed since it was opened ({how}); start again when it is at rest")
