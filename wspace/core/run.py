"""Executors: one Transform in memory (`call`), from mapping to mapping (`stream`), or on shapes alone (`plan`).

All three are one walk: align the trees, resolve selectors, evaluate shapes (so that misuse raises before any work),
then one pass over the leaves for each fold and one to apply.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wspace.core.align import Aligned, align
from wspace.core.axes import Axes
from wspace.core.blocks import blockwise
from wspace.core.containers import as_params
from wspace.core.errors import SideTreeError, WspaceError
from wspace.core.implicit import in_double
from wspace.core.overlap import Transport, overlapped, plain
from wspace.core.select import Spec
from wspace.core.transform import Context, Transform, check_arity, leaf_key
from wspace.core.typing import Array, Leaf, Path, Progress, Tree

Given = tuple[tuple[Leaf, ...], dict[str, Any]]  # a leaf of every tree, and its side entries


def call(
    t: Transform, trees: Sequence[Tree], *, key: Array | None, axes: Axes | None, sides: Mapping[str, Tree]
) -> Tree:
    """Run in memory: trees of one structure in, the container of the first one out. Traceable.

    Tied leaves (one jax array at two paths of each tree) that take the same steps stay tied.
    """
    params = [as_params(tree) for tree in trees]
    out: dict[Any, Leaf] = {}
    stream(t, [p.leaves for p in params], out, key=key, axes=axes, **sides)
    return params[0].rebuild(out)


def stream(
    t: Transform,
    sources: Sequence[Mapping[Any, Leaf]],
    sink: MutableMapping[Any, Leaf],
    *,
    key: Array | None = None,
    axes: Axes | None = None,
    progress: Progress | None = None,
    **sides: Tree,
) -> None:
    """Run from mappings to a mapping, leaf by leaf: each leaf is read `t.passes` times and written once.

    A source maps names (or key tuples) to arrays or Implicit nodes; if it has `.specs` (name -> (shape, dtype), or a
    node of ShapeDtypeStructs), nothing is read to learn shapes. Side trees may be mappings too. The sink gets the names
    of the first source.

    Raises:
      TreeMismatch, ShapeError, SideTreeError, SelectionError: before any leaf is read.
    """
    transfer(prepare(t, sources, key=key, axes=axes, sides=sides), sink, progress)


class Ready(NamedTuple):
    """A transform and what it will run on, checked. made: what comes out for each leaf, abstract; None while traced."""

    t: Transform
    work: Aligned
    key: Array | None
    made: dict[Path, Any] | None


def prepare(
    t: Transform,
    sources: Sequence[Mapping[Any, Leaf]],
    *,
    key: Array | None = None,
    axes: Axes | None = None,
    sides: Mapping[str, Tree] | None = None,
) -> Ready:
    """Everything that can go wrong before the first byte is read: alignment, selectors, side trees, keys, shapes."""
    check_arity(t, len(sources))
    _check_key(t, key)
    work = align(t, sources, sides or {}, axes)
    in_memory = [s for s in work.sources if isinstance(s.source, dict)]
    traced = any(isinstance(x, jax.core.Tracer) for s in in_memory for x in s.values())
    return Ready(t, work, key, None if traced else _shapes(t, work, key))


def transfer(ready: Ready, sink: MutableMapping[Any, Leaf], progress: Progress | None = None) -> None:
    """Run what is ready: each leaf is read `passes` times and written once. From or to files, the next leaf is read and
    the last one written meanwhile."""
    t, work = ready.t, ready.work
    total, done = t.passes * len(work.specs), 0

    def read(path: Path) -> Given:
        return tuple(source[path] for source in work.sources), work.side(path)

    def write(path: Path, leaf: Leaf) -> None:
        sink[work.names[path]] = leaf

    def tell(path: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total, path)

    files = any(not isinstance(x, dict) for x in (sink, *(s.source for s in work.sources)))
    around = overlapped(read, write, lambda: _precision(work)) if files else contextlib.nullcontext(plain(read, write))
    with _precision(work), around as transport:
        _run(t, work, transport, ready.key, tell)
    for path in work.names:
        if path not in work.specs:
            write(path, work.passing(path))


def _shapes(t: Transform, work: Aligned, key: Array | None) -> dict[Path, Any]:
    """The transform evaluated on shapes alone: what comes out for each leaf, nothing computed."""
    order = list(work.specs)
    leaves = [tuple(s.abstract(path) for s in work.sources) for path in order]
    sides = [work.side(path, read=False) for path in order]

    def run(leaves: list[Any], sides: list[Any], key: Array | None) -> list[Leaf]:
        given = dict(zip(order, zip(leaves, sides, strict=True), strict=True))
        out: dict[Path, Leaf] = {}
        _run(t, work, plain(given.__getitem__, out.__setitem__), key, lambda path: None)
        return [out[path] for path in order]

    with _precision(work):
        made = jax.eval_shape(run, leaves, sides, key)
    return dict(zip(order, made, strict=True))


def _run(t: Transform, work: Aligned, transport: Transport, key: Array | None, tell: Callable[[str], None]) -> None:
    """One pass for each fold, in the order of the paths, then one to apply."""

    def at(path: Path, given: Given, function: Callable[..., Any]) -> Any:
        """A lift or an apply on one leaf."""
        spec = work.specs[path]

        def run(given: Given) -> Any:
            return function(given[0], Context(spec, leaf_key(key, spec.path), given[1], summaries[path]))

        with _at(t, spec):
            found = blockwise(run, given) if function is t.apply else None
            return run(given) if found is None else found

    summaries: dict[Path, tuple[Any, ...]] = {path: () for path in work.specs}
    for fold in t.folds:
        sums: dict[Any, Any] = {}
        order = sorted(work.specs, key=lambda p: work.specs[p].path)
        for path, given in zip(order, transport.reads(order), strict=True):
            s = at(path, given, fold.lift)
            del given
            if s is not None:
                group = fold.group(work.specs[path])
                sums[group] = fold.merge(sums[group], s) if group in sums else s
            tell(work.specs[path].path)
        results = {group: fold.finish(s) for group, s in sums.items()}
        summaries = {p: (*r, results.get(fold.group(work.specs[p]))) for p, r in summaries.items()}
    ties = work.ties()
    firsts, shared = set(ties.values()), dict[Path, Leaf]()
    given_of = transport.reads([path for path in work.specs if path not in ties])
    for path, spec in work.specs.items():
        leaf = shared[ties[path]] if path in ties else at(path, next(given_of), t.apply)
        if path in firsts:
            shared[path] = leaf
        transport.write(path, leaf)
        del leaf
        tell(spec.path)


@contextlib.contextmanager
def _at(t: Transform, spec: Spec) -> Iterator[None]:
    """Names the leaf in an error that is not ours: jax's own do not say where they were."""
    try:
        yield
    except WspaceError:
        raise
    except Exception as error:
        error.add_note(f"{t.name} was at {spec.path} {spec.shape} {spec.dtype}")
        raise


def _precision(work: Aligned) -> contextlib.AbstractContextManager[Any]:
    """64-bit mode while a float64 leaf is in one of the trees."""
    return in_double([source.abstract(path) for source in work.sources for path in work.specs])


def _check_key(t: Transform, key: Array | None) -> None:
    if "key" in t.needs and key is None:
        raise SideTreeError(f"{t.name} is random: pass a key, as in t(params, key=jax.random.key(0))")
    if key is not None and not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise SideTreeError(f"key is a raw {key.dtype} array; make it with jax.random.key(seed), not PRNGKey")
