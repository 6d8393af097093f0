"""wspace: every operation on a model's weights as a pure function over parameter pytrees.

    import wspace as ws

    merged = ws.merge.ties(density=0.2)(a, b, c, base=base)
    small = ws.chain(ws.on("kernel$", ws.prune.magnitude(0.5)), ws.on("kernel$", ws.quant.rtn(bits=4)))(merged)

Rooms and core names are imported on first use, so that `import wspace` costs nothing until something is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_ROOMS = (
    "average budget calibrate data init interpolate io kernels match measure merge objectives optim prune quant "
    "reparam stats trace"
).split()
_CORE = {
    "Axes": "axes",
    "Axis": "axes",
    "Context": "transform",
    "Fold": "fold",
    "Implicit": "implicit",
    "Transform": "transform",
    "WspaceError": "errors",
    "around_base": "compose",
    "by_leaf": "learn",
    "chain": "compose",
    "implicit": "implicit",
    "join": "select",
    "keep": "compose",
    "learn": "learn",
    "leafwise": "transform",
    "materialize": "implicit",
    "matrices": "select",
    "matrixwise": "transform",
    "on": "compose",
    "placement": "placement",
    "plan": "plan",
    "reconcile": "reconcile",
    "route": "compose",
    "split": "select",
    "stream": "run",
}
__all__ = [*_CORE, *_ROOMS]

if TYPE_CHECKING:
    import wspace.average as average
    import wspace.budget as budget
    import wspace.calibrate as calibrate
    import wspace.data as data
    import wspace.init as init
    import wspace.interpolate as interpolate
    import wspace.io as io
    import wspace.kernels as kernels
    import wspace.match as match
    import wspace.measure as measure
    import wspace.merge as merge
    import wspace.objectives as objectives
    import wspace.optim as optim
    import wspace.prune as prune
    import wspace.quant as quant
    import wspace.reparam as reparam
    import wspace.stats as stats
    import wspace.trace as trace
    from wspace.core.axes import Axes as Axes
    from wspace.core.axes import Axis as Axis
    from wspace.core.compose import around_base as around_base
    from wspace.core.compose import chain as chain
    from wspace.core.compose import keep as keep
    from wspace.core.compose import on as on
    from wspace.core.compose import route as route
    from wspace.core.errors import WspaceError as WspaceError
    from wspace.core.fold import Fold as Fold
    from wspace.core.implicit import Implicit as Implicit
    from wspace.core.implicit import implicit as implicit
    from wspace.core.implicit import materialize as materialize
    from wspace.core.learn import by_leaf as by_leaf
    from wspace.core.learn import learn as learn
    from wspace.core.placement import placement as placement
    from wspace.core.plan import plan as plan
    from wspace.core.reconcile import reconcile as reconcile
    from wspace.core.run import stream as stream
    from wspace.core.select import join as join
    from wspace.core.select import matrices as matrices
    from wspace.core.select import split as split
    from wspace.core.transform import Context as Context
    from wspace.core.transform import Transform as Transform
    from wspace.core.transform import leafwise as leafwise
    from wspace.core.transform import matrixwise as matrixwise


def __getattr__(name: str) -> Any:
    if name in _CORE:
        return getattr(import_module(f"wspace.core.{_CORE[name]}"), name)
    if name in _ROOMS:
        return import_module(f"wspace.{name}")
    raise AttributeError(f"module 'wspace' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
