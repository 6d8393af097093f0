"""Combinators, all closed over Transform: chain, on, route, around_base, keep.

ties = around_base(chain(trim, elect))
recipe = chain(ties, on("kernel$", magnitude(0.5)), on("kernel$", rtn(4)))
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax

from wspace.core.errors import SelectionError, ShapeError, listed, nearest
from wspace.core.fold import Fold
from wspace.core.implicit import dense
from wspace.core.select import Spec, by_label, describe, selected
from wspace.core.transform import Context, Steps, Transform, narrow, working_dtype
from wspace.core.typing import Leaf, Path, Where


def keep() -> Transform:
    """The first tree's leaf, unchanged. What `on` does to the leaves it does not select."""
    return Transform(lambda leaves, ctx: leaves[0], "keep", arity=None)


def chain(*parts: Transform, name: str | None = None) -> Transform:
    """One transform after another; passes add up.

    Parts of one tree before a merge run on every one of its trees, so `chain(trim, elect)` takes n trees: trim is
    applied to each, elect to all. Every part draws from a random stream of its own, and tree k too; nesting chains
    changes which numbers are drawn, not their independence.

    Raises:
      ShapeError: a part of several trees comes after another one, which leaves one tree.

    Example:
      >>> import jax.numpy as jnp, wspace as ws
      >>> double = ws.leafwise("double", lambda leaves, ctx: 2 * leaves[0])
      >>> chain(double, double)({"w": jnp.ones(2)})["w"]
      Array([4., 4.], dtype=float32)
    """
    if not parts:
        raise SelectionError("chain() needs at least one transform; keep() is the one that changes nothing")
    _check_order(parts)
    starts = [sum(len(p.folds) for p in parts[:i]) for i in range(len(parts) + 1)]
    streams = [sum(p.streams for p in parts[:i]) for i in range(len(parts) + 1)]

    def run(upto: int, leaves: tuple[Leaf, ...], ctx: Context) -> tuple[Leaf, ...]:
        for i, part in enumerate(parts[:upto]):
            leaves = _apply(part, leaves, _at(ctx, streams[i], ctx.summaries[starts[i] : starts[i + 1]]))
        return leaves

    def folded(i: int, j: int, fold: Fold) -> Fold:
        def lift(leaves: tuple[Leaf, ...], ctx: Context) -> Any:
            now = _at(ctx, streams[i], ctx.summaries[starts[i] : starts[i] + j])
            return _lift(parts[i], fold, run(i, leaves, ctx), now)

        return fold._replace(lift=lift, merge=partial(_merge_each, fold), finish=partial(_finish_each, fold))

    def resolve(specs: Mapping[Path, Spec]) -> Steps:
        each = [part.steps(specs) for part in parts]
        return {path: sum((steps[path] for steps in each), ()) for path in specs}

    return Transform(
        apply=lambda leaves, ctx: run(len(parts), leaves, ctx)[0],
        name=name or " > ".join(p.name for p in parts),
        folds=tuple(folded(i, j, fold) for i, part in enumerate(parts) for j, fold in enumerate(part.folds)),
        needs=frozenset().union(*(p.needs for p in parts)),
        arity=next((p.arity for p in parts if p.arity != 1), 1),
        resolve=resolve,
        streams=streams[-1],
    )


def _check_order(parts: Sequence[Transform]) -> None:
    """Raises ShapeError if a part needs more trees than those before it leave."""
    merge: str | None = None
    for part in parts:
        if merge is not None and part.arity not in (1, None):
            raise ShapeError(f"{part.name} takes {part.arity} trees, but in the chain {merge} before it leaves one")
        merge = part.name if merge is None and part.arity != 1 else merge


def _at(ctx: Context, stream: int, summaries: tuple[Any, ...]) -> Context:
    """The context of a part of a chain, whose first random stream has this number."""
    key = ctx.key if ctx.key is None or stream == 0 else jax.random.fold_in(ctx.key, stream)
    return ctx._replace(key=key, summaries=summaries)


