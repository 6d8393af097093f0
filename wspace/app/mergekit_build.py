"""mergekit's methods as our transforms: one table; parameters that vary over tensors become a `route`.

Differs from mergekit: `rescale` of the DARE methods divides by the density, as the paper does; mergekit (0.1.4)
restores each tensor's L1 norm instead. Masks are drawn by tensor name, so they are other masks than mergekit's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from wspace.app.mergekit_recipe import MergeRecipe, Values
from wspace.app.settings import layer_counts, layer_of
from wspace.average import uniform_soup
from wspace.core.compose import around_base, keep, route
from wspace.core.errors import RecipeError, listed, printable
from wspace.core.transform import Transform
from wspace.interpolate import slerp
from wspace.merge import dare, elect, ties, weighted_sum

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


def _ties(whole: Mapping[str, Any], each: Mapping[str, Sequence[Any]]) -> Transform:
    return ties(tuple(each["density"]), tuple(each["weight"]), whole["lambda"], normalize=whole["normalize"])


def _dare_linear(whole: Mapping[str, Any], each: Mapping[str, Sequence[Any]]) -> Transform:
    return dare(tuple(each["density"]), rescale=whole["rescale"], consensus=lambda weights, lam: _sum(whole, each))


def _dare_ties(whole: Mapping[str, Any], each: Mapping[str, Sequence[Any]]) -> Transform:
    election = partial(elect, normalize=whole["normalize"])
    return dare(
        tuple(each["density"]), tuple(each["weight"]), whole["lambda"], consensus=election, rescale=whole["rescale"]
    )


def _passthrough(whole: Mapping[str, Any], each: Mapping[str, Sequence[Any]]) -> Transform:
    return keep()


BUILDERS: Mapping[str, Build] = {
    "linear": _linear,
    "slerp": _slerp,
    "task_arithmetic": _task_arithmetic,
    "ties": _ties,
    "dare_linear": _dare_linear,
    "dare_ties": _dare_ties,
    "passthrough": _passthrough,
}
PLAIN: Mapping[str, Mapping[str, Any]] = {  # values at which a parameter changes nothing: others are not built yet
    "task_arithmetic": {"density": 1.0},
    "ties": {"rescale": False},
    "passthrough": {"scale": None},
}


def merge_transform(merge: MergeRecipe, names: Sequence[str]) -> tuple[tuple[str, ...], Transform]:
    """The models a document merges, in order, and the Transform for tensors of these names.

    Raises:
      RecipeError: a method, slice or option of mergekit that wspace does not have, with its line.
    """
    if merge.method not in BUILDERS:
        raise _refused(merge, f"wspace does not have mergekit's {merge.method} yet; it has {listed(BUILDERS)}")
    if merge.slices:
        raise _refused(merge, "wspace does not stack layers by slices yet; list whole models")
    (group,) = merge.groups
    models = tuple(source.model for source in merge.merged(group))
    if merge.method == "slerp" and merge.base is not None:
        models = (merge.base, *models)
    counts = layer_counts(names)
    labels: dict[str, str] = {}
    members: dict[str, Transform] = {}
    for name in names:
        stack, layer = layer_of(name) or ("", None)
        values = merge.values(name, layer, counts.get(stack, 1))
        labels[name] = repr(values)
        if labels[name] not in members:
            members[labels[name]] = _built(merge, values)
    if len(members) == 1:
        return models, next(iter(members.values()))
    short = {label: f"p{i}" for i, label in enumerate(members)}
    return models, route(lambda path: short[labels[path]], {short[k]: t for k, t in members.items()}, name=merge.method)


def _built(merge: MergeRecipe, values: Values) -> Transform:
    each = {name: [own[name] for own in values.each.values()] for name in next(iter(values.each.values()), {})}
    for name, plain in PLAIN.get(merge.method, {}).items():
        given = each.get(name, [values.whole.get(name, plain)])
        if any(value != plain for value in given):
            raise _refused(merge, f"wspace has {merge.method} with {name}: {plain} only, so far")
    return BUILDERS[merge.method](values.whole, each)


def _refused(merge: MergeRecipe, why: str) -> RecipeError:
    return RecipeError(printable(f"{merge.place}: {why}"))
