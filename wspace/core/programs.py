"""What a transform does to leaves on the host, traced once for all of those that differ in nothing but their values.

To trace takes milliseconds, as long as a merge of a million numbers, and a model has hundreds of leaves of a few
shapes. A function of a leaf may look at its path, though, to choose what it does: whether it did is noted, and if so
the program is that leaf's own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from wspace.core.blocks import Program, entrywise
from wspace.core.select import Spec
from wspace.core.sweep import in_memory
from wspace.core.transform import Context, Transform
from wspace.core.typing import Array, Leaf, Path

Apply = Callable[[Any, Any], Leaf]  # (what is given of a leaf, its random key) -> leaf


class Traced(NamedTuple):
    """A function of one leaf. made: what comes out, abstract. program: by which it goes in blocks, if it can.

    arrays: how many it takes, beside a random key.
    """

    closed: Any
    made: Any
    program: Program | None
    arrays: int

    def __call__(self, arrays: Sequence[np.ndarray[Any, Any]], key: Array | None = None) -> Leaf:
        """The leaf for these arrays; without a program one operation after the other, as in memory."""
        if self.program is not None:
            return in_memory(self.program, arrays, key)
        given = [*([] if key is None else [key]), *map(jnp.asarray, arrays)]
        return jax.tree.unflatten(jax.tree.structure(self.made), jex.jaxpr_as_fun(self.closed)(*given))


def traced(apply: Apply, given: Any, key: Array | None = None) -> Traced:
    """given: any tree of arrays, or of their ShapeDtypeStructs."""
    arrays, structure = jax.tree.flatten(given)
    specs = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays]
    trace = jax.make_jaxpr(lambda key, *xs: apply(jax.tree.unflatten(structure, xs), key), return_shape=True)
    closed, made = trace(key, *specs)
    return Traced(closed, made, entrywise(closed, made, len(arrays)), len(arrays))


class Programs:
    """The functions of a transform for the leaves of one run."""

    def __init__(self, t: Transform) -> None:
        self.t = t
        self.known: dict[Hashable, Traced] = {}

    def of(self, spec: Spec, given: Any, key: Array | None, summaries: tuple[Any, ...] = ()) -> Traced | None:
        """The function for a leaf; None if it lies on a device, or a fold's summary is not known yet."""
        arrays, structure = jax.tree.flatten(given)
        if len(summaries) != len(self.t.folds) or not all(map(_on_host, arrays)):
            return None
        watched = Watched(*spec)

        def apply(given: Any, key: Array | None) -> Leaf:
            return self.t.apply(given[0], Context(watched, key, given[1], summaries))

        if summaries:
            return traced(apply, given, key)
        kind = (spec[1:], structure, tuple((x.shape, x.dtype) for x in arrays), key is None)
        found = self.known.get(kind) or self.known.get((kind, spec.path))
        if found is None:
            found = traced(apply, given, key)
            self.known[(kind, spec.path) if watched.looked else kind] = found
        return found


def _on_host(x: Any) -> bool:
    if isinstance(x, jax.ShapeDtypeStruct):
        return x.sharding is None
    return isinstance(x, np.ndarray) and x.flags.c_contiguous


class Watched(Spec):
    """A spec that notes whether anybody looked at more than shape, dtype and axes, which leaves of a kind share."""

    looked = False

    def _all(self) -> tuple[Any, ...]:
        self.looked = True
        return tuple(tuple.__iter__(self))

    @property
    def path(self) -> Path:  # type: ignore[override]
        return self._all()[0]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._all())

    def __getitem__(self, at: Any) -> Any:
        return self._all()[at]

    def __eq__(self, other: object) -> bool:
        return self._all() == other

    def __hash__(self) -> int:
        return hash(self._all())
