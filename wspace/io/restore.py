"""A checkpoint into the shape of a tree that is at hand: all disagreements at once, and no silent cast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from wspace.core.errors import TreeMismatch, listed, printable
from wspace.io.dtypes import Spec, spec_of
from wspace.io.names import flatten_names, nest_names
from wspace.io.source import Checkpoint


def read_like(source: Checkpoint, like: Any, *, cast: bool = False) -> Any:
    """The leaves of a checkpoint in the dicts, lists and tuples of `like` (arrays or ShapeDtypeStructs).

    Names must be the same, shapes equal. With `cast` floats become the float dtype asked for; no float becomes an
    integer, and no integer a float or another integer, ever.

    Raises:
      TreeMismatch: every missing and extra leaf, every other shape or dtype, and the file.
    """
    flat = flatten_names(like)
    wanted = {name: spec_of(name, leaf) for name, leaf in flat.leaves.items()}
    faults = _faults(wanted, source.specs, cast)
    if faults:
        raise TreeMismatch(f"{printable(source.path)} does not fit the tree it is read into: {'; '.join(faults)}")
    values = {name: source[name].astype(spec.dtype, copy=False) for name, spec in wanted.items()}
    return values if flat.structure is None else nest_names(values, flat.structure)


def _faults(wanted: Mapping[str, Spec], held: Mapping[str, Spec], cast: bool) -> list[str]:
    missing = [name for name in wanted if name not in held]
    extra = [name for name in held if name not in wanted]
    other = []
    for name in wanted.keys() & held.keys():
        want, have = wanted[name], held[name]
        castable = cast and _is_float(want.dtype) and _is_float(have.dtype)
        if want.shape != have.shape or (want.dtype != have.dtype and not castable):
            other.append(f"{name} is {have}, wanted {want}")
    kinds = ((missing, "missing"), (extra, "not wanted"), (sorted(other), "of another shape or dtype"))
    return [f"{len(found)} {what}: {listed(found)}" for found, what in kinds if found]


def _is_float(dtype: np.dtype[Any]) -> bool:
    return "float" in dtype.name
