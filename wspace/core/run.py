"""Executors: one Transform in memory (`call`), from mapping to mapping (`stream`), or on shapes alone (`plan`).

All three are one walk: align the trees, resolve selectors, evaluate shapes (so that misuse raises before any work),
then one pass over the leaves for each fold and one to apply.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wspace.core import blocks
from wspace.core.align import Aligned, Given, align
from wspace.core.axes import Axes
from wspace.core.buffers import keeping
from wspace.core.containers import as_params
from wspace.core.entries import Entries, entries_of, in_parts
from wspace.core.errors import SideTreeError, TooLarge, WspaceError
from wspace.core.implicit import has_double, in_double
from wspace.core.memory import RESERVE, Held, anonymous, cut, held, least, parts, weighed
from wspace.core.overlap import Transport, overlapped, plain
from wspace.core.programs import Programs, Traced
from wspace.core.select import Spec
from wspace.core.sizes import bytes_in, size
from wspace.core.sweep import result
from wspace.core.transform import Context, Transform, check_arity, leaf_key
from wspace.core.typing import Array, Index, Leaf, Path, Progress, Tree

PORTION = 2**22  # entries of a result that are written together, while the next ones are computed


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
    memory: int | str | None = None,
    **sides: Tree,
) -> None:
    """Run from mappings to a mapping, leaf by leaf: each leaf is read `t.passes` times and written once.

    A source maps names (or key tuples) to arrays or Implicit nodes; if it has `.specs` (name -> (shape, dtype), or a
    node of ShapeDtypeStructs), nothing is read to learn shapes. Side trees may be mappings too. The sink gets the names
    of the first source.

    memory: anonymous memory that the process may take, as "4GiB" or bytes. Leaves that don't fit go through in parts
      where the transform is entry-wise, but for sums, norms, thresholds and random masks of the leaf (these cost more
      reads); the result is the same to the last bit. A sink that stores parts has
      `part(name, index, array)`; a dict has not, and what it holds is not counted.

    A sink may have `done`, names that it holds already, as a resumed `write_folder` has: these are left out. One whose
      `streams` is true gets large leaves in parts as they are computed, where that can be done.

    Raises:
      TreeMismatch, ShapeError, SideTreeError, SelectionError: before any leaf is read.
      TooLarge: a leaf does not fit into `memory` and can't be cut; before any leaf is read.
    """
    transfer(prepare(t, sources, key=key, axes=axes, sides=sides, memory=memory), sink, progress)


class Ready(NamedTuple):
    """A transform and what it will run on, checked.

    made: what comes out for each leaf, abstract; None while traced. costs: what each leaf takes, if it was weighed.
    room: bytes for whole leaves; None is no limit. cuts: leaves that are larger, and into how many parts they go.
    spare: bytes of that which no leaf needs. done: leaves that the sink has already. programs: of leaves on the host.
    closed: the programs as they were traced on shapes, of every leaf or, under (), of all in one.
    streams: the sink takes results as they are computed.
    """

    t: Transform
    work: Aligned
    key: Array | None
    made: dict[Path, Any] | None
    costs: Mapping[Path, Held] = {}
    room: int | None = None
    cuts: Mapping[Path, int] = {}
    spare: int | None = None
    done: frozenset[Path] = frozenset()
    streams: bool = False
    programs: Programs | None = None
    closed: Mapping[Path, Any] = {}


def prepare(
    t: Transform,
    sources: Sequence[Mapping[Any, Leaf]],
    *,
    key: Array | None = None,
    axes: Axes | None = None,
    sides: Mapping[str, Tree] | None = None,
    memory: int | str | None = None,
    weigh: bool = False,
) -> Ready:
    """Everything that can go wrong before the first byte is read: alignment, selectors, side trees, keys, shapes, and
    what does not fit into `memory`. weigh: find out what each leaf takes, also without a limit."""
    check_arity(t, len(sources))
    _check_key(t, key)
    work = align(t, sources, sides or {}, axes)
    in_memory = [s for s in work.sources if isinstance(s.source, dict)]
    traced = any(isinstance(x, jax.core.Tracer) for s in in_memory for x in s.values())
    if traced:
        return Ready(t, work, key, None)
    ready = _on_shapes(Ready(t, work, key, {}, programs=Programs(t)), weigh or memory is not None)
    return ready if memory is None else _within(ready, memory)


def _within(ready: Ready, memory: int | str) -> Ready:
    """The same, so that it fits: leaves that are too large are cut.

    Raises:
      TooLarge: one that can't be.
    """
    work, limit, taken = ready.work, bytes_in(memory), anonymous() + RESERVE
    room, cuts, large = limit - taken, dict[Path, int](), dict[Path, tuple[int, str]]()
    reading = {path: sum(source.reading(path) for source in work.files(path)) for path in ready.costs}
    for path, cost in ready.costs.items():
        wanted = max(cost.lift, cost.whole) + reading[path]
        if wanted <= room:
            continue
        smallest = least(path, work, cost, reading[path]) if cost.lift <= room else None
        if smallest is not None and smallest <= room:
            cuts[path] = parts(work.specs[path].shape, cost, reading[path], room)
        else:
            large[path] = (wanted, "which needs the whole leaf") if smallest is None else (smallest, "in small parts")
    if large:
        path = max(large, key=lambda p: large[p])
        spec, (wanted, why) = work.specs[path], large[path]
        more = f", and {len(large) - 1} more leaves don't fit" if len(large) > 1 else ""
        raise TooLarge(
            f"{spec.path} {spec.shape} {spec.dtype} takes {size(wanted)} in {ready.t.name}, {why}{more}: "
            f"{size(limit)} are too few beside the {size(taken)} of the process; give it "
            f"memory='{-(-(taken + wanted) // 2**20)}MiB' or leave the leaf out with on(...)"
        )
    costs = [
        (max(cost.lift + reading[path], cost.held(cuts.get(path, 1), reading[path])), cost.made // cuts.get(path, 1))
        for path, cost in ready.costs.items()
    ]
    most = max((held for held, _ in costs), default=0) + max((made for _, made in costs), default=0)
    return ready._replace(room=room, cuts=cuts, spare=max(0, room - most))


def transfer(ready: Ready, sink: MutableMapping[Any, Leaf], progress: Progress | None = None) -> None:
    """Run what is ready: each leaf is read `passes` times and written once. From or to files, the next leaf is read and
    the last one written meanwhile."""
    t, work = ready.t, ready.work
    kept = getattr(sink, "done", ())
    done_before = frozenset(path for path, name in work.names.items() if name in kept)
    ready = ready._replace(done=done_before, streams=getattr(sink, "streams", False))
    if ready.cuts and not hasattr(sink, "part"):
        first = work.specs[next(iter(ready.cuts))]
        raise TooLarge(f"{first.path} {first.shape} only fits in parts, which this sink can't store; use write_folder")
    total, done = t.passes * len(work.specs), 0

    def read(path: Path) -> Given:
        return work.given(path)

    def write(path: Path, leaf: Leaf, index: Index | None) -> None:
        if index is None:
            sink[work.names[path]] = leaf
        else:
            sink.part(work.names[path], index, leaf)  # type: ignore[attr-defined]

    def tell(path: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total, path)

    files = any(not isinstance(x, dict) for x in (sink, *(s.source for s in work.sources)))
    precision = _precision(work)
    around = overlapped(read, write, precision) if files else contextlib.nullcontext(plain(read, write))
    with precision(), keeping(ready.spare), around as transport:
        _run(ready, transport, tell)
    for path in work.names:
        if path not in work.specs and path not in ready.done:
            write(path, work.passing(path), None)


def _on_shapes(ready: Ready, weigh: bool) -> Ready:
    """The transform evaluated on shapes alone: what comes out for each leaf, by what program, and at what cost."""
    t, work, key = ready.t, ready.work, ready.key
    costs: dict[Path, Held] | None = {} if weigh else None
    order = list(work.specs)
    given = {path: (tuple(s.abstract(path) for s in work.sources), work.side(path, read=False)) for path in order}
    with _precision(work)():
        found = _traced(ready, given)
        if found is not None:
            if costs is not None:
                kinds = {kind: held(x) for kind, x in {id(x): x for x in found.values()}.items()}
                costs |= {path: kinds[id(x)] for path, x in found.items()}
            made, closed = {path: x.made for path, x in found.items()}, {path: x.closed for path, x in found.items()}
            return ready._replace(made=made, costs=costs or {}, closed=closed)

        def run(given: list[Given], key: Array | None) -> list[Leaf]:
            known = dict(zip(order, given, strict=True))
            out: dict[Path, Leaf] = {}
            transport = plain(known.__getitem__, lambda path, leaf, index: out.__setitem__(path, leaf))
            _run(Ready(t, work, key, None), transport, lambda path: None, costs)
            return [out[path] for path in order]

        program, leaves = jax.make_jaxpr(run, return_shape=True)(list(given.values()), key)
    return ready._replace(made=dict(zip(order, leaves, strict=True)), costs=costs or {}, closed={(): program})


def _traced(ready: Ready, given: Mapping[Path, Given]) -> dict[Path, Traced] | None:
    """The functions of all leaves; None if one of them has to be run as it is."""
    found: dict[Path, Traced] = {}
    for path, known in given.items():
        spec = ready.work.specs[path]
        with _at(ready.t, spec):
            one = None if ready.programs is None else ready.programs.of(spec, known, ready.key)
        if one is None:
            return None
        found[path] = one
    return found


def _run(
    ready: Ready, transport: Transport, tell: Callable[[str], None], costs: dict[Path, Held] | None = None
) -> None:
    """One pass for each fold, in the order of the paths, then one to apply. costs: to be filled in."""
    t, work, kinds = ready.t, ready.work, dict[Any, Any]()

    def at(path: Path, given: Given, function: Callable[..., Any], known: tuple[Any, ...], parts: int = 1) -> Any:
        """A lift or an apply for one leaf; a result that goes in parts is still to be computed."""
        spec, own = work.specs[path], leaf_key(ready.key, work.specs[path].path)

        def run(given: Given) -> Any:
            return function(given[0], Context(spec, own, given[1], known))

        with _at(t, spec):
            if costs is not None:
                kind = (function, work.steps[path], spec.shape, _dtypes(given))
                kinds[kind] = kinds.get(kind) or weighed(run, given, lift=function is not t.apply)
                costs[path] = kinds[kind].beside(costs.get(path))
            found = ready.programs.of(spec, given, own, known) if ready.programs and function is t.apply else None
            if found is None:
                return run(given)
            if found.program is None and math.prod(spec.shape) >= blocks.BLOCK:  # sums as in memory: in blocks
                return run(jax.tree.map(jnp.asarray, given))
            if found.program is not None and parts > 1:
                return result(found.program, [entries_of(x.reshape(-1)) for x in jax.tree.leaves(given)], own)
            return found(jax.tree.leaves(given), own)

    summaries = _summaries(ready, transport, tell, at)
    ties = {} if ready.done else work.ties()
    firsts, shared = set(ties.values()), dict[Path, Leaf]()
    given_of = transport.reads([path for path in work.specs if path not in {*ties, *ready.cuts, *ready.done}])
    for path, spec in work.specs.items():
        if ready.room is not None and path in ready.costs and ready.costs[path].whole > ready.room // 2:
            transport.wait()
        if path in ready.done:
            pass
        elif path in ready.cuts:
            _cut(ready, path, summaries[path], transport)
        else:
            parts = portions(spec) if ready.streams and path not in firsts else 1
            leaf = shared[ties[path]] if path in ties else at(path, next(given_of), t.apply, summaries[path], parts)
            if path in firsts:
                shared[path] = leaf
            if isinstance(leaf, Entries):
                with _at(t, spec):
                    _write(path, spec, leaf, parts, transport)
            else:
                transport.write(path, leaf, None)
            del leaf
        tell(spec.path)


def _summaries(
    ready: Ready, transport: Transport, tell: Callable[[str], None], at: Callable[..., Any]
) -> dict[Path, tuple[Any, ...]]:
    """What the folds found for each leaf. at: (a leaf's path, what is given of it, a lift, what is known) -> a summary
    or None."""
    specs = ready.work.specs
    found: dict[Path, tuple[Any, ...]] = {path: () for path in specs}
    for fold in ready.t.folds if specs.keys() - ready.done else ():
        sums: dict[Any, Any] = {}
        order = sorted(specs, key=lambda p: specs[p].path)
        for path, given in zip(order, transport.reads(order), strict=True):
            s = at(path, given, fold.lift, found[path])
            del given
            if s is not None:
                group = fold.group(specs[path])
                sums[group] = fold.merge(sums[group], s) if group in sums else s
            tell(specs[path].path)
        results = {group: fold.finish(s) for group, s in sums.items()}
        found = {p: (*r, results.get(fold.group(specs[p]))) for p, r in found.items()}
    return found


def _cut(ready: Ready, path: Path, summaries: tuple[Any, ...], transport: Transport) -> None:
    """One leaf in parts, by the program of the whole leaf: what is read and what is written is a part at a time."""
    work, spec, count = ready.work, ready.work.specs[path], ready.cuts[path]
    given = tuple(s.abstract(path) for s in work.sources), work.side(path, read=False)
    key, index = leaf_key(ready.key, spec.path), list(cut(spec.shape, count))
    starts = [0, *itertools.accumulate(math.prod(_shape_of(rows, spec)) for rows in index[:-1])]

    def read(k: int) -> list[np.ndarray[Any, Any]]:
        return [np.ascontiguousarray(x).reshape(-1) for x in jax.tree.leaves(work.part(path, index[k]))]

    with _at(ready.t, spec):
        found = None if ready.programs is None else ready.programs.of(spec, given, key, summaries)
        if found is None or found.program is None:
            raise TooLarge(f"{spec.path} {spec.shape} can't be computed in parts")  # `_within` cuts no such leaf
        arrays = in_parts(read, starts, math.prod(spec.shape))
        _write(path, spec, result(found.program, arrays, key, keep=False), count, transport)


def _write(path: Path, spec: Spec, made: Entries, count: int, transport: Transport) -> None:
    """A result as it is computed, in parts."""
    index = list(cut(spec.shape, count))
    shapes = [_shape_of(rows, spec) for rows in index]
    for rows, shape, part in zip(index, shapes, made.portions(list(map(math.prod, shapes))), strict=True):
        transport.write(path, part.reshape(shape), rows)
        del part


def portions(spec: Spec) -> int:
    """In how many parts a result is written that can be as it is computed."""
    return max(1, -(-math.prod(spec.shape) // PORTION))


def _shape_of(rows: Index, spec: Spec) -> tuple[int, ...]:
    return (*(at.stop - at.start for at in rows), *spec.shape[len(rows) :])


def _dtypes(given: Given) -> Any:
    leaves, structure = jax.tree.flatten(given)
    return structure, tuple((x.shape, x.dtype) for x in leaves)


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


def _precision(work: Aligned) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """64-bit mode, for a thread, if a float64 leaf is in one of the trees. All leaves are looked at once."""
    leaves = (source.abstract(path) for source in work.sources for path in work.specs)
    wide = [x for x in leaves if has_double(x)][:1]
    return lambda: in_double(wide)


def _check_key(t: Transform, key: Array | None) -> None:
    if "key" in t.needs and key is None:
        raise SideTreeError(f"{t.name} is random: pass a key, as in t(params, key=jax.random.key(0))")
    dtype = getattr(key, "dtype", None)
    if key is not None and (dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key)):
        given = f"of type {type(key).__name__}" if dtype is None else f"a raw {dtype} array"
        raise SideTreeError(f"key is {given}; make it with jax.random.key(seed), not PRNGKey")
