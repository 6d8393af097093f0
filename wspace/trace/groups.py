"""Symmetries: which axes of which leaves move together. What `axes` returns, and what `act` and the matchers read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import NamedTuple

from wspace.core.containers import show
from wspace.core.errors import listed
from wspace.core.typing import Path


class Factor(NamedTuple):
    """A factor of an axis: one more of its coordinate is `stride` positions further."""

    name: str | None  # of its group, or of an index that groups depend on; None: fixed
    size: int
    stride: int
    start: int = 0  # its first position, other factors at their first


class Strip(NamedTuple):
    """Positions `offset + sum(coordinate * stride)`, factors major first."""

    offset: int
    factors: tuple[Factor, ...]


Layout = Mapping[Path, tuple[tuple[Strip, ...], ...]]  # per leaf, per axis, its strips: together they cover it


class Member(NamedTuple):
    """A place where a group acts: leaf, axis, and the position of its coordinate 0 and its step there."""

    path: Path
    axis: int
    offset: int
    stride: int
    exponent: float = 1.0  # of a scale group: the leaf is multiplied by scale ** exponent

    def __str__(self) -> str:
        power = "" if self.exponent == 1 else f"^{self.exponent:g}"
        return f"{show(self.path)}[{self.axis}]{power}"


@dataclass(frozen=True)
class Group:
    """One symmetry group: `size` coordinates; one element of it for each coordinate of the indices in `over`."""

    name: str
    size: int
    members: tuple[Member, ...]
    over: tuple[str, ...] = ()
    over_sizes: tuple[int, ...] = ()
    factor: str = ""  # its factors' name in the layout, where several groups share them; else they have its own

    @property
    def shape(self) -> tuple[int, ...]:
        """One entry a coordinate, after one axis for each index: the shape of a permutation or of scales."""
        return (*self.over_sizes, self.size)


@dataclass(frozen=True)
class Symmetries:
    """The symmetry groups of a model's parameters.

    kind: "permutation", "scale" or "orthogonal". groups: by name, those before others that depend on them.
    layout: every leaf's axes as factors. fixed: leaf -> axis -> why nothing moves it. unknown: primitives without a
    rule -> how often they were met; all that they touch is fixed. unused: leaves that the function does not read.
    """

    kind: str
    groups: Mapping[str, Group]
    layout: Layout
    fixed: Mapping[Path, Mapping[int, str]] = field(default_factory=dict)
    unknown: Mapping[str, int] = field(default_factory=dict)
    unused: tuple[Path, ...] = ()

    @property
    def covered(self) -> tuple[Path, ...]:
        """Leaves on which at least one group acts."""
        hit = {m.path for g in self.groups.values() for m in g.members}
        return tuple(path for path in self.layout if path in hit)

    def along(self, path: Path, axis: int) -> tuple[Group, ...]:
        """The groups that act on an axis of a leaf.

        With kind "scale" this is what scaling the inputs of a weight costs: the group along its input axis names, as
        members of the opposite exponent, all that makes this input (the gain and bias of a LayerNorm, the value
        projection, one half of a gated MLP), and with the same exponent all weights that read it. No group: the input
        can't be scaled anywhere else.

          >>> import jax.numpy as jnp
          >>> from wspace.trace.axes import axes
          >>> def net(p, x): return jnp.maximum(x @ p["up"] + p["bias"][None], 0) @ p["down"]
          >>> p = {"up": jnp.ones((3, 8)), "bias": jnp.ones(8), "down": jnp.ones((8, 2))}
          >>> (group,) = axes(net, p, jnp.ones((1, 3)), kind="scale").along(("down",), 0)
          >>> [str(m) for m in group.members]
          ['up[1]', 'bias[0]', 'down[0]^-1']
        """
        at = (g for g in self.groups.values() if any(m.path == path and m.axis == axis for m in g.members))
        return tuple(at)

    def rows(self) -> list[tuple[str, str, str]]:
        """Name, size and members of each group, as words."""
        out = []
        for g in self.groups.values():
            per = " x ".join(f"{n} {name}" for name, n in zip(g.over, g.over_sizes, strict=True))
            names = dict.fromkeys(str(m) for m in g.members)
            out.append((g.name, f"{g.size} for each of {per}" if per else str(g.size), listed(names, 4)))
        return out

    def head(self) -> str:
        """One line: how many groups, and how much of the tree they cover."""
        s = "" if len(self.groups) == 1 else "s"
        return f"{len(self.groups)} {self.kind} group{s} on {len(self.covered)} of {len(self.layout)} leaves"

    def notes(self) -> list[str]:
        """What the groups leave out, and why."""
        out = []
        if self.unknown:
            names = (f"{name} ({n}x)" for name, n in self.unknown.items())
            out.append(f"primitives without a rule, all they touch is fixed: {listed(names)}")
        if self.unused:
            out.append(f"not read: {listed(map(show, self.unused))}")
        return out

    def __str__(self) -> str:
        table = [("group", "size", "members"), *self.rows()]
        wide = [max(len(row[k]) for row in table) for k in (0, 1)]
        lines = [f"{a:<{wide[0]}}  {b:<{wide[1]}}  {c}".rstrip() for a, b, c in table]
        return "\n".join([self.head(), *lines, *self.notes()])

    def _repr_html_(self) -> str:
        cells = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in self.rows())
        notes = "".join(f"<p>{escape(n)}</p>" for n in self.notes())
        top = "<tr><th>group</th><th>size</th><th>members</th></tr>"
        return f"<p>{escape(self.head())}</p><table>{top}{cells}</table>{notes}"