def _of_tree(ctx: Context, k: int, trees: int) -> Context:
    """The context of tree k of some: its own random stream, its own share of the per-tree side trees and summaries."""
    key = ctx.key if ctx.key is None or k == 0 else jax.random.fold_in(ctx.key, 2**31 + k)
    sides = {n: s[k] if isinstance(s, tuple) else s for n, s in ctx.sides.items()}
    summaries = tuple(None if s is None else s[k] for s in ctx.summaries)
    return ctx._replace(key=key, sides=sides, summaries=summaries, tree=k, trees=trees)


def _each(part: Transform, leaves: tuple[Leaf, ...]) -> bool:
    return part.arity == 1 and len(leaves) > 1


def _apply(part: Transform, leaves: tuple[Leaf, ...], ctx: Context) -> tuple[Leaf, ...]:
    if _each(part, leaves):
        return tuple(part.apply((x,), _of_tree(ctx, k, len(leaves))) for k, x in enumerate(leaves))
    return (part.apply(leaves, ctx._replace(summaries=tuple(s and s[0] for s in ctx.summaries))),)


def _lift(part: Transform, fold: Fold, leaves: tuple[Leaf, ...], ctx: Context) -> Any:
    if _each(part, leaves):
        lifted = tuple(fold.lift((x,), _of_tree(ctx, k, len(leaves))) for k, x in enumerate(leaves))
    else:
        lifted = (fold.lift(leaves, ctx._replace(summaries=tuple(s and s[0] for s in ctx.summaries))),)
    return None if any(s is None for s in lifted) else lifted


