"""qwix: a leaf is a QArray of `qvalue`, `scale` and `zero_point`, in the layout of the weight itself.

    w = (qvalue - zero_point) scale,   scale and zero_point repeated along each axis to the shape of qvalue

`write` gives the fields as a dict (`qwix.QArray(**fields)` is the array), `read` takes such a dict or a QArray.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from wspace.core.axes import Axes, MatrixView, matrix_view
from wspace.core.errors import FormatError, nearest
from wspace.quant.formats import named
from wspace.quant.qtensor import QTensor

# qwix's word for codes -> ours, and the dtype that qwix keeps them in
FORMATS = {"int8": "int8", "int4": "int4", "nf4": "nf4", "float8_e4m3fn": "fp8_e4m3", "float8_e5m2": "fp8_e5m2"} | {
    f"int{b}": f"int{b}" for b in (2, 3, 5, 6, 7)
}
KEPT = {"nf4": "uint4", "int2": "int4", "int3": "int4", **{f"int{b}": "int8" for b in (5, 6, 7)}}


def write(q: QTensor) -> dict[str, Any]:
    """The fields of a QArray: "qvalue", "scale", "zero_point" (None if symmetric) and "qtype".

    Raises:
      FormatError: a grid that qwix does not have; groups that are no tiles of the weight's own axes.
    """
    word = q.format.removesuffix("_asymmetric").removesuffix("_full")
    qtype = next((theirs for theirs, ours in FORMATS.items() if ours == word), None)
    if qtype is None or set(q.scales) > {"scale", "zero"}:
        raise FormatError(f"qwix has no {q.format}; it has {', '.join(FORMATS)}, or materialize the leaf")
    dtype = jnp.dtype(KEPT.get(qtype, qtype))
    zero = None if q.zero is None else _spread(q.zero.astype(dtype), q.view)
    scale = _spread(q.scale.astype(q.weight_dtype), q.view)
    return {"qvalue": q.view.from_matrix(q.codes.astype(dtype)), "scale": scale, "zero_point": zero, "qtype": qtype}


def read(array: Any, path: str = "kernel", axes: Axes | None = None) -> QTensor:
    """The QTensor of a QArray, or of a dict of its fields. path and axes say which axes are inputs, as for transforms.

    Raises:
      FormatError: codes of a kind that wspace does not have; tiles that are no groups of the matrix.
      ShapeError: the leaf is no matrix.
    """
    field = array.get if isinstance(array, Mapping) else lambda name: getattr(array, name, None)
    codes, scale, zero = (field(name) for name in ("qvalue", "scale", "zero_point"))
    if codes is None or scale is None or codes.ndim != scale.ndim:
        raise FormatError(f"{path}: a QArray has qvalue and scale of one rank; qwix.QArray or a dict of its fields")
    kind = field("qtype")
    word = str(kind if isinstance(kind, str) else jnp.dtype(codes.dtype if kind is None else kind).name)
    if word not in FORMATS:
        raise FormatError(f"{path}: wspace has no codes of qwix's kind {word!r}.{nearest(word, FORMATS)}")
    view = matrix_view((axes or Axes()).of(tuple(path.split("/")), tuple(codes.shape)), tuple(codes.shape), path)
    grid = named(FORMATS[word] + ("" if zero is None else "_asymmetric"))
    scales = {"scale": _gathered(jnp.asarray(scale).astype(jnp.float32), view, path)}
    if zero is not None:
        scales["zero"] = _gathered(jnp.asarray(zero).astype(jnp.int8), view, path)
    made = view.to_matrix(jnp.asarray(codes)).astype(grid.code_dtype)
    return QTensor(made, scales, format=grid.name, view=view, weight_dtype=np.dtype(scale.dtype))


def _gathered(part: Any, view: MatrixView, path: str) -> Any:
    """A scale with the weight's rank as `[*stack, in/group, out/width]`."""
    sizes, have = view.moved_shape, tuple(part.shape[i] for i in view.order)
    s, i = view.stacks, view.stacks + view.ins
    for lo, hi in ((s, i), (i, len(sizes))):
        cut = False  # after an axis that is cut into tiles the later ones must be whole
        for n, parts in zip(sizes[lo:hi], have[lo:hi], strict=True):
            if n % parts or (cut and parts != 1):
                raise FormatError(f"{path}: scales {part.shape} of {view.shape} are no groups of consecutive inputs")
            cut = cut or parts != n
    moved = jnp.broadcast_to(jnp.transpose(part, view.order), (*sizes[:s], *have[s:]))
    return moved.reshape(*sizes[:s], int(np.prod(have[s:i])), int(np.prod(have[i:])))


def _spread(part: Any, view: MatrixView) -> Any:
    """The inverse of `_gathered`: `[*stack, in/group, out/width]` with the weight's rank."""
    sizes = view.moved_shape
    s, i = view.stacks, view.stacks + view.ins
    shape = [*sizes[:s]]
    for lo, hi, parts in ((s, i, part.shape[-2]), (i, len(sizes), part.shape[-1])):
        for n in sizes[lo:hi]:
            take = n if parts % n == 0 else parts
            if n % take:
                raise FormatError(f"groups of {view.shape} cross its axes, which tiles can't; materialize the leaf")
            shape.append(take)
            parts //= take
    back = tuple(sorted(range(len(sizes)), key=view.order.__getitem__))
    return jnp.transpose(part.reshape(shape), back)
