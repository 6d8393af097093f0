"""Transform: n aligned leaves -> one leaf, with the folds it must know first. The one type that every method makes.

A method is a pure array function and a factory of the same name:

    def halve_array(w): return w / 2

    def halve():
        return leafwise("halve", lambda leaves, ctx: halve_array(*leaves))
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from wspace.core.axes import Axes, MatrixView, matrix_view
from wspace.core.errors import ShapeError, SideTreeError
from wspace.core.fold import Fold
from wspace.core.implicit import Implicit, dense
from wspace.core.select import Spec
from wspace.core.typing import Array, Leaf, Path, Tree

Steps = dict[Path, tuple[str, ...]]


class Context(NamedTuple):
    """What one leaf knows besides its values.

    spec: its path, shape, dtype, axes. key: its own random key. sides: its share of each side tree.
    summaries: the results of the folds, in order. tree: which of so many trees, for a part of one tree in a chain.
    """

    spec: Spec
    key: Array | None = None
    sides: Mapping[str, Any] = {}
    summaries: tuple[Any, ...] = ()
    tree: int = 0
    trees: int = 1

    def side(self, name: str) -> Any:
        """This leaf's entry of a side tree.

        Raises:
          SideTreeError: the side tree has nothing for this leaf.
        """
        if self.sides.get(name) is None:
            raise SideTreeError(
                f"side tree {name!r} has nothing for {self.spec.path} {self.spec.shape}; "
                f"give it an entry, or leave this leaf out with on(...)"
            )
        return self.sides[name]

    def each(self, name: str) -> tuple[Any, ...]:
        """This leaf's entries of a side tree that is a tuple of trees, one a model.

        Raises:
          SideTreeError: it is one tree, or one of the trees has nothing for this leaf.
        """
        entries = self.side(name)
        if not isinstance(entries, tuple):
            raise SideTreeError(f"side tree {name!r} is one tree; pass a tuple of them, one a model, in their order")
        if any(entry is None for entry in entries):
            k = next(k for k, entry in enumerate(entries) if entry is None)
            raise SideTreeError(
                f"side tree {name!r} of model {k + 1} has nothing for {self.spec.path} {self.spec.shape}; "
                f"give it an entry, or leave this leaf out with on(...)"
            )
        return entries

    def view(self) -> MatrixView:
        """This leaf as `[*stack, in, out]`. Raises ShapeError if it is no matrix."""
        return matrix_view(self.spec.axes, self.spec.shape, self.spec.path)


def _alone(name: str) -> Callable[[Mapping[Path, Spec]], Steps]:
    return lambda specs: {path: (name,) for path in specs}


class Transform(NamedTuple):
    """A pure function on aligned leaves; compose with `chain`, `on`, `route`, `around_base`, run by calling it.

    apply: `(leaves, ctx) -> leaf`, traceable. name: for tables and messages.
    folds: what must be known first; each one is a pass over the leaves.
    needs: side trees it can't run without ("base", "gram", ...), and "key" if it is random.
    arity: trees in; None is any number. resolve: specs -> the steps each leaf takes; raises if a selector takes none.
    streams: how many random streams it may draw from: its key, and fold_in(key, i) for 0 < i < streams.
    """

    apply: Callable[[tuple[Leaf, ...], Context], Leaf]
    name: str
    folds: tuple[Fold, ...] = ()
    needs: frozenset[str] = frozenset()
    arity: int | None = 1
    resolve: Callable[[Mapping[Path, Spec]], Steps] | None = None
    streams: int = 1

    @property
    def passes(self) -> int:
        """How often each leaf is read."""
        return 1 + len(self.folds)

    @property
    def scope(self) -> Literal["leaf", "group", "global"]:
        """How far a leaf's result reaches: itself, its group, or the whole tree."""
        if not self.folds:
            return "leaf"
        return "global" if any(f.scope == "global" for f in self.folds) else "group"

    def steps(self, specs: Mapping[Path, Spec]) -> Steps:
        """Per leaf, the names of what is applied to it."""
        return (self.resolve or _alone(self.name))(specs)

    def __call__(self, *trees: Tree, key: Array | None = None, axes: Axes | None = None, **sides: Tree) -> Tree:
        """Run in memory; the container of the first tree comes out. See `wspace.core.run.call`."""
        from wspace.core.run import call

        return call(self, trees, key=key, axes=axes, sides=sides)


def working_dtype(*dtypes: Any) -> Any:
    """What leaves are computed in: float32, or float64 if one of them is."""
    return jnp.float64 if any(d == jnp.float64 for d in dtypes) else jnp.float32


def working(leaf: Leaf) -> Array:
    """A leaf as the array to compute with: materialized, in its working dtype."""
    w = dense(leaf)
    return w.astype(working_dtype(w.dtype))


