"""What an operation of a traced program is: entry-wise or not, what it calls, what it does inside, in words."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import jax.extend.core as jex

from wspace.core.twins import PLACED

ENTRYWISE = frozenset(
    "abs add add_any and bitcast_convert_type cbrt ceil clamp convert_element_type copy cos div eq erf exp exp2 expm1 "
    "floor ge gt integer_pow is_finite le log log1p logistic lt max min mul ne neg nextafter not or pow rem round "
    "rsqrt select_n sign sin sqrt square stop_gradient sub tan tanh xor".split()
)
CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr"}
MULTIPLIES, ADDS = frozenset({"mul", "square", "integer_pow"}), frozenset({"add", "add_any", "sub", "reduce_sum"})
CASTS = frozenset({"convert_element_type"})


def words(eqn: Any, shape: tuple[int, ...]) -> Hashable:
    """What an operation does, equal for leaves of another shape. (A program's own text costs as much as its run.)"""
    name, inner = eqn.params.get("name"), inside(eqn)
    if inner is None:
        params = tuple((k, "*" if v == shape else str(v)) for k, v in eqn.params.items())
        return eqn.primitive.name, params
    if name in PLACED:
        return eqn.primitive.name, name
    numbers = {v: n for n, v in enumerate([*inner.jaxpr.constvars, *inner.jaxpr.invars])}
    said: list[Hashable] = [str(c) for c in inner.consts]
    for e in inner.jaxpr.eqns:
        takes = tuple((str(a.val) if isinstance(a, jex.Literal) else numbers[a], str(a.aval.dtype)) for a in e.invars)
        numbers |= {v: len(numbers) + n for n, v in enumerate(e.outvars)}
        said.append((words(e, shape), takes))
    return eqn.primitive.name, (
        *said,
        *(str(a) if isinstance(a, jex.Literal) else numbers[a] for a in inner.jaxpr.outvars),
    )


def inside(eqn: Any) -> Any:
    """The program that an operation calls, None for others."""
    return eqn.params.get(CALLS.get(eqn.primitive.name, ""))


def is_entrywise(eqn: Any, shape: tuple[int, ...]) -> bool:
    """Whether entry i of what it makes depends on entry i of what it takes, and on small values."""
    shapes = [v.aval.shape for v in (*eqn.invars, *eqn.outvars)]
    if shape not in shapes:
        return True
    inner = inside(eqn)
    if inner is not None:
        return all(is_entrywise(e, shape) for e in inner.jaxpr.eqns)
    if eqn.primitive.name == "broadcast_in_dim":
        return eqn.invars[0].aval.shape == ()
    return eqn.primitive.name in ENTRYWISE and all(s in (shape, ()) for s in shapes)


def is_placed(eqn: Any) -> bool:
    """Whether what it makes is known for a block by its position."""
    _, fits = PLACED.get(eqn.params.get("name", ""), (None, None))
    return fits is not None and fits(*(v.aval for v in eqn.invars))


def does(eqn: Any, kinds: frozenset[str]) -> bool:
    """Whether it is of these kinds, or one that it calls is."""
    if is_placed(eqn):
        return False  # it has nothing to be fused with
    inner = inside(eqn)
    return eqn.primitive.name in kinds if inner is None else has(inner.jaxpr, kinds)


def has(jaxpr: Any, kinds: frozenset[str]) -> bool:
    """Whether an operation of a program is of these kinds."""
    return any(does(eqn, kinds) for eqn in jaxpr.eqns)


def sequence(x: Any) -> Sequence[Any]:
    """What a function gives, one thing or several."""
    return x if isinstance(x, tuple) else (x,)
