"""Trees that do not match: other vocabularies, other leaves. A policy says what becomes of them, a report to which."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np

from wspace.core.align import ByPath, abstract
from wspace.core.compose import on
from wspace.core.containers import as_params, show
from wspace.core.errors import SideTreeError, TreeMismatch, WspaceError, nearest
from wspace.core.implicit import Implicit, dense
from wspace.core.plan import is_lazy
from wspace.core.transform import Transform
from wspace.core.typing import Leaf, Path, Tree

Policy = Literal["refuse", "intersect", "base", "pad"]
Shape = tuple[int, ...]


class Treated(NamedTuple):
    """One leaf that did not match: its path, its shape in each tree (the base's last; None where it is not), what
    became of it, and the shape that it has now (None if it was dropped)."""

    path: str
    shapes: tuple[Shape | None, ...]
    how: str
    shape: Shape | None

    def __str__(self) -> str:
        return f"{self.path}: {', '.join('none' if s is None else str(s) for s in self.shapes)} -> {self.how}"


class Reconciled(NamedTuple):
    """Trees that match, and how they came to.

    trees, base: of the kind that went in. treated: every leaf that did not match. kept: shown paths of the leaves that
    no merge should touch, since one tree's was taken for all.
    """

    trees: tuple[Tree, ...]
    base: Tree | None
    treated: tuple[Treated, ...]
    kept: frozenset[str]

    def merge(self, t: Transform) -> Transform:
        """`t` on all leaves but those that were taken from one tree."""
        return on(lambda path, spec: path not in self.kept, t) if self.kept else t


def reconcile(*trees: Tree, base: Tree | None = None, policy: Policy = "refuse") -> Reconciled:
    """Make trees match in leaves and shapes, by a stated policy.

        refuse:     change nothing; what runs on them says where they differ
        intersect:  drop leaves that not all have; cut other shapes to the smallest, from the start of the axis
        base:       such a leaf is the base's, in every tree; one that the base does not have is dropped
        pad:        other shapes grow to the largest: rows that a tree lacks are the base's, else those of the first
                    tree that has them, and so is a leaf that it lacks

    Nothing is invented: every number is one of some tree's, at the same place. Rows are matched by place, not by token;
    for models with other tokenizers see mergekit's `tokenizer_source` in recipes.

    Args:
      trees: any containers, or lazy checkpoints, which stay lazy. base: the common ancestor, if the merge takes one.
      policy: as above. A leaf is cut or padded along one axis; shapes that differ in two, or in rank, need "base".
    Returns:
      Reconciled; merge with `r.merge(t)(*r.trees, base=r.base)`. A tree that lost or got leaves comes back as dicts.
    Raises:
      WspaceError: an unknown policy. SideTreeError: "base" without one.
      TreeMismatch: shapes that can't be cut or padded; a tree that is not made of dicts and would change its leaves.
    Example:
      >>> a, b = {"embed": jnp.ones((3, 2)), "head": jnp.ones(1)}, {"embed": jnp.zeros((2, 2))}
      >>> r = reconcile(a, b, policy="intersect")
      >>> [x["embed"].shape for x in r.trees], [str(x) for x in r.treated]
      ([(2, 2), (2, 2)], ['embed: (3, 2), (2, 2) -> cut to (2, 2)', 'head: (1,), none -> dropped'])
    """
    if policy not in get_args(Policy):
        raise WspaceError(f"reconcile has no policy {policy!r}.{nearest(policy, get_args(Policy))}")
    if policy == "base" and base is None:
        raise SideTreeError("reconcile(policy='base') takes leaves from the base; give it one, as base=...")
    if policy == "refuse" or not trees:
        return Reconciled(trees, base, (), frozenset())
    every = [*trees, *([] if base is None else [base])]
    sources = [ByPath(x if is_lazy(x) else as_params(x).leaves) for x in every]
    donors = list(range(len(every)))
    donors = donors if base is None else [donors[-1], *donors[:-1]]
    plan, treated, kept = _planned(sources, donors, policy, base is not None)
    made = tuple(_fitted(tree, k, sources, plan) for k, tree in enumerate(every))
    return Reconciled(made[: len(trees)], None if base is None else made[-1], treated, kept)


Parts = Sequence[tuple[int, int, int]]  # (tree, start, stop) along the axis


class Fit(NamedTuple):
    """What a leaf is made of: for each tree the parts along an axis; no axis: the whole leaf of one tree."""

    axis: int | None
    parts: tuple[Parts, ...]
    shape: Shape


Plan = dict[Path, Fit | None]  # None: the leaf as it is; leaves that are not there were dropped


def _planned(
    sources: Sequence[ByPath], donors: Sequence[int], policy: Policy, based: bool
) -> tuple[Plan, tuple[Treated, ...], frozenset[str]]:
    plan: Plan = {}
    treated: list[Treated] = []
    kept: set[str] = set()
    for path in dict.fromkeys(path for source in sources for path in source):
        shapes = tuple(_shape(source, path) for source in sources)
        if None not in shapes and len(set(shapes)) == 1:
            plan[path] = None
            continue
        fit, how = _fit(shapes, donors, policy, show(path))
        if fit is not None:
            plan[path] = fit
            if fit.axis is None:
                kept.add(show(path))
        treated.append(Treated(show(path), shapes, how, None if fit is None else fit.shape))
    return plan, tuple(treated), frozenset(kept)


def _fit(shapes: tuple[Shape | None, ...], donors: Sequence[int], policy: Policy, path: str) -> tuple[Fit | None, str]:
    """What becomes of one leaf; None: it is dropped."""
    lacking = None in shapes
    if policy == "base" or (policy == "pad" and lacking):
        donor = donors[0] if policy == "base" else next(k for k in donors if shapes[k] is not None)
        shape = shapes[donor]
        if shape is None:
            return None, "dropped"
        if policy == "base" or len({s for s in shapes if s is not None}) == 1:
            who = "the base" if policy == "base" else f"tree {donor + 1}"
            return Fit(None, tuple(((donor, 0, 0),) for _ in shapes), shape), f"taken from {who}"
        raise TreeMismatch(
            f"reconcile: {path} is not in every tree and has other shapes: {shapes}; cut or drop it first"
        )
    if lacking:
        return None, "dropped"
    every = [s for s in shapes if s is not None]
    axis = _axis(every, path)
    sizes = [s[axis] for s in every]
    size = min(sizes) if policy == "intersect" else max(sizes)
    shape = (*every[0][:axis], size, *every[0][axis + 1 :])
    parts = tuple(_parts(k, sizes, donors, size) for k in range(len(every)))
    return Fit(axis, parts, shape), f"{'cut' if policy == 'intersect' else 'padded'} to {shape}"


def _parts(k: int, sizes: Sequence[int], donors: Sequence[int], size: int) -> Parts:
    parts, at = [(k, 0, min(sizes[k], size))], min(sizes[k], size)
    for donor in donors:
        if at < min(sizes[donor], size):
            parts.append((donor, at, min(sizes[donor], size)))
            at = min(sizes[donor], size)
    return parts


def _axis(shapes: Sequence[Shape], path: str) -> int:
    """The one axis in which the shapes differ."""
    if len({len(s) for s in shapes}) == 1:
        differ = [i for i in range(len(shapes[0])) if len({s[i] for s in shapes}) > 1]
        if len(differ) == 1:
            return differ[0]
    raise TreeMismatch(
        f"reconcile: {path} has shapes {', '.join(map(str, shapes))}, which differ in more than the length of one "
        f"axis; take the policy 'base', or make them alike first"
    )


def _shape(source: ByPath, path: Path) -> Shape | None:
    if path not in source:
        return None
    return tuple(getattr(source.abstract(path), "shape", ()))


class Fitted(Mapping[Hashable, Leaf]):
    """A lazy checkpoint in the leaves and shapes of a plan."""

    def __init__(self, k: int, names: Mapping[Path, Any], sources: Sequence[ByPath], plan: Plan) -> None:
        self.paths = {names.get(path, path[0] if len(path) == 1 else path): path for path in plan}
        self.read = _reader(k, sources, plan)
        self.specs = {name: _spec(k, sources, path, plan[path]) for name, path in self.paths.items()}

    def __getitem__(self, name: Hashable) -> Leaf:
        return self.read(self.paths[name])

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __contains__(self, name: object) -> bool:
        return name in self.paths


def _fitted(tree: Tree, k: int, sources: Sequence[ByPath], plan: Plan) -> Tree:
    if is_lazy(tree):
        return Fitted(k, sources[k].names, sources, plan)
    params, read = as_params(tree), _reader(k, sources, plan)
    leaves = {path: read(path) for path in plan}
    if leaves.keys() == params.leaves.keys():
        return params.rebuild(leaves)
    if not _of_dicts(tree):
        raise TreeMismatch(f"tree {k + 1} would lose or get leaves, which only dicts can; turn it into dicts first")
    return _nested(leaves)


def _reader(k: int, sources: Sequence[ByPath], plan: Plan) -> Callable[[Path], Leaf]:
    def read(path: Path) -> Leaf:
        fit = plan[path]
        if fit is None:
            return sources[k][path]
        if fit.axis is None:
            return sources[fit.parts[k][0][0]][path]
        pieces = [_slice(sources[j][path], fit.axis, start, stop) for j, start, stop in fit.parts[k]]
        if len(pieces) == 1:
            return pieces[0]
        dtype = pieces[0].dtype
        join: Any = np if all(isinstance(p, np.ndarray) for p in pieces) else jnp
        return join.concatenate([p.astype(dtype) for p in pieces], axis=fit.axis)

    return read


def _slice(leaf: Leaf, axis: int, start: int, stop: int) -> Any:
    array = dense(leaf) if isinstance(leaf, Implicit) else leaf
    return array[(*(slice(None),) * axis, slice(start, stop))]


def _spec(k: int, sources: Sequence[ByPath], path: Path, fit: Fit | None) -> Any:
    """The entry of `specs` of a leaf: its source's own, with another shape if it was cut or padded."""
    source = sources[k if fit is None or fit.axis is not None else fit.parts[k][0][0]]
    own = source.specs[source.names[path]] if source.specs is not None else abstract(source[path])
    if fit is None or fit.axis is None:
        return own
    if hasattr(own, "_replace"):
        return own._replace(shape=fit.shape)
    return (fit.shape, own.dtype if hasattr(own, "dtype") else own[1])


def _of_dicts(tree: Tree) -> bool:
    if type(tree) is dict:
        return all(_of_dicts(child) for child in tree.values())
    return len(as_params(tree).leaves) == 1 and () in as_params(tree).leaves


def _nested(leaves: Mapping[Path, Leaf]) -> dict[Any, Any]:
    tree: dict[Any, Any] = {}
    for path, leaf in leaves.items():
        at = tree
        for key in path[:-1]:
            at = at.setdefault(key, {})
        at[path[-1]] = leaf
    return tree
