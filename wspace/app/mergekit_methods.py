"""The twenty methods of mergekit 0.1.5 with the parameters, defaults and models that each of them takes.

Names and defaults are mergekit's, ranges are ours: mergekit takes any number and goes on. Differs from mergekit:
`int8_mask` is accepted and changes nothing (it saves memory there); `lambda` is any finite number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from wspace.app.node import Range
from wspace.app.settings import Parameter

FRACTION = Range(0, 1, open_low=True)
UNIT = Range(0, 1)
POSITIVE = Range(0, open_low=True)
NOT_NEGATIVE = Range(0)

WEIGHT = Parameter(float, required=True)
DENSITY = Parameter(float, 1.0, FRACTION)


def _flag(default: bool) -> Parameter:
    return Parameter(bool, default)


@dataclass(frozen=True)
class Method:
    """What a recipe may say about one method.

    Attributes:
      each: parameters that every model has its own value of (a value for the whole merge serves all).
      whole: parameters of the whole merge.
      base: whether there is a base model; "none" treats a listed base as one of the models.
      least, most: how many models besides the base; `most` None is no limit.
      divides: the parameter that says whether weights are divided by their sum; "always" if they always are.
    """

    each: Mapping[str, Parameter] = field(default_factory=dict)
    whole: Mapping[str, Parameter] = field(default_factory=dict)
    base: Literal["required", "optional", "none"] = "required"
    least: int = 1
    most: int | None = None
    divides: str | None = None


def _task(normalize: bool, rescale: bool, elects: bool = False, **each: Parameter) -> Method:
    """A method of the task-vector family: base + lambda * combination of sparsified deltas.

    One that elects signs divides by the weights that agree, entry by entry, and not by their sum.
    """
    whole = {
        "normalize": _flag(normalize),
        "rescale": _flag(rescale),
        "lambda": Parameter(float, 1.0),
        "int8_mask": _flag(False),
    }
    return Method({"weight": WEIGHT, "density": DENSITY, **each}, whole, divides=None if elects else "normalize")


_EPSILON = Parameter(float, 0.15, Range(0, 0.5, open_high=True))
_GAMMA = Parameter(float, 0.01, Range(0, 1, open_high=True))
_TINY = Parameter(float, 1e-5, NOT_NEGATIVE)

METHODS: Mapping[str, Method] = {
    "linear": Method({"weight": WEIGHT}, {"normalize": _flag(True)}, base="none", divides="normalize"),
    "slerp": Method(whole={"t": Parameter(float, range=UNIT, required=True)}, most=1),
    "nuslerp": Method(
        {"weight": WEIGHT},
        {"nuslerp_row_wise": _flag(False), "nuslerp_flatten": _flag(True)},
        base="optional",
        least=2,
        most=2,
        divides="always",
    ),
    "multislerp": Method(
        {"weight": WEIGHT},
        {"normalize_weights": _flag(True), "eps": Parameter(float, 1e-8, POSITIVE)},
        base="optional",
        divides="normalize_weights",
    ),
    "karcher": Method(
        whole={"max_iter": Parameter(int, 10, Range(1)), "tol": Parameter(float, 1e-5, POSITIVE)}, base="none"
    ),
    "task_arithmetic": _task(normalize=False, rescale=False),
    "ties": _task(normalize=True, rescale=False, elects=True),
    "dare_linear": _task(normalize=False, rescale=True),
    "dare_ties": _task(normalize=False, rescale=True, elects=True),
    "della": _task(normalize=True, rescale=True, elects=True, epsilon=_EPSILON),
    "della_linear": _task(normalize=False, rescale=True, epsilon=_EPSILON),
    "breadcrumbs": _task(normalize=False, rescale=False, gamma=_GAMMA),
    "breadcrumbs_ties": _task(normalize=False, rescale=False, elects=True, gamma=_GAMMA),
    "sce": Method(whole={"select_topk": Parameter(float, 1.0, FRACTION), "int8_mask": _flag(False)}),
    "ram": Method(whole={"epsilon": _TINY}),
    "ramplus_tl": Method(
        whole={"epsilon": _TINY, "r": Parameter(float, 0.1, NOT_NEGATIVE), "alpha": Parameter(float, 0.2, NOT_NEGATIVE)}
    ),
    "model_stock": Method(whole={"filter_wise": _flag(False)}, least=2),
    "nearswap": Method(whole={"t": Parameter(float, range=NOT_NEGATIVE, required=True)}, most=1),
    "arcee_fusion": Method(most=1),
    "passthrough": Method({"scale": Parameter(float, None)}, base="none", most=1),
}
