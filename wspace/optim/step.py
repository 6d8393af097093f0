"""What a Transform in an optax chain needs: the weights as the step will leave them, and a way to run on those."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from wspace.core.axes import Axes
from wspace.core.compose import keep
from wspace.core.containers import as_params, is_weight, show
from wspace.core.errors import SideTreeError
from wspace.core.implicit import Implicit
from wspace.core.run import stream
from wspace.core.select import Spec
from wspace.core.transform import Transform, check_arity
from wspace.core.typing import Array, Path, Tree


def plain(tree: Tree) -> dict[Path, Array]:
    """The floating arrays of a tree by path. Implicit nodes (an adapter that trains) are not for transforms here."""
    return {p: x for p, x in as_params(tree).leaves.items() if is_weight(x) and not isinstance(x, Implicit)}


def given(params: Tree | None, name: str) -> Tree:
    """The params of an update.

    Raises:
      SideTreeError: there are none.
    """
    if params is None:
        raise SideTreeError(f"{name} needs the parameters; call it as update(updates, state, params)")
    return params


def touched(t: Transform, weights: Mapping[Path, Array], axes: Axes | None) -> list[Path]:
    """The paths of the leaves that a transform does more to than keep."""
    check_arity(t, 1)
    layout = axes or Axes()
    specs = {p: Spec(show(p), x.shape, x.dtype, layout.of(p, x.shape)) for p, x in weights.items()}
    steps = t.steps(specs) if specs else {}
    return [p for p in weights if any(step != keep().name for step in steps[p])]


def wider(a: Any, b: Any) -> Any:
    """The wider of two floating dtypes."""
    return a if jnp.finfo(a).bits >= jnp.finfo(b).bits else b


def after(params: Tree, updates: Tree) -> dict[Path, Array]:
    """The weights once the updates are applied, as `optax.apply_updates` will leave them."""
    moves = as_params(updates).leaves

    def moved(path: Path, p: Array) -> Array:
        u = moves.get(path)
        if u is None:
            return jnp.asarray(p)
        dtype = wider(p.dtype, u.dtype)
        return (jnp.asarray(p, dtype) + u.astype(dtype)).astype(p.dtype)

    return {path: moved(path, p) for path, p in plain(params).items()}


def towards(target: Array, p: Array, u: Array) -> Array:
    """The update that takes a weight p to `target`; exact where the target is 0."""
    dtype = wider(p.dtype, u.dtype)
    return target.astype(dtype) - jnp.asarray(p, dtype)


def run(
    t: Transform,
    weights: Mapping[Path, Array],
    step: Array,
    key: Array | None,
    axes: Axes | None,
    sides: Mapping[str, Any],
) -> dict[Path, Any]:
    """A transform on weights by path; a random one draws from its own stream at every step."""
    out: dict[Path, Any] = {}
    mine = {name: sides[name] for name in t.needs & sides.keys()}
    stream(t, [weights], out, key=None if key is None else jax.random.fold_in(key, step), axes=axes, **mine)
    return out


def when(due: Array, yes: Callable[[], list[Array]], no: Callable[[], list[Array]]) -> list[Array]:
    """`lax.cond`; outside of jit a plain branch, since an eager cond would compile anew at every step."""
    if isinstance(due, jax.core.Tracer):
        return jax.lax.cond(due, yes, no)
    return yes() if due else no()
