"""Axes: what each axis of each leaf is for, and the matrix that a layer solver sees.

Roles: "in" (contracted with the input), "out" (indexes the output), "stack" (one layer after another), "space"
(taps of a convolution). A source knows its layout; `Axes` says it; array functions always see `[in, out]`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax.numpy as jnp

from wspace.core.containers import show
from wspace.core.errors import ShapeError
from wspace.core.typing import Array, Path

Role = Literal["in", "out", "stack", "space"]
ROLES = ("in", "out", "stack", "space")


class Axis(NamedTuple):
    """One axis of one leaf: its role and, where known, the name of the symmetry group it belongs to."""

    role: Role
    group: str | None = None


def stack(n: int) -> tuple[Role, ...]:
    """n stacked axes."""
    role: Role = "stack"
    return (role,) * n


def space(n: int) -> tuple[Role, ...]:
    """n axes of taps."""
    role: Role = "space"
    return (role,) * n


def by_name(path: Path, shape: tuple[int, ...]) -> tuple[Role, ...]:
    """The conventions of flax, haiku, torch and equinox, read from a leaf's name and rank.

    `kernel`, `w` and unknown names are `[*space, in, out]`; `weight` is `[out, in, *space]`; embeddings are
    `[in, out]`; flax attention kernels are `[in, heads, head_dim]` and `[heads, head_dim, out]`. Axes before those
    are stacked layers.
    """
    names = re.split(r"[/.]", show(path).lower())
    name, parent, rank = names[-1], names[-2] if len(names) > 1 else "", len(shape)
    if rank == 0:
        return ()
    embeds = any(re.search(r"embed|wte|wpe", n) for n in names[-2:])
    if name in ("bias", "b", "scale", "mean", "var", "gamma", "beta") or rank == 1:
        return (*stack(rank - 1), "out")
    if rank == 2 and embeds:
        return ("in", "out")
    if name == "weight":
        return ("out", "in", *space(rank - 2))
    if rank >= 3 and parent in ("query", "key", "value"):
        return (*stack(rank - 3), "in", "out", "out")
    if rank >= 3 and parent == "out":
        return (*stack(rank - 3), "in", "in", "out")
    return (*(space if "conv" in parent or rank == 4 else stack)(rank - 2), "in", "out")


@dataclass(frozen=True)
class Axes:
    """Roles of every leaf's axes: rules by path first, then a layout by name.

    `rules` maps a regex on the shown path to one word an axis, "role" or "role:group":

      >>> a = Axes({"attn/proj": "out:heads in:embed"})
      >>> [x.role for x in a.of(("attn", "proj"), (4, 8))], a.of(("attn", "proj"), (4, 8))[0].group
      (['out', 'in'], 'heads')
    """

    rules: Mapping[str, str] | None = None
    layout: Callable[[Path, tuple[int, ...]], tuple[Role, ...]] = by_name

    def of(self, path: Path, shape: tuple[int, ...]) -> tuple[Axis, ...]:
        """The axes of one leaf.

        Raises:
          ShapeError: a rule names an unknown role, or another number of axes than the leaf has.
        """
        shown = show(path)
        for pattern, words in (self.rules or {}).items():
            if re.search(pattern, shown):
                axes = tuple(_axis(word, pattern) for word in words.split())
                if len(axes) != len(shape):
                    raise ShapeError(f"axes rule {pattern!r} names {len(axes)} axes, but {shown} has shape {shape}")
                return axes
        return tuple(Axis(role) for role in self.layout(path, shape))


def _axis(word: str, pattern: str) -> Axis:
    role, _, group = word.partition(":")
    if role not in ROLES:
        raise ShapeError(f"axes rule {pattern!r}: {role!r} is no role; use one of {', '.join(ROLES)}")
    return Axis(role, group or None)  # type: ignore[arg-type]


def has_matrix(axes: tuple[Axis, ...]) -> bool:
    """Whether a leaf with these axes is a matrix (or stack of matrices): it has inputs and outputs."""
    roles = {a.role for a in axes}
    return "in" in roles and "out" in roles


class MatrixView(NamedTuple):
    """How a leaf lies as `[*stack, in, out]`: the order of its axes, its shape, and how many axes stack and go in."""

    order: tuple[int, ...]
    shape: tuple[int, ...]
    stacks: int
    ins: int

    @property
    def moved_shape(self) -> tuple[int, ...]:
        return tuple(self.shape[i] for i in self.order)

    @property
    def matrix_shape(self) -> tuple[int, ...]:
        s, i = self.stacks, self.stacks + self.ins
        return (*self.moved_shape[:s], math.prod(self.moved_shape[s:i]), math.prod(self.moved_shape[i:]))

    def to_matrix(self, w: Array) -> Array:
        """`[*stack, in, out]`; the taps of a convolution count as inputs."""
        return _reshape(_transpose(w, self.order), self.matrix_shape)

    def from_matrix(self, m: Array) -> Array:
        """The inverse of `to_matrix`."""
        back = tuple(sorted(range(len(self.order)), key=self.order.__getitem__))
        return _transpose(_reshape(m, self.moved_shape), back)


def matrix_view(axes: tuple[Axis, ...], shape: tuple[int, ...], path: str = "leaf") -> MatrixView:
    """The view of a leaf as a matrix.

    Raises:
      ShapeError: the leaf has no input axis or no output axis (a bias, a norm scale).
    """
    if not has_matrix(axes):
        raise ShapeError(
            f"{path} with shape {shape} is no matrix (axes: {' '.join(a.role for a in axes) or 'none'}); "
            "select matrices with on(matrices, ...) or name its axes with axes=Axes({...})"
        )
    order = [i for role in ("stack", "space", "in", "out") for i, a in enumerate(axes) if a.role == role]
    roles = [a.role for a in axes]
    return MatrixView(tuple(order), tuple(shape), roles.count("stack"), roles.count("space") + roles.count("in"))


def _transpose(x: Array, order: tuple[int, ...]) -> Array:
    return x if order == tuple(range(len(order))) else jnp.transpose(x, order)


def _reshape(x: Array, shape: tuple[int, ...]) -> Array:
    return x if x.shape == shape else jnp.reshape(x, shape)
