"""mergekit's methods as our transforms: one table; parameters that vary over tensors become a `route`.

Differs from mergekit: masks are drawn by tensor name, so those of DARE and DELLA are other masks than mergekit's.
Weights that sum to zero are refused where they are divided by their sum; methods that elect signs don't. Of equal
magnitudes a trim keeps the first ones, mergekit any. A base in `base_model` is used by nuslerp and multislerp as
mergekit does it: they merge the differences to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from wspace.app.mergekit_methods import METHODS
from wspace.app.mergekit_recipe import MergeRecipe, Slice, Values
from wspace.app.restack import Place, order
from wspace.app.settings import layer_counts, layer_of
from wspace.average import karcher, model_stock, uniform_soup
from wspace.core.compose import around_base, keep, route
from wspace.core.errors import RecipeError, printable
from wspace.core.transform import Transform
from wspace.interpolate import multislerp, nuslerp, slerp
from wspace.merge import (
    arcee_fusion,
    breadcrumbs,
    dare,
    della,
    elect,
    nearswap,
    ram,
    ramplus_tl,
    sce,
    ties,
    weighted_sum,
)

Build = Callable[[Mapping[str, Any], Mapping[str, Sequence[Any]]], Transform]  # (whole, each) -> Transform


def _linear(whole: Mapping[str, Any], each: Mapping[str, Sequence[Any]]) -> Transform:
    weights = tuple(each["weight"])
    return uniform_soup(weights) if whole["normalize"] else weighted_sum(weights)


def _slerp(whole: Mapping[str, Any], each: Mapping[str, Sequence[Any]]) -> Transform:
    return slerp(whole["t"])


def _sum(whole: Mapping[str, Any], each: Mapping[str, Sequence[Any]]) -> Transform:
    """The consensus without an election: mergekit divides by the sum of the weights if it is to normalize."""
    weights, lam = tuple(each["weight"]), whole["lambda"]
    return weighted_sum(weights, lam / sum(weights) if whole["normalize"] else lam)


def _task_arithmetic(whole: Mapping[str, Any], each: Mapping[str, Sequence[Any]]) -> Transform:
    return around_base(_sum(whole, each), name="task_arithmetic")


def _task(
    make: Callable[..., Transform], elects: bool, names: Sequence[str], norm: Any = "l1"
) -> Callable[[Mapping[str, Any], Mapping[str, Sequence[Any]]], Transform]:
    """A method of sparse task vectors: `names` are the parameters of its sparsifier that every model has its own of."""

    def build(whole: Mapping[str, Any], each: Mapping[str, Sequence[Any]]) -> Transform:
        if elects:
            consensus: Callable[..., Transform] = partial(elect, normalize=whole["normalize"], positive=True)
        else:
            consensus = lambda weights, lam: _sum(whole, each)  # noqa: E731
        own = {name: tuple(each[name]) for name in names}
        return make(
            **own,
            weights=tuple(each["weight"]),
            lam=whole["lambda"],
            consensus=consensus,
            rescale=norm if whole["rescale"] else False,
        )

    return build


def _ties(whole: Mapping[str, Any], each: Mapping[str, Sequence[Any]]) -> Transform:
    density, weights = tuple(each["density"]), tuple(each["weight"])
    named = {name: whole[name] for name in ("normalize", "rescale")}
    return ties(density, weights, whole["lambda"], **named, positive=True)


def _nuslerp(whole: Mapping[str, Any], each: Mapping[str, Sequence[Any]]) -> Transform:
    return nuslerp(tuple(each["weight"]), None if whole["nuslerp_flatten"] else 0 if whole["nuslerp_row_wise"] else -1)


def _multislerp(whole: Mapping[str, Any], each: Mapping[str, Sequence[Any]]) -> Transform:
    return multislerp(tuple(each["weight"]), whole["normalize_weights"], whole["eps"])


def _passthrough(whole: Mapping[str, Any], each: Mapping[str, Sequence[Any]]) -> Transform:
    (scale,) = each["scale"]
    return keep() if scale is None else weighted_sum((scale,))


BUILDERS: Mapping[str, Build] = {
    "linear": _linear,
    "slerp": _slerp,
    "nuslerp": _nuslerp,
    "multislerp": _multislerp,
    "karcher": lambda whole, each: karcher(max_iter=int(whole["max_iter"]), tol=whole["tol"]),
    "task_arithmetic": _task_arithmetic,
    "ties": _ties,
    "dare_linear": _task(dare, False, ("density",)),
    "dare_ties": _task(dare, True, ("density",)),
    "della": _task(della, True, ("density", "epsilon")),
    "della_linear": _task(della, False, ("density", "epsilon")),
    "breadcrumbs": _task(breadcrumbs, False, ("density", "gamma"), norm=True),
    "breadcrumbs_ties": _task(breadcrumbs, True, ("density", "gamma"), norm=True),
    "sce": lambda whole, each: sce(whole["select_topk"], floor=1e-6, positive=True),
    "ram": lambda whole, each: ram(whole["epsilon"]),
    "ramplus_tl": lambda whole, each: ramplus_tl(whole["r"], whole["alpha"], whole["epsilon"]),
    "model_stock": lambda whole, each: model_stock(-1 if whole["filter_wise"] else None, floor=1e-6),
    "nearswap": lambda whole, each: nearswap(whole["t"]),
    "arcee_fusion": lambda whole, each: arcee_fusion(),
    "passthrough": _passthrough,
}
IGNORED: Mapping[
    str, Mapping[str, Any]
] = {  # what mergekit takes and does not look at, and the value that asks nothing
    "task_arithmetic": {"density": 1.0},
}


def merge_transform(merge: MergeRecipe, names: Sequence[str]) -> tuple[tuple[str, ...], Transform]:
    """The models a document of whole models merges, in order, and the Transform for tensors of these names.

    Raises:
      RecipeError: an option that its method does not use, with its line.
    """
    (group,) = merge.groups
    models = order(merge, group)
    counts = layer_counts(names)
    places = {}
    for name in names:
        stack, layer = layer_of(name) or ("", None)
        places[name] = Place(group, layer, counts.get(stack, 1), {})
    return models, placed_transform(merge, places, len(models))


def placed_transform(merge: MergeRecipe, places: Mapping[str, Place], most: int) -> Transform:
    """The Transform for tensors at these places; of slices with fewer than `most` models it takes the first trees.

    Raises:
      RecipeError: as `merge_transform`.
    """
    labels: dict[str, str] = {}
    members: dict[str, Transform] = {}
    for name, (group, layer, layers, inputs) in places.items():
        values, count = merge.values(name, layer, layers, group, inputs), len(order(merge, group))
        labels[name] = repr((values.whole, [*values.each.values()], count, group.base is None))
        if labels[name] not in members:
            made = _built(merge, values, group)
            members[labels[name]] = made if count == most else _of_the_first(count, made)
    if len(members) == 1:
        return next(iter(members.values()))
    short = {label: f"p{i}" for i, label in enumerate(members)}
    return route(lambda path: short[labels[path]], {short[k]: t for k, t in members.items()}, name=merge.method)


def _built(merge: MergeRecipe, values: Values, group: Slice) -> Transform:
    each = {name: [own[name] for own in values.each.values()] for name in next(iter(values.each.values()), {})}
    for name, plain in IGNORED.get(merge.method, {}).items():
        if any(value != plain for value in each[name]):
            raise _refused(merge, f"{merge.method} does not use {name} in mergekit either; leave it out, or take ties")
    made = BUILDERS[merge.method](values.whole, each)
    based = METHODS[merge.method].base == "optional" and group.base is not None
    return around_base(made, name=merge.method) if based else made


def _of_the_first(count: int, t: Transform) -> Transform:
    """`t` on the first trees, the others left alone."""

    def of(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda leaves, ctx: function(leaves[:count], ctx)

    folds = tuple(fold._replace(lift=of(fold.lift)) for fold in t.folds)
    return t._replace(apply=of(t.apply), folds=folds, arity=None)


def _refused(merge: MergeRecipe, why: str) -> RecipeError:
    return RecipeError(printable(f"{merge.place}: {why}"))
