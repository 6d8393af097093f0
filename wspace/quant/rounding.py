"""Rounding: a leaf whose codes are being learned. Each method that learns them is one kind of node.

Training differentiates `materialize`, which is soft: on the grid with straight-through gradients, or between two of its
points. `harden` gives the QTensor. A method says what it learns (`begin`), what that stands for (`soft`), which codes
it comes to (`hard`), and, if it has any, its penalty and its bounds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from wspace.core.axes import MatrixView
from wspace.core.containers import as_params
from wspace.core.implicit import Implicit, implicit, static
from wspace.core.transform import Context, narrow
from wspace.core.typing import Array, Tree
from wspace.quant.clip import Percentile, Search, fitted
from wspace.quant.formats import named
from wspace.quant.grid import Block, Grid, Scales, encode
from wspace.quant.qtensor import QTensor

R = TypeVar("R", bound="Rounding")
Learned = dict[str, Array]


@implicit
class Rounding(Implicit):
    """A matrix `[*stack, in, out]`, w, on its way to codes. relaxed: soft weights lie between the points of the grid.

    scales: as of QTensor, at the start. learned: by name, what is trained. settings: numbers of the method,
    `[*stack, 1, 1]`. format (the grid's name), view and weight_dtype are static, as of QTensor.
    """

    w: Array
    scales: dict[str, Array]
    learned: Learned
    settings: dict[str, Array]
    format: str = static()
    view: MatrixView = static()
    weight_dtype: np.dtype = static()

    trainable = frozenset({"learned"})
    relaxed = False

    @classmethod
    def begin(cls, w: Array, grid: Grid, scales: Scales, settings: Scales) -> Learned:
        """What is learned, where rounding to nearest leaves it."""
        raise TypeError(f"{cls.__name__} does not define begin()")

    def soft(self) -> Array:
        """The weights that the loss sees, `[*stack, in, out]`, differentiable in `learned`."""
        raise TypeError(f"{type(self).__name__} does not define soft()")

    def hard(self) -> tuple[Array, Scales]:
        """The codes that it comes to, and their scales."""
        raise TypeError(f"{type(self).__name__} does not define hard()")

    def penalty(self, t: Array) -> Array | float:
        """What is added to the loss when the share t of the steps is done, of all matrices of a stack."""
        return 0.0

    def bounded(self) -> Learned:
        """What is learned, drawn back to where it may be."""
        return self.learned

    @property
    def grid(self) -> Grid:
        return named(self.format)

    def moved(self: R, learned: Learned) -> R:
        """The same with other values of what is learned."""
        return dataclasses.replace(self, learned=learned)

    def materialize(self) -> Array:
        return narrow(self.view.from_matrix(self.soft()), self.weight_dtype)

    def original(self) -> Array:
        """The leaf as it came."""
        return narrow(self.view.from_matrix(self.w), self.weight_dtype)

    def harden(self) -> QTensor:
        codes, scales = self.hard()
        return QTensor(codes, dict(scales), format=self.format, view=self.view, weight_dtype=self.weight_dtype)

    def parts(self) -> dict[str, Any]:
        kinds = ("scales", "learned", "settings")
        return {"w": self.w} | {f"{kind}_{n}": x for kind in kinds for n, x in getattr(self, kind).items()}

    @classmethod
    def from_stored(cls: type[R], parts: dict[str, Any], static: dict[str, Any]) -> R:
        held: dict[str, dict[str, Any]] = {"scales": {}, "learned": {}, "settings": {}}
        for name, part in parts.items():
            kind, _, rest = name.partition("_")
            if rest:
                held[kind][rest] = part
        return cls(parts["w"], held["scales"], held["learned"], held["settings"], **static)


@partial(jax.jit, static_argnames=("cls", "grid", "block", "how"))
def _begun(
    cls: type[Rounding],
    w: Array,
    settings: Mapping[str, Array | float],
    weights: Array | None,
    grid: Grid,
    block: Block,
    how: Search | Percentile | None,
) -> tuple[dict[str, Array], Learned, dict[str, Array]]:
    scales = dict(fitted(w, grid, block, how, weights))
    stack = (*w.shape[:-2], 1, 1)
    numbers = {name: jnp.broadcast_to(jnp.asarray(x, w.dtype), stack) for name, x in settings.items()}
    return scales, cls.begin(w, grid, scales, numbers), numbers


def begun(
    cls: type[R],
    w: Array,
    grid: Grid,
    block: Block,
    ctx: Context,
    settings: Mapping[str, Array | float],
    how: Search | Percentile | None = None,
    weights: Array | None = None,
) -> R:
    """The node of the leaf that a transform is at, rounded to nearest so far.

    w: its matrix `[*stack, in, out]`. how, weights: as of `wspace.quant.clip.fitted`.
    """
    scales, learned, numbers = _begun(cls, w, settings, weights, grid, block, how)
    dtype = np.dtype(ctx.spec.dtype)
    return cls(w, scales, learned, numbers, format=grid.name, view=ctx.view(), weight_dtype=dtype)


def rounded_codes(w: Array, grid: Grid, scales: Scales) -> tuple[Array, Scales]:
    """The nearest codes, with the scales that they are on, as a QTensor keeps them."""
    codes = encode(w, grid, scales)
    return codes, {n: s.astype(jnp.int8) if n == "zero" else s for n, s in scales.items()}


def harden(tree: Tree) -> Tree:
    """Every node that is on its way to codes (Rounding, FakeQuant) as the QTensor that it comes to; other leaves stay.

    Example:
      >>> import wspace as ws
      >>> soft = ws.quant.adaround(bits=2, steps=0, soft=True)({"kernel": jnp.array([[1.0], [-0.4]])})
      >>> harden(soft)["kernel"].codes.ravel()
      Array([1, 0], dtype=int8)
    """
    params = as_params(tree)
    return params.rebuild({p: x.harden() if hasattr(x, "harden") else x for p, x in params.leaves.items()})