def _merge_each(fold: Fold, a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(fold.merge(x, y) for x, y in zip(a, b, strict=True))


def _finish_each(fold: Fold, s: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(fold.finish(x) for x in s)


Rules = Sequence[tuple[Where, str]] | Callable[[str], str | None]


def route(
    rules: Rules, transforms: Mapping[str, Transform], otherwise: Transform | None = None, name: str | None = None
) -> Transform:
    """Another transform for other leaves. Rules are `(where, label)`, the first that takes a leaf wins; or a callable
    from path to label. Transforms run side by side: passes are the most that any of them needs.

    Example:
      >>> import jax.numpy as jnp, wspace as ws
      >>> t = route([("bias$", "keep"), (".", "half")], {"keep": ws.keep(), "half": ws.prune.magnitude(0.5)})
      >>> t({"bias": jnp.ones(2), "kernel": jnp.array([1.0, 2.0])})
      {'bias': Array([1., 1.], dtype=float32), 'kernel': Array([0., 2.], dtype=float32)}

    Raises (when run, before any work):
      SelectionError: a rule takes no leaf, a label has no transform, or a leaf has no label and `otherwise` is None.
    """
    table = {**transforms, OTHERWISE: otherwise} if otherwise is not None else dict(transforms)
    routes = _Routes(rules, table)
    members = list(table.values())
    if len({t.arity for t in members} - {None}) > 1:
        takes = ", ".join(f"{label} {t.arity or 'any number'}" for label, t in table.items())
        raise ShapeError(f"transforms side by side must take the same number of trees, but they take: {takes}")

    def apply(leaves: tuple[Leaf, ...], ctx: Context) -> Leaf:
        label = routes.label(ctx.spec)
        mine = tuple(s and s.get(label) for s in ctx.summaries[: len(table[label].folds)])
        return table[label].apply(leaves, ctx._replace(summaries=mine))

    return Transform(
        apply=apply,
        name=name or f"route({', '.join(f'{label}: {t.name}' for label, t in transforms.items())})",
        folds=tuple(routes.fold(j) for j in range(max((len(t.folds) for t in members), default=0))),
        needs=frozenset().union(*(t.needs for t in members)),
        arity=next((t.arity for t in members if t.arity is not None), None),
        resolve=routes.resolve,
        streams=max((t.streams for t in members), default=1),
    )


OTHERWISE = "otherwise"


class _Routes(NamedTuple):
    """Which transform a leaf takes. Summaries are dicts by label, so transforms side by side share a pass."""

    rules: Rules
    table: Mapping[str, Transform]

    def label(self, spec: Spec) -> str:
        found = self.rules(spec.path) if callable(self.rules) else by_label(self.rules, spec)
        return OTHERWISE if found is None else found

    def resolve(self, specs: Mapping[Path, Spec]) -> Steps:
        if not callable(self.rules):
            for where, _ in self.rules:
                selected(where, specs)
        groups: dict[str, dict[Path, Spec]] = {}
        for path, spec in specs.items():
            groups.setdefault(self.label(spec), {})[path] = spec
        for unknown in sorted(groups.keys() - self.table.keys()):
            paths = listed((s.path for s in groups[unknown].values()), 8)
            if unknown == OTHERWISE:
                raise SelectionError(f"route has no rule for {paths}; add one, or give otherwise=keep()")
            raise SelectionError(
                f"route has no transform for label {unknown!r} ({paths}).{nearest(unknown, self.table)}"
            )
        steps = {path: s for label, group in groups.items() for path, s in self.table[label].steps(group).items()}
        return {path: steps[path] for path in specs}

    def fold(self, j: int) -> Fold:
        have = {label: t.folds[j] for label, t in self.table.items() if j < len(t.folds)}

        def lift(leaves: tuple[Leaf, ...], ctx: Context) -> Any:
            label = self.label(ctx.spec)
            if label not in have:
                return None
            mine = ctx._replace(summaries=tuple(s and s.get(label) for s in ctx.summaries))
            s = have[label].lift(leaves, mine)
            return None if s is None else {label: s}

        def merge(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
            both = {label: have[label].merge(a[label], b[label]) for label in a.keys() & b.keys()}
            return {**a, **b, **both}

        def finish(s: dict[str, Any]) -> dict[str, Any]:
            return {label: have[label].finish(x) for label, x in s.items()}

        def group(spec: Spec) -> Hashable:
            label = self.label(spec)
            return have[label].group(spec) if label in have else None

        wide = any(f.scope == "global" for f in have.values())
        return Fold(lift, merge, finish, group, "global" if wide else "group")


def on(where: Where, t: Transform, otherwise: Transform | None = None) -> Transform:
    """`t` on the leaves that `where` selects, `otherwise` (default: keep the first tree's leaf) on the others.

    `where` is a regex found in the shown path, or a callable `(path, spec) -> bool` such as `ws.matrices`.

    Example:
      >>> import jax.numpy as jnp, wspace as ws
      >>> double = ws.leafwise("double", lambda leaves, ctx: 2 * leaves[0])
      >>> on("kernel$", double)({"kernel": jnp.ones(1), "bias": jnp.ones(1)})
      {'kernel': Array([2.], dtype=float32), 'bias': Array([1.], dtype=float32)}

    Raises (when run, before any work):
      SelectionError: `where` selects no leaf.
    """
    return route([(where, "on")], {"on": t}, otherwise or keep(), name=f"on({describe(where)}, {t.name})")


def around_base(t: Transform, name: str | None = None) -> Transform:
    """`t` on task vectors: subtract the side tree `base` from every tree, apply `t`, add base back.

    Differences are taken and summed in float32; the result has the dtype of the first tree's leaf.
    """

    def deltas(leaves: tuple[Leaf, ...], ctx: Context) -> tuple[Leaf, ...]:
        base = dense(ctx.side("base"))
        dtype = working_dtype(base.dtype, *(x.dtype for x in leaves))
        return tuple(dense(x).astype(dtype) - base.astype(dtype) for x in leaves)

    def apply(leaves: tuple[Leaf, ...], ctx: Context) -> Leaf:
        delta = dense(t.apply(deltas(leaves, ctx), ctx))
        return narrow(dense(ctx.side("base")).astype(delta.dtype) + delta, leaves[0].dtype)

    def folded(fold: Fold) -> Fold:
        return fold._replace(lift=lambda leaves, ctx: fold.lift(deltas(leaves, ctx), ctx))

    return Transform(
        apply=apply,
        name=name or f"around_base({t.name})",
        folds=tuple(folded(f) for f in t.folds),
        needs=t.needs | {"base"},
        arity=t.arity,
        resolve=(lambda specs: {p: (name,) for p in specs}) if name else t.resolve,
        streams=t.streams,
    )