def narrow(x: Array, dtype: Any) -> Array:
    """Cast to a leaf's dtype; float8 and smaller saturate, since a plain cast of a large number to them is NaN."""
    if jnp.finfo(dtype).bits < 16:
        top = jnp.asarray(jnp.finfo(dtype).max).astype(x.dtype)
        x = jnp.clip(x, -top, top)
    return x.astype(dtype)


def leafwise(
    name: str,
    fn: Callable[[tuple[Array, ...], Context], Array | Implicit],
    *,
    arity: int | None = 1,
    folds: tuple[Fold, ...] = (),
    needs: frozenset[str] = frozenset(),
) -> Transform:
    """A Transform from a function on arrays: leaves come in float32 (float64), the result goes out in their dtype."""

    def apply(leaves: tuple[Leaf, ...], ctx: Context) -> Leaf:
        dtype = working_dtype(*(x.dtype for x in leaves))
        out = fn(tuple(dense(x).astype(dtype) for x in leaves), ctx)
        return out if isinstance(out, Implicit) else narrow(out, leaves[0].dtype)

    return Transform(apply, name, folds, needs, arity)


def over_stack(fn: Callable[..., Any], stacks: int) -> Callable[..., Any]:
    """`fn` on matrices, mapped over leading stack axes, which lie alike on a mesh."""
    if not stacks:
        return fn
    for _ in range(stacks):
        fn = jax.vmap(fn)
    return lambda *given: fn(*_stacked_alike(given, stacks))


def _stacked_alike(given: tuple[Any, ...], stacks: int) -> tuple[Any, ...]:
    """Arrays, those among them whose stack axes are whole split as the others' are: with Explicit axes, vmap asks."""
    leaves, structure = jax.tree.flatten(given)
    at = [jax.typeof(x).sharding for x in leaves]
    first = next((s for s in at if s.mesh.explicit_axes and any(s.spec[:stacks])), None)
    if first is None:
        return given
    alike = [
        jax.sharding.reshard(x, NamedSharding(first.mesh, PartitionSpec(*first.spec[:stacks], *s.spec[stacks:])))
        for x, s in zip(leaves, at, strict=True)
    ]
    return tuple(jax.tree.unflatten(structure, alike))


def matrixwise(
    name: str, fn: Callable[..., Array], *, side: str | None = None, needs: frozenset[str] = frozenset()
) -> Transform:
    """A Transform from a function on one matrix `[in, out]` (and its entry of a side tree): stacks are mapped."""

    def apply(leaves: tuple[Array, ...], ctx: Context) -> Array:
        view = ctx.view()
        extra = () if side is None else (jnp.asarray(ctx.side(side)),)
        return view.from_matrix(over_stack(fn, view.stacks)(view.to_matrix(leaves[0]), *extra))

    return leafwise(name, apply, needs=needs | (frozenset() if side is None else {side}))


_fold_in = jax.jit(jax.random.fold_in)  # one program; by itself it is a dozen


@overload
def leaf_key(key: None, path: str) -> None: ...
@overload
def leaf_key(key: Array, path: str) -> Array: ...
@overload
def leaf_key(key: Array | None, path: str) -> Array | None: ...
def leaf_key(key: Array | None, path: str) -> Array | None:
    """The random key of a leaf: a function of its path alone, so order, selection and sharding change nothing.

    The tree's `a/b` and a file's `a.b` are the same leaf.
    """
    if key is None:
        return None
    return _fold_in(key, np.uint32(zlib.crc32(path.replace(".", "/").encode())))


def check_arity(t: Transform, trees: int) -> None:
    """Raises ShapeError if a transform can't take that many trees."""
    if trees == 0 or (t.arity is not None and trees != t.arity):
        wanted = "at least one tree" if t.arity is None else f"{t.arity} tree{'s' if t.arity > 1 else ''}"
        raise ShapeError(f"{t.name} takes {wanted}, but got {trees}; see its docstring, or put a merge in a chain")


def per_model(weights: Any, n: int, default: float = 1.0) -> Array:
    """Weights of n models as an array `[n]`, float32 (float64 beside float64 leaves); None is `default` for each.

    Raises:
      ShapeError: another number of weights than of models.
    """
    w = jnp.full((n,), default, float) if weights is None else jnp.asarray(weights, float)
    if w.shape != (n,):
        raise ShapeError(f"{n} trees need weights of shape ({n},), but got {w.shape}")
    return w


def of_model(value: Any, ctx: Context) -> Any:
    """A parameter that every model may have its own value of: this tree's entry of a list, tuple or vector.

    Raises:
      ShapeError: there are not as many values as trees.
    """
    values = value if isinstance(value, list | tuple) or getattr(value, "ndim", 0) == 1 else None
    if values is None:
        return value
    if len(values) != ctx.trees:
        raise ShapeError(f"{len(values)} values for {ctx.trees} trees; give each its own, or one number for all")
    return values[ctx.tree]
