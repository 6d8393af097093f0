"""What a run computes, as one digest: runs that have the same one give the same bytes, in whatever process.

A transform is a pure function and is traced on shapes before any work: this program, its constants, the random key and
the paths it is for say all that will be done to leaves. Only a program that calls Python while it runs may do anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from wspace.core.errors import WspaceError
from wspace.core.run import Ready

RULES = frozenset("jvp_jaxpr_fun jvp_jaxpr_thunk fwd_jaxpr_thunk bwd out_trees".split())  # only derivatives call them


class Unknowable(WspaceError):
    """Something hangs on an object of which no text says what it does, such as a function in Python.

    within: the operation that asks for it.
    """

    within = ""

    def __str__(self) -> str:
        return f"{self.within} calls Python: {self.args[0]}" if self.within else str(self.args[0])


def identity(ready: Ready) -> str:
    """Hexadecimal; equal in two processes if they would compute the same from the same leaves.

    Raises:
      Unknowable: a program calls Python.
    """
    written, specs = Written(), ready.work.specs
    programs = [written.of(closed) for closed in ready.closed.values()]
    leaves = [(spec.path, spec.shape, str(spec.dtype)) for spec in specs.values()]
    nodes = [str(jax.tree.structure(made)) for made in (ready.made or {}).values()]
    return hashlib.sha256(written.of((programs, leaves, nodes, ready.key)).encode()).hexdigest()


class Written:
    """Values and programs as text; a program that comes up again is written once."""

    def __init__(self) -> None:
        self.known: dict[int, str] = {}

    def of(self, x: Any) -> str:
        """Raises Unknowable for what has no text of its own, such as a function."""
        if isinstance(x, jex.ClosedJaxpr):
            return self.program(x.jaxpr) + "".join(map(self.of, x.consts))
        if isinstance(x, jex.Jaxpr):
            return self.program(x)
        if isinstance(x, np.ndarray | np.generic | jax.Array):
            return _array(x)
        if isinstance(x, Mapping):
            return "{" + ", ".join(sorted(f"{self.of(k)}: {self.of(v)}" for k, v in x.items())) + "}"
        if isinstance(x, set | frozenset):
            return "{" + ", ".join(sorted(map(self.of, x))) + "}"
        if isinstance(x, tuple | list) and type(x).__str__ is object.__str__:  # a kind of random key is one with a name
            return f"({', '.join(map(self.of, x))})"
        text = f"{type(x).__name__} {x}"
        if " at 0x" in text:
            raise Unknowable(f"what {text.partition(' at 0x')[0]} does is not known")
        return text

    def program(self, jaxpr: Any) -> str:
        """A digest of it, without constants."""
        if id(jaxpr) not in self.known:
            self.known[id(jaxpr)] = hashlib.sha256("\n".join(self._lines(jaxpr)).encode()).hexdigest()
        return self.known[id(jaxpr)]

    def _lines(self, jaxpr: Any) -> list[str]:
        numbers = {v: n for n, v in enumerate([*jaxpr.constvars, *jaxpr.invars])}

        def atom(a: Any) -> str:
            if not isinstance(a, jex.Literal):
                return str(numbers[a])
            return self.of(np.asarray(a.val, a.aval.dtype))  # type: ignore[attr-defined]

        lines = [f"{v.aval}" for v in numbers]
        for eqn in jaxpr.eqns:
            try:
                params = self.of({k: v for k, v in eqn.params.items() if k not in RULES})
            except Unknowable as problem:
                problem.within = problem.within or eqn.primitive.name
                raise
            lines.append(f"{eqn.primitive.name} {params} {' '.join(map(atom, eqn.invars))}")
            for v in eqn.outvars:
                lines.append(f"{v.aval}")
                numbers[v] = len(numbers)
        return [*lines, *map(atom, jaxpr.outvars)]


def _array(x: Any) -> str:
    kind = x.dtype
    if jnp.issubdtype(kind, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    values = np.ascontiguousarray(x)
    return f"{kind}{values.shape} {hashlib.sha256(values.reshape(-1).view(np.uint8).data).hexdigest()}"
